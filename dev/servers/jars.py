"""Kafka's own jars, each checked against `kafka.sha256`.

They come from Maven Central, or from what `[repositories]` names in jgo's own configuration, `~/.config/jgo.conf`.
The file is the lock: it lists every jar, so nothing is resolved when servers start. `python -m dev.servers.jars`
resolves anew and writes it. Downloads stay in the user's cache, in Maven's layout; once there, no network is used.
"""

import hashlib
import os
import ssl
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from jgo.config import GlobalSettings
from jgo.maven import Artifact, MavenContext

from dev.servers.places import cache
from dev.servers.process import Echo, ServerError, echo

KAFKA = "org.apache.kafka:kafka_2.13:4.3.1"
LOG4J = "org.apache.logging.log4j:log4j-slf4j-impl"  # Kafka names log4j, and leaves the binding to its distribution
LOCK = Path(__file__).with_name("kafka.sha256")

DOWNLOADS_AT_ONCE = 8
DOWNLOAD_ATTEMPTS = 3  # a mirror that fails thrice in a row will not do better the fourth time
CONNECT_SECONDS = 30


def kafka_jars(report: Echo = echo, *, lock: Path = LOCK, root: Path | None = None) -> list[Path]:
    """Return the paths of all jars, in the order of the class path, after fetching what is missing and checking all."""
    root = root or cache() / "maven"
    wanted = {path: digest for digest, path in (line.split() for line in lock.read_text().splitlines())}
    missing = [path for path in wanted if not (root / path).exists()]
    if missing:
        report(f"Downloading Kafka, {len(missing)} jars (once; kept in {root}) ...")
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServerError(
                f"Kafka cannot be kept in {root}: {error.strerror}; set XDG_CACHE_HOME to a folder that can be written"
            ) from None
        # Downloaded beside the cache and moved into it when checked: a download that is cut off leaves nothing there.
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
            context = _context(Path(temporary))
            with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
                done = pool.map(lambda path: _download(context, path, wanted[path], root / path), missing)
                for number, _ in enumerate(done, 1):
                    if number % 10 == 0 or number == len(missing):
                        report(f"  {number} of {len(missing)}")
    for path, digest in wanted.items():
        _check(root / path, digest)
    return [root / path for path in wanted]


def _context(repository: Path) -> MavenContext:
    # requests trusts only its own list of CAs; this machine, and SSL_CERT_FILE, may also trust a proxy's.
    trusted = ssl.get_default_verify_paths().cafile
    if trusted:
        os.environ.setdefault("REQUESTS_CA_BUNDLE", trusted)
    repositories = GlobalSettings.load().repositories or None
    return MavenContext(repo_cache=repository, remote_repos=repositories, timeout=CONNECT_SECONDS)


def _artifact(context: MavenContext, path: str) -> Artifact:
    *group, name, version, _ = path.split("/")
    return context.project(".".join(group), name).at_version(version).artifact()


def _download(context: MavenContext, path: str, digest: str, target: Path) -> None:
    for attempt in range(1, DOWNLOAD_ATTEMPTS + 1):
        artifact = _artifact(context, path)
        try:
            downloaded = artifact.resolve()
        except (requests.RequestException, RuntimeError) as error:
            if attempt == DOWNLOAD_ATTEMPTS:
                raise ServerError(f"cannot download {path}: {error}") from error
            (context.repo_cache / path).unlink(missing_ok=True)  # half of it may be there
            time.sleep(attempt)
        else:
            _check(downloaded, digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            downloaded.replace(target)
            return


def _check(jar: Path, digest: str) -> None:
    found = _sha256(jar)
    if found != digest:
        raise ServerError(
            f"{jar.name} is not the file that {LOCK.name} lists: its sha256 is {found}, {digest} is expected.\n"
            f"Remove {jar} and try again; if it happens again, the place that you download from has another file."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve() -> Iterable[tuple[str, str]]:
    """Resolve Kafka's dependencies, and yield the digest and the path of every jar."""
    root = cache() / "maven"
    context = _context(root)
    kafka, dependencies = context.resolver.resolve([context.create_dependency(KAFKA)])
    # The binding apart, and alone: resolved together, jgo lets log4j's dependency management choose Kafka's versions.
    version = next(dependency.version for dependency in dependencies if dependency.artifactId == "log4j-core")
    binding = context.create_dependency(f"{LOG4J}:{version}")
    for dependency in [*kafka, *dependencies, binding]:
        path = dependency.artifact.resolve()
        yield _sha256(path), path.relative_to(root).as_posix()


if __name__ == "__main__":
    LOCK.write_text("".join(f"{digest}  {path}\n" for digest, path in resolve()))
    echo(f"wrote {LOCK}")
