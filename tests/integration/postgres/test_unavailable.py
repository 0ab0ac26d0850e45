"""A worker waits for a server that reports it cannot work now; nothing is set aside or lost."""

from pathlib import Path

import pytest

from dev.servers import Servers
from tests.faults.stage import Stage

REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the server cannot do this now' USING ERRCODE = '{state}'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON {table} EXECUTE FUNCTION refuse();
"""


@pytest.mark.parametrize("table", ["effect", "exactly_once_outbox", "exactly_once_inbox"])
@pytest.mark.parametrize("state", ["53100", "40P01"], ids=["disk full", "deadlock"])
def test_a_disk_that_is_full_for_a_while_loses_nothing(
    servers: Servers, tmp_path: Path, state: str, table: str
) -> None:
    with Stage(servers, tmp_path) as stage:
        stage.worker()
        stage.ask()
        stage.until_drained()

        stage.connection.execute(REFUSE.format(state=state, table=table).encode())
        stage.ask()
        stage.until(lambda: state in stage.logged(), "the worker says why it waits")
        stage.connection.execute(f"DROP TRIGGER refuse ON {table}".encode())

        stage.request()
        stage.until_drained()
        stage.stop()
        assert stage.problems() == []
        assert stage.one("SELECT count(*) FROM exactly_once_dead_letter") == 0
