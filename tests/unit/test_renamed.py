"""An old name of a setting, an option or a make variable is refused; the message has the new one."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared import command, renamed
from shared.errors import Misconfigured
from shared.settings import Settings, load

pytestmark = pytest.mark.usefixtures("bare_environment")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("old", renamed.SETTINGS)
@pytest.mark.parametrize("in_file", [False, True], ids=["environment", ".env"])
def test_an_old_setting_is_refused_with_its_new_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, in_file: bool
) -> None:
    if in_file:
        (tmp_path / ".env").write_text(f"{old}=1\n")
    else:
        monkeypatch.setenv(old, "1")
    with pytest.raises(Misconfigured, match=f"{old} is now called {renamed.SETTINGS[old]}$"):
        load()


@pytest.mark.parametrize("misspelt", ["GRACE_SECOND", "GRACE_SECODNS"])
def test_a_misspelt_old_setting_is_refused_with_the_new_name(monkeypatch: pytest.MonkeyPatch, misspelt: str) -> None:
    monkeypatch.setenv(misspelt, "1")
    with pytest.raises(Misconfigured, match=f"{misspelt}: there is no such setting; .* SHUTDOWN_GRACE_SECONDS"):
        load()


def test_every_new_name_is_a_setting_and_no_old_one_is() -> None:
    names = {name.upper() for name in Settings.model_fields}
    assert set(renamed.SETTINGS.values()) <= names
    assert not renamed.SETTINGS.keys() & names


def test_a_setting_that_a_service_gave_an_old_name_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Settings):
        grace_seconds: float = 0.0

    monkeypatch.setenv("GRACE_SECONDS", "3")
    assert load(Own).grace_seconds == 3.0


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("topics --heard", "--heard is now called --consumed"),
        ("positions adopt --source lane-0", "--source is now called --target"),
        ("positions set-aside --source=t[0] --reason x", "--source is now called --target"),
        ("decisions list --source lane-0", "--source is now called --target"),
        ("dead-letters list --source x", "unrecognized arguments: --source x"),
        ("lanes drain --heard", "unrecognized arguments: --heard"),
    ],
)
def test_an_old_option_is_refused_with_its_new_name(
    capsys: pytest.CaptureFixture[str], line: str, refusal: str
) -> None:
    class Container:
        def service(self) -> object:
            return type("Service", (), {"name": "order"})

    with pytest.raises(SystemExit) as end:
        command.run(Container(), line.split())
    assert end.value.code == 2
    assert refusal in capsys.readouterr().err


def test_the_command_that_makes_a_service_refuses_its_old_option() -> None:
    words = [sys.executable, "-m", "dev.service", "new", "shipping", "--from", "inventory", "--hears", "StockReserved"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--hears is now called --consumes" in done.stderr


def test_make_refuses_its_old_variable() -> None:
    words = ["make", "--dry-run", "service", "NAME=shipping", "FROM=inventory", "HEARS=StockReserved"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "HEARS is now called CONSUMES" in done.stderr
