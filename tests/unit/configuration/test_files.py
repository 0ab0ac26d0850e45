"""A settings file at any path is read whole or refused at once with a sentence."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
from sqlalchemy import make_url

from shared.configuration import files
from shared.errors import Misconfigured
from shared.settings import load

URL = "postgresql://me:mackerel@127.0.0.1/{service}"
pytestmark = pytest.mark.usefixtures("bare_environment")


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIPE_SECONDS", 0.1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('PARTITIONS=8\nHTTP_HOST="0.0.0.0\nHTTP_PORT=1\n', "line 2 cannot be read: an unclosed quote"),
        (
            "PARTITIONS=8\n\n# x\n\nHTTP_HOST='0.0.0.0\nHTTP_PORT=1\n",
            "line 5 cannot be read: an unclosed quote",
        ),
        ('HTTP_HOST="0.0.0.0\nHTTP_PORT=1\nLOG_LEVEL="\n', "line 1 opens a quote that is closed only after HTTP_PORT"),
        (
            'A="x\nexport_me=1\nDATABASE_URL_FILE=y"\n',
            "line 1 opens a quote that is closed only after DATABASE_URL_FILE",
        ),
        ('HTTP_HOST="a" b\n', "line 1 cannot be read"),
        ("HTTP_PORT: 8001\n", "line 1 cannot be read: .* not NAME=value"),
        ("\r\nHTTP_PORT\r\n", "line 2 has no = after HTTP_PORT"),
        ("=1\n", "line 1 cannot be read"),
        ("X=" + "x" * 1_000_000, "has more than 1,000,000 bytes"),
    ],
)
def test_an_env_file_of_which_a_part_would_not_be_read_is_refused(content: str, reason: str) -> None:
    Path(".env").write_text(content)

    with pytest.raises(Misconfigured, match=rf"^\.env: {reason}") as refusal:
        load()
    assert "0.0.0.0" not in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfHTTP_PORT=8001\r\nLOG_FORMAT='json'\r\n",
        b'export HTTP_PORT = 8001 # why\nOTHER\nPEM="-----BEGIN\nx=\n-----END"\nLOG_FORMAT="json"',
        b"HTTP_PORT=8001\rLOG_FORMAT=json\r",
    ],
    ids=["windows", "shell", "old-mac"],
)
def test_an_env_file_in_the_manner_of_any_system_is_read(content: bytes) -> None:
    Path(".env").write_bytes(content)

    settings = load()

    assert (settings.http_port, settings.log_format) == (8001, "json")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)  # a whole path may be too long


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 10**12)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (lambda path: path.mkdir(), "is a folder|is a folder; a file is needed"),
    "pipe": (os.mkfifo, "is a pipe|was not read"),
    "endless": (lambda path: path.symlink_to("/dev/zero"), "has more than 1,000,000 bytes"),
    "socket": (_socket, "cannot be read: No such device or address|cannot be read: Operation not supported"),
    "circle": (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
    "binary": (lambda path: path.write_bytes(b"\x7fELF\0\xff"), "is not UTF-8 text"),
    "huge": (_huge, "has more than 1,000,000 bytes"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("place", [".env", "DATABASE_URL_FILE", "KAFKA_SSL_CA_LOCATION"])
def test_what_is_no_file_with_settings_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, kind: str
) -> None:
    path = tmp_path / (".env" if place == ".env" else "odd")
    make, reason = ODD[kind]
    make(path)
    if place == "KAFKA_SSL_CA_LOCATION":
        monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SSL")
        reason += "|Path does not point to a file|does not exist"
        if kind == "binary":
            return  # the client looks into it
    if place == "DATABASE_URL_FILE":
        monkeypatch.delenv("DATABASE_URL")
    if place != ".env":
        monkeypatch.setenv(place, str(path))

    with pytest.raises(Misconfigured, match=rf"{place}: .*({reason})"):
        load()


def test_no_writer_is_waited_for_to_read_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A slow disk is not refused as a pipe without a writer."""
    monkeypatch.setattr(files, "PIPE_SECONDS", 0.0)
    (tmp_path / "secret").write_bytes(b"x" * 500_000)

    assert len(files.text(tmp_path / "secret")) == 500_000


@pytest.mark.parametrize("comes", ["before", "later"])
def test_a_secret_may_come_through_a_pipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, comes: str) -> None:
    """Such as `DATABASE_URL_FILE=<(vault read ...)`."""
    monkeypatch.setattr(files, "PIPE_SECONDS", 60.0)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("DATABASE_URL_FILE", str(pipe))
    content = b"\xef\xbb\xbf" + URL.encode() + b"\r\n"
    with ExitStack() as stack:
        if comes == "before":
            kept = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            stack.callback(os.close, kept)
            pipe.write_bytes(content)
        else:
            writer = threading.Thread(target=pipe.write_bytes, args=(content,))
            writer.start()
            stack.callback(writer.join)

        assert load().database_url.get_secret_value() == URL


@pytest.mark.parametrize("opened", [False, True])
def test_a_pipe_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, opened: bool) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "pipe"))
    os.mkfifo(tmp_path / "pipe")
    writer = (tmp_path / "pipe").open("r+b", 0) if opened else nullcontext()
    with writer, pytest.raises(Misconfigured, match=r"DATABASE_URL_FILE: .*pipe was not read"):
        load()


def test_a_secret_of_one_line_is_not_taken_from_a_file_of_several(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(f"\n{URL}\r\n# the one above is of production\n")
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "secret"))
    with pytest.raises(Misconfigured, match=r"DATABASE_URL_FILE: .*secret has several lines") as refusal:
        load()
    assert "mackerel" not in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        ("postgresql://me:x@%2Fvar%2Frun%2Fpostgresql/{service}", "/var/run/postgresql", "5432"),
        ("postgresql://me:x@%2ftmp:5433/{service}?connect_timeout=3", "/tmp", "5433"),
        ("postgresql://me:x@/{service}?host=/tmp&port=5433", "/tmp", "5433"),
        ("postgresql://me:x@/{service}?host=%2Ftmp&port=5433", "/tmp", "5433"),
    ],
)
def test_the_folder_of_a_socket_is_understood_in_each_of_libpq_s_forms(
    monkeypatch: pytest.MonkeyPatch, given: str, host: str, port: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", given)

    url = make_url(load().dsn("order"))

    _, told = url.get_dialect()().create_connect_args(url)
    told.pop("connect_timeout", None)
    assert told == {"host": host, "port": port, "user": "me", "password": "x", "dbname": "order"}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            "postgresql://me:fish@/var/run/postgresql/order",
            r"the database has a / .*\?host=/var/run/postgresql",
        ),
        ("postgresql:///var/run/postgresql", r"the database has a / .*\?host=/var/run/postgresql"),
        ("postgresql://me:fish@one/order?sslrootcert=pipe", "sslrootcert must be a file, and pipe is not"),
        ("postgresql://me:fish@one/order?sslmode=require&sslkey=.", "sslkey must be a file, and . is not"),
    ],
)
def test_a_path_in_a_url_that_leads_nowhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: str, reason: str
) -> None:
    os.mkfifo("pipe")
    monkeypatch.setenv("DATABASE_URL", given)

    with pytest.raises(Misconfigured, match=f"DATABASE_URL: .*{reason}") as refusal:
        load().dsn("order")
    assert "fish" not in str(refusal.value)
