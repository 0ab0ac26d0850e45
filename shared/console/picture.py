"""The picture of services and topics, made from what the services declare and laid out by one plain rule.

Three columns from left to right: who publishes, the topics, who consumes; a fourth has the third parties that are
called. Services are in the order of their names in both columns, topics in the order of those who publish on them.
Every line leads from a row on the left to a row on the right, so none crosses a box.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .estate import Known

LEFT_X, LEFT_WIDTH = 0, 232
TOPIC_X, TOPIC_WIDTH = 352, 212
RIGHT_X, RIGHT_WIDTH = 684, 260
PARTY_X, PARTY_WIDTH = 1016, 124
HEAD, ROW, FOOT = 34, 24, 8
"""Heights of a box's title, of each of its rows, and of the space below them."""
TOPIC_HEIGHT = 44
GAP = 22
MARGIN = 2
"""A line that ends at the edge is drawn half outside."""

BOXES_MAX = 40
"""Services, and topics, that are drawn. A picture of more shows nothing; the tables below it have all."""


class Row(NamedTuple):
    """A row of a box: a topic that is consumed, or a third party that is called."""

    name: str
    y: int
    """Its middle."""


class Box(NamedTuple):
    """A service in one of its two columns, a topic, or a third party."""

    name: str
    x: int
    y: int
    width: int
    height: int
    rows: tuple[Row, ...] = ()
    known: bool = True
    """Whether it is one of the services here; nobody here publishes on a topic that is not."""


class Line(NamedTuple):
    """From one box to another."""

    path: str
    kind: str


@dataclass(frozen=True)
class Picture:
    """Everything with its place."""

    width: int
    height: int
    publishers: tuple[Box, ...]
    topics: tuple[Box, ...]
    consumers: tuple[Box, ...]
    parties: tuple[Box, ...]
    lines: tuple[Line, ...]
    left_out: int = 0
    """Services and topics beyond `BOXES_MAX`."""

    @property
    def words(self) -> str:
        """The same as a sentence, for those who do not see it."""
        calls = f", {len(self.parties)} third parties" if self.parties else ""
        return (
            f"{len(self.publishers)} services that publish on {len(self.topics)} topics, {len(self.consumers)} that "
            f"consume{calls}. The tables below have every number"
        )


def draw(services: Iterable[Known]) -> Picture:
    """Lay out what `services` declare."""
    every = sorted(services, key=lambda one: one.name)
    shown = every[:BOXES_MAX]
    publishing = [one for one in shown if one.service.published_topics]
    consuming = [one for one in shown if one.service.consumed_topics or one.calls]
    named = _topics(shown)
    topics = _column(named[:BOXES_MAX], TOPIC_X, TOPIC_WIDTH, lambda name: (name, (), TOPIC_HEIGHT))
    places = {box.name: box for box in topics}
    publishers = _column(publishing, LEFT_X, LEFT_WIDTH, lambda one: (one.name, ("outbox", "oldest"), 0))
    consumers = _column(
        consuming,
        RIGHT_X,
        RIGHT_WIDTH,
        lambda one: (one.name, (*one.service.consumed_topics[:BOXES_MAX], *_destinations(one)), 0),
    )
    parties = _column(
        sorted({name for one in shown for name in _destinations(one)}),
        PARTY_X,
        PARTY_WIDTH,
        lambda name: (name, (), TOPIC_HEIGHT),
    )
    here = {topic for one in shown for topic in one.service.published_topics}
    topics = tuple(box._replace(known=box.name in here) for box in topics)
    height = max((box.y + box.height for box in (*publishers, *topics, *consumers, *parties)), default=HEAD)
    publishers, topics, consumers, parties = (
        _centred(column, height) for column in (publishers, topics, consumers, parties)
    )
    places = {box.name: box for box in topics}
    others = {box.name: box for box in parties}
    lines = [
        *(
            _line(LEFT_X + LEFT_WIDTH, _middle(box), TOPIC_X, _middle(places[topic]), "publishes")
            for box, one in zip(publishers, publishing, strict=True)
            for topic in one.service.published_topics
            if topic in places
        ),
        *(
            _line(TOPIC_X + TOPIC_WIDTH, _middle(places[row.name]), RIGHT_X, row.y, "consumes")
            for box in consumers
            for row in box.rows
            if row.name in places
        ),
        *(
            _line(RIGHT_X + RIGHT_WIDTH, row.y, PARTY_X, _middle(others[row.name]), "calls")
            for box in consumers
            for row in box.rows
            if row.name in others
        ),
    ]
    width = PARTY_X + PARTY_WIDTH if parties else RIGHT_X + RIGHT_WIDTH
    left_out = len(every) - len(shown) + max(len(named) - BOXES_MAX, 0)
    return Picture(
        width + 2 * MARGIN, height + 2 * MARGIN, publishers, topics, consumers, parties, tuple(lines), left_out
    )


def _topics(services: Sequence[Known]) -> list[str]:
    published = [topic for one in services for topic in one.service.published_topics]
    consumed = sorted(topic for one in services for topic in one.service.consumed_topics)
    return list(dict.fromkeys([*published, *consumed]))


def _destinations(one: Known) -> list[str]:
    return sorted({kind.destination.name for kind in one.calls})


def _column(things: Sequence[object], x: int, width: int, described: object) -> tuple[Box, ...]:
    boxes, y = [], 0
    for thing in things:
        name, rows, height = described(thing)  # type: ignore[operator]
        height = height or HEAD + ROW * len(rows) + FOOT
        placed = tuple(Row(row, y + HEAD + ROW * n + ROW // 2) for n, row in enumerate(rows))
        boxes.append(Box(name, x, y, width, height, placed))
        y += height + GAP
    return tuple(boxes)


def _centred(column: tuple[Box, ...], height: int) -> tuple[Box, ...]:
    """Move a column that is shorter than the others to the middle."""
    if not column:
        return column
    down = (height - column[-1].y - column[-1].height) // 2
    return tuple(
        box._replace(y=box.y + down, rows=tuple(Row(row.name, row.y + down) for row in box.rows)) for box in column
    )


def _middle(box: Box) -> int:
    return box.y + box.height // 2


def _line(x: int, y: int, to_x: int, to_y: int, kind: str) -> Line:
    half = (to_x - x) // 2
    return Line(f"M{x} {y} C{x + half} {y} {to_x - half} {to_y} {to_x} {to_y}", kind)
