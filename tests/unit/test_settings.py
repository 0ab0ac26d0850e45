"""A wrong setting stops the start and is named; a secret is never printed."""

from pathlib import Path
from typing import Annotated

import pytest
from dependency_injector import containers, providers
from pydantic import Field, SecretStr
from sqlalchemy import make_url

from dev import env_example
from shared.container import ServiceContainer
from shared.errors import Misconfigured
from shared.service import Service
from shared.settings import Settings, load

pytestmark = pytest.mark.usefixtures("bare_environment")


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

    with pytest.raises(Misconfigured, match=name):
        load()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("PARTITION", "PARTITIONS"), ("TRANSACTION_TIMEOUT", "TRANSACTION_TIMEOUT_MS"), ("LOG_FORMATT", "LOG_FORMAT")],
)
@pytest.mark.parametrize("in_file", [False, True], ids=["environment", ".env"])
def test_a_slip_in_a_name_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, meant: str, in_file: bool
) -> None:
    """Otherwise its setting would silently have the default."""
    if in_file:
        Path(".env").write_text(f"{name}=8\n")
    else:
        monkeypatch.setenv(name, "8")

    with pytest.raises(Misconfigured, match=f"{name}: there is no such setting; did you mean {meant}\\?"):
        load()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            "kafka://127.0.0.1:9092",
            "kafka://127.0.0.1:9092 has a scheme; write only host:port, 127.0.0.1:9092, and the protocol",
        ),
        ("PLAINTEXT://one:9092", "PLAINTEXT://one:9092 has a scheme; write only host:port, one:9092,"),
        ("http://one:9092/", "http://one:9092/ has a scheme; write only host:port, one:9092,"),
        ("one", "one is not a broker's address; write host:port"),
        ("one:", "one: is not a broker's address"),
        ("one:0", "one:0 is not a broker's address"),
        ("one:70000", "one:70000 is not a broker's address"),
        ("one:port", "one:port is not a broker's address"),
        ("one 9092", "one 9092 is not a broker's address"),
        ("one:9092,", "nothing is not a broker's address"),
        ("one:9092 two:9092", "one:9092 two:9092 is not a broker's address"),
        ("::1:9092", "::1:9092 is not a broker's address"),
        ("x" * 10_000, "x" * 100 + r"\.\.\. is not a broker's address"),
    ],
)
def test_what_is_no_address_of_a_broker_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, given: str, reason: str
) -> None:
    """The client would look for a host of that name for seconds, and then say that no broker answers."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", given)

    with pytest.raises(Misconfigured, match=f"KAFKA_BOOTSTRAP_SERVERS: {reason}"):
        load()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (" one:9092 , two-2.example.org:9093 ", "one:9092,two-2.example.org:9093"),
        ("[::1]:9092", "[::1]:9092"),
        ("kafka_1:9092", "kafka_1:9092"),
    ],
)
def test_addresses_of_brokers(monkeypatch: pytest.MonkeyPatch, given: str, told: str) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", given)

    assert load().kafka()["bootstrap.servers"] == told


@pytest.mark.parametrize(
    ("given", "host", "port", "wants"),
    [
        ("postgresql://me:x@one:1,two:2/{service}", "one,two", "1,2", "read-write"),
        ("postgresql://me:x@one,two:2/{service}?sslmode=require", "one,two", "5432,2", "read-write"),
        ("postgresql://me:x@[::1]:1,two:2/{service}?target_session_attrs=primary", "::1,two", "1,2", "primary"),
    ],
)
def test_a_database_may_have_several_hosts(
    monkeypatch: pytest.MonkeyPatch, given: str, host: str, port: str, wants: str
) -> None:
    """The URL has libpq's form; the driver gets what libpq would."""
    monkeypatch.setenv("DATABASE_URL", given)

    url = make_url(load().dsn("order"))

    _, told = url.get_dialect()().create_connect_args(url)
    assert told.pop("sslmode", "require") == "require"
    assert told == {
        "host": host,
        "port": port,
        "user": "me",
        "password": "x",
        "dbname": "order",
        "target_session_attrs": wants,
    }


def test_a_missing_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS")

    with pytest.raises(Misconfigured, match="KAFKA_BOOTSTRAP_SERVERS"):
        load()


def test_another_kind_of_database_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://me:swordfish@127.0.0.1/order")

    with pytest.raises(Misconfigured, match="DATABASE_URL") as refusal:
        load().dsn("order")
    assert "swordfish" not in str(refusal.value)


def test_the_password_is_not_printed() -> None:
    settings = load()

    assert "swordfish" not in repr(settings)
    assert "swordfish" not in str(settings.model_dump())


