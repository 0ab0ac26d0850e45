"""The command line of a service: `python -m services.<name> <command>`.

Long-running commands exit with the codes of sysexits.h, for their supervisors. Operator commands exit with 0 if the
work is done, 1 if not, 2 for wrong arguments, 74 if it is done but the output could not be written, and 75 if a server
was down or still starting: try again. `audit` exits with 1 for findings; if it could not compare, it uses sysexits.h.
`doctor` exits with 1 for a fault, also where that is a server that is down.
"""

import argparse
import atexit
import os
import sys
from typing import Any, NoReturn

from sqlalchemy.exc import DBAPIError

from . import renamed
from .configuration.program import program
from .container import lazily
from .errors import ExactlyOnceError, Exit, Misconfigured, SlotInDoubt, Unavailable
from .kafka import topics as kafka_topics
from .operations import output
from .postgres import database_errors
from .postgres.access import no_connection
from .postgres.transaction import unavailable
from .settings import Settings
from .telemetry import logs, metrics
from .worker import startup

EXIT_MISCONFIGURED = 78
"""EX_CONFIG of sysexits.h: fix something before the next start."""
EXIT_AGAIN = 75
"""EX_TEMPFAIL: restart me."""
EXIT_NOT_WRITTEN = 74
"""EX_IOERR: it was done, but the output could not be written."""
EXIT_INTERRUPTED = 130
"""What shells say for SIGINT."""
EXIT_NOT_DONE = 1
AGAIN = ". A server is down or still starting: try again"
AGAIN_UNLOCKED = ". Try again when that session has ended its transaction"


def api(container: Any, _arguments: argparse.Namespace) -> None:
    """Serve the HTTP API."""
    startup.check_database(container.engine(), container.service())
    lazily(".http.serving:serve", application=container.application(), settings=container.settings())


def worker(container: Any, _arguments: argparse.Namespace) -> None:
    """Consume events, and publish what the database has decided."""
    _run_process(container.settings(), container.worker())


def caller(container: Any, _arguments: argparse.Namespace) -> None:
    """Make the calls to third parties that are due."""
    try:
        process = container.caller()
    except ModuleNotFoundError as error:
        if error.name not in ("aiohttp", "yarl"):
            raise
        raise Misconfigured("a caller needs aiohttp: install the library's extra `calls`, or aiohttp itself") from error
    _run_process(container.settings(), process)


def console(container: Any, arguments: argparse.Namespace) -> None:
    """Serve the page for operators: what flows, what is wrong, and how to mend it."""
    try:
        lazily(".console.serving:serve", container=container, wanted=arguments.services)
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "itsdangerous", "jinja2", "starlette", "uvicorn"):
            raise
        raise Misconfigured(f"a console needs {error.name}: install the library's extra `console`") from error


def _run_process(settings: Settings, process: Any) -> None:
    """Run a worker or a caller, and show its health."""
    if settings.metrics_port:
        try:
            metrics.serve(settings.http_host, settings.metrics_port, process.ready)
        except (OSError, UnicodeError) as error:  # a name that is too long for DNS cannot be encoded
            reason = error.strerror if isinstance(error, OSError) else "this is not a valid host name"
            place = f"{settings.http_host[:100]}:{settings.metrics_port}"
            raise Misconfigured(f"HTTP_HOST, METRICS_PORT: cannot listen on {place}: {reason}") from error
    process.run()


def migrate(container: Any, arguments: argparse.Namespace) -> None:
    """Bring the service's database to the newest schema."""
    lazily(
        ".postgres.migrations:migrate",
        settings=container.settings(),
        service=container.service().name,
        before_rollout=arguments.before_rollout,
    )


def topics(container: Any, arguments: argparse.Namespace) -> None:
    """Create the missing topics of the service; name the owners of missing topics that it only consumes."""
    settings, service = container.settings(), container.service()
    created = kafka_topics.create_topics(settings, service, consumed=arguments.consumed)
    missing = kafka_topics.missing(settings, service)
    if created or not missing:
        output.echo(f"created {', '.join(created)}" if created else "all topics exist")
    if missing:
        output.echo(f"still missing: {', '.join(missing)}; {kafka_topics.whose(service, missing)}")


def token(_container: Any, arguments: argparse.Namespace) -> None:
    """Make a token for a caller of the API: print it, and its entry in API_TOKENS, which does not reveal it."""
    secret, entry = lazily(".http.tokens:make", name=arguments.name, scopes=arguments.scopes)
    output.echo(f"the token, for the caller: {secret}")
    output.echo(f"its entry in API_TOKENS:   {entry}")


