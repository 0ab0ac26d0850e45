"""The timeline of a story is a function of what is known: causes come before effects, whatever the clocks say."""

import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest

from shared.operations.story_entries import Told, timeline
from shared.operations.story_facts import (
    Asked,
    Claimed,
    Decided,
    Facts,
    Found,
    Known,
    Letter,
    Parked,
    Place,
    Requested,
    Trying,
    Waiting,
    cause_of,
    source_of,
)
from shared.protocol.ports import Input, Position

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
PLACED = "order:019ac123-0000-7000-8000-000000000000"
RESERVED = "inventory:order.events-2.0.7.StockReserved.0"
CAPTURED = "payment:inventory.events-2.0.4.CapturePayment.0.PaymentCaptured.0"
CONFIRMED = "order:payment.events-2.0.3.OrderConfirmed.0"


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def found(place: Place, seconds: float, source: str, event_id: str, event: str) -> Found:
    return Found(place, at(seconds), "o-1", source, event_id, f"{event}.v1", at(seconds).isoformat())


ORDER_7 = Place("order.events", 2, 7)
STOCK_4 = Place("inventory.events", 2, 4)
MONEY_3 = Place("payment.events", 2, 3)
ORDER_9 = Place("order.events", 2, 9)


def positions(*topics: str, offset: int = 100) -> dict[Input, Position]:
    return {Input(topic, 2): Position(offset, 0) for topic in topics}


def saga() -> Facts:
    """An order that is placed, reserved, paid and confirmed. The clock of the inventory is a minute late."""
    order = Known(
        positions("inventory.events", "payment.events"),
        handled={("inventory", RESERVED): at(2.1), ("payment", CAPTURED): at(4)},
        requests={("shop POST /orders", "k-1"): Requested("shop POST /orders", "k-1", 201, at(0))},
    )
    inventory = Known(
        positions("order.events", "payment.events"),
        handled={("order", PLACED): at(-59), ("payment", CAPTURED): at(-56)},
    )
    payment = Known(
        positions("inventory.events", "order.events"),
        handled={("inventory", RESERVED): at(2.2)},
    )
    records = [
        found(ORDER_7, 0.1, "order", PLACED, "OrderPlaced"),
        found(STOCK_4, -58, "inventory", RESERVED, "StockReserved"),
        found(MONEY_3, 3, "payment", CAPTURED, "PaymentCaptured"),
        found(ORDER_9, 4.1, "order", CONFIRMED, "OrderConfirmed"),
    ]
    return Facts(
        {"order": order, "inventory": inventory, "payment": payment}, {record.place: record for record in records}
    )


def steps(told: list[Told]) -> list[str]:
    return [f"{one.entry.service} {one.entry.what} {one.entry.event.removesuffix('.v1')}".strip() for one in told]


def number(told: list[Told], step: str) -> int:
    return steps(told).index(step) + 1


def test_causes_come_before_effects_although_a_clock_is_late() -> None:
    told = timeline(saga())

    assert steps(told) == [
        "order request",
        "order published OrderPlaced",
        "inventory handled OrderPlaced",
        "inventory published StockReserved",
        "order handled StockReserved",
        "payment handled StockReserved",
        "payment published PaymentCaptured",
        "inventory handled PaymentCaptured",
        "order handled PaymentCaptured",
        "order published OrderConfirmed",
    ]
    assert [one.because for one in told] == [None, 1, 2, 3, 4, 4, 6, 7, 7, 9]
    assert told[0].entry.detail == "shop POST /orders; answered 201; Idempotency-Key k-1"
    assert told[3].entry.caused_by == "order.events[2]@7"
    assert told[6].entry.caused_by == "call payment:inventory.events-2.0.4.CapturePayment.0"
    assert "payment has passed it and does not know it: no handler takes it, it was skipped" in told[1].entry.detail


def test_the_order_does_not_depend_on_the_order_of_the_facts() -> None:
    expected = steps(timeline(saga()))
    for seed in range(20):
        facts = saga()
        chance = random.Random(seed)
        for known in facts.services.values():
            shuffled = list(known.handled.items())
            chance.shuffle(shuffled)
            known.handled = dict(shuffled)
        records = list(facts.records.items())
        chance.shuffle(records)

        assert steps(timeline(Facts(facts.services, dict(records)))) == expected


