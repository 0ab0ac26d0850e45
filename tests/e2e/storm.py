"""One run of the whole system: customers order while faults strike, then the books are balanced."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from dev.balance import Sheet
from dev.demo import chaos, market
from dev.demo.chaos import Blow, Chaos, Struck
from dev.demo.flow import flow
from dev.demo.load import Load
from dev.demo.observer import Observer
from dev.demo.show import Show
from dev.demo.stage import failing, victims
from dev.servers import Servers, running
from dev.system import BANK, Shape, System


@dataclass(frozen=True)
class Run:
    """A run's outcome."""

    sheet: Sheet
    load: Load
    struck: tuple[Struck, ...]

    def hits(self, kind: str) -> int:
        """Return how many blows of a kind hit."""
        return sum(struck.hit for struck in self.struck if struck.blow.kind == kind)

    def failing(self) -> set[str]:
        """The rows of the sheet that do not balance."""
        return {row.what for row in self.sheet.rows if not row.ok}


@dataclass(frozen=True)
class Window:
    """A part of the run with blows of its own. Freezes overlap only within one window."""

    seconds: float
    kills: int
    freezes: int = 0


def windows(seed: int, parts: Iterable[Window], workers: list[str], apis: list[str]) -> list[Blow]:
    """Plan the blows of all windows, one after the other."""
    blows: list[Blow] = []
    began = 0.0
    for number, part in enumerate(parts):
        planned = chaos.plan(seed + number, part.seconds, workers, apis, kills=part.kills, freezes=part.freezes)
        blows += [replace(blow, moment=blow.moment + began) for blow in planned]
        began += part.seconds
    return blows


def run(
    seed: int,
    orders: int,
    parts: list[Window],
    *,
    servers_struck: tuple[Blow, ...] = (),
    shape: Shape | None = None,
    drain_seconds: float = 240.0,
) -> Run:
    """Start servers and services, play the run, and make the sheet."""
    seconds = sum(part.seconds for part in parts)
    with ExitStack() as stack:
        show = stack.enter_context(Show())
        servers: Servers = stack.enter_context(running(report=show.echo))
        shape = replace(shape or Shape(), bank=failing(seed))
        system = stack.enter_context(System(servers, shape, report=show.echo))
        load = Load(system.url, market.plan("e2e", seed, orders, seconds))
        load.open()
        observer = stack.enter_context(Observer(system.bootstrap, system.services))
        blows = [*windows(seed, parts, *victims(system)), chaos.outage(seed, seconds, BANK), *servers_struck]
        blows.sort(key=lambda blow: blow.moment)
        strikes = Chaos(
            system, blows, lambda struck: show.echo(f"{struck.blow.kind} {struck.blow.victim} {struck.hit}")
        )
        flow(system, load, strikes, observer, show)
        sheet = replace(system.balance(), drain_seconds=drain_seconds, report=show.progress).sheet(load.book)
        show.print(sheet.render())
        return Run(sheet, load, tuple(strikes.struck))


def sabotaged(name: str) -> Mapping[str, str]:
    """Return the environment of workers that break the guarantee; see `tests.e2e.sabotaged`."""
    return {"SABOTAGE": name}