def doctor(container: Any, arguments: argparse.Namespace) -> bool:
    """Find why the service does not work: settings, servers, rights, schema, topics, transactions."""
    return bool(lazily(".operations.doctor.doctor:doctor", container, json=arguments.json))


def parser(service: str) -> argparse.ArgumentParser:
    """Make the parser of all commands; the parsed `run` executes the command."""
    made = argparse.ArgumentParser(prog=program(service), description=f"The {service} service.")
    commands = made.add_subparsers(dest="command", required=True, metavar="command")
    for command in (api, worker, caller, console, migrate, topics, token, doctor):
        added = commands.add_parser(command.__name__, help=command.__doc__)
        added.set_defaults(run=command, operator=False)
        if command is doctor:
            added.add_argument("--json", action="store_true")
        if command is console:
            meaning = "show only this service; may be repeated; otherwise all whose packages lie beside this one"
            added.add_argument("--service", dest="services", action="append", metavar="NAME", help=meaning)
        if command is migrate:
            added.add_argument("--before-rollout", action="store_true", help="leave `post` migrations for later")
        if command is topics:
            meaning = "also create those that it consumes: only if all services are yours and have the same PARTITIONS"
            added.add_argument("--consumed", dest="consumed", action="store_true", help=meaning)
        if command is token:
            added.add_argument("name", metavar="NAME", help="the caller's name")
            added.add_argument("scopes", metavar="SCOPE", nargs="+", help="what it may do, such as orders:read")
    _add_positions(commands)
    _add_inputs(commands)
    _add_dead_letters(commands)
    _add_parked(commands)
    _add_outbox(commands)
    _add_schedule(commands)
    _add_lanes(commands)
    _add_calls(commands)
    _add_replay(commands)
    _add_decisions(commands)
    _add_story(commands)
    for added in commands.choices.values():  # an error about a missing choice names them all
        for action in added._subparsers._group_actions if added._subparsers else ():
            action.metavar = f"{{{','.join(action.choices or ())}}}"
    audited = _add(commands, "audit", ".audit.audit:audit", "compare what was to be published with what was")
    audited.add_argument("--json", action="store_true")
    audited.add_argument(
        "--all", dest="everything", action="store_true", help="name every finding, not only 20 of each kind"
    )
    audited.set_defaults(compares=True)
    return made


def _add_positions(commands: Any) -> None:
    made = commands.add_parser(
        "positions", help="what was handled and published; decide where Kafka and the database disagree"
    )
    choices = made.add_subparsers(dest="choice", required=True)
    _add(choices, "show", ".operations.status:show", "show every position and what it means").add_argument(
        "--json", action="store_true"
    )
    for choice, meaning in (
        ("adopt", "trust what Kafka shows"),
        ("rewind", "lose nothing; something may happen twice"),
        ("skip", "repeat nothing; something may be lost"),
    ):
        added = _add_decision(choices, choice, ".operations.decisions:decide", meaning)
        added.set_defaults(given={"choice": choice})
        added.add_argument(
            "--target",
            dest="sources",
            action="append",
            required=True,
            help="'<topic>[<partition>]', lane-<n>, cluster or <topic>; all: inputs or lanes; may be repeated",
        )
        where = "for inputs: the next offset to handle, or a time such as 2026-11-28T09:00Z: its first record"
        added.add_argument("--to", type=_place, metavar="WHERE", help=where)
        added.add_argument("--yes", action="store_true", help="do not ask")
    meaning = "turn the record that an input waits at into a dead letter"
    parked = _add_decision(choices, "set-aside", ".operations.parked:set_aside", meaning)
    parked.add_argument("--target", dest="source", required=True, help="'<topic>[<partition>]'")
    parked.add_argument("--offset", type=int, help="where you expect the record; --yes needs it")
    parked.add_argument("--reason", type=_reason, required=True, help="kept with the decision")
    parked.add_argument("--yes", action="store_true", help="do not ask")


