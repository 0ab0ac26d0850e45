"""Values of API_TOKENS."""

import hashlib

import pytest

from shared.errors import Misconfigured
from shared.http import tokens


def test_a_token_that_is_made_can_be_read() -> None:
    token, entry = tokens.make("shop", ["orders:read", "orders:write"])
    assert token not in entry
    expected = tokens.Token("shop", frozenset({"orders:read", "orders:write"}), hashlib.sha256(token.encode()).digest())
    assert tokens.parse(f" {entry}\n{entry} ") == (expected, expected)


def test_a_scope_may_be_of_a_service_with_two_words() -> None:
    (read,) = tokens.parse(tokens.make("shop", ["goods_returns:write"])[1])
    assert read.scopes == {"goods_returns:write"}


def test_no_two_are_alike() -> None:
    assert len({tokens.make("shop", ["orders:read"])[0] for _ in range(100)}) == 100


HASH = "0" * 64


@pytest.mark.parametrize(
    "entry",
    [
        "shop",
        f"shop:{HASH}",
        f"shop::{HASH}",
        f"shop:orders:{HASH}",
        f"shop:orders:delete:{HASH}",
        f"shop:orders:read,:{HASH}",
        f":orders:read:{HASH}",
        f"Shop Two:orders:read:{HASH}",
        "shop:orders:read:the-token-itself",
    ],
)
def test_what_is_no_entry_is_refused_by_its_number_and_not_repeated(entry: str) -> None:
    good = tokens.make("good", ["orders:read"])[1]
    with pytest.raises(Misconfigured, match="API_TOKENS: entry 2 must be") as refusal:
        tokens.parse(f"{good} {entry}")
    assert "the-token-itself" not in str(refusal.value)
