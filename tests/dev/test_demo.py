"""The parts of the demo: plans that a seed repeats, customers who insist and keep honest books, silences measured."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from unittest.mock import MagicMock

import pytest

from dev.demo import chaos, client, market
from dev.demo.load import Load
from dev.demo.market import Deposit, Order, Receipt
from dev.demo.stage import victims
from dev.silence import quantile, silence
from dev.system import System
from shared.telemetry import metrics

WORKERS = [f"{service} worker {number}" for service in ("order", "inventory", "payment") for number in (1, 2)]
APIS = ["order api", "inventory api", "payment api"]


def test_a_seed_repeats_what_customers_do() -> None:
    assert market.plan("a", 7, 300, 10) == market.plan("a", 7, 300, 10)
    assert market.plan("a", 7, 300, 10) != market.plan("a", 8, 300, 10)


def test_a_plan_walks_every_path_and_keeps_its_time() -> None:
    planned = market.plan("a", 1, 1_000, 20)
    orders = [step for step in planned.steps if isinstance(step, Order)]
    assert planned.orders == len(orders) == 1_000
    assert 0 <= min(step.moment for step in planned.steps) <= max(step.moment for step in planned.steps) < 20
    assert sum(order.duplicate_seconds is not None for order in orders) > 20
    assert sum(order.cancel_seconds is not None for order in orders) > 20
    assert sum("poor" in order.account for order in orders) > 20
    assert sum(any("rare" in sku for sku, _ in order.lines) for order in orders) > 20
    assert any(isinstance(step, Receipt) for step in planned.steps)
    assert any(isinstance(step, Deposit) for step in planned.steps)
    assert len({step.key for step in (*planned.opening, *planned.steps)}) == len(planned.opening) + len(planned.steps)


def test_a_seed_repeats_who_is_struck_and_when() -> None:
    def planned(seed: int) -> tuple[chaos.Blow, ...]:
        return chaos.plan(seed, 60, WORKERS, APIS, kills=20, freezes=3)

    assert planned(1) == planned(1) != planned(2)


@pytest.mark.parametrize("seed", range(20))
def test_freezes_overlap_and_the_frozen_are_not_killed(seed: int) -> None:
    blows = chaos.plan(seed, 60, WORKERS, APIS, kills=30, freezes=3)
    freezes = [blow for blow in blows if blow.kind == "freeze"]
    assert Counter(blow.kind for blow in blows) == {"kill": 30, "freeze": 3}
    assert len({blow.victim for blow in freezes}) == 3
    assert max(blow.moment for blow in freezes) < min(blow.moment + blow.seconds for blow in freezes)
    for blow in blows:
        if blow.kind == "kill":
            assert not any(f.victim == blow.victim and f.moment <= blow.moment <= f.moment + f.seconds for f in freezes)


@pytest.mark.parametrize("seed", range(20))
def test_the_bank_is_away_and_back_while_orders_flow(seed: int) -> None:
    blow = chaos.outage(seed, 60, "the bank")
    assert blow == chaos.outage(seed, 60, "the bank")
    assert (blow.kind, blow.victim) == ("bank", "the bank")
    assert chaos.QUIET_SECONDS <= blow.moment <= 60 - blow.seconds - chaos.QUIET_SECONDS


def test_the_bank_is_frozen_and_thawed() -> None:
    system = MagicMock()
    strikes = chaos.Chaos(system, [chaos.Blow(0.0, "bank", "the bank", 0.01)], lambda _: None)
    strikes.run()
    assert [call[0] for call in system.supervisor.method_calls][:2] == ["freeze", "thaw"]
    assert strikes.struck[0].hit


def test_callers_are_struck_as_workers_are() -> None:
    stage = MagicMock(services=("order", "payment"))
    stage.workers.side_effect = lambda service: (f"{service} worker 1",)
    stage.callers.side_effect = lambda service: ("payment caller 1",) if service == "payment" else ()
    stage.api.side_effect = lambda service: f"{service} api"
    workers = ["order worker 1", "payment worker 1", "payment caller 1"]
    assert victims(stage) == (workers, ["order api", "payment api"])


def test_a_silence_is_the_longest_of_any_partition_that_a_blow_can_have_caused() -> None:
    consumed = {
        ("order.events", 0): [9.0, 9.9, 10.1, 10.2, 12.0, 12.1],  # silent from 10.2 to 12.0
        ("order.events", 1): [9.5, 10.5, 11.2, 15.0],  # silent from 11.2 on: too late to be of this blow
        ("payment.events", 0): [9.0, 30.0],
    }
    assert silence(consumed, "order.events", 10.0) == pytest.approx(1.8)
    assert silence(consumed, "payment.events", 10.0) == pytest.approx(20.0)
    assert silence(consumed, "payment.events", 31.0) is None


def test_a_quantile_is_a_value_that_was_measured() -> None:
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    assert quantile([], 0.5) == 0.0


Answer = tuple[int, dict[str, str], object]
Api = Callable[[str, str, str], Answer | None]


class Server:
    """An HTTP server of one function `(method, path, key) -> answer`; None breaks the connection off."""

    def __init__(self, api: Api) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet for an answer; two would wait for each other

            def _serve(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer = api(self.command, self.path, self.headers["Idempotency-Key"])
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, body = answer
                raw = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            do_POST = do_PUT = _serve  # noqa: N815 (the names that http.server wants)

            def log_message(self, *_: object) -> None:
                pass

        class Patient(ThreadingHTTPServer):
            request_queue_size = 128  # with the usual 5, connections of many customers wait a second to be taken

        self._server = Patient(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE_SECONDS", 0.01)


def customers(api: Api, planned: market.Market) -> Load:
    with Server(api) as server:
        load = Load(lambda _: server.url, planned)
        load.open()
        load.run()
    return load


def test_customers_insist_until_they_are_answered_and_know_every_order() -> None:
    planned = market.plan("a", 3, 100, 0.5)
    attempts: Counter[str] = Counter()
    trouble: list[Answer | None] = [None, (503, {}, {}), (409, {"Retry-After": "1"}, {}), (500, {}, {})]

    def api(method: str, path: str, key: str) -> Answer | None:
        attempts[key] += 1
        if path == "/orders" and attempts[key] == 1:
            return trouble[len(attempts) % 4]
        if path.endswith("/cancel"):
            return (200, {}, {}) if int(key.split("-")[1]) % 2 else (409, {}, {})
        return (200 if method == "PUT" else 201), {}, {"id": f"id-of-{key}"}

    load = customers(api, planned)
    assert load.problems == []
    assert load.book.accepted == {f"id-of-a-{n}": f"a-{n}" for n in range(100)}
    assert load.book.contradictions == []
    assert load.book.unknown == set()
    assert load.counts["repeated"] >= 100
    assert load.counts["cancelled"] == len(load.book.cancelled) > 0 < load.counts["too late to cancel"]
    put_in = [step for step in (*planned.opening, *planned.steps) if isinstance(step, Receipt)]
    assert load.book.received == sum((Counter({step.sku: step.quantity}) for step in put_in), Counter())


def test_nobody_asks_this_machine_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "REQUEST_SECONDS", 0.5)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    def api(method: str, path: str, key: str) -> Answer:
        return 201, {}, {"id": key}

    assert customers(api, market.plan("a", 3, 5, 0.1)).problems == []
    asked = System.__new__(System)
    server = metrics.serve("127.0.0.1", 0, lambda: (True, "ready"))
    try:
        asked._ports = {"order api": server.server_port}
        assert asked.is_ready("order api")
    finally:
        server.shutdown()
        server.server_close()


def test_customers_find_out_that_one_request_was_carried_out_twice() -> None:
    numbers = count()

    def forgetful(method: str, path: str, key: str) -> Answer:
        return (200 if path.endswith("/cancel") or method == "PUT" else 201), {}, {"id": f"order-{next(numbers)}"}

    load = customers(forgetful, market.plan("a", 3, 100, 0.1))
    assert len(load.book.contradictions) == load.counts["duplicates"] > 0


def test_customers_admit_what_they_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "REQUEST_SECONDS", 1.0)

    def deaf(method: str, path: str, key: str) -> Answer | None:
        return None if key == "a-5" else (200 if path.endswith("/cancel") or method == "PUT" else 201, {}, {"id": key})

    load = customers(deaf, market.plan("a", 3, 10, 0.1))
    assert load.book.unknown == {"a-5"}
    assert len(load.book.accepted) == 9


def test_customers_report_an_answer_that_should_not_have_been_given() -> None:
    def strict(method: str, path: str, key: str) -> Answer:
        return (422, {}, {"title": "no"}) if path == "/orders" else (200 if method == "PUT" else 201, {}, {})

    load = customers(strict, market.plan("a", 3, 5, 0.1))
    assert not load.book.accepted
    assert all(problem.startswith("POST /orders was answered with 422") for problem in load.problems)
