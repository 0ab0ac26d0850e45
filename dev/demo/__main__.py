"""`python -m dev.demo`: the kill test, to be watched. Exit code 0 only if the balance sheet balances."""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from dev.balance import Sheet
from dev.compose import ComposeSystem
from dev.demo import chaos, market
from dev.demo.chaos import Blow, Chaos, Struck
from dev.demo.flow import flow
from dev.demo.load import Load
from dev.demo.observer import Observer
from dev.demo.picture import svg
from dev.demo.report import report
from dev.demo.running import BESIDE, RunningBalance, so_far
from dev.demo.show import Show
from dev.demo.stage import Stage, failing, victims
from dev.demo.stranger import Stranger, told
from dev.servers import ServerError, running
from dev.supervisor import GaveUp
from dev.system import BANK, NotReadyError, Shape, System

PROBLEMS_SHOWN = 10
EXIT_NOT_RUN = 2
PROJECT = "exactly-once-demo"
# A killed server takes some ten seconds to be there again, the broker more: its former session has to end first.
OUTAGE_SECONDS = 20.0
EXIT_INTERRUPTED = 130  # as a shell reports it


@dataclass(frozen=True)
class Options:
    """The command line's options."""

    orders: int
    seconds: float
    kills: int
    freezes: int
    seed: int
    compose: bool
    hostile: bool
    picture: Path | None


def main() -> int:
    """Run the demo."""
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):  # every block is left in order; a shell may have us ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    logs = Path(tempfile.mkdtemp(prefix="exactly-once-demo-"))
    keep = True
    with Show() as show:
        try:
            sheet, load = _run(options, show, logs)
            keep = not sheet.balanced or bool(load.problems)
            if options.picture is not None:
                options.picture.write_text(svg(show.lines, show.results))
        except KeyboardInterrupt:
            keep = False
            show.echo("Stopped; everything that was started is gone")
            return EXIT_INTERRUPTED
        except (ServerError, NotReadyError, GaveUp) as error:
            show.console.print(str(error), style="red", markup=False, soft_wrap=True)
            return EXIT_NOT_RUN
        finally:
            if keep:
                show.echo(f"The logs of all processes are in {logs}")
            else:
                shutil.rmtree(logs, ignore_errors=True)
    return int(keep)


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m dev.demo", description=__doc__)
    parser.add_argument("--orders", type=int, default=2_000, help="orders to place (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="time to place them in (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="processes to kill meanwhile (default: %(default)s)")
    parser.add_argument("--freezes", type=int, default=3, help="workers to freeze meanwhile (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="repeats orders, victims and moments of an earlier run")
    parser.add_argument("--compose", action="store_true", help="in docker compose; kills a broker and the database too")
    parser.add_argument("--hostile", action="store_true", help="with a malicious producer on every topic")
    parser.add_argument("--picture", type=Path, default=None, help="draw what is shown into this file, as SVG")
    given = parser.parse_args()
    if given.hostile and given.compose:
        parser.error("the malicious producer is not part of the demo in docker compose")
    if min(given.orders, given.seconds) <= 0 or min(given.kills, given.freezes) < 0:
        parser.error("orders and seconds must be positive; kills and freezes cannot be negative")
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    return Options(**{**vars(given), "seed": seed})


def _run(options: Options, show: Show, logs: Path) -> tuple[Sheet, Load]:
    """Start everything, inject the faults, and balance the books."""
    show.echo(
        f"{options.orders:,} orders in {options.seconds:.0f} s, {options.kills} kills, {options.freezes} freezes; "
        f"repeat it with SEED={options.seed}"
    )
    with ExitStack() as stack:
        system = _start(options, show, logs, stack)
        workers, apis = victims(system)
        show.echo(f"{len(workers) + len(apis)} processes of {len(apis)} services are ready, and the bank")
        load = Load(system.url, market.plan("demo", options.seed, options.orders, options.seconds), system.headers)
        observer = stack.enter_context(Observer(system.bootstrap, system.services))
        strikes = Chaos(system, _blows(options, system), lambda struck: show.echo(_told(struck)))
        balance = RunningBalance(logs / BESIDE, system.dsn, load.book, observer, lambda: so_far(strikes.struck))
        if not options.compose:  # nobody there would see it
            stack.enter_context(balance)
        show.progress("customers fill the shelves and pay in")
        load.open()
        stranger = Stranger(system.bootstrap, [f"{service}.events" for service in system.services], options.seed)
        if options.hostile:
            stack.enter_context(stranger)
        flow(system, load, strikes, observer, show)
        if options.hostile:
            stranger.stop()
            load.book.strangers = stranger.counts.total() - stranger.counts["aborted"]
            show.echo(f"A malicious producer wrote {told(stranger.counts)}")
        show.echo("All orders are placed; everything drains")
        sheet = replace(system.balance(), report=show.progress).sheet(load.book)
        load.book.write(logs / "book.jsonl")
        (logs / "sheet.json").write_text(json.dumps(sheet.as_dict(), indent=2))
        for error in (observer.error, stranger.error):
            if error is not None:
                raise error
        show.print("")
        show.print(sheet.render())
        show.print("")
        show.print(report(load, strikes.struck, observer, system))
        for problem in load.problems[:PROBLEMS_SHOWN]:
            show.console.print(f"unexpected: {problem}", style="red", markup=False)
        if not options.compose:
            balance.end(sheet)
        show.progress("stopping")
    return sheet, load


def _start(options: Options, show: Show, logs: Path, stack: ExitStack) -> Stage:
    if options.compose:
        return stack.enter_context(ComposeSystem(PROJECT, bank=failing(options.seed), logs=logs, report=show.echo))
    servers = stack.enter_context(running(report=show.echo))
    settings = {"CONSOLE_BESIDE": str(logs / BESIDE)}
    if options.hostile:
        settings["DEAD_LETTERS_PER_MINUTE_MAX"] = "1000000"
    shape = Shape(settings=settings, bank=failing(options.seed), console=True)
    system = stack.enter_context(System(servers, shape, logs=logs, report=show.echo))
    show.echo(f"Watch it at {system.console}")
    return system


def _blows(options: Options, system: Stage) -> tuple[Blow, ...]:
    workers, apis = victims(system)
    blows = chaos.plan(options.seed, options.seconds, workers, apis, kills=options.kills, freezes=options.freezes)
    blows = (*blows, chaos.outage(options.seed, options.seconds, BANK))
    if options.compose:
        # Each in its own third, so that one is there again when the other goes.
        outages = (
            Blow(options.seconds / 4, "kill postgres", "", OUTAGE_SECONDS),
            Blow(options.seconds * 5 / 8, "kill kafka", "", OUTAGE_SECONDS),
        )
        blows = (*blows, *outages)
    return tuple(sorted(blows, key=lambda blow: blow.moment))


def _told(struck: Struck) -> str:
    blow = struck.blow
    if not struck.hit:
        return f"[dim]{blow.victim} was to be struck, and was not running just then[/dim]"
    if blow.kind == "bank":
        return f"[cyan]froze[/cyan]   the bank for {blow.seconds:.0f} s"
    if blow.kind == "freeze":
        return f"[cyan]froze[/cyan]   {blow.victim} for {blow.seconds:.0f} s"
    return f"[red]killed[/red]  {blow.victim or blow.kind.removeprefix('kill ')}"


sys.exit(main())
