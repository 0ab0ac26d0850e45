"""A wrong setting stops the start and is named; a secret is never said."""

import pytest

from dev import env_example
from shared.errors import Refused
from shared.settings import Settings, load


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:swordfish@127.0.0.1/{service}")


def test_the_service_has_its_own_database() -> None:
    assert load().dsn("order") == "postgresql+psycopg://me:swordfish@127.0.0.1/order"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PARTITIONS", "0"),
        ("PARTITIONS", "four"),
        ("TRANSACTION_TIMEOUT_MS", "10"),
        ("LOG_FORMAT", "yaml"),
        ("HTTP_PORT", "70000"),
        ("GROUP_PROTOCOL", "cooperative"),
    ],
)
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(Refused, match=name):
        load()


def test_a_missing_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS")

    with pytest.raises(Refused, match="KAFKA_BOOTSTRAP_SERVERS"):
        load()


def test_another_kind_of_database_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://me:swordfish@127.0.0.1/order")

    with pytest.raises(Refused, match="DATABASE_URL") as refusal:
        load().dsn("order")
    assert "swordfish" not in str(refusal.value)


def test_the_password_is_not_said() -> None:
    settings = load()

    assert "swordfish" not in repr(settings)
    assert "swordfish" not in str(settings.model_dump())


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().partitions = 8


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_example_says_what_the_code_says() -> None:
    assert env_example.PLACE.read_text() == env_example.text(), "write it again with: python -m dev.env_example"
