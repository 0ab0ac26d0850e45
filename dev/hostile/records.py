"""Records that no client of this library sends, in every shape a broker takes, made from a seed.

Each shape bends one thing of a good event, or several; what is not bent is as it should be, so that a record gets as
far as it can.
"""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

from dev.hostile.raw import Raw

Headers = list[tuple[bytes, bytes | None]]

OVERSIZE = 1_040_000
"""A broker with its defaults takes a record of 1,048,588 bytes."""


class Target(NamedTuple):
    """A topic, and an event that its consumer understands."""

    topic: str
    type: str
    """With its version: OrderPlaced.v1."""
    event: dict[str, Any]
    key: str


class Parts:
    """A record that is being made."""

    def __init__(self, random: Random, target: Target, identity: str) -> None:
        self.random, self.target = random, target
        self.key: bytes | None = target.key.encode()
        self.value: bytes | None = json.dumps(target.event).encode()
        self.headers: Headers = [
            (b"ce_specversion", b"1.0"),
            (b"ce_id", identity.encode()),
            (b"ce_source", b"stranger"),
            (b"ce_type", target.type.encode()),
        ]

    def set(self, name: bytes, value: bytes | None) -> None:
        """Return a header another value."""
        self.headers = [(n, value if n == name else v) for n, v in self.headers]

    def some(self, most: int) -> bytes:
        """Return some random bytes."""
        return self.random.randbytes(self.random.randint(0, most))

    def ours(self) -> bytes:
        """Choose one of the library's headers."""
        return self.random.choice([name for name, _ in self.headers])

    def with_field(self, text: str) -> None:
        """Put `text` as the value of one more field, or in the place of one that is there."""
        name = self.random.choice([*self.target.event, "note"])
        rest = {k: v for k, v in self.target.event.items() if k != name}
        self.value = (json.dumps(rest)[:-1] + (", " if rest else "") + f'"{name}": {text}}}').encode(
            errors="surrogatepass"
        )


def _junk(p: Parts) -> None:
    p.key, p.value = p.some(40) or None, p.some(200) or None
    p.headers = [(p.some(8), p.some(20)) for _ in range(p.random.randint(0, 4))]


def _flipped(p: Parts) -> None:
    data = bytearray(p.value or b"{}")
    for _ in range(p.random.randint(1, 4)):
        data[p.random.randrange(len(data))] = p.random.randrange(256)
    p.value = bytes(data[: p.random.randint(0, 2 * len(data))])


def _deep(p: Parts) -> None:
    n = p.random.choice((50, 500, 1_000, 3_000))
    opened, closed = p.random.choice((("[", "]"), ('{"x":', "}")))
    p.with_field(opened * n + (closed * n if p.random.random() < 0.8 else ""))


def _number(p: Parts) -> None:
    numbers = ("NaN", "-Infinity", "1e400", "9" * 5_000, "-0", "1e3", "0." + "3" * 5_000)
    p.with_field(p.random.choice(numbers))


def _text(p: Parts) -> None:
    p.with_field(
        p.random.choice(('"\\ud800"', '"\\udc00\\ud800"', '"\ud800"', '"\ufeff"', '"\\x"', '"\u202e"', "null"))
    )


def _unstorable(p: Parts) -> None:
    p.with_field('"a\\u0000b"')


def _extreme(p: Parts) -> None:
    """What the decoder takes and PostgreSQL does not."""
    values = ("9223372036854775807", "9" * 19, "9" * 21, "-9223372036854775808", '"' + "k" * 5_000 + '"')
    p.with_field(p.random.choice(values))


def _no_json(p: Parts) -> None:
    p.value = p.random.choice(
        (b"", b"[]", b"null", b"\xef\xbb\xbf{}", b"{}{}", b"{", b'"', b"\x00", b"\x00\x00\x00\x00\x01Avro")
    )


def _tombstone(p: Parts) -> None:
    p.value = None


def _key(p: Parts) -> None:
    p.key = p.random.choice((None, b"", b"\x00", b"\xff\xfe", b"a\x00b", b"\xed\xa0\x80", b"k" * 5_000, b"\x1b[31m"))


def _lacks(p: Parts) -> None:
    name = p.ours()
    p.headers = [header for header in p.headers if header[0] != name]


def _twice(p: Parts) -> None:
    p.headers.insert(p.random.randint(0, 4), p.random.choice(p.headers or [(b"ce_id", b"1")]))


