"""Every setting of a process, from environment variables or `.env`. With a wrong one the process refuses to start.

A secret may be in a file instead: `<NAME>_FILE` is then the file's path. The variable itself takes precedence.

A service adds its own settings in a subclass, in its `settings.py`; see docs/settings.md.
"""

import os
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, overload

from dotenv import dotenv_values
from pydantic import Field, FilePath, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from . import renamed, trace_context
from .configuration import files as configuration_files
from .configuration.database_url import sqlalchemy_url
from .errors import Misconfigured

ENV_FILES = (".env", ".env.local")
ALIKE = 0.9
"""How similar two names must be for one to count as a typo of the other; one letter of ten may differ."""

OF_ONE_LINE = {
    "database_url",
    "migration_database_url",
    "console_database_url",
    "kafka_sasl_password",
    "kafka_ssl_key_password",
}
"""Secrets without line breaks; others may have them, such as a service's own PEM key."""

OF_OTHERS = {"API_TOKEN"}
"""Docker compose reads the same `.env` and keeps a caller's token in it, for calls by hand."""


_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]):([0-9]{1,5})")
"""host:port; an IPv6 address in brackets."""


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}..."


class Settings(BaseSettings):
    """The settings of one API or worker process. Each is read from the variable of the same name in capitals."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILES, env_ignore_empty=True, extra="ignore", frozen=True, allow_inf_nan=False
    )

    kafka_bootstrap_servers: Annotated[
        str, Field(min_length=1, description="host:port of one or more brokers, separated by commas")
    ]
    kafka_security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], Field(description="how to connect to the brokers")
    ] = "PLAINTEXT"
    kafka_sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
        Field(description="how to authenticate with a SASL_* protocol"),
    ] = "SCRAM-SHA-512"
    kafka_sasl_username: Annotated[str, Field(description="user name at the brokers, for a SASL_* protocol")] = ""
    kafka_sasl_password: Annotated[SecretStr, Field(description="its password")] = SecretStr("")
    kafka_ssl_ca_location: Annotated[
        FilePath | None,
        Field(description="PEM file of the CA that signed the brokers' certificates; empty: the system's"),
    ] = None
    kafka_ssl_certificate_location: Annotated[
        FilePath | None, Field(description="PEM file of the client's certificate, if the brokers require one")
    ] = None
    kafka_ssl_key_location: Annotated[FilePath | None, Field(description="PEM file of its key")] = None
    kafka_ssl_key_password: Annotated[SecretStr, Field(description="the password of that key, if it has one")] = (
        SecretStr("")
    )
    database_url: Annotated[
        SecretStr,
        Field(description="libpq URL of the service's database; `{service}` in it stands for the service's name"),
    ]
    migration_database_url: Annotated[
        SecretStr,
        Field(description="the same for `migrate`, as the role that owns the schema; empty: DATABASE_URL"),
    ] = SecretStr("")
    database_pooler: Annotated[
        bool,
        Field(
            description="DATABASE_URL leads to a pooler; the API works in each of its modes, a worker only in `session`"
        ),
    ] = False
    partitions: Annotated[
        int, Field(ge=1, le=1000, description="partitions of every topic that `topics` creates, and number of lanes")
    ] = 4
    replication_factor: Annotated[
        int, Field(ge=0, le=10, description="replicas of a topic that `topics` creates; 0: the brokers' default")
    ] = 1

    http_host: Annotated[str, Field(description="address that the API listens on")] = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535, description="port that the API listens on; 0: any free one")] = 8000
    http_body_bytes_max: Annotated[
        int, Field(ge=1024, le=1_000_000_000, description="a larger request body is answered with 413")
    ] = 1_000_000
    http_request_seconds_max: Annotated[
        float,
        Field(
            gt=0, le=3_600, description="a request that takes longer is answered with 503, or 408 if its body is slow"
        ),
    ] = 20.0
    http_requests_per_second_max: Annotated[
        float,
        Field(
            ge=0,
            le=1_000_000,
            description="from one caller to one process; more are answered with 429; 0: no limit",
        ),
    ] = 200.0
    http_baggage_keys: Annotated[
        str,
        Field(
            description="members of a request's `baggage` that go on into its events, separated by commas; `*`: all; "
            "empty: none"
        ),
    ] = ""
    api_auth: Annotated[Literal["on", "off"], Field(description="`off` lets anyone call the API and do anything")] = (
        "on"
    )
    api_tokens: Annotated[
        SecretStr, Field(description="who may call the API: name:scope,scope:sha256 entries, as `token` makes them")
    ] = SecretStr("")
    metrics_port: Annotated[
        int, Field(ge=0, le=65535, description="port of a worker's health and metrics; 0: none")
    ] = 0
    console_host: Annotated[str, Field(description="address that the console listens on")] = "127.0.0.1"
    console_port: Annotated[
        int, Field(ge=0, le=65535, description="port that the console listens on; 0: any free one")
    ] = 8070
    console_names: Annotated[
        str,
        Field(
            description="names by which browsers reach the console through a proxy with HTTPS, separated by commas; "
            "otherwise only those of this machine"
        ),
    ] = ""
    console_database_url: Annotated[
        SecretStr,
        Field(description="DATABASE_URL for what the console reads, as a role that may only read; empty: DATABASE_URL"),
    ] = SecretStr("")
    console_beside: Annotated[
        str,
        Field(description="file of numbers that the console shows beside its picture, while it is renewed"),
    ] = ""
    log_format: Annotated[Literal["console", "json"], Field(description="format of the logs")] = "console"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="lowest level that is logged")
    ] = "info"

    otel_traces_exporter: Annotated[
        Literal["none", "otlp", "console"], Field(description="where spans go; needs the extra `traces`")
    ] = "none"
    otel_exporter_otlp_endpoint: Annotated[
        str, Field(description="URL of the collector, which gets them by OTLP over HTTP")
    ] = "http://127.0.0.1:4318"

    worker_slots: Annotated[
        int, Field(ge=1, le=1000, description="workers of one service that work at the same time")
    ] = 64
    # With 500, an event costs a tenth more; with 2,000 hardly less, while other transactions wait longer for its rows.
    batch_records: Annotated[int, Field(ge=1, le=10_000, description="records handled in one transaction")] = 1_000
    # Some cycles of a small batch; beyond that a pause is felt and saves little.
    batch_wait_ms_max: Annotated[
        int,
        Field(
            ge=0,
            le=1_000,
            description="longest pause of a busy worker before a cycle, so that batches grow under load; 0: none",
        ),
    ] = 200
    claim_rows: Annotated[
        int, Field(ge=1, le=50_000, description="outbox rows published in one Kafka transaction, per lane")
    ] = 2_000
    claim_bytes: Annotated[
        int, Field(ge=1, le=500_000_000, description="bytes of events published in one Kafka transaction, per lane")
    ] = 4_000_000
    # Above 50 MB come the limits of other clients, such as a consumer's default of 100 MB.
    event_bytes_max: Annotated[
        int,
        Field(
            ge=1024,
            le=50_000_000,
            description="a larger event is refused; a topic needs a max.message.bytes 10,000 above this, which "
            "`topics` gives new ones",
        ),
    ] = 900_000
    # Two seconds of work. A worker far behind holds all of it in memory: 25 MB with these, 80 MB with 64,000 kB.
    prefetch_records: Annotated[
        int, Field(ge=100, le=10_000_000, description="records of each partition fetched ahead of the handlers")
    ] = 20_000
    prefetch_kilobytes: Annotated[
        int, Field(ge=1_000, le=2_000_000, description="size of records fetched ahead of the handlers")
    ] = 16_000

    transaction_timeout_ms: Annotated[
        int,
        Field(
            ge=5_000,
            le=900_000,
            description="Kafka ends an abandoned transaction after this; every budget follows from it",
        ),
    ] = 12_000
    session_timeout_ms: Annotated[
        int,
        Field(
            ge=1_000, le=300_000, description="a silent worker loses its partitions after this (classic group protocol)"
        ),
    ] = 6_000
    group_protocol: Annotated[
        Literal["classic", "consumer"],
        Field(
            description="`consumer` is KIP-848, experimental here: after a kill a worker waits until the broker has "
            "ended its predecessor's session, 45 s"
        ),
    ] = "classic"
    leave_group_on_shutdown: Annotated[
        bool, Field(description="leave the group on SIGTERM, so that partitions move at once")
    ] = False
    handler_seconds_max: Annotated[
        float,
        Field(
            gt=0,
            le=900,
            description="time for the handlers of a batch, at most TRANSACTION_TIMEOUT_MS; a slower batch is made "
            "smaller, a record that takes longer alone is set aside",
        ),
    ] = 5.0
    debug_no_timeouts: Annotated[
        bool,
        Field(
            description="for a breakpoint in a worker: no watchdog, no limit on handlers or idle sessions; such a "
            "worker is never ready"
        ),
    ] = False
    shutdown_grace_seconds: Annotated[float, Field(gt=0, le=86_400, description="time to finish after SIGTERM")] = 15.0

    retry_seconds_max: Annotated[
        float, Field(gt=0, le=86_400, description="longest pause before a record is tried again after a `Retry`")
    ] = 30.0
    retry_attempts_max: Annotated[
        int, Field(ge=0, le=1_000_000, description="set a record aside after this many `Retry`; 0: never")
    ] = 0
    parked_records_max: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="records of one partition that may be parked with their keys; beyond it, as with 0, the "
            "partition waits",
        ),
    ] = 10_000
    parked_bytes_max: Annotated[
        int, Field(ge=1, le=1_000_000_000_000, description="bytes of one partition that may be parked")
    ] = 100_000_000
    parked_keys_max: Annotated[
        int, Field(ge=1, le=1_000_000, description="keys of one partition that may be parked")
    ] = 1_000
    parked_hours_max: Annotated[
        float,
        Field(gt=0, le=876_000, description="a partition parks no more while its oldest parked record is older"),
    ] = 72.0
    dead_letters_per_minute_max: Annotated[
        int, Field(ge=1, le=1_000_000, description="more dead letters of failed handlers than this stop the worker")
    ] = 1_000
    equal_failures_max: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="this many events of one type and of different keys that fail alike in a row stop the worker; "
            "0: never",
        ),
    ] = 10
    recoveries_per_minute_max: Annotated[
        int, Field(ge=1, le=1_000_000, description="more recoveries than this end the process")
    ] = 20

    inbox_retention_hours: Annotated[
        float, Field(gt=0, le=876_000, description="how long a duplicate event is recognised")
    ] = 168.0
    idempotency_retention_hours: Annotated[
        float, Field(gt=0, le=876_000, description="how long an Idempotency-Key is remembered")
    ] = 24.0
    dead_letter_retention_hours: Annotated[
        float, Field(gt=0, le=876_000, description="how long a redriven or dismissed dead letter is kept")
    ] = 2_160.0
    audit_retention_hours: Annotated[
        float, Field(gt=0, le=876_000, description="how long `audit` knows what was published")
    ] = 168.0
    outbox_rows_max: Annotated[
        int,
        Field(
            ge=1, le=1_000_000_000_000, description="the API answers 503 while more events than this are unpublished"
        ),
    ] = 1_000_000

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a folder; ours are single files
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put `<NAME>_FILE` between the environment and `.env`."""
        files = _SecretFiles(settings_cls, env_settings, dotenv_settings)
        return init_settings, env_settings, files, dotenv_settings

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _bootstrap(cls, given: str) -> str:
        """Strip blanks around addresses, and refuse those that the client would take for a host that is down."""
        addresses = [address.strip() for address in given.split(",")]
        for address in addresses:
            if "://" in address:
                raise ValueError(
                    f"{_short(address)} has a scheme; write only host:port, "
                    f"{_short(address.partition('://')[2].rstrip('/'))}, and the protocol in KAFKA_SECURITY_PROTOCOL"
                )
            found = _ADDRESS.fullmatch(address)
            if found is None or not 0 < int(found[1]) < 65_536:
                raise ValueError(
                    f"{_short(address) or 'nothing'} is not a broker's address; write host:port, several separated by "
                    "commas: kafka-1:9092,kafka-2:9092"
                )
        return ",".join(addresses)

    @field_validator("http_baggage_keys")
    @classmethod
    def _baggage(cls, given: str) -> str:
        trace_context.keys(given)
        return given

    @field_validator("kafka_ssl_ca_location", "kafka_ssl_certificate_location", "kafka_ssl_key_location")
    @classmethod
    def _pem(cls, given: Path | None) -> Path | None:
        """Refuse files that the client could not read, or would read without end."""
        try:
            if given is not None:
                configuration_files.whole(given)
        except (Misconfigured, OSError) as error:
            raise ValueError(f"{_short(str(given))} {error}") from None
        return given

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kafka_security_protocol.startswith("SASL"):
            for name in ("kafka_sasl_username", "kafka_sasl_password"):
                if not getattr(self, name):
                    needs = f"KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol}"
                    raise ValueError(f"{name.upper()}: needed with {needs}")
        elif self.kafka_sasl_username or self.kafka_sasl_password:
            raise ValueError(
                f"KAFKA_SASL_USERNAME: not used with KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol}"
            )
        if "SSL" not in self.kafka_security_protocol and (self.kafka_ssl_ca_location or self.kafka_ssl_key_location):
            raise ValueError(
                f"KAFKA_SSL_CA_LOCATION: not used with KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol}"
            )
        if self.debug_no_timeouts and self.database_pooler:
            raise ValueError("DEBUG_NO_TIMEOUTS: behind a pooler the timeouts are the role's; debug without a pooler")
        if (self.kafka_ssl_certificate_location is None) != (self.kafka_ssl_key_location is None):
            raise ValueError("KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION: one needs the other")
        return self

    @property
    def handler_seconds(self) -> float:
        """The budget of handlers, within the watchdog's of one and a half transaction timeouts."""
        return min(self.handler_seconds_max, self.transaction_timeout_ms / 1_000)

    def kafka(self) -> dict[str, Any]:
        """Return the configuration of every Kafka client: brokers and credentials, including the password."""
        options: dict[str, Any] = {
            "bootstrap.servers": self.kafka_bootstrap_servers,
            "security.protocol": self.kafka_security_protocol,
            "ssl.ca.location": self.kafka_ssl_ca_location,
            "ssl.certificate.location": self.kafka_ssl_certificate_location,
            "ssl.key.location": self.kafka_ssl_key_location,
            "ssl.key.password": self.kafka_ssl_key_password.get_secret_value(),
        }
        if self.kafka_security_protocol.startswith("SASL"):
            options |= {
                "sasl.mechanism": self.kafka_sasl_mechanism,
                "sasl.username": self.kafka_sasl_username,
                "sasl.password": self.kafka_sasl_password.get_secret_value(),
            }
        return {name: str(value) for name, value in options.items() if value}

    def dsn(self, service: str) -> str:
        """Return the database URL of `service` in SQLAlchemy's form, including the password."""
        return sqlalchemy_url("DATABASE_URL", self.database_url.get_secret_value(), service)

    def console_dsn(self, service: str) -> str:
        """Return the URL for what the console reads."""
        if not self.console_database_url:
            return self.dsn(service)
        return sqlalchemy_url("CONSOLE_DATABASE_URL", self.console_database_url.get_secret_value(), service)

    def migration_dsn(self, service: str) -> str:
        """Return the URL for the role that changes the schema."""
        if not self.migration_database_url:
            return self.dsn(service)
        return sqlalchemy_url("MIGRATION_DATABASE_URL", self.migration_database_url.get_secret_value(), service)


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads secrets from files: the path of each is in `<NAME>_FILE`. Raises `Misconfigured`."""

    def __init__(self, settings_cls: type[BaseSettings], *variables: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._variables: dict[str, str | None] = {}
        for source in reversed(variables):
            assert isinstance(source, EnvSettingsSource | DotEnvSettingsSource)
            self._variables |= source.env_vars

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | None, str, bool]:
        """Return the secret `field_name`, if it is in a file."""
        path = self._variables.get(f"{field_name}_file") if field.annotation is SecretStr else None
        if not path:
            return None, field_name, False
        try:
            secret = configuration_files.text(Path(path)).strip()
        except FileNotFoundError as error:
            raise Misconfigured(f"{field_name.upper()}_FILE: {path} cannot be read: {error.strerror}") from None
        except Misconfigured as error:
            raise Misconfigured(f"{field_name.upper()}_FILE: {path} {error}") from None
        if field_name in OF_ONE_LINE and len(secret.splitlines()) > 1:
            raise Misconfigured(
                f"{field_name.upper()}_FILE: {path} has several lines; it must hold the secret alone, on one line"
            )
        return secret, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the secrets that are in files."""
        fields = self.settings_cls.model_fields
        found = {name: self.get_field_value(field, name)[0] for name, field in fields.items()}
        return {name: value for name, value in found.items() if value is not None}


