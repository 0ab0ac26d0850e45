"""Every setting of a process, from environment variables or `.env`; a wrong one stops the start and is named."""

from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import Refused


class Settings(BaseSettings):
    """The settings of one API or worker process. Each is read from the variable of the same name in capitals."""

    model_config = SettingsConfigDict(
        env_file=(".env", ".env.local"), env_ignore_empty=True, extra="ignore", frozen=True
    )

    kafka_bootstrap_servers: Annotated[
        str, Field(min_length=1, description="host:port of one or more brokers, by commas")
    ]
    database_url: Annotated[
        SecretStr,
        Field(description="libpq URL of the service's database; `{service}` in it stands for the service's name"),
    ]
    partitions: Annotated[
        int, Field(ge=1, le=1000, description="partitions of every topic of ours, and number of lanes")
    ] = 4
    replication_factor: Annotated[int, Field(ge=1, le=10, description="replicas of a topic that `topics` creates")] = 1

    http_host: Annotated[str, Field(description="address that the API listens on")] = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535, description="port that the API listens on; 0: any free one")] = 8000
    http_body_bytes_max: Annotated[int, Field(ge=1024, description="a larger request body is answered with 413")] = (
        1_000_000
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535, description="health and metrics of a worker; 0: none")] = 0
    log_format: Annotated[Literal["console", "json"], Field(description="how logs are written")] = "console"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="the least level logged")] = (
        "info"
    )

    worker_slots: Annotated[
        int, Field(ge=1, le=1000, description="workers of one service that work at the same time")
    ] = 64
    # With 500, an event costs a tenth more; with 2,000 hardly less, and other transactions wait longer for its rows.
    batch_records: Annotated[int, Field(ge=1, le=10_000, description="records handled in one transaction")] = 1_000
    claim_rows: Annotated[
        int, Field(ge=1, le=50_000, description="outbox rows said in one Kafka transaction, per lane")
    ] = 2_000
    claim_bytes: Annotated[int, Field(ge=1, description="bytes of events said in one Kafka transaction, per lane")] = (
        4_000_000
    )
    event_bytes_max: Annotated[int, Field(ge=1024, description="a larger event never enters the outbox")] = 900_000
    # Two seconds of work. A worker that is far behind has all of it in memory: 25 MB with these, 80 MB with 64,000 kB.
    prefetch_messages: Annotated[
        int, Field(ge=100, description="records of each partition fetched ahead of the handlers")
    ] = 20_000
    prefetch_kilobytes: Annotated[int, Field(ge=1_000, description="size of records fetched ahead of the handlers")] = (
        16_000
    )

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
        Literal["classic", "consumer"], Field(description="`consumer` is KIP-848, experimental here")
    ] = "classic"
    leave_on_stop: Annotated[bool, Field(description="leave the group on SIGTERM, so that partitions move at once")] = (
        False
    )
    grace_seconds: Annotated[float, Field(gt=0, description="time to finish after SIGTERM")] = 15.0

    retry_seconds_max: Annotated[float, Field(gt=0, description="longest pause between two attempts of a `Retry`")] = (
        30.0
    )
    retry_attempts_max: Annotated[
        int, Field(ge=0, description="set a record aside after so many `Retry`; 0: never")
    ] = 0
    set_aside_per_minute_max: Annotated[int, Field(ge=1, description="more dead letters than this stop the worker")] = (
        1_000
    )
    recoveries_per_minute_max: Annotated[int, Field(ge=1, description="more recoveries than this end the process")] = 20

    inbox_retention_hours: Annotated[float, Field(gt=0, description="a repeated event is recognised for so long")] = (
        168.0
    )
    idempotency_retention_hours: Annotated[
        float, Field(gt=0, description="an Idempotency-Key is remembered for so long")
    ] = 24.0
    audit_keep_hours: Annotated[float, Field(gt=0, description="`audit` knows for so long what was said")] = 168.0
    outbox_rows_max: Annotated[int, Field(ge=1, description="the API answers 503 while more events than this wait")] = (
        1_000_000
    )

    def dsn(self, service: str) -> str:
        """Give the URL of the database of `service` in SQLAlchemy's form; it holds the password."""
        url = self.database_url.get_secret_value().replace("{service}", service)
        for scheme in ("postgresql+psycopg://", "postgresql://", "postgres://"):
            if url.startswith(scheme):
                return "postgresql+psycopg://" + url.removeprefix(scheme)
        raise Refused("DATABASE_URL: must be a libpq URL that begins with postgresql://")


def load() -> Settings:
    """Read the settings. Raises `Refused` with one line for each variable that is wrong."""
    try:
        return Settings()  # type: ignore[call-arg]  # the environment gives them
    except ValidationError as error:
        # `input` is left out: it may be a secret.
        lines = [f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False)]
        raise Refused("wrong settings (see .env.example):\n  " + "\n  ".join(lines)) from None