def _add_inputs(commands: Any) -> None:
    made = commands.add_parser("inputs", help="the topics that the service consumes; pause one, and let it go on")
    choices = made.add_subparsers(dest="choice", required=True)
    _add(choices, "list", ".operations.inputs:show_all", "list them, and which are paused").add_argument(
        "--json", action="store_true"
    )
    paused = _add_decision(
        choices, "pause", ".operations.inputs:pause", "let its records wait; everything else goes on"
    )
    resumed = _add_decision(choices, "resume", ".operations.inputs:resume", "go on where it was paused")
    for added in (paused, resumed):
        added.add_argument("topic", metavar="TOPIC")
        meaning = "kept with the decision"
        added.add_argument("--reason", type=_reason, required=added is paused, help=meaning)


def _add_dead_letters(commands: Any) -> None:
    made = commands.add_parser("dead-letters", help="records that were set aside")
    choices = made.add_subparsers(dest="choice", required=True)
    listed = _add(choices, "list", ".operations.dead_letters:show_all", "list those that still wait")
    which = listed.add_mutually_exclusive_group()
    for state, meaning in (("redriven", "those handled again since"), ("dismissed", "those that never will be")):
        which.add_argument(f"--{state}", dest="state", action="store_const", const=state, help=meaning)
    which.add_argument("--all", dest="state", action="store_const", const=None, help="all of them")
    listed.set_defaults(state="open")
    listed.add_argument("--topic", help="only those from this topic")
    listed.add_argument("--error", help="only those set aside for an error of this name")
    listed.add_argument("--limit", dest="most", type=_natural, default=100, help="at most this many (100)")
    listed.add_argument("--json", action="store_true")
    shown = _add(choices, "show", ".operations.dead_letters:show", "show one with its headers and its value")
    shown.add_argument("number", type=_natural, metavar="ID")
    form = shown.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--value", action="store_true", help="only its value, or the newest edit, as `edit` takes it")
    driven = _add_decision(choices, "redrive", ".operations.redrive:redrive", "handle again, exactly once")
    chosen = driven.add_mutually_exclusive_group(required=True)
    chosen.add_argument("numbers", type=_natural, metavar="ID", nargs="*", default=[])
    chosen.add_argument("--all", dest="every", action="store_true", help="all that wait")
    driven.add_argument("--dismissed", action="store_true", help="also IDs that were dismissed")
    edited = _add_decision(
        choices, "edit", ".operations.editing:edit", "correct the value of one; redrive then handles that"
    )
    edited.add_argument("number", type=_natural, metavar="ID")
    edited.add_argument(
        "--value", dest="file", required=True, metavar="FILE", help="the new value; - for standard input"
    )
    edited.add_argument("--reason", type=_reason, required=True, help="kept with the decision")
    edited.add_argument("--force", action="store_true", help="also a value that this service cannot read")
    edited.add_argument("--yes", action="store_true", help="do not ask")
    gone = _add_decision(choices, "dismiss", ".operations.dismissing:dismiss", "decide that some will never be handled")
    gone.add_argument("numbers", type=_natural, metavar="ID", nargs="*", default=[])
    gone.add_argument("--topic", help="instead of ID: all that wait from this topic")
    gone.add_argument("--error", help="instead of ID: all that wait with an error of this name")
    gone.add_argument("--all", dest="every", action="store_true", help="instead of ID: all that wait")
    gone.add_argument("--reason", type=_reason, required=True, help="kept with the decision")
    gone.add_argument("--yes", action="store_true", help="do not ask")


def _add_parked(commands: Any) -> None:
    made = commands.add_parser("parked", help="keys that wait because a handler raised Retry")
    choices = made.add_subparsers(dest="choice", required=True)
    listed = _add(
        choices, "list", ".operations.parked_keys:show_all", "list the keys, the one that waits longest first"
    )
    listed.add_argument("--topic", help="only those of this topic")
    listed.add_argument("--limit", dest="most", type=_natural, default=100, help="at most this many (100)")
    listed.add_argument("--json", action="store_true")
    shown = _add(choices, "show", ".operations.parked_keys:show", "show one, its first record, and what waits behind")
    retried = _add_decision(
        choices, "retry-now", ".operations.parked_keys:retry_now", "try again now, and not when it is due"
    )
    given = _add_decision(
        choices, "give-up", ".operations.parked_keys:give_up", "make a dead letter of the first record of one"
    )
    for added in (shown, retried, given):
        target = {"dest": "source", "help": "'<topic>[<partition>]'"}
        added.add_argument("--target", required=added is not retried, **target)
        added.add_argument("--key", required=added is not retried, help="its key")
    shown.add_argument("--limit", dest="most", type=_natural, default=20, help="at most this many records (20)")
    shown.add_argument("--json", action="store_true")
    retried.add_argument("--all", dest="every", action="store_true", help="instead of --target: all")
    given.add_argument("--offset", type=int, help="where you expect its first record; --yes needs it")
    given.add_argument("--whole-key", dest="whole", action="store_true", help="all parked records of the key")
    given.add_argument("--reason", type=_reason, required=True, help="kept with the decision")
    given.add_argument("--yes", action="store_true", help="do not ask")


