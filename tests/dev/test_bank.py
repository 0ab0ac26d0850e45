"""The bank books each idempotency key once, whatever it does to the connection and however it ends."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dev.bank import FAULTS, Bank, Books, Temper

ASKED = {"order": "o-1", "account": "a-1", "amount": 500, "currency": "EUR"}
KEYS_MAX = 1_000
ATTEMPTS_MAX = 100


@contextmanager
def serving(file: Path, temper: Temper) -> Iterator[str]:
    with Bank(("127.0.0.1", 0), Books(file), temper) as bank:
        thread = threading.Thread(target=bank.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{bank.server_address[1]}"
        bank.shutdown()
        thread.join()


def post(url: str, key: str, path: str = "/captures", **changed: Any) -> int:
    """Return the status; 0 if there is no answer."""
    try:
        return httpx.post(
            f"{url}{path}", json={**ASKED, **changed}, headers={"Idempotency-Key": key}, trust_env=False
        ).status_code
    except httpx.TransportError:
        return 0


def test_a_key_is_booked_once_and_only_for_one_thing(tmp_path: Path) -> None:
    with serving(tmp_path / "books", Temper()) as url:
        assert [post(url, "k-1"), post(url, "k-1"), post(url, "k-1", amount=501), post(url, "k-2")] == [
            *(201, 201, 422, 201)
        ]
        booked = httpx.get(f"{url}/bookings", trust_env=False).json()
    assert [(one["key"], one["kind"], one["order"], one["amount"]) for one in booked] == [
        ("k-1", "capture", "o-1", 500),
        ("k-2", "capture", "o-1", 500),
    ]
    assert Books(tmp_path / "books").all() == booked


def test_a_bank_whose_books_were_removed_begins_new_ones(tmp_path: Path) -> None:
    """As `make servers-down` does; it was started by hand, and runs on."""
    with serving(tmp_path / "books", Temper()) as url:
        assert post(url, "k-1") == 201
        for file in tmp_path.glob("books*"):
            file.unlink()
        assert post(url, "k-1", amount=700) == 201


def test_what_is_voided_is_not_captured_later(tmp_path: Path) -> None:
    """The request of a capture that was given up may still be on its way."""
    with serving(tmp_path / "books", Temper()) as url:
        assert [post(url, "k-1"), post(url, "k-2", "/voids"), post(url, "k-2", "/voids")] == [201, 201, 201]
        assert [post(url, "k-1"), post(url, "k-3"), post(url, "k-4", order="o-2")] == [201, 410, 201]
        assert post(url, "k-5", "/refunds") == 201
    assert [one["kind"] for one in Books(tmp_path / "books").all()] == ["capture", "void", "capture", "refund"]


def test_an_order_is_refused_however_often_it_is_asked_for(tmp_path: Path) -> None:
    temper = Temper(seed=7, refused=0.5)
    refused = next(f"o-{n}" for n in range(KEYS_MAX) if temper.refuses(f"o-{n}"))
    taken = next(f"o-{n}" for n in range(KEYS_MAX) if not temper.refuses(f"o-{n}"))
    with serving(tmp_path / "books", temper) as url:
        assert [post(url, key, order=refused) for key in ("k-1", "k-1", "k-2")] == [402, 402, 402]
        assert post(url, "k-1", order=taken) == 201


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_leaves_what_it_says(fault: str, tmp_path: Path) -> None:
    temper = Temper(seed=7, share=1.0)
    key = next(f"k-{n}" for n in range(KEYS_MAX) if temper.fault(f"k-{n}", 1) == fault)
    with serving(tmp_path / "books", temper) as url:
        status = post(url, key)
        assert httpx.get(f"{url}/faults", trust_env=False).json() == {fault: 1}
    expected = {"slow": 201, "error": 500, "cut before": 0, "cut after": 0, "in use": 409}
    assert status == expected[fault]
    assert len(Books(tmp_path / "books").all()) == (fault in ("slow", "cut after"))


def test_the_faults_are_those_of_the_seed() -> None:
    def faults(seed: int) -> list[str | None]:
        return [Temper(seed, 0.5).fault(f"k-{n}", 1) for n in range(100)]

    assert faults(1) == faults(1) != faults(2)
    assert None in faults(1)


def test_an_outage_answers_nobody(tmp_path: Path) -> None:
    with serving(tmp_path / "books", Temper(outage_seconds=600.0)) as url:
        assert post(url, "k-1") == 0
    assert Books(tmp_path / "books").all() == []
    assert not Temper(outage_at=5.0, outage_seconds=1.0).out(6.0)


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("", {}),
        ("k", {"amount": 0}),
        ("k", {"amount": "5"}),
        ("k", {"amount": 2**63}),
        ("k", {"more": 1}),
        ("k" * 501, {}),
    ],
    ids=range(6),
)
def test_what_cannot_be_booked_is_refused(key: str, changed: dict[str, Any], tmp_path: Path) -> None:
    with serving(tmp_path / "books", Temper()) as url:
        assert post(url, key, **changed) == 400
    assert Books(tmp_path / "books").all() == []


def test_its_books_outlive_its_process(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "dev.bank", "--port", "0", "--books", str(tmp_path / "books"), "--share", "0.5")

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, re.findall(r"http://\S+", process.stdout.readline())[0]

    process, url = start()
    with process:
        for _ in range(ATTEMPTS_MAX):
            if post(url, "k-1") == 201:
                break
        process.kill()
    process, url = start()
    with process:
        for _ in range(ATTEMPTS_MAX):
            if post(url, "k-1") == 201:
                break
        process.terminate()
        assert process.wait(60) == 0
    assert len(Books(tmp_path / "books").all()) == 1
