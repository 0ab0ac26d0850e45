"""An order goes through all three services, is set aside once and redriven, and `story` tells all of it."""

import json
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from dev.system import System
from shared.testing import until
from tests.e2e.conftest import Shop

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operating.md").read_text()
COMMAND_SECONDS = 120.0
"""Its bounds are half a minute; the machine may be busy."""
PRICE = 471
"""Of what the broken constraint refuses."""


def run(system: System, service: str, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as an operator does whose DATABASE_URL leads to the databases of all services."""
    env = system._environment(service) | {"DATABASE_URL": system.dsn("{service}"), **settings}
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}", *words],
        env=env,
        cwd=system.logs,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def story(system: System, service: str, wanted: str, **settings: str) -> Any:
    done = run(system, service, "story", wanted, "--json", **settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def steps(entries: list[dict[str, Any]]) -> list[str]:
    return [f"{one['service']} {one['what']} {one['event'].removesuffix('.v1')}".strip() for one in entries]


def execute(system: System, service: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(system.dsn(service), autocommit=True) as connection:
        done = connection.execute(statement.encode())
        return done.fetchall() if done.description else []


def in_order(found: list[str], *expected: str) -> None:
    """Assert that `expected` are there, once, and in this order."""
    assert [one for one in found if one in expected] == list(expected), found


COMPLETE = [
    "order request",
    "order published OrderPlaced",
    "inventory set aside OrderPlaced",
    "inventory handled OrderPlaced",
    "inventory published StockReserved",
    "payment handled StockReserved",
    "payment published PaymentCaptured",
    "order handled PaymentCaptured",
    "order published OrderConfirmed",
]
LETTERS = "SELECT id FROM exactly_once_dead_letter"


class Confirmed(NamedTuple):
    """An order that was set aside, and is confirmed."""

    system: System
    id: str
    letter: int
    stuck: Any
    """Its story while it was set aside."""
    told: Any
    """Its story at the end."""

    @property
    def steps(self) -> list[str]:
        return steps(self.told["entries"])

    def step(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.told["entries"][self.steps.index(name)]
        return found


@pytest.fixture(scope="module")
def confirmed(shop: Shop) -> Confirmed:
    system, customer = shop.system, shop.customer
    execute(system, "inventory", f"ALTER TABLE reservation ADD CONSTRAINT broken CHECK (amount <> {PRICE})")
    order = customer.order(PRICE)
    until(lambda: execute(system, "inventory", LETTERS), "the order is set aside")
    stuck = story(system, "order", order)
    execute(system, "inventory", "ALTER TABLE reservation DROP CONSTRAINT broken")
    ((letter,),) = execute(system, "inventory", LETTERS)
    assert run(system, "inventory", "dead-letters", "redrive", str(letter)).returncode == 0
    until(lambda: customer.state(order) == "CONFIRMED", "the order is confirmed")
    sold = f"SELECT 1 FROM reservation WHERE order_id = '{order}' AND state = 'SOLD'"
    until(lambda: execute(system, "inventory", sold), "the stock is sold")
    last, stories = {"order published OrderConfirmed", "inventory published StockSold"}, []

    def told() -> bool:
        stories.append(story(system, "order", order))
        return last <= set(steps(stories[-1]["entries"]))

    until(told, "the last events are published")
    return Confirmed(system, order, letter, stuck, stories[-1])


@pytest.mark.timeout(600)
def test_while_it_is_set_aside_the_story_ends_there(confirmed: Confirmed) -> None:
    found = steps(confirmed.stuck["entries"])

    in_order(found, *COMPLETE[:3])
    assert "order scheduled PaymentOverdue" in found
    assert not set(COMPLETE[3:]) & set(found)
    (aside,) = [one for one in confirmed.stuck["entries"] if one["what"] == "set aside"]
    assert aside["detail"].endswith("it waits for `dead-letters redrive`")


def test_the_story_names_every_step_in_all_services(confirmed: Confirmed) -> None:
    in_order(confirmed.steps, *COMPLETE)
    in_order(
        confirmed.steps,
        "inventory set aside OrderPlaced",
        "inventory published RecordSetAside",
        "inventory published StockReserved",
        "order handled StockReserved",
        "payment published PaymentCaptured",
        "inventory handled PaymentCaptured",
        "inventory published StockSold",
    )
    assert sorted(confirmed.told["services"]) == ["inventory", "order", "payment"]
    assert confirmed.told["not_looked_at"] == []
    assert all(one["because"] is None or one["because"] < one["number"] for one in confirmed.told["entries"])


def test_each_step_says_what_has_caused_it(confirmed: Confirmed) -> None:
    request, placed = confirmed.step("order request"), confirmed.step("order published OrderPlaced")
    handled = confirmed.step("inventory handled OrderPlaced")

    assert request["detail"].startswith("anonymous POST /orders; answered 201; Idempotency-Key ")
    assert (placed["because"], placed["caused_by"], placed["topic"]) == (request["number"], "a request", "order.events")
    assert "claim " in placed["detail"]
    assert handled["detail"] == f"by redriving dead letter {confirmed.letter}"
    assert "IntegrityError" in confirmed.step("inventory set aside OrderPlaced")["detail"]
    reserved = confirmed.step("inventory published StockReserved")
    assert reserved["caused_by"] == f"order.events[{placed['partition']}]@{placed['offset']}"
    assert reserved["because"] == handled["number"]
    paid = confirmed.step("payment published PaymentCaptured")
    assert paid["caused_by"].startswith("call payment:inventory.events-")
    assert paid["because"] == confirmed.step("payment handled StockReserved")["number"]


@pytest.mark.parametrize(
    ("service", "step"),
    [
        ("inventory", "inventory published StockReserved"),
        pytest.param("payment", None, marks=pytest.mark.proof),
        pytest.param("order", "order published OrderPlaced", marks=pytest.mark.proof),
        pytest.param("order", "payment published PaymentCaptured", marks=pytest.mark.proof),
    ],
)
def test_any_service_tells_it_and_of_any_event(confirmed: Confirmed, service: str, step: str | None) -> None:
    wanted = confirmed.id if step is None else confirmed.step(step)["event_id"]

    other = story(confirmed.system, service, wanted)

    assert (other["key"], steps(other["entries"])) == (confirmed.id, confirmed.steps)


def test_a_database_that_does_not_answer_is_a_line(confirmed: Confirmed) -> None:
    execute(confirmed.system, "order", 'ALTER DATABASE "payment" ALLOW_CONNECTIONS false')
    try:
        away = story(confirmed.system, "order", confirmed.id)
    finally:
        execute(confirmed.system, "order", 'ALTER DATABASE "payment" ALLOW_CONNECTIONS true')

    assert "payment handled StockReserved" not in steps(away["entries"])
    assert "payment published PaymentCaptured" in steps(away["entries"])
    assert [line.partition(":")[0] for line in away["not_looked_at"]] == ["payment"]


@pytest.mark.proof
def test_databases_that_it_cannot_find_are_a_line_each(confirmed: Confirmed) -> None:
    system = confirmed.system

    alone = story(system, "order", confirmed.id, DATABASE_URL=system.dsn("order"))

    assert alone["services"] == ["order"]
    assert [line.partition(":")[0] for line in alone["not_looked_at"]] == ["inventory", "payment"]
    in_order(steps(alone["entries"]), "order published OrderPlaced", "inventory published StockReserved")


@pytest.mark.proof
def test_an_id_that_nobody_knows(confirmed: Confirmed) -> None:
    unknown = run(confirmed.system, "order", "story", f"{uuid.uuid4()}")

    assert unknown.returncode == 1
    assert "nothing is known of" in unknown.stderr


def test_it_is_printed_as_the_page_shows_it_and_without_a_secret(confirmed: Confirmed) -> None:
    shown = run(confirmed.system, "order", "story", confirmed.id)

    assert shown.returncode == 0
    assert confirmed.system.servers.postgres._password not in shown.stdout + shown.stderr
    assert printed(shown.stdout) == printed(PAGE.split("## The story of an order")[1])


def printed(text: str) -> list[tuple[str, str, str]]:
    """Return service, step and event of every line of a timeline; of what happens side by side the order is chance."""
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
    return sorted(
        re.findall(rf"^ *\d+  {time}  (\w+) +(request|published|set aside|handled) +(\S+)", text, re.MULTILINE)
    )
