"""Every refusal is a problem that tells the caller what to do, and nothing about internals."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from services.order.container import OrderContainer
from shared.settings import Settings
from shared.testing.api import Api

LINE = {"sku": "tea", "quantity": 1}
ORDER = {"account": "ada", "lines": [LINE]}


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Check the form of a problem; return its members."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    assert found["title"]
    assert found["type"].startswith(("about:blank", "urn:problem:"))
    return found


def test_a_path_that_does_not_exist(orders: Api) -> None:
    problem(orders.get("/nothing"), 404)
    problem(orders.get("/orders/"), 404)


def test_a_method_that_does_not_exist(orders: Api) -> None:
    answer = orders.delete("/orders")
    problem(answer, 405)
    assert "GET" in answer.headers["allow"]


def test_a_body_that_publishes_it_is_too_large(orders: Api) -> None:
    problem(orders.post("/orders", content=b" " * 1_000_001, headers={"Content-Type": "application/json"}), 413)


def test_a_body_that_turns_out_too_large(orders: Api) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    problem(orders.post("/orders", content=parts(), headers={"Content-Type": "application/json"}), 413)


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "multipart/form-data; boundary=x", ""])
def test_a_body_that_is_not_json_by_its_type(orders: Api, content_type: str) -> None:
    problem(orders.post("/orders", content=b"{}", headers={"Content-Type": content_type}), 415)


def test_a_body_that_is_encoded(orders: Api) -> None:
    problem(orders.post("/orders", json=ORDER, headers={"Content-Encoding": "gzip"}), 415)


@pytest.mark.parametrize(
    "content",
    [b"{", b"not json", b"\xff\xfe", b"[" * 100_000, b'{"account": ' + b"1" * 10_000 + b"}"],
    ids=["cut off", "words", "not UTF-8", "deep", "huge number"],
)
def test_a_body_that_is_not_json(orders: Api, content: bytes) -> None:
    answer = orders.post("/orders", content=content, headers={"Content-Type": "application/json"})
    assert problem(answer, 400)["type"] == "urn:problem:not-json"


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({}, "body.account"),
        ([], "body"),
        (None, "body"),
        ({"account": "ada"}, "body.lines"),
        ({**ORDER, "lines": []}, "body.lines"),
        ({**ORDER, "note": "quick"}, "body.note"),
        ({**ORDER, "account": ""}, "body.account"),
        ({**ORDER, "account": "a\u0000b"}, "body.account"),
        ({**ORDER, "account": "a\n"}, "body.account"),
        ({**ORDER, "account": "\ud800"}, "body.account"),
        ({**ORDER, "account": "x" * 65}, "body.account"),
        ({**ORDER, "account": 7}, "body.account"),
        ({**ORDER, "lines": [{**LINE, "quantity": 0}]}, "body.lines.0.quantity"),
        ({**ORDER, "lines": [{**LINE, "quantity": -1}]}, "body.lines.0.quantity"),
        ({**ORDER, "lines": [{**LINE, "quantity": 1_000_001}]}, "body.lines.0.quantity"),
        ({**ORDER, "lines": [{**LINE, "quantity": 1.0}]}, "body.lines.0.quantity"),
        ({**ORDER, "lines": [{**LINE, "quantity": "1"}]}, "body.lines.0.quantity"),
        ({**ORDER, "lines": [{**LINE, "quantity": True}]}, "body.lines.0.quantity"),
        ({**ORDER, "lines": [{**LINE, "quantity": 10**400}]}, "body.lines.0.quantity"),
        ({**ORDER, "lines": [LINE, LINE]}, "body"),
    ],
)
def test_a_body_that_is_out_of_bounds(orders: Api, body: object, at: str) -> None:
    content = json.dumps(body).encode()
    answer = orders.post("/orders", content=content, headers={"Content-Type": "application/json"})
    assert at in {wrong["at"] for wrong in problem(answer, 422)["errors"]}


def test_ten_thousand_lines_get_a_short_answer(orders: Api) -> None:
    lines = [{"sku": f"s{n}", "quantity": 1} for n in range(10_000)]
    answer = orders.post("/orders", json={**ORDER, "lines": lines})
    assert "100" in problem(answer, 422)["detail"]
    assert len(answer.content) < 1_000


def test_ten_thousand_wrong_lines_get_a_short_answer(orders: Api) -> None:
    answer = orders.post("/orders", json={**ORDER, "lines": [{"sku": "", "quantity": 0}] * 100})
    found = problem(answer, 422)
    assert len(found["errors"]) == 10
    assert "190 more" in found["detail"]


def test_what_was_sent_is_not_sent_back(orders: Api) -> None:
    answer = orders.post("/orders", json={**ORDER, "account": "my secret"})
    assert "my secret" not in answer.text


def test_a_defect_of_ours_says_nothing_about_itself(orders: Api) -> None:
    orders.sql("ALTER TABLE order_line ADD CONSTRAINT my_secret CHECK (sku <> 'bad')")
    answer = orders.post("/orders", json={**ORDER, "lines": [{**LINE, "sku": "bad"}]})
    assert "secret" not in str(problem(answer, 500))
    assert "order_line" not in answer.text


def test_a_service_without_its_database(serve: Callable[[Any, Settings], Api], settings: Settings) -> None:
    lost = settings.model_copy(update={"database_url": type(settings.database_url)("postgresql://x:y@127.0.0.1:1/z")})
    api = serve(OrderContainer, lost)
    for answer in (api.post("/orders", json=ORDER), api.get("/orders"), api.get("/health/ready")):
        assert "127.0.0.1" not in str(problem(answer, 503))
        assert answer.request.method == "POST" or "POST" not in problem(answer, 503)["detail"]
        assert int(answer.headers["retry-after"]) > 0
    assert api.get("/health/live").status_code == 200
    assert api.get("/metrics").status_code == 200


LONG = "x" * 900_000


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/orders", {**ORDER, LONG: 1}, {}),
        ("/orders", {**ORDER, **{f"{n}{LONG[:80_000]}": 1 for n in range(10)}}, {}),
        ("/orders", {**ORDER, "lines": [{**LINE, LONG: 1}]}, {}),
        ("/orders", {**ORDER, LONG: {LONG[:1]: 1}, "account": LONG[:1]}, {}),
        ("/orders", {**ORDER, "account": LONG}, {}),
        ("/orders", {**ORDER, "\ud800": 1}, {}),
        ("/orders", {**ORDER, "lines": [{"sku": LONG, "quantity": 0}]}, {}),
        (f"/{LONG[:30_000]}", {}, {}),
        ("/orders", ORDER, {"Idempotency-Key": LONG[:30_000]}),
        ("/orders", ORDER, {"Content-Type": LONG[:30_000]}),
        ("/orders", ORDER, {"Authorization": LONG[:30_000]}),
        ("/orders", ORDER, {"traceparent": LONG[:30_000]}),
    ],
)
def test_an_answer_is_short_whatever_was_sent(
    orders: Api, capsys: pytest.CaptureFixture[str], path: str, body: object, headers: dict[str, str]
) -> None:
    content = json.dumps(body).encode()
    answer = orders.post(path, content=content, headers={"Content-Type": "application/json", **headers})
    assert answer.status_code < 500
    assert len(answer.content) + len(str(answer.headers)) < 10_000
    output = capsys.readouterr()
    assert len(output.out + output.err) < 10_000