def _add_outbox(commands: Any) -> None:
    made = commands.add_parser("outbox", help="events that wait to be published")
    choices = made.add_subparsers(dest="choice", required=True)
    shown = _add(choices, "show", ".operations.outbox:show", "list the oldest, or show one")
    shown.add_argument("event_id", nargs="?", metavar="EVENT_ID")
    shown.add_argument("--json", action="store_true")
    moved = _add_decision(
        choices, "set-aside", ".operations.outbox:set_aside", "make a dead letter of one that Kafka refuses"
    )
    moved.add_argument("event_id", metavar="EVENT_ID")
    moved.add_argument("--yes", action="store_true", help="do not ask")


def _add_schedule(commands: Any) -> None:
    made = commands.add_parser("schedule", help="events that wait for their moment")
    choices = made.add_subparsers(dest="choice", required=True)
    listed = _add(choices, "list", ".operations.schedule:show_all", "list what is due next")
    listed.add_argument("--limit", dest="most", type=_natural, default=100, help="at most this many (100)")
    listed.add_argument("--json", action="store_true")
    shown = _add(choices, "show", ".operations.schedule:show", "show one with its event")
    shown.add_argument("name", metavar="NAME")
    shown.add_argument("--json", action="store_true")
    for choice, target, meaning in (
        ("cancel", "cancel", "cancel one: its event is never published"),
        ("run-now", "run_now", "make one due now"),
    ):
        added = _add_decision(choices, choice, f".operations.schedule:{target}", meaning)
        added.add_argument("name", metavar="NAME")
        added.add_argument("--event-id", help="only if it still is this event")
        added.add_argument("--reason", type=_reason, required=True, help="kept with the decision")
        added.add_argument("--yes", action="store_true", help="do not ask")


def _add_lanes(commands: Any) -> None:
    made = commands.add_parser("lanes", help="the shares of the outbox")
    choices = made.add_subparsers(dest="choice", required=True)
    drained = _add(choices, "drain", ".operations.lanes:drain", "wait until everything is published")
    drained.add_argument("--seconds", type=float, default=300.0, help="wait at most this long (300)")
    resized = _add_decision(choices, "resize", ".operations.lanes:resize", "change the number of lanes to PARTITIONS")
    resized.add_argument("--yes", action="store_true", help="do not ask")


def _add_calls(commands: Any) -> None:
    made = commands.add_parser("calls", help="calls to third parties that are not finished")
    choices = made.add_subparsers(dest="choice", required=True)
    listed = _add(choices, "list", ".operations.calls:show_all", "list them, the oldest first")
    listed.add_argument("--destination", help="only those to this one")
    listed.add_argument("--key", help="only those of this key")
    listed.add_argument("--stuck", action="store_true", help="only those at which the service's own code fails")
    listed.add_argument("--limit", dest="most", type=_natural, default=100, help="at most this many (100)")
    listed.add_argument("--json", action="store_true")
    shown = _add(choices, "show", ".operations.calls:show", "show one with what is asked")
    shown.add_argument("number", type=_natural, metavar="ID")
    shown.add_argument("--json", action="store_true")
    again = _add_decision(choices, "retry-now", ".operations.calls:retry_now", "ask now instead of after the pause")
    chosen = again.add_mutually_exclusive_group(required=True)
    chosen.add_argument("numbers", type=_natural, metavar="ID", nargs="*", default=[])
    chosen.add_argument("--all", dest="every", action="store_true", help="all that wait")
    gone = _add_decision(
        choices, "give-up", ".operations.calls:give_up", "publish what is published instead of an answer"
    )
    gone.add_argument("number", type=_natural, metavar="ID")
    gone.add_argument("--reason", type=_reason, required=True, help="kept with the decision")
    gone.add_argument("--publish-nothing", action="store_true", help="also if the service does not know it any more")
    gone.add_argument("--yes", action="store_true", help="do not ask")