def test_any_part_of_a_story_has_an_order() -> None:
    whole = saga()
    for chosen in itertools.product((True, False), repeat=4):
        records = {place: one for keep, (place, one) in zip(chosen, whole.records.items(), strict=True) if keep}
        told = timeline(Facts(saga().services, records))

        assert [one.number for one in told] == list(range(1, len(told) + 1))
        assert all(one.because is None or one.because < one.number for one in told)


def test_an_event_that_was_published_twice_is_said_to_be() -> None:
    facts = saga()
    again = Place("order.events", 2, 8)
    facts.records[again] = found(again, 60, "order", PLACED, "OrderPlaced")

    told = timeline(facts)

    twice = [one for one in told if one.entry.event_id == PLACED and one.entry.what == "published"]
    assert [one.entry.offset for one in twice] == [7, 8]
    assert twice[1].entry.detail.startswith("again, as order.events[2]@7 before")
    assert twice[0].entry.detail.startswith("payment has passed it")
    assert steps(told).count("inventory handled OrderPlaced") == 1


def letter(seconds: float, **more: object) -> Letter:
    known = Letter(3, ORDER_7, 0, "o-1", "ValueError", "no shelf", at(seconds), event_id=PLACED, source="order")
    return known._replace(event="OrderPlaced.v1", **more)  # type: ignore[arg-type]


def test_a_dead_letter_waits() -> None:
    facts = saga()
    inventory = facts.services["inventory"]
    inventory.letters = {3: letter(-59)}
    inventory.handled.clear()
    facts.records = {ORDER_7: facts.records[ORDER_7]}

    told = timeline(facts)

    aside = told[number(told, "inventory set aside OrderPlaced") - 1]
    assert aside.because == number(told, "order published OrderPlaced")
    assert aside.entry.detail == "dead letter 3; ValueError: no shelf; it waits for `dead-letters redrive`"
    assert "inventory waits OrderPlaced" not in steps(told)


def test_a_redriven_dead_letter_is_handled_after_it_was_set_aside_and_before_its_effects() -> None:
    facts = saga()
    inventory = facts.services["inventory"]
    inventory.letters = {3: letter(-59.5, redriven=at(-58.9))}
    notice = Place("inventory.dead-letters", 2, 0)
    facts.records[notice] = found(
        notice, -59.4, "inventory", "inventory:order.events-2.0.7.RecordSetAside.0", "RecordSetAside"
    )

    told = timeline(facts)

    in_order = [
        "order published OrderPlaced",
        "inventory set aside OrderPlaced",
        "inventory published RecordSetAside",
        "inventory handled OrderPlaced",
        "inventory published StockReserved",
    ]
    assert [one for one in steps(told) if one in in_order] == in_order
    handled = told[number(told, "inventory handled OrderPlaced") - 1]
    assert handled.entry.detail == "by redriving dead letter 3"
    assert handled.because == number(told, "inventory set aside OrderPlaced")
    assert told[number(told, "inventory published StockReserved") - 1].because == handled.number


@pytest.mark.parametrize(
    ("handled", "detail"),
    [({}, "its event is not in the inbox any more"), ({("order", PLACED): at(-70)}, "it had taken effect before")],
)
def test_a_redrive_that_had_no_effect(handled: dict[tuple[str, str], datetime], detail: str) -> None:
    facts = saga()
    inventory = facts.services["inventory"]
    inventory.letters, inventory.handled = {3: letter(-59.5, redriven=at(-50))}, handled

    told = timeline(facts)

    redriven = told[number(told, "inventory redriven OrderPlaced") - 1]
    assert redriven.entry.detail == f"dead letter 3; {detail}"
    assert redriven.number > number(told, "inventory set aside OrderPlaced")


def test_a_dismissed_dead_letter_names_its_decision() -> None:
    facts = saga()
    inventory = facts.services["inventory"]
    inventory.handled.clear()
    inventory.letters = {3: letter(-59.5, dismissed=at(-50), dismissed_by=12)}
    inventory.decisions = {12: Decided(12, at(-50), "dead-letters dismiss", "dead letters", "ada", "a test")}

    told = timeline(facts)

    assert told[number(told, "inventory dismissed OrderPlaced") - 1].entry.detail == "dead letter 3; by decision 12"
    (decided,) = [one.entry.detail for one in told if one.entry.what == "decision"]
    assert decided == "12: dead-letters dismiss dead letters; by ada; a test"