def _binary(p: Parts) -> None:
    p.set(
        p.ours(),
        p.random.choice((None, b"", b"\xff\xfe", b"a\x00b", b"\xed\xa0\x80", b"x" * 501, b"\xe2\x82\xac" * 200)),
    )


def _kind(p: Parts) -> None:
    name = p.target.type.rpartition(".v")[0]
    forms = ("", ".v", ".v0", ".v-1", ".v1.5", ".v01", ".v\u0661", ".v32768", ".v" + "9" * 400, ".V1", ".v1 ", ".v1\n")
    p.set(b"ce_type", (name + p.random.choice(forms)).encode())


def _ahead(p: Parts) -> None:
    """This record waits for an upgrade, and so does its input."""
    p.set(b"ce_type", (p.target.type.rpartition(".v")[0] + ".v32767").encode())


def _unknown_type(p: Parts) -> None:
    p.set(
        b"ce_type",
        p.random.choice(
            (b"Nothing.v1", b"\xf0\x9f\x92\xa5.v1", b"'; DROP TABLE exactly_once_inbox; --.v1", b"%s%n.v1")
        ),
    )


def _foreign(p: Parts) -> None:
    """None of it is read by the library: it takes effect."""
    names = [b"dd-pathway-ctx", b"\xff\xfe", b"", b"x" * 300, b"\xed\xa0\x80", b"ce_id\xff", b"CE_ID"]
    names += [b"traceparent", b"tracestate", b"baggage"]
    for _ in range(p.random.randint(1, 6)):
        p.headers.insert(
            p.random.randint(0, len(p.headers)), (p.random.choice(names), p.random.choice((None, p.some(60))))
        )


def _same(p: Parts) -> None:
    """An id that came before."""
    p.set(b"ce_id", b"the-same")


def _many_headers(p: Parts) -> None:
    p.headers += [(b"h%d" % n, b"") for n in range(90_000)]


def _too_many_headers(p: Parts) -> None:
    """With more than 100,000 the client gives none (librdkafka's rdkafka_msgset_reader.c and rdkafka_msg.c)."""
    p.headers += [(b"h%d" % n, b"") for n in range(100_001)]


def _oversize(p: Parts) -> None:
    part = p.random.randrange(5)
    if part == 0:
        p.key = b"k" * OVERSIZE
    elif part == 1:
        p.headers.append((p.random.choice((b"traceparent", b"tracestate", b"baggage")), b"0" * OVERSIZE))
    elif part == 2:
        p.set(p.ours(), b"x" * OVERSIZE)
    elif part == 3:
        p.headers.append((b"\xff" * 30_000, b"\x00" * (OVERSIZE - 60_000)))
    else:
        p.with_field('"' + "\\u0000" * (OVERSIZE // 6 - 100) + '"')


SHAPES: dict[Callable[[Parts], None], int] = {
    _junk: 3_000, _flipped: 3_000, _deep: 500, _number: 1_000, _text: 1_000, _no_json: 1_000, _tombstone: 300,
    _key: 1_000, _lacks: 1_000, _twice: 1_000, _binary: 1_000, _kind: 1_000, _unknown_type: 2_000, _foreign: 2_000,
    _same: 1_000, _unstorable: 1, _extreme: 1, _many_headers: 1, _too_many_headers: 1, _oversize: 2, _ahead: 1,
}  # fmt: skip
"""How often each is sent. The last ones cost much: those that PostgreSQL refuses make a whole batch be tried again."""

ALONE = (_ahead, _many_headers, _too_many_headers, _oversize)
"""The broker takes no more."""

HARMLESS = tuple(shape for shape in SHAPES if shape not in (_flipped, _ahead, _too_many_headers))
"""What cannot make another good event out of a good one, does not wait for an upgrade, and can have a mark."""


def record(random: Random, target: Target, identity: str, shape: Callable[[Parts], None] | None = None) -> Raw:
    """Make a record; of any shape, if none is given."""
    parts = Parts(random, target, identity)
    chosen = shape or random.choices(list(SHAPES), list(SHAPES.values()))[0]
    chosen(parts)
    if shape is None and chosen not in ALONE and random.random() < 0.2:  # two of them
        random.choice((_foreign, _key, _twice, _deep))(parts)
    return Raw(target.topic, parts.key, parts.value, parts.headers)


def every_shape(random: Random, target: Target, each: int) -> Iterator[Raw]:
    """Make `each` records of every shape."""
    for shape in SHAPES:
        for n in range(each):
            yield record(random, target, f"{shape.__name__}-{n}", shape)