def _add_replay(commands: Any) -> None:
    made = commands.add_parser("replay", help="feed records through the handlers once more, for a new read model")
    choices = made.add_subparsers(dest="choice", required=True)
    fed = _add(choices, "run", ".operations.replay:run", "begin a replay into a schema of its own, or go on with it")
    fed.add_argument("--into", required=True, metavar="SCHEMA", help="the schema; it is created")
    meaning = "to begin: `beginning`, a time such as 2026-11-28T09:00Z, or an offset of the one --target"
    fed.add_argument("--from", dest="since", type=_start, metavar="WHERE", help=meaning)
    meaning = "where to end: a time, or an offset of the one --target; otherwise where the workers stand"
    fed.add_argument("--until", type=_place, metavar="WHERE", help=meaning)
    meaning = "only this topic, or '<topic>[<partition>]'; may be repeated; otherwise all that the service consumes"
    fed.add_argument("--target", dest="sources", action="append", help=meaning)
    meaning = "put tables of a finished replay in the places of the live ones"
    switched = _add_decision(choices, "switch", ".operations.replay_switch:switch", meaning)
    switched.add_argument("--into", required=True, metavar="SCHEMA", help="the schema of the replay")
    switched.add_argument("--table", dest="tables", action="append", required=True, help="one; may be repeated")
    switched.add_argument("--reason", type=_reason, required=True, help="kept with the decision")
    switched.add_argument("--yes", action="store_true", help="do not ask")


def _add_decisions(commands: Any) -> None:
    made = commands.add_parser("decisions", help="what operators have decided")
    choices = made.add_subparsers(dest="choice", required=True)
    listed = _add(choices, "list", ".operations.decision_list:show", "list the newest, with the state before and after")
    listed.add_argument("--target", dest="source", help="only those about this target, such as lane-0")
    listed.add_argument("--limit", dest="most", type=_natural, default=100, help="at most this many (100)")
    listed.add_argument("--json", action="store_true")


def _add_story(commands: Any) -> None:
    meaning = "tell what is known of a key or an event, across services and topics"
    told = _add(commands, "story", ".operations.story:show", meaning)
    told.add_argument("wanted", metavar="ID", help="a key, such as the id of an order, or the id of an event")
    since = "read the topics from this time on, such as 2026-11-28T09:00Z, and not their newest records"
    told.add_argument("--since", type=_place, metavar="TIME", help=since)
    most = "look at up to this many records of a partition (100000)"
    told.add_argument("--records", type=_natural, default=100_000, metavar="NUMBER", help=most)
    every = "look for a key in all partitions: a producer that is not of this library may have put it elsewhere"
    told.add_argument("--all-partitions", dest="everywhere", action="store_true", help=every)
    told.add_argument("--values", action="store_true", help="print the beginnings of the events' JSON")
    told.add_argument("--json", action="store_true")


def _add(choices: Any, name: str, target: str, meaning: str) -> argparse.ArgumentParser:
    """Add an operator command; its parsed arguments become the keyword arguments of `target`."""
    made: argparse.ArgumentParser = choices.add_parser(name, help=meaning, description=meaning)
    made.set_defaults(run=_operate, operator=True, compares=False, target=target, given={}, by="")
    return made


def _add_decision(choices: Any, name: str, target: str, meaning: str) -> argparse.ArgumentParser:
    """Add an operator command that leaves a decision."""
    made = _add(choices, name, target, meaning)
    made.add_argument("--by", metavar="NAME", help="who decides; otherwise the user of this process")
    return made


def _natural(word: str) -> int:
    if not word.isdecimal() or not 0 < int(word) < 2**63 - 1:  # a limit is asked for with one more
        raise argparse.ArgumentTypeError(f"{word} is not a whole number of 1 or more")
    return int(word)


def _reason(word: str) -> str:
    if not word.strip():
        raise argparse.ArgumentTypeError("it is empty: say why")
    if len(word) > output.REASON_MAX:
        raise argparse.ArgumentTypeError(f"it has more than {output.REASON_MAX:,} characters")
    return word


def _place(word: str) -> Any:
    return lazily(".operations.moments:place", word)


def _start(word: str) -> Any:
    return word if word == "beginning" else _place(word)


def _operate(container: Any, arguments: argparse.Namespace) -> object:
    context = lazily(
        ".operations.maintenance:Context",
        settings=container.settings(),
        service=container.service(),
        engine=container.engine(),
        outbox=container.outbox(),
    )
    ours = ("command", "choice", "run", "operator", "compares", "target", "given", "by")
    given = {name: value for name, value in vars(arguments).items() if name not in ours} | arguments.given
    with lazily(".operations.maintenance:deciding", arguments.by):
        return lazily(arguments.target, context=context, **given)


