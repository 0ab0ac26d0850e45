"""A stage closes what it opened on any failure: a dropped connection fails another test much later."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock, Mock

import psycopg
import pytest

from shared.kafka import topics as kafka_topics
from tests.faults import stage
from tests.faults.stage import Stage


class Broken(Exception):
    """A server that is away just then."""


@pytest.fixture
def servers() -> Any:
    postgres = Mock(spec_set=("create_database", "create_role", "drop_database", "dsn"))
    postgres.dsn.return_value = "postgresql://nobody@127.0.0.1:1/nothing"
    return SimpleNamespace(postgres=postgres, kafka=SimpleNamespace(bootstrap="127.0.0.1:1"))


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Mock]:
    """The connections made; real ones close with their block."""
    made: list[Mock] = []

    def connect(*_: object, **__: object) -> Mock:
        connection = MagicMock()
        connection.__enter__.return_value = connection
        connection.close.return_value = None  # its __exit__ swallows nothing
        connection.__exit__.side_effect = lambda *_: connection.close()
        made.append(connection)
        return connection

    monkeypatch.setattr(psycopg, "connect", connect)
    return made


def test_a_stage_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, servers: Any, connections: list[Mock], tmp_path: Path
) -> None:
    monkeypatch.setattr(stage, "make_template", lambda *_: None)
    monkeypatch.setattr(kafka_topics, "create_topics", Mock(side_effect=Broken))

    with pytest.raises(Broken):
        Stage(servers, tmp_path)

    assert [one.close.call_count for one in connections] == [1]
    servers.postgres.drop_database.assert_called_once()


def test_a_stage_whose_workers_do_not_end(
    monkeypatch: pytest.MonkeyPatch, servers: Any, connections: list[Mock], tmp_path: Path
) -> None:
    monkeypatch.setattr(stage, "make_template", lambda *_: None)
    monkeypatch.setattr(kafka_topics, "create_topics", lambda *_: None)
    monkeypatch.setattr(stage, "_led", lambda *_: True)
    made = Stage(servers, tmp_path)
    made.workers.append(cast("Any", Mock(ended=Mock(side_effect=Broken))))
    made.reconnect()

    with pytest.raises(Broken), made:
        pass

    assert [one.close.call_count for one in connections] == [1, 1]
    servers.postgres.drop_database.assert_called_once()
