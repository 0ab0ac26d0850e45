"""A worker works over TLS, with a password or a certificate; one that is refused names the setting to fix."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from dev.servers import Servers
from dev.servers.locked import Grant, LockedKafka
from dev.servers.places import free_port
from shared.command import EXIT_AGAIN, EXIT_MISCONFIGURED
from shared.testing import SECONDS_MAX
from tests.faults.stage import Stage

ROOT = Path(__file__).parents[3]
PASSWORD = "correct horse, battery"
EVERYTHING = [
    *(Grant("topic", "*", operation) for operation in ("read", "write", "create", "describe")),
    *(Grant("group", "*", operation) for operation in ("read", "describe")),
    *(Grant("transactional_id", "*", operation) for operation in ("write", "describe")),
]


@pytest.fixture(scope="module", autouse=True)
def _users(locked: LockedKafka) -> None:
    locked.user("tester", PASSWORD)
    for user in ("tester", "plain", "certified"):
        locked.grant(user, EVERYTHING)


@dataclass(frozen=True)
class Lockable:
    """Servers in the form that a stage takes."""

    kafka: LockedKafka
    postgres: object


def by_password(locked: LockedKafka) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": locked.password_bootstrap,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_USERNAME": "tester",
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "KAFKA_SSL_CA_LOCATION": str(locked.authority),
    }


def by_certificate(locked: LockedKafka) -> dict[str, str]:
    certificate, key = locked.certificate("certified")
    return {
        "KAFKA_BOOTSTRAP_SERVERS": locked.certificate_bootstrap,
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_SSL_CA_LOCATION": str(locked.authority),
        "KAFKA_SSL_CERTIFICATE_LOCATION": str(certificate),
        "KAFKA_SSL_KEY_LOCATION": str(key),
    }


def by_plain_password(locked: LockedKafka) -> dict[str, str]:
    plain = {
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "plain",
        "KAFKA_SASL_PASSWORD": "plain-password",
    }
    return by_password(locked) | plain


@pytest.mark.parametrize("way", [by_password, by_plain_password, by_certificate], ids=["scram", "plain", "certificate"])
def test_every_client_of_a_worker_is_let_in(locked: LockedKafka, servers: Servers, tmp_path: Path, way: object) -> None:
    """The admin client creates the topics, the consumer consumes, the producer publishes, and asks for the ends of
    topics.
    """
    assert callable(way)
    told = {name.lower(): value for name, value in way(locked).items()}
    with Stage(Lockable(locked, servers.postgres), tmp_path, **told) as stage:  # type: ignore[arg-type]
        stage.worker()
        stage.ask()
        stage.request()
        stage.until_drained()
        stage.stop()
        assert stage.problems() == []
        assert "kafka_denied" not in stage.logged()


def run(variables: Mapping[str, str], cwd: Path, command: str = "topics") -> tuple[int, str]:
    """Run a command of the inventory service; return its exit code and all that it wrote."""
    done = subprocess.run(
        (sys.executable, "-m", "services.inventory", command),
        env={"PYTHONPATH": str(ROOT), "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def other_authority(tmp_path: Path) -> str:
    path = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"KAFKA_SASL_PASSWORD": "wrong-password"}, ["KAFKA_SASL_PASSWORD", "SCRAM-SHA-512"]),
        ({"KAFKA_SASL_USERNAME": "stranger"}, ["KAFKA_SASL_USERNAME"]),
        ({"KAFKA_SASL_USERNAME": ""}, ["KAFKA_SASL_USERNAME: needed with KAFKA_SECURITY_PROTOCOL=SASL_SSL"]),
        ({"KAFKA_SASL_PASSWORD": ""}, ["KAFKA_SASL_PASSWORD: needed with"]),
        ({"KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"}, ["KAFKA_SASL_MECHANISM", "SCRAM-SHA-512"]),
        ({"KAFKA_SSL_CA_LOCATION": "other"}, ["KAFKA_SSL_CA_LOCATION", "certificate verify failed"]),
        ({"KAFKA_SSL_CA_LOCATION": ""}, ["KAFKA_SSL_CA_LOCATION", "certificate verify failed"]),
        ({"KAFKA_SSL_CA_LOCATION": "/nowhere/ca.pem"}, ["KAFKA_SSL_CA_LOCATION: Path does not point to a file"]),
        ({"KAFKA_SSL_CA_LOCATION": __file__}, ["KAFKA_SSL_"]),
        ({"KAFKA_SSL_KEY_LOCATION": __file__}, ["KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION: one needs"]),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL"}, ["KAFKA_SASL_USERNAME: not used with KAFKA_SECURITY_PROTOCOL=SSL"]),
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, ["KAFKA_SECURITY_PROTOCOL: Input should be 'PLAINTEXT', 'SSL'"]),
    ],
    ids=[
        *("wrong password", "unknown user", "no user", "no password", "wrong mechanism"),
        *("another CA", "the system's CAs", "no CA file", "a CA that is none", "a key alone"),
        *("a user without SASL", "no such protocol"),
    ],
)
def test_who_is_not_let_in_ends_and_names_the_setting(
    locked: LockedKafka, tmp_path: Path, changes: dict[str, str], words: list[str]
) -> None:
    variables = by_password(locked) | changes
    if variables["KAFKA_SSL_CA_LOCATION"] == "other":
        variables["KAFKA_SSL_CA_LOCATION"] = other_authority(tmp_path)
    code, output = run(variables, tmp_path)
    assert code == EXIT_MISCONFIGURED, output
    for part in words:
        assert part in output
    for secret in (PASSWORD, "wrong-password", "Traceback"):
        assert secret not in output


def test_a_certificate_of_another_authority_is_refused(locked: LockedKafka, tmp_path: Path) -> None:
    stranger = trustme.CA().issue_cert("certified", common_name="certified")
    certificate, key = tmp_path / "stranger.pem", tmp_path / "stranger.key"
    stranger.cert_chain_pems[0].write_to_path(str(certificate))
    stranger.private_key_pem.write_to_path(str(key))
    own = {"KAFKA_SSL_CERTIFICATE_LOCATION": str(certificate), "KAFKA_SSL_KEY_LOCATION": str(key)}
    code, output = run(by_certificate(locked) | own, tmp_path)
    assert code == EXIT_MISCONFIGURED, output
    assert "KAFKA_SSL_CERTIFICATE_LOCATION" in output


@pytest.mark.parametrize(
    ("speaks", "listens", "hint"),
    [
        ("PLAINTEXT", "TLS", "it may expect another KAFKA_SECURITY_PROTOCOL"),
        ("SASL_SSL", "PLAINTEXT", "in state SSL_HANDSHAKE"),
        ("PLAINTEXT", "nobody", "is one up there?"),
    ],
)
def test_silence_may_be_a_broker_that_starts_and_is_asked_again(
    locked: LockedKafka, tmp_path: Path, speaks: str, listens: str, hint: str
) -> None:
    """Silence does not show whether a broker is down or wants another protocol: the message says what to check."""
    listeners = {"TLS": locked.password_bootstrap, "PLAINTEXT": locked.bootstrap, "nobody": f"127.0.0.1:{free_port()}"}
    variables = by_password(locked) if speaks == "SASL_SSL" else {}
    code, output = run(variables | {"KAFKA_BOOTSTRAP_SERVERS": listeners[listens]}, tmp_path)
    assert code == EXIT_AGAIN, output
    assert f"no broker answers at {listeners[listens]} with KAFKA_SECURITY_PROTOCOL={speaks}" in output
    assert hint in output