def run(container: Any, words: list[str]) -> int:
    """Run the command that `words` name; return the exit code."""
    name = container.service().name
    known = parser(name)
    if refusal := renamed.refusal(words, _options(known, words)):
        known.error(refusal)
    arguments = parse(known, words)
    try:
        if arguments.run is not doctor:  # it tells what is wrong with the settings
            metrics.configure(container.settings(), service=name, process=arguments.command)
        done = arguments.run(container, arguments)
    except DBAPIError as error:
        return _failed(name, arguments, _meaning(error) if arguments.operator else error)
    except (Exit, ExactlyOnceError) as error:
        return _failed(name, arguments, error)
    return EXIT_NOT_DONE if done is False else 0


def parse(known: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Read the words. Ends the process for what is no text, except a parked key, which may be any bytes."""
    arguments = known.parse_args(words)
    for name, given in vars(arguments).items():
        for word in given if isinstance(given, list) else [given]:
            bytes_are_fine = arguments.command == "parked" and name == "key"
            if isinstance(word, str) and not bytes_are_fine and any("\ud800" <= c <= "\udfff" for c in word):
                known.error(f"{output.printable(word)[:200]} is not UTF-8")
    return arguments


def _options(known: argparse.ArgumentParser, words: list[str]) -> set[str]:
    """Return the options of the command that `words` name."""
    for word in words:
        for action in known._actions:
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:
                known = action.choices[word]
                break
    return set(known._option_string_actions)


def _meaning(error: DBAPIError) -> Exception:
    """Translate a database failure that the command itself did not cause."""
    if error.statement is None and getattr(error.orig, "sqlstate", None) is None:
        return no_connection(error)
    return unavailable(error) or error


def _failed(name: str, arguments: argparse.Namespace, error: Exception) -> int:
    """Report why a command failed; return its exit code."""
    typed = " ".join(filter(None, (arguments.command, vars(arguments).get("choice"))))
    detail = f"PostgreSQL: {' '.join(str(error.orig).split())}" if isinstance(error, DBAPIError) else str(error)
    if isinstance(error, Misconfigured):
        if logs.in_json() and not arguments.operator:
            logs.log_misconfigured(name, typed, detail)
        else:
            for line in f"{name} {typed}: {detail}".splitlines():  # several settings may be wrong
                output.note(line)
        return EXIT_NOT_DONE if arguments.operator and not arguments.compares else EXIT_MISCONFIGURED
    if not arguments.operator:
        metrics.log.critical("exit", error=type(error).__name__, detail=str(error))
        return EXIT_AGAIN
    passing = isinstance(error, (Unavailable, SlotInDoubt))
    again = AGAIN_UNLOCKED if f"SQLSTATE {database_errors.LOCKED}" in detail else AGAIN
    output.note(f"{name} {typed}: {detail}{again if passing else ''}")
    return EXIT_AGAIN if passing or arguments.compares else EXIT_NOT_DONE


def main(container_class: type[Any]) -> NoReturn:
    """Run the command that the arguments name, and exit: 0 done, 75 restart, 78 mend something, 130 interrupted."""
    logs.catch_all()
    try:
        code: Any = run(container_class(), sys.argv[1:])
    except SystemExit as end:  # from argparse, which has printed help or an error
        code = end.code
    except BrokenPipeError:  # the reader of the output has closed it
        code = EXIT_NOT_DONE
    except KeyboardInterrupt:  # Ctrl+C; a process that works handles that signal itself
        code = EXIT_INTERRUPTED
    output.end_quietly()
    leave(EXIT_NOT_WRITTEN if output.lost() and not code else code or 0)


def leave(code: int) -> NoReturn:
    """Exit with `code` as `sys.exit` does, but leave Python standing as the process ends.

    Daemon threads and those of librdkafka still run. One that enters Python while it is taken down may end the process
    with SIGSEGV (https://github.com/python/cpython/issues/104690): work that was done would look like a crash.
    """
    atexit.register(_end, code)
    sys.exit(code)


def _end(code: int) -> NoReturn:
    """Do what is registered for the end of the process, and end it."""
    atexit.unregister(_end)
    atexit._run_exitfuncs()
    output.end_quietly()
    os._exit(code)
