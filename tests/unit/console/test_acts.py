"""What a page that asks first refuses, so that nobody confirms what can only fail."""

import pytest

from tests.unit.console.desk import Desk


@pytest.mark.parametrize(
    "asked",
    [
        "redrive?service=shop&id=abc",
        "redrive?service=shop&id=" + "9" * 5_000,
        "edit?service=shop&id=\u0663",
        "dismiss?service=shop&id=\u0663",
        "retry-key?service=shop&target=t[0]&key=zz",
        "give-up-key?service=shop&target=t[0]&key=61&offset=first",
    ],
)
def test_what_is_no_number_and_no_key_is_not_asked_about(asked: str) -> None:
    answer = Desk().browser.get(f"/confirm/{asked}", follow_redirects=False)

    assert answer.status_code == 400, answer.text
    assert "is not a number" in answer.text or "not in hexadecimal" in answer.text