Own = TypeVar("Own", bound=Settings)


def _wrong(lines: Sequence[str]) -> Misconfigured:
    return Misconfigured("wrong settings (see .env.example):\n  " + "\n  ".join(lines))


def _known(kind: type[Settings]) -> set[str]:
    secrets = [name for name, field in kind.model_fields.items() if field.annotation is SecretStr]
    return OF_OTHERS | {name.upper() for name in kind.model_fields} | {f"{name.upper()}_FILE" for name in secrets}


def _misspelt(kind: type[Settings]) -> Iterator[str]:
    known = _known(kind)
    files = [dotenv_values(file) for file in ENV_FILES if Path(file).is_file()]
    for name in sorted(set(os.environ).union(*files)):
        if name.upper() in renamed.SETTINGS.keys() - known:
            yield f"{name} is now called {renamed.SETTINGS[name.upper()]}"
        elif name.upper() not in known and (
            meant := get_close_matches(name.upper(), known | renamed.SETTINGS.keys(), 1, ALIKE)
        ):
            yield f"{name}: there is no such setting; did you mean {renamed.SETTINGS.get(meant[0], meant[0])}?"


@overload
def load() -> Settings: ...
@overload
def load(kind: type[Own]) -> Own: ...
def load(kind: type[Settings] = Settings) -> Settings:
    """Read the settings; those of `kind` if a service adds its own. Raises `Misconfigured` with one line for each
    variable that is wrong, or that looks like a misspelt setting, which would silently keep its default.
    """
    for file in map(Path, ENV_FILES):
        configuration_files.refuse_dotenv(file, _known(kind))
    if misspelt := list(_misspelt(kind)):
        raise _wrong(misspelt)
    try:
        return kind()  # type: ignore[call-arg]  # the environment gives them
    except ValidationError as error:
        # `input` is left out: it may be a secret. An error about several settings names them itself.
        lines = [
            ": ".join([*(str(part).upper() for part in e["loc"]), e["msg"].removeprefix("Value error, ")])
            for e in error.errors(include_input=False)
        ]
        raise _wrong(lines) from None