def test_a_parked_record_is_not_called_handled_though_it_is_in_the_inbox() -> None:
    facts = saga()
    inventory = facts.services["inventory"]
    error = ("Retry", "the tax service is away")
    inventory.parked = {ORDER_7: Parked(ORDER_7, 0, "o-1", "order", PLACED, 5, at(30), at(-59), *error)}

    told = timeline(facts)

    assert "inventory handled OrderPlaced" not in steps(told)
    parked = told[number(told, "inventory parked OrderPlaced") - 1]
    assert parked.entry.detail == "tried 5 times; again 12:00:30; Retry: the tax service is away"


def test_what_a_service_has_not_come_to_is_last() -> None:
    facts = saga()
    facts.services["inventory"].handled.clear()
    facts.services["inventory"].positions[Input("order.events", 2)] = Position(5, 0)
    facts.services["inventory"].trying = [Trying(Input("order.events", 2), 5, 8, 0, at(-1), stuck=False)]

    told = timeline(facts)

    waits = [one for one in told if one.entry.what == "waits"]
    assert told[-2:] == waits
    assert [one.entry.offset for one in waits] == [7, 9]
    assert waits[0].entry.detail == (
        "it has not come to it: the next offset is 5, 2 before it; its batch was begun 2026-11-30 11:59:59"
    )


def test_what_waits_behind_a_pause_says_whose_it_is() -> None:
    facts = saga()
    facts.services["inventory"].handled.clear()
    facts.services["inventory"].positions[Input("order.events", 2)] = Position(7, 0)
    facts.services["inventory"].pauses = {"order.events": "decision 4 of ada at 2026-11-30 11:00:00: wrong prices"}

    waits = [one.entry.detail for one in timeline(facts) if one.entry.what == "waits"]

    assert waits[0] == (
        "it has not come to it: the next offset is 7; "
        "its input is paused by decision 4 of ada at 2026-11-30 11:00:00: wrong prices"
    )


@pytest.mark.parametrize(
    ("ends", "stuck", "words"),
    [
        (1, False, "; its batch was begun 2026-11-30 11:59:59"),
        (2, False, "; its batch was begun 2026-11-30 11:59:59; 1 process ended at offset 7"),
        (3, False, "; its batch was begun 2026-11-30 11:59:59; 2 processes ended at offset 7"),
        (1, True, "; 1 process ended at offset 7"),
    ],
)
def test_a_process_that_is_alive_has_not_ended(ends: int, stuck: bool, words: str) -> None:
    """One that tries a record alone is counted when it begins; one that the watchdog ends, when it ends."""
    facts = saga()
    facts.services["inventory"].handled.clear()
    facts.services["inventory"].positions[Input("order.events", 2)] = Position(7, 0)
    facts.services["inventory"].trying = [Trying(Input("order.events", 2), 7, 7, ends, at(-1), stuck=stuck)]

    waits = [one.entry.detail for one in timeline(facts) if one.entry.what == "waits"]

    assert waits[0] == f"it has not come to it: the next offset is 7{words}"


def test_what_was_handled_does_not_wait_after_a_rewind() -> None:
    facts = saga()
    facts.services["inventory"].positions[Input("order.events", 2)] = Position(0, 0)

    waits = [one.entry.event for one in timeline(facts) if one.entry.what == "waits"]

    assert waits == ["OrderConfirmed.v1"], "which the inventory has not handled before either"


def test_of_what_has_no_handler_nothing_is_said() -> None:
    facts = saga()
    payment = facts.services["payment"]
    payment.takes = frozenset({("order.events", "OrderConfirmed.v1"), ("inventory.events", "StockReserved.v1")})

    told = timeline(facts)

    assert "payment" not in told[number(told, "order published OrderPlaced") - 1].entry.detail
    assert "payment has passed it and does not know it: it was skipped, or came before what its inbox remembers" in (
        told[number(told, "order published OrderConfirmed") - 1].entry.detail
    )
    payment.positions[Input("order.events", 2)] = Position(0, 0)
    waits = [one.entry.event for one in timeline(facts) if one.entry.what == "waits"]
    assert waits == ["OrderConfirmed.v1"]


