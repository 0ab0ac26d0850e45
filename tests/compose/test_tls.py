"""PostgreSQL that requires TLS. The other tests' PostgreSQL has none; the image's does."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from dev.docker import Docker
from shared.command import EXIT_MISCONFIGURED
from shared.testing import until
from tests.compose.conftest import PROJECT

NAME = f"{PROJECT}-tls"
ALIAS = "postgres"
"""The name in the certificate. The container's own name leads to it too, but is not in there."""
PASSWORD = "of-this-test"
READY_SECONDS = 120.0
# The server reads its key only if no other user can, and a mounted file belongs to the user who runs the tests.
START = """
install -d -o postgres -m 700 /tls
install -o postgres -m 600 /given/* /tls
exec docker-entrypoint.sh postgres -c hba_file=/tls/hba \\
    -c ssl=on -c ssl_cert_file=/tls/server.pem -c ssl_key_file=/tls/server.key
"""


class Encrypted:
    """The server, and commands of a service run against it."""

    def __init__(self, docker: Docker, image: str, folder: Path) -> None:
        self._docker = docker
        self._image = image
        self.authority, self.other = folder / "ca.pem", folder / "other.pem"
        self.given = folder / "given"
        self.given.mkdir()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        trustme.CA().cert_pem.write_to_path(str(self.other))
        certificate = authority.issue_cert(ALIAS)
        certificate.private_key_pem.write_to_path(str(self.given / "server.key"))
        certificate.cert_chain_pems[0].write_to_path(str(self.given / "server.pem"))
        (self.given / "hba").write_text("local all all trust\nhostssl all all all scram-sha-256\n")
        for path in (folder, self.authority, self.other):
            path.chmod(0o755)

    def start(self) -> None:
        self._docker.docker("network", "create", NAME)
        self._docker.docker(
            *("run", "--detach", "--init", "--name", NAME, "--network", NAME, "--network-alias", ALIAS),
            *("--volume", f"{self.given}:/given:ro", "--env", f"POSTGRES_PASSWORD={PASSWORD}"),
            *("--env", "POSTGRES_DB=payment", "--entrypoint", "sh", "postgres:18", "-c", START),
        )
        # Over TCP: while the first start prepares the data, only the socket answers.
        asked = ("exec", NAME, "pg_isready", "-h", "127.0.0.1", "-U", "postgres")
        until(lambda: self._docker.run(*asked).returncode == 0, "PostgreSQL answers", READY_SECONDS)

    def remove(self) -> None:
        self._docker.run("rm", "--force", "--volumes", NAME)
        self._docker.run("network", "rm", NAME)

    def run(self, *words: str, options: str, host: str = ALIAS, authority: Path | None = None) -> tuple[int, str]:
        """Run a command of payment with these options of libpq; return its exit code and what it wrote."""
        url = f"postgresql://postgres:{PASSWORD}@{host}:5432/payment?{options}"
        done: subprocess.CompletedProcess[str] = self._docker.run(
            *("run", "--rm", "--network", NAME, "--volume", f"{authority or self.authority}:/tls/ca.pem:ro"),
            *("--env", f"DATABASE_URL={url}", "--env", "KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1"),
            *(self._image, "services.payment", *words),
        )
        return done.returncode, done.stdout + done.stderr


VERIFIED = "sslmode=verify-full&sslrootcert=/tls/ca.pem"  # what docs/deploying.md recommends


@pytest.fixture(scope="module")
def encrypted(docker: Docker, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    server = Encrypted(docker, image, tmp_path_factory.mktemp("tls"))
    server.remove()  # what a run that was killed has left
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.mark.parametrize("command", [("migrate",), ("dead-letters", "list")], ids=" ".join)
def test_a_service_works_over_tls(encrypted: Encrypted, command: tuple[str, ...]) -> None:
    code, output = encrypted.run(*command, options=VERIFIED)

    assert code == 0, output


@pytest.mark.parametrize(
    ("options", "host", "authority", "words"),
    [
        ("sslmode=disable", ALIAS, "ca", "no encryption"),
        (VERIFIED, ALIAS, "other", "certificate verify failed"),
        (VERIFIED, NAME, "ca", f'"{ALIAS}" does not match host name "{NAME}"'),
    ],
    ids=["without TLS", "another authority", "another name"],
)
def test_who_cannot_be_sure_of_the_server_does_not_start(
    encrypted: Encrypted, options: str, host: str, authority: str, words: str
) -> None:
    file = {"ca": encrypted.authority, "other": encrypted.other}[authority]

    code, output = encrypted.run("migrate", options=options, host=host, authority=file)

    assert code == EXIT_MISCONFIGURED, output
    assert "DATABASE_URL: " in output
    assert words in output.replace('\\"', '"'), "the log of a container is JSON"
    assert PASSWORD not in output
    assert "Traceback" not in output