def test_a_handler_has_less_time_than_the_watchdog_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDLER_SECONDS_MAX", "60")
    assert load().handler_seconds == load().transaction_timeout_ms / 1_000
    monkeypatch.setenv("HANDLER_SECONDS_MAX", "2.5")
    assert load().handler_seconds == 2.5


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().partitions = 8


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_example_says_what_the_code_says() -> None:
    assert env_example.PLACE.read_text() == env_example.text(), "write it again with: python -m dev.env_example"


def test_a_secret_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://me:mackerel@127.0.0.1/{service}\n")
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))

    assert load().dsn("order") == "postgresql+psycopg://me:mackerel@127.0.0.1/order"
    assert "mackerel" not in repr(load())


def test_the_variable_comes_before_its_file_and_the_file_before_dotenv(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://me:from-file@127.0.0.1/{service}")
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://me:from-dotenv@127.0.0.1/{service}")
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))
    assert "swordfish" in load().dsn("order")

    monkeypatch.delenv("DATABASE_URL")
    assert "from-file" in load().dsn("order")

    monkeypatch.delenv("DATABASE_URL_FILE")
    assert "from-dotenv" in load().dsn("order")


def test_a_secret_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "none"))

    with pytest.raises(Misconfigured, match=r"DATABASE_URL_FILE: .*none cannot be read: No such file"):
        load()


def test_a_breakpoint_behind_a_pooler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the role has the timeouts, and would still end the session."""
    monkeypatch.setenv("DEBUG_NO_TIMEOUTS", "true")
    assert load().debug_no_timeouts
    monkeypatch.setenv("DATABASE_POOLER", "true")
    with pytest.raises(Misconfigured, match="DEBUG_NO_TIMEOUTS: behind a pooler"):
        load()


@pytest.mark.parametrize("url", ["postgresql://me:fish@host:port/x", "postgresql://me:fish@host:99999999999999999x/y"])
def test_a_url_that_cannot_be_read_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)

    with pytest.raises(Misconfigured, match="DATABASE_URL: cannot be read as a URL") as refusal:
        load().dsn("order")
    assert "fish" not in str(refusal.value)


def test_a_kafka_client_is_told_only_what_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load().kafka() == {"bootstrap.servers": "127.0.0.1:9092", "security.protocol": "PLAINTEXT"}

    authority = tmp_path / "ca.pem"
    authority.touch()
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "order")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "mackerel")
    monkeypatch.setenv("KAFKA_SSL_CA_LOCATION", str(authority))
    assert load().kafka() == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "order",
        "sasl.password": "mackerel",
        "ssl.ca.location": str(authority),
    }
    assert "mackerel" not in repr(load())


class ShippingSettings(Settings):
    """A service's own settings."""

    shipping_days_max: Annotated[int, Field(ge=1)] = 14
    shipping_carrier_token: SecretStr = SecretStr("")


@containers.copy(ServiceContainer)
class ShippingContainer(ServiceContainer):
    service = providers.Object(Service("shipping"))
    settings_class = providers.Object(ShippingSettings)


def test_a_service_may_have_settings_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are read and checked for slips and secrets in files, like the common ones."""
    file = tmp_path / "token"
    file.write_text("mackerel\n")
    monkeypatch.setenv("SHIPPING_DAYS_MAX", "3")
    monkeypatch.setenv("SHIPPING_CARRIER_TOKEN_FILE", str(file))
    found = load(ShippingSettings)
    assert (found.shipping_days_max, found.partitions) == (3, 4)
    assert found.shipping_carrier_token.get_secret_value() == "mackerel"
    assert load() == Settings()  # type: ignore[call-arg]  # another service does not mind them

    monkeypatch.setenv("SHIPPING_DAYS_MAX", "0")
    with pytest.raises(Misconfigured, match="SHIPPING_DAYS_MAX"):
        load(ShippingSettings)
    monkeypatch.delenv("SHIPPING_DAYS_MAX")
    monkeypatch.setenv("SHIPPING_DAY_MAX", "3")
    with pytest.raises(Misconfigured, match=r"SHIPPING_DAY_MAX: .* did you mean SHIPPING_DAYS_MAX"):
        load(ShippingSettings)


def test_all_of_a_process_have_the_same_settings_also_where_they_are_a_service_s_own() -> None:
    container = ShippingContainer()
    assert type(container.settings()) is ShippingSettings
    assert container.worker()._settings is container.settings()

    another = ShippingContainer()
    given = load(ShippingSettings)
    another.settings.override(providers.Object(given))
    assert another.worker()._settings is given