def test_what_waits_to_be_published_follows_what_has_caused_it() -> None:
    facts = saga()
    del facts.records[ORDER_9]
    order = facts.services["order"]
    order.outbox = {CONFIRMED: Waiting(CONFIRMED, "OrderConfirmed.v1", "order.events", "o-1", at(4), 2, claimed=True)}
    late = "order:019ac123-0000-7000-8000-000000000001"
    order.schedule = {
        late: Waiting(late, "PaymentOverdue.v1", "order.deadlines", "o-1", at(0.1), 2, name="late:o-1", due=at(900))
    }

    told = timeline(facts)

    row = told[number(told, "order in outbox OrderConfirmed") - 1]
    assert (row.entry.detail, row.because) == (
        "lane 2; claimed: it is being published, or just was",
        number(told, "order handled PaymentCaptured"),
    )
    scheduled = told[number(told, "order scheduled PaymentOverdue") - 1]
    assert (scheduled.entry.detail, scheduled.because) == ("as late:o-1; due 2026-11-30 12:15:00", 1)


def test_a_row_whose_record_is_there_does_not_wait() -> None:
    """The rows of a claim that is published stay in the outbox until the next batch or report."""
    facts = saga()
    before = steps(timeline(facts))
    order = facts.services["order"]
    row = Waiting(CONFIRMED, "OrderConfirmed.v1", "order.events", "o-1", at(4), 2, claimed=True)

    order.outbox = {CONFIRMED: row}
    assert steps(timeline(facts)) == before

    order.outbox = {CONFIRMED: row._replace(claimed=False)}  # an older database was restored: it comes once more
    assert "order in outbox OrderConfirmed" in steps(timeline(facts))


OVERDUE = Place("order.deadlines", 2, 5)


@pytest.mark.parametrize("clock", [-20, 20])
def test_a_deadline_that_has_passed_follows_the_request_that_has_scheduled_it(clock: int) -> None:
    """Its record has the time at which it was due; another request came then. The clock of the API may be wrong."""
    facts = saga()
    overdue = "order:019ac123-0000-7000-8000-000000000001"
    cause = cause_of("order", overdue)
    assert cause is not None
    assert cause.began is not None
    began = cause.began - timedelta(seconds=clock)
    facts.services["order"].requests = {
        ("shop", "k-1"): Requested("shop POST /orders", "k-1", 201, began),
        ("shop", "k-2"): Requested("shop POST /orders/o-1/note", "k-2", 201, began + timedelta(seconds=899)),
    }
    due = began + timedelta(seconds=900)
    facts.records = {OVERDUE: Found(OVERDUE, due, "o-1", "order", overdue, "PaymentOverdue.v1", due.isoformat())}

    told = timeline(facts)

    published = told[number(told, "order published PaymentOverdue") - 1]
    assert published.because is not None
    assert told[published.because - 1].entry.detail.endswith("Idempotency-Key k-1")


def test_a_call_that_is_not_finished_follows_its_record() -> None:
    facts = saga()
    del facts.records[MONEY_3], facts.records[ORDER_9]
    call = "payment:inventory.events-2.0.4.CapturePayment.0"
    asked = Asked(1, call, "CapturePayment.v1", "bank", "o-1", at(2.2), 4, True, False, "503")
    facts.services["payment"].calls = {1: asked}

    told = timeline(facts)

    step = told[number(told, "payment call CapturePayment") - 1]
    assert step.because == number(told, "payment handled StockReserved")
    assert step.entry.detail == "call 1 to bank is not finished; asked 4 times; bank may have done it; 503"


def test_a_call_whose_answer_nobody_could_take_was_asked() -> None:
    """Such an answer does not count as an attempt."""
    facts = saga()
    call = "payment:inventory.events-2.0.4.CapturePayment.0"
    asked = Asked(1, call, "CapturePayment.v1", "bank", "o-1", at(2.2), 0, True, True, "422")
    facts.services["payment"].calls = {1: asked}

    (step,) = (one.entry.detail for one in timeline(facts) if one.entry.what == "call")

    assert step == "call 1 to bank is not finished; bank may have done it; stuck: the service's own code fails; 422"


