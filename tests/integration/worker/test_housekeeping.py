"""One worker at a time deletes rows older than their retention, beside its work."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import Engine, NullPool, create_engine

from dev.servers import Servers
from shared.postgres.slots import LOCK_CLASS
from shared.worker import housekeeping
from shared.worker.housekeeping import LOCK, Housekeeping
from tests.faults.stage import Stage


@pytest.fixture
def stage(servers: Servers, tmp_path: Path) -> Iterator[Stage]:
    """A service with inbox rows, idempotency keys and claims of two ages each."""
    hours: dict[str, Any] = {
        "inbox_retention_hours": 2.0,
        "idempotency_retention_hours": 1.0,
        "audit_retention_hours": 0.5,
    }
    with Stage(servers, tmp_path, **hours) as stage:
        stage.connection.execute("""
            INSERT INTO exactly_once_inbox (source, event_id, handled_at)
            SELECT 's', n, clock_timestamp() - make_interval(mins => n * 10) FROM generate_series(1, 24) AS n
        """)
        stage.connection.execute("""
            INSERT INTO exactly_once_idempotency_key (scope, key, body_hash, status, created_at)
            SELECT 's', n, '', 200, clock_timestamp() - make_interval(mins => n * 10) FROM generate_series(1, 24) AS n
        """)
        stage.connection.execute("""
            INSERT INTO exactly_once_claimed (lane, position, topic, events, event_ids, claimed_at)
            SELECT 0, n, 't', 1, '{e}', clock_timestamp() - make_interval(mins => n * 10)
            FROM generate_series(1, 24) AS n
        """)
        yield stage


def test_each_kind_by_its_own_retention(stage: Stage, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "ROWS", 4)  # several steps
    assert Housekeeping(engine, stage.settings).clean() == 13 + 19 + 21
    assert stage.one("SELECT count(*) FROM exactly_once_inbox") == 11
    assert stage.one("SELECT count(*) FROM exactly_once_idempotency_key") == 5
    assert stage.one("SELECT count(*) FROM exactly_once_claimed") == 3  # the last of a lane stays, however old
    assert Housekeeping(engine, stage.settings).clean() == 0


def test_one_at_a_time(stage: Stage, engine: Engine) -> None:
    with stage.connection.transaction():
        stage.connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, LOCK))
        assert Housekeeping(engine, stage.settings).clean() == 0
    assert Housekeeping(engine, stage.settings).clean() == 53


def test_a_database_that_is_away_does_not_end_the_thread(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Mock(spec_set=("info", "warning"))
    monkeypatch.setattr(housekeeping, "log", log)
    monkeypatch.setattr(housekeeping, "PRUNE_SECONDS", 0.05)
    url = stage.settings.dsn(stage.name)
    engine = create_engine(url, poolclass=NullPool)
    keeper = Housekeeping(engine, stage.settings)
    stage.connection.execute("ALTER TABLE exactly_once_inbox RENAME TO elsewhere")
    keeper.start()
    stage.until(lambda: log.warning.called, "it says that it failed")
    stage.connection.execute("ALTER TABLE elsewhere RENAME TO exactly_once_inbox")
    stage.until(lambda: stage.one("SELECT count(*) FROM exactly_once_inbox") == 11, "it goes on")
    keeper.stop()
    keeper._thread.join(10)
