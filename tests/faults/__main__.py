"""`python -m tests.faults`: break a real system again and again, and see whether the books balance.

It exits with 0 only if no run showed an anomaly. Scenario and seed repeat a run, but the moments are those of a real
machine, so the outcome may differ.
"""

import argparse
import random
import sys

from tests.faults import proof
from tests.faults.arenas import play_all
from tests.faults.outcome import Outcome
from tests.faults.scenarios import SCENARIOS


def main() -> int:
    """Play what the command line says."""
    options = _options()
    chosen = [s for s in SCENARIOS if not options.scenario or s.name in options.scenario]
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"{len(chosen)} scenarios, {options.runs} runs of each; repeat it with SEED={seed}", flush=True)

    def report(outcome: Outcome) -> None:
        _show(outcome)
        if options.publish:
            proof.note(outcome)  # at once: a run that is interrupted has shown something too
            proof.write()

    outcomes = play_all(chosen, range(seed, seed + options.runs), report)
    if options.publish:
        print(f"Written to {proof.LEDGER.name} and {proof.REPORT.name}")
    wrong = sum(bool(outcome.anomalies) for outcome in outcomes)
    runs, events = sum(o.plays for o in outcomes), sum(o.events for o in outcomes)
    print(f"{runs} runs, {events:,} events, {wrong} with anomalies")
    return int(wrong > 0)


def _show(outcome: Outcome) -> None:
    faults = ", ".join(f"{count} {fault}" for fault, count in sorted(outcome.faults.items()))
    slowest = f", slowest recovery {max(outcome.recoveries):.1f} s" if outcome.recoveries else ""
    result = "ANOMALIES" if outcome.anomalies else "ok"
    print(
        f"{result:9} {outcome.scenario} SEED={outcome.seed}: {outcome.events:,} events, {faults}{slowest}"
        f" ({outcome.seconds:.0f} s)",
        flush=True,
    )
    for anomaly in outcome.anomalies:
        print(f"          {anomaly}")
    if outcome.log:
        print(outcome.log, file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make faults", description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else ""
    )
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", nargs="*", help=f"one or more of: {', '.join(names)} (default: all)")
    parser.add_argument("--runs", type=int, default=1, help="runs of each scenario (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the first run; the next ones count up")
    parser.add_argument("--publish", action="store_true", help="add the outcomes to docs/proof.jsonl and docs/proof.md")
    given = parser.parse_args()
    if unknown := set(given.scenario or ()) - set(names):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    if given.runs < 1:
        parser.error("RUNS must be 1 or more")
    return given


sys.exit(main())
