"""The picture is what the services declare."""

from itertools import pairwise

from shared.console import picture
from shared.console.picture import Box
from shared.events import Event
from shared.service import Service
from tests.unit.console.desk import Charge, known, settings, shop, store


def test_a_picture_has_what_is_declared() -> None:
    made = picture.draw([known(store(), settings()), known(shop(), settings(), (Charge,))])

    assert [box.name for box in made.publishers] == ["shop", "store"]
    assert [(box.name, box.known) for box in made.topics] == [
        ("shop.events", True),
        ("store.events", True),
        ("elsewhere.events", False),
    ]
    assert [(box.name, [row.name for row in box.rows]) for box in made.consumers] == [
        ("shop", ["elsewhere.events", "store.events", "bank"]),
        ("store", ["shop.events"]),
    ]
    assert [box.name for box in made.parties] == ["bank"]
    kinds = [line.kind for line in made.lines]
    assert (kinds.count("publishes"), kinds.count("consumes"), kinds.count("calls")) == (2, 3, 1)
    assert made.words.startswith("2 services that publish on 3 topics")


def overlap(boxes: tuple[Box, ...]) -> bool:
    return any(above.y + above.height > below.y for above, below in pairwise(boxes))


def test_nothing_overlaps_or_leaves_the_picture_and_a_hundred_services_have_one_too() -> None:
    many = []
    for n in range(100):
        event = type(f"E{n}", (Event,), {"__annotations__": {"k": str}, "__module__": __name__}, topic=f"t{n}", key="k")
        many.append(known(Service(f"s{n:03}", publishes=(event,)), settings()))
    for made in map(picture.draw, ([], many[:1], many)):
        columns = (made.publishers, made.topics, made.consumers, made.parties)
        assert not any(map(overlap, columns))
        assert all(box.y >= 0 and box.y + box.height <= made.height for column in columns for box in column)
    made = picture.draw(many)
    assert len(made.publishers) == len(made.topics) == picture.BOXES_MAX
    assert made.left_out == 60
