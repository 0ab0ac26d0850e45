"""A batch's header alone shows how far it goes."""

import struct

import pytest

from shared.kafka.batch_header import Header, parse


def head(*, magic: int = 2, attributes: int = 4) -> bytes:
    return struct.pack(">qiibIhi", 17, 1_000, 0, magic, 0, attributes, 4)


@pytest.mark.parametrize(("attributes", "codec"), [(0, "no compression"), (4, "zstd"), (0x14, "zstd"), (7, "codec 7")])
def test_a_header_tells_how_far_its_batch_goes(attributes: int, codec: str) -> None:
    assert parse(head(attributes=attributes) + b"junk") == Header(17, 21, 1_012, codec)


@pytest.mark.parametrize("data", [b"", head()[:-1], head(magic=1)])
def test_what_is_no_header_of_this_form_tells_nothing(data: bytes) -> None:
    assert parse(data) is None