def test_an_effect_of_which_only_the_claim_is_known() -> None:
    facts = saga()
    low = "inventory:order.events-2.0.7.StockLow.0"
    facts.services["inventory"].claimed = {
        low: Claimed(low, "stock.events", 1, 17, at(-58.5)),
        RESERVED: Claimed(RESERVED, "inventory.events", 2, 9, at(-58.5)),
    }

    told = timeline(facts)

    claim = told[number(told, "inventory claimed StockLow") - 1]
    assert claim.entry.detail == "lane 1, claim 17; its record was not found"
    assert claim.because == number(told, "inventory handled OrderPlaced")
    assert steps(told).count("inventory claimed StockReserved") == 0
    assert "lane 2, claim 9" in told[number(told, "inventory published StockReserved") - 1].entry.detail


def test_ids_that_claim_to_have_caused_each_other_end_no_loop() -> None:
    a, b = Place("a.events", 0, 1), Place("a.events", 0, 2)
    own, other = "evil:a.events-0.0.1.A.0", "evil:a.events-0.0.1.B.0"
    first = "evil:a.events-0.0.2.C.0"
    facts = Facts(
        {"evil": Known(handled={("evil", first): at(1), ("evil", other): at(2)})},
        {a: found(a, 1, "evil", first, "C"), b: found(b, 2, "evil", other, "B")},
    )
    own_cause = Facts({}, {a: found(a, 1, "evil", own, "A")})

    assert len(timeline(facts)) == 4
    assert len(timeline(own_cause)) == 1


def test_records_that_are_no_events_are_shown() -> None:
    place = Place("order.events", 2, 11)
    facts = saga()
    facts.records[place] = Found(place, at(9), "o-1", "", "", "")

    told = timeline(facts)

    assert told[-1].entry.place == place
    assert "no service that was asked has published it" in told[-1].entry.detail


def test_a_database_that_was_silent_is_not_taken_for_one_that_denies() -> None:
    facts = saga()
    del facts.services["order"]
    facts.silent = frozenset({"order"})

    told = timeline(facts)

    placed = told[number(told, "order published OrderPlaced") - 1]
    assert "the database of order did not answer" in placed.entry.detail
    assert "no service that was asked" not in " ".join(one.entry.detail for one in told)


@pytest.mark.parametrize(
    ("event_id", "place", "epoch", "call", "asked"),
    [
        (PLACED, None, 0, "", True),
        (f"{PLACED}.PaymentCaptured.0", None, 0, PLACED, True),
        (RESERVED, ORDER_7, 0, "", False),
        ("inventory:a-1.2-x-0.3.5.StockReserved.1", Place("a-1.2-x", 0, 5), 3, "", False),
        (CAPTURED, STOCK_4, 0, "payment:inventory.events-2.0.4.CapturePayment.0", False),
        (f"order:{'0f' * 16}.Refunded.0", None, 0, f"order:{'0f' * 16}", False),
    ],
)
def test_an_id_says_its_cause(event_id: str, place: Place | None, epoch: int, call: str, asked: bool) -> None:
    cause = cause_of(source_of(event_id), event_id)

    assert cause is not None
    assert (cause.place, cause.epoch, cause.call, cause.request) == (place, epoch, call, asked)
    if asked:
        assert cause.began == datetime(2025, 11, 26, 17, 8, 7, 808_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "decided", ["", "now", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "2026-11-30T12:00"]
)
def test_a_time_that_is_none_is_left_out(decided: str) -> None:
    far = "order:ffffffff-ffff-7fff-8fff-ffffffffffff"

    assert Found(ORDER_7, NOON, "o-1", "order", far, "", decided).decided_at is None
    cause = cause_of("order", far)
    assert cause is not None
    assert cause.began is None


def test_the_id_of_a_recurring_event_names_its_run() -> None:
    cause = cause_of("order", "order:recurring:nightly.20261130T000000Z")

    assert cause is not None
    assert cause.run == "recurring:nightly.20261130T000000Z"


@pytest.mark.parametrize(
    "event_id",
    [
        "",
        "x",
        "order",
        "order:",
        "order:1",
        "other:order.events-2.0.7.A.0",
        f"order:{'9' * 600}",
        "order:a-1.1.1.A.0\n",
    ],
)
def test_a_strangers_id_says_nothing(event_id: str) -> None:
    assert cause_of("order", event_id) is None
