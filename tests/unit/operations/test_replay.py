"""What a replay refuses before it asks any server."""

from typing import ClassVar

import pytest
from sqlalchemy import Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared import command
from shared.errors import CommandFailed
from shared.events import Event
from shared.operations import replay, replay_schema
from shared.service import Service


@pytest.mark.parametrize("name", ["again", "_1", "a" * 51, "pgagain", "select"])
def test_a_plain_name(name: str) -> None:
    replay_schema.refuse_name(name)


@pytest.mark.parametrize(
    "name", ["public", "pg_again", "information_schema", "Again", "a-b", "", "1a", "a" * 52, 'a"b']
)
def test_no_plain_name(name: str) -> None:
    with pytest.raises(CommandFailed, match="name a schema of its own"):
        replay_schema.refuse_name(name)


def test_a_name_that_sql_knows_is_quoted() -> None:
    assert replay_schema.quoted("select") == '"select"'
    assert replay_schema.quoted("lateral") == '"lateral"', "SQLAlchemy does not know it"


class Counted(Event, frozen=True, kw_only=True):
    topic: ClassVar[str] = "shelf.events"
    sku: str

    @property
    def key(self) -> str:
        return self.sku


@pytest.mark.parametrize("schema", [None, "public"])
def test_a_table_that_names_its_schema_is_refused(schema: str | None) -> None:
    class Base(DeclarativeBase):
        pass

    class Shelf(Base):
        __tablename__ = "shelf"
        sku: Mapped[str] = mapped_column(Text, primary_key=True)

    class Beside(Base):  # not of any handler
        __tablename__ = "beside"
        __table_args__ = ({"schema": schema},)
        sku: Mapped[str] = mapped_column(Text, primary_key=True)

    service = Service("shop")

    def note(event: Counted, shelf: Shelf) -> None:
        shelf.sku = event.sku

    note.__annotations__ = {"event": Counted, "shelf": Shelf, "return": None}
    service.on(Counted)(note)

    if schema is None:
        replay._refuse_qualified(service)
    else:
        with pytest.raises(CommandFailed, match=r"public\.beside names its schema"):
            replay._refuse_qualified(service)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("run --from beginning", "--into"),
        ("run --into again --from start", "neither an offset nor a time"),
        ("run --into again --from 2026-11-28T09:00", "does not say in which time zone"),
        ("run --into again --from beginning --until beginning", "neither an offset nor a time"),
        ("switch --into again --reason x", "--table"),
        ("switch --into again --table t", "--reason"),
    ],
)
def test_wrong_words(line: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.parser("shop").parse_args(["replay", *line.split()])
    assert ended.value.code == 2
    assert why in capsys.readouterr().err
