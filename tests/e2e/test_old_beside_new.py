"""An upgrade in the order of docs/upgrading.md, in a storm, from the version before the library's tables had a prefix:
old and new processes share databases and groups while they are killed, and the books balance.
"""

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from dev.demo import chaos, market
from dev.demo.chaos import Chaos
from dev.demo.flow import Background, flow
from dev.demo.load import Load
from dev.demo.observer import Observer
from dev.demo.show import Show
from dev.program import Program
from dev.servers import running
from dev.system import System
from shared import renamed
from tests.dev.tree import ROOT

pytestmark = pytest.mark.proof

SECONDS = 75.0
ORDERS = 1_000


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree before `r0004`, from the history of git."""
    root = tmp_path_factory.mktemp("old") / "tree"
    log = ["git", "log", "--diff-filter=A", "--format=%H", "--", "*/r0004.py"]
    found = subprocess.run(log, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    root.mkdir()
    archive = ["git", "archive", "--output", str(root.parent / "tree.tar"), f"{found[-1]}~1"] if found else ["false"]
    if subprocess.run(archive, cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("this clone has no history before r0004")
    subprocess.run(["tar", "-xf", root.parent / "tree.tar", "-C", root], check=True)
    assert not list(root.rglob("r0004.py"))
    return root


class Upgraded(System):
    """A system made by the old version, then upgraded service by service."""

    old: Path

    def _prepare(self) -> None:
        self._new: set[str] = set()
        super()._prepare()

    def _run(self, service: str, command: str) -> None:
        super()._run(service, command if service in self._new else command.replace("--consumed", "--heard"))

    def _environment(self, service: str) -> dict[str, str]:
        present = super()._environment(service)
        return present if service in self._new else self._before(present)

    def _before(self, present: dict[str, str]) -> dict[str, str]:
        names = {new: before for before, new in renamed.SETTINGS.items()}
        return {names.get(name, name): value for name, value in present.items()} | {"PYTHONPATH": str(self.old)}

    def callers(self, service: str) -> tuple[str, ...]:
        """The old version has none."""
        return super().callers(service) if service in self._new else ()

    def migrate(self, service: str, words: str) -> None:
        """Migrate by the new version, beside all that runs."""
        self._new.add(service)
        self._run(service, f"migrate{words}")
        self._run(service, "topics")

    def replace(self, name: str, service: str, command: str, port_variable: str) -> None:
        """Stop a process of the old version, and start one of the new in its place."""
        self.supervisor.stop(name)
        port = str(self._ports[name])
        words = (sys.executable, "-m", f"services.{service}", command)
        self.supervisor.start(Program(name, words, self._environment(service) | {port_variable: port}, self.logs))


def deployment(system: Upgraded, report: Callable[[str], None]) -> None:
    """Carry out the steps of the page for all services, side by side at each step."""
    for service in system.services:
        system.migrate(service, " --before-rollout")
        report(f"{service}: schema upgraded beside old processes")
        for caller in system.callers(service):
            system._start(caller, service, "caller", "METRICS_PORT")
    # The old version does not know the states in which a payment waits for the bank: none of its workers meets them.
    system.supervisor.stop(*system.workers("payment"))
    for turn in range(2):  # half of the workers first, then a while of both versions together
        for service in system.services:
            name = system.workers(service)[turn]
            system.replace(name, service, "worker", "METRICS_PORT")
            report(f"{name} is new")
    for service in system.services:
        system.replace(system.api(service), service, "api", "HTTP_PORT")
        report(f"{system.api(service)} is new")
    for service in system.services:
        system.migrate(service, "")
        report(f"{service}: old names dropped")


@pytest.mark.timeout(900)
def test_an_upgrade_in_a_storm_loses_nothing_and_repeats_nothing(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Upgraded, "old", old, raising=False)
    with ExitStack() as stack:
        show = stack.enter_context(Show())
        servers = stack.enter_context(running(report=show.echo))
        system = stack.enter_context(Upgraded(servers, report=show.echo, logs=tmp_path))
        load = Load(system.url, market.plan("upgrade", 11, ORDERS, SECONDS))
        load.open()
        observer = stack.enter_context(Observer(system.bootstrap, system.services))
        workers = [worker for service in system.services for worker in system.workers(service)]
        blows = chaos.plan(11, SECONDS, workers, [], kills=16, freezes=2)
        strikes = Chaos(system, blows, lambda struck: show.echo(f"{struck.blow.kind} {struck.blow.victim}"))
        upgrade = Background(lambda: deployment(system, show.echo), "deployment")
        flow(system, load, strikes, observer, show)
        assert upgrade.done(300), "the deployment has ended"
        # What the old version captured, no bank has booked.
        balance = replace(system.balance(), bank=None, drain_seconds=240.0, report=show.progress)
        sheet = balance.sheet(load.book)
        show.print(sheet.render())

        assert {row.what for row in sheet.rows if not row.ok} == set()
        assert load.problems == []
        assert sum(struck.hit for struck in strikes.struck) >= 10
