"""A window once more: a new read model in a schema of its own, whatever dies, while the workers go on unnoticed."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from confluent_kafka import TopicPartition

from dev.servers import Servers
from shared.testing import SECONDS_MAX, until
from tests.dev.pages import compare
from tests.integration.tallies import Tallies
from tests.integration.tally_topics import headers

ROOT = Path(__file__).parents[3]
MIGRATION = """
from alembic import op
from tests.faults import trail

revision, down_revision = "0001", None


def upgrade() -> None:
    trail.create_tables(op.get_bind())
"""
FROM_BEGINNING = "replay run --into again --from beginning"


@pytest.fixture
def tallies(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tallies]:
    """The small service, with a migration in the current folder."""
    with Tallies(servers, partitions=2) as made:
        folder = tmp_path / "migrations" / made.name
        folder.mkdir(parents=True)
        (folder / "0001_pre_tables.py").write_text(MIGRATION)
        monkeypatch.chdir(tmp_path)
        yield made


def trails(tallies: Tallies, schema: str) -> dict[str, Any]:
    """Return what took effect, by key, in order; and every effect."""
    kept = tallies.sql(f"SELECT json_build_array(key, steps, handled) FROM {schema}.trail ORDER BY key")
    effects = tallies.sql(f"SELECT json_build_array(key, number) FROM {schema}.effect ORDER BY key, id")
    return {"trails": kept, "effects": effects}


def of_workers(tallies: Tallies) -> Any:
    """Return all that a replay must leave alone."""
    tables = ("effect", "trail", *(f"exactly_once_{name}" for name in ("inbox", "outbox", "position", "lane")))
    rows = {name: tallies.sql(f"SELECT row_to_json(t)::text FROM public.{name} AS t ORDER BY 1") for name in tables}
    return rows, tallies.committed(), tallies.consumed()


def process(tallies: Tallies, point: str, line: str) -> "subprocess.Popen[str]":
    """Run a command in a process that dies at `point`."""
    settings = tallies.settings
    secrets = {name: getattr(settings, name).get_secret_value() for name in ("database_url", "migration_database_url")}
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.integration.tally_replay"),
            *(tallies.name, settings.model_dump_json(), point, *line.split()),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), **{name.upper(): value for name, value in secrets.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_window_once_more(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    for first, key in enumerate(("ada", "bob", "eve")):
        tallies.ask(*range(first * 30, first * 30 + 30), key=key)
    tallies.produce(b"{}", b"ada", headers("other", "Unknown.v1"))
    tallies.work()
    before = of_workers(tallies)

    assert tallies.run(FROM_BEGINNING) == 0

    assert of_workers(tallies) == before
    assert trails(tallies, "again") == trails(tallies, "public")
    out = capsys.readouterr().out
    assert "90 records handled, 0 duplicates dropped, 0 set aside; 90 events and calls thrown away" in out
    assert tallies.sql("SELECT count(*) FROM again.exactly_once_outbox") == [0]

    # The workers go on, and so does the replay, up to where they stand now.
    tallies.ask(91, key="ada")
    tallies.work()
    tallies.ask(92, key="ada")
    assert tallies.run("replay run --into again") == 0
    assert trails(tallies, "again") == trails(tallies, "public")
    assert "1 records handled" in capsys.readouterr().out
    tallies.work()
    assert tallies.run("replay run --into again") == 0
    assert trails(tallies, "again") == trails(tallies, "public")


POINTS = [
    *("before-create-1", "after-create-1", "before-grant-1", "after-migrate-1"),
    *("before-receive-1", "after-handle-2", "before-commit-2", "after-commit-2"),
]


@pytest.mark.parametrize("point", POINTS)
def test_a_replay_that_is_killed_goes_on(tallies: Tallies, point: str) -> None:
    tallies.settings = tallies.settings.model_copy(update={"batch_records": 4})
    tallies.ask(*range(10), key="ada")
    tallies.ask(*range(10, 20), key="bob")
    tallies.work()
    before = of_workers(tallies)

    killed = process(tallies, point, FROM_BEGINNING)
    out, _ = killed.communicate(timeout=SECONDS_MAX)
    assert killed.returncode == -signal.SIGKILL, out

    assert tallies.run(FROM_BEGINNING) == 0
    assert trails(tallies, "again") == trails(tallies, "public")
    assert of_workers(tallies) == before


def test_ctrl_c_ends_it_and_the_same_command_goes_on(tallies: Tallies) -> None:
    tallies.settings = tallies.settings.model_copy(update={"batch_records": 1})
    for number in range(1, 41):
        asked = tallies.asked(trail="k", number=number, wish="nap")
        tallies.produce(msgspec.json.encode(asked), b"k", headers(f"asked-{number}"))
    tallies.work()

    running = process(tallies, "-", FROM_BEGINNING)
    until(lambda: tallies.sql("SELECT to_regclass('again.effect') IS NOT NULL") == [True], "the tables are made")
    until(lambda: tallies.sql("SELECT count(*) > 2 FROM again.effect") == [True], "it has begun")
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=SECONDS_MAX)

    assert running.returncode == 1, out
    assert "stopped; `python -m services." in out
    assert 2 < len(tallies.sql("SELECT 1 FROM again.effect")) < 40
    assert tallies.run(FROM_BEGINNING) == 0
    assert trails(tallies, "again") == trails(tallies, "public")


def test_from_one_time_until_another(tallies: Tallies) -> None:
    nine = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=9)
    tallies.ask_at(*(nine + timedelta(hours=n) for n in range(5)), partition=0)
    tallies.ask_at(nine, partition=1)
    tallies.work()
    after, before = ((nine + timedelta(hours=n)).isoformat() for n in (1, 3))

    assert tallies.run(f"replay run --into again --from {after} --until {before}") == 0

    assert tallies.sql("SELECT number FROM again.effect ORDER BY id") == [2, 3]
    positions = "SELECT next_offset FROM again.exactly_once_position ORDER BY partition"
    assert tallies.sql(positions) == [3, 1]  # the other partition has nothing since
    tallies.ask(6)
    tallies.work()
    assert tallies.run("replay run --into again") == 0  # the end that was asked for stays
    assert tallies.sql(positions) == [3, 1]


def test_what_can_never_be_handled_is_listed_and_set_aside(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    tallies.ask(1)
    asked = tallies.asked(trail="k", number=2, wish="reject")
    tallies.produce(msgspec.json.encode(asked), b"k", headers("asked-2"))
    tallies.produce(b"{", b"k", headers("asked-3"))
    tallies.ask(4)
    tallies.work()
    before = of_workers(tallies)
    capsys.readouterr()

    assert tallies.run(FROM_BEGINNING) == 1

    out = capsys.readouterr().out
    assert "offset 1: Reject: number 2 is never welcome" in out
    assert "offset 2: Malformed" in out
    assert "2 records are dead letters, in again.exactly_once_dead_letter" in out
    assert "not all of the window" in out
    assert trails(tallies, "again") == trails(tallies, "public")
    assert of_workers(tallies) == before  # no dead letter is announced a second time


def test_a_key_that_waits_is_tried_again(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    assert tallies.run(FROM_BEGINNING) == 0
    asked = tallies.asked(trail="k", number=1, wish="retry")
    tallies.produce(msgspec.json.encode(asked), b"k", headers("asked-1"))
    tallies.ask(2)
    tallies.ask(3, key="other")
    tallies.work()
    tallies.sql("CREATE TABLE again.down ()")

    assert tallies.run("replay run --into again") == 1

    assert "2 records of 1 keys wait, in again.exactly_once_parked" in capsys.readouterr().out
    assert tallies.sql("SELECT number FROM again.effect") == [3]
    tallies.sql("DROP TABLE again.down")
    assert tallies.run("replay run --into again") == 0
    assert trails(tallies, "again") == trails(tallies, "public")


def test_broken_code_or_schema_ends_it(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    assert tallies.run(FROM_BEGINNING) == 0
    tallies.ask(1)
    tallies.work()
    tallies.sql("DROP TABLE again.effect")

    assert tallies.run("replay run --into again") == 1

    told = capsys.readouterr().err
    assert "waits at" in told
    assert "Mend that, and run the command again" in told


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--into again", "say where to begin"),
        ("--into public --from beginning", "name a schema of its own"),
        ("--into Again;DROP --from beginning", "name a schema of its own"),
        ("--into pg_again --from beginning", "name a schema of its own"),
        ("--into taken --from beginning", "is no replay's"),
        ("--into again --from beginning --target {name}.told", "is not consumed by"),
        ("--into again --from beginning --target {name}.asked[7]", "has 2 partitions"),
        ("--into again --from 1", "each input has offsets of its own"),
        ("--into again --from 1 --target {source}", "there are records from offset 2 on"),
        ("--into again --from 5 --target {source}", "is after 4, where the workers stand"),
        ("--into again --from beginning --until 5 --target {source}", "is after 4, where the workers stand"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], line: str, why: str
) -> None:
    tallies.ask_at(*[datetime.now(UTC)] * 4)
    tallies.work()
    for future in tallies.admin.delete_records([TopicPartition(tallies.asked.topic, 0, 2)]).values():
        future.result(SECONDS_MAX)
    tallies.sql("CREATE SCHEMA taken")

    assert tallies.run("replay run " + line.format(source=tallies.source, name=tallies.name)) == 1

    assert why in capsys.readouterr().err
    assert tallies.sql("SELECT to_regnamespace('again') IS NULL") == [True]


def test_what_retention_removes_meanwhile_is_refused(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.ask(1, 2, 3)
    tallies.work()
    killed = process(tallies, "after-migrate-1", FROM_BEGINNING)
    killed.communicate(timeout=SECONDS_MAX)
    ((partition, end),) = Counter({p: int(tallies.handled(p)[0]) for p in (0, 1)}).most_common(1)
    for future in tallies.admin.delete_records([TopicPartition(tallies.asked.topic, partition, end - 1)]).values():
        future.result(SECONDS_MAX)

    assert tallies.run("replay run --into again") == 1

    assert "there are records from offset 2 on: retention has removed the rest" in capsys.readouterr().err


def test_one_at_a_time_and_as_it_was_begun(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.ask(1)
    tallies.work()
    assert tallies.run(FROM_BEGINNING) == 0
    with psycopg.connect(tallies.servers.postgres.dsn(tallies.name)) as connection:
        connection.execute("SELECT pg_advisory_lock(%s, hashtext('again'))", (0x45584F52,))
        assert tallies.run("replay run --into again") == 1
    assert "another replay into again is running" in capsys.readouterr().err

    assert tallies.run("replay run --into again --from 2020-01-01T00:00Z") == 1
    assert "was begun with --from beginning: leave these options out" in capsys.readouterr().err


def test_without_the_right_to_create_a_schema(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.settings = tallies.settings.model_copy(update={"migration_database_url": None})

    assert tallies.run(FROM_BEGINNING) == 1

    assert "may not create a schema: GRANT CREATE ON DATABASE" in capsys.readouterr().err
    assert json.dumps(tallies.decisions()) == "[]"


def test_the_switch(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.ask(1, 2, 3, key="ada")
    tallies.ask(4, 5, key="bob")
    tallies.work()
    assert tallies.run(FROM_BEGINNING) == 0
    # A defect: the live read model has lost something.
    tallies.sql("DELETE FROM public.effect WHERE number = 3")
    tallies.ask(6, key="ada")
    tallies.work()
    line = "replay switch --into again --table effect --reason rebuilt --yes"

    assert tallies.run(line) == 1
    assert "run `python -m services." in capsys.readouterr().err
    assert tallies.run("replay run --into again") == 0
    assert tallies.run(line) == 0

    assert tallies.decisions()[-1]["command"] == "replay switch"
    assert tallies.sql("SELECT number FROM again_before.effect ORDER BY number") == [1, 2, 4, 5, 6]
    tallies.ask(7, key="ada")
    tallies.work()
    assert tallies.sql("SELECT number FROM effect ORDER BY number") == [1, 2, 3, 4, 5, 6, 7]
    assert tallies.numbers() == dict.fromkeys(range(1, 8), 1)  # nothing was published again
    assert tallies.run(line) == 1
    assert tallies.run("replay run --into again") == 1
    assert "have become live" in capsys.readouterr().err
    tallies.sql("DROP SCHEMA again CASCADE")
    tallies.sql("DROP SCHEMA again_before CASCADE")


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("SELECT", "has no table nothing of the service; it has effect"),
        ("CREATE VIEW seen AS SELECT number FROM effect", "column seen.number"),
        (
            "ALTER TABLE effect ADD CHECK (number > 0); CREATE TABLE more (id bigint REFERENCES effect)",
            "constraint more_id_fkey of more",
        ),
        ("CREATE TYPE again.kind AS ENUM ('a'); ALTER TABLE again.effect ADD kind again.kind", "column effect.kind"),
        (
            "CREATE TABLE exactly_once_schema_version AS SELECT '0002' AS version_num",
            "the live tables are at migration 0002, those of again at 0001",
        ),
        ("UPDATE exactly_once_position SET next_offset = 0", "the workers stand at 0, the replay at"),
        ("UPDATE exactly_once_position SET epoch = epoch + 1", "its offsets were used again since"),
        (
            "CREATE SCHEMA reports; CREATE VIEW reports.seen AS SELECT number FROM effect",
            "column reports.seen.number",
        ),
        ("CREATE SCHEMA again_before", "the schema again_before exists"),
        (
            'INSERT INTO exactly_once_dead_letter (topic, partition, "offset", epoch, headers, error, detail) '
            "SELECT topic, 0, 1, 0, '[]', 'x', 'x' FROM exactly_once_position LIMIT 1",
            "records are dead letters only live or only in the replay",
        ),
    ],
)
def test_a_switch_that_would_lose_something_is_refused(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], statement: str, why: str
) -> None:
    tallies.ask(1, 2)
    tallies.work()
    assert tallies.run(FROM_BEGINNING) == 0
    for one in statement.split("; "):
        tallies.sql(one)
    table = "nothing" if statement == "SELECT" else "effect"

    assert tallies.run(f"replay switch --into again --table {table} --reason x --yes") == 1

    assert why in capsys.readouterr().err
    assert tallies.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'again_before'") == [0]
    assert len(tallies.sql("SELECT 1 FROM public.effect")) == 2


@pytest.mark.parametrize("name", ["lateral", "default"])
def test_a_schema_that_is_called_like_a_word_of_sql(tallies: Tallies, name: str) -> None:
    tallies.ask(1, 2)
    tallies.work()
    before = of_workers(tallies)
    assert tallies.run(f"replay run --into {name} --from beginning") == 0
    assert of_workers(tallies) == before
    assert trails(tallies, f'"{name}"') == trails(tallies, "public")
    assert tallies.run(f"replay switch --into {name} --table effect --reason x --yes") == 0
    assert tallies.sql("SELECT number FROM effect ORDER BY number") == [1, 2]


def test_what_was_dismissed_may_fail_in_the_replay_too(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.produce(msgspec.json.encode(tallies.asked(trail="k", number=1, wish="reject")), b"k", headers("asked-1"))
    tallies.ask(2)
    tallies.work()
    switch = "replay switch --into again --table effect --table trail --reason x --yes"
    assert tallies.run("dead-letters dismiss --all --reason never --yes") == 0
    assert tallies.run("replay run --into again --from 2026-01-01T00:00Z") == 1
    assert "or was dismissed there, hinders no switch" in capsys.readouterr().out

    # A rewind may have handled it since: the dismissal proves nothing any more.
    tallies.sql(
        "INSERT INTO exactly_once_decision (command, source, before, after) "
        "SELECT 'positions rewind', topic || '[' || partition || ']', '{}', '{}' FROM exactly_once_dead_letter"
    )
    assert tallies.run(switch) == 1
    assert "dead letters only live or only in the replay" in capsys.readouterr().err
    tallies.sql("DELETE FROM exactly_once_decision WHERE command = 'positions rewind'")
    # So may a redrive.
    tallies.sql("UPDATE exactly_once_dead_letter SET redriven_at = now()")
    assert tallies.run(switch) == 1
    tallies.sql("UPDATE exactly_once_dead_letter SET redriven_at = NULL")

    assert tallies.run(switch) == 0
    assert "begun with --from 2026-01-01T00:00:00Z: its tables have nothing of what came" in capsys.readouterr().out
    assert tallies.sql("SELECT number FROM effect") == [2]


def test_what_was_dismissed_and_the_replay_has_handled_is_handled_no_more(tallies: Tallies) -> None:
    tallies.sql("INSERT INTO switch VALUES ('reject')")
    tallies.ask(1, wish="reject")
    tallies.ask(2)
    tallies.work()
    assert tallies.run("dead-letters dismiss --all --reason never --yes") == 0
    assert tallies.run("replay run --into again --from beginning") == 0  # nobody has switched anything there
    assert tallies.run("replay switch --into again --table effect --table trail --reason x --yes") == 0
    assert tallies.sql("SELECT number FROM effect ORDER BY id") == [1, 2]
    tallies.sql("DELETE FROM switch")

    (number,) = tallies.sql("SELECT id FROM exactly_once_dead_letter")
    tallies.run(f"dead-letters redrive {number} --dismissed")

    assert tallies.sql("SELECT number FROM effect ORDER BY id") == [1, 2]


def test_the_commands_of_the_page_do_what_it_shows(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "replay.md").read_text()
    (script,) = re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (shown,) = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    tallies.ask_at(*[datetime.now(UTC)] * 5)
    tallies.work()
    for line in script.splitlines():
        words = shlex.split(line.removeprefix("python -m services.inventory ").replace("stock", "effect"))
        assert tallies.run_words([*words, *(["--yes"] if words[1] == "switch" else [])]) == 0
    compare(shown.replace("stock", "effect").replace("order.events", tallies.asked.topic), capsys.readouterr().out)
