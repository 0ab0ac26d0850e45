"""In a copy of this tree, a service of `make service` works at once; `make service-remove` leaves no trace."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.servers import ServerError, background, service_names
from dev.service import __main__ as program
from dev.service import copying
from dev.service.__main__ import prepare
from dev.service.copying import Misconfigured, consumed
from dev.service.entries import compose_port
from dev.service.names import LENGTH_MAX, Spellings, WrongName, spellings
from tests.dev.tree import ROOT, Tree

LONG = "a_service_whose_name_is_as_long_as_it_ma"
assert len(LONG) == LENGTH_MAX
SHORT = "mayfly"  # a name that no user's service has


@pytest.mark.parametrize(
    "spelled",
    [
        "shipping: shipping, Shipping, SHIPPING, shipping",
        "goods_return: goods return, GoodsReturn, GOODS_RETURN, goods-return",
        "orders: orders, Orders, ORDERS, orders",
        "vat2: vat2, Vat2, VAT2, vat2",
    ],
)
def test_a_name_is_spelled_as_each_place_wants_it(spelled: str) -> None:
    name, _, expected = spelled.partition(": ")
    found = Spellings(name)
    assert ", ".join((found.words, found.title, found.screaming, found.path)) == expected


@pytest.mark.parametrize("given", ["goods_return", "goods-return", "Goods-Return", " goods_return "])
def test_a_name_may_be_given_in_other_spellings(given: str) -> None:
    assert spellings(given, ()).snake == "goods_return"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("", "begins with a letter"),
        ("2fast", "begins with a letter"),
        ("_hidden", "begins with a letter"),
        ("goods__return", "single underscores"),
        ("goods_", "single underscores"),
        ("goods return", "letters, digits"),
        ("goods.return", "letters, digits"),
        ("../evil", "letters, digits"),
        ("größe", "letters, digits"),
        ("a" * (LENGTH_MAX + 1), "do not fit PostgreSQL"),
        ("class", "keyword"),
        ("inventory", "there is a service"),
        ("shared", "has a meaning"),
        ("tests", "has a meaning"),
        ("skeleton", "has a meaning"),
        ("logging", "standard library"),
        ("json", "standard library"),
        ("postgres", "PostgreSQL keeps"),
        ("pg_lake", "PostgreSQL keeps"),
        ("exactly_once_outbox", "library's own tables"),
        ("user", "reserved word of PostgreSQL"),
        ("none", "two things"),
        ("event", "two things"),
        ("session", "two things"),
        ("kafka", "docker compose has a KAFKA_PORT"),
        ("grafana", "docker compose has a GRAFANA_PORT"),
        ("brokers", "docker compose has a container"),
        ("cluster", "docker compose has a container, a profile"),
        ("observe", "docker compose has a container, a profile"),
        ("worker", "WORKER_SLOTS is a setting"),
        ("base", "two things"),
        ("http", "standard library"),
        ("metrics", "METRICS_PORT is a setting of every service"),
        ("partitions", "PARTITIONS is a setting of every service"),
        ("shutdown", "SHUTDOWN_GRACE_SECONDS is a setting"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_a_reason(given: str, why: str) -> None:
    with pytest.raises(WrongName, match=why):
        spellings(given, ("inventory", "order"))


@pytest.mark.parametrize("name", ["attempt", "decision", "lane", "position", "topic"])
def test_a_service_may_be_called_as_a_table_of_the_library_was(name: str) -> None:
    assert spellings(name, ()).snake == name


def test_the_first_event_that_a_service_publishes_is_consumed_unless_another_is_named() -> None:
    (service, *_) = service_names()
    publishes = [event.__name__ for event in copying.declared(service).publishes]
    assert consumed(service).event == publishes[0]
    assert consumed(service, publishes[-1]).event == publishes[-1]
    with pytest.raises(Misconfigured, match="does not publish Nothing; it publishes"):
        consumed(service, "Nothing")
    with pytest.raises(Misconfigured, match="no service is called 'nobody'"):
        consumed("nobody")


def test_nothing_is_left_of_files_that_could_not_all_be_written(tmp_path: Path) -> None:
    (tmp_path / "migrations").write_text("in the way")
    made = {Path("services/new/api.py"): "", Path("migrations/new/0001_pre_tables.py"): ""}
    with pytest.raises(OSError, match="migrations"):
        copying.write(made, tmp_path)
    assert [path.name for path in (tmp_path / "services").iterdir()] == []


def test_servers_that_run_get_what_the_new_service_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared: list[Path] = []
    monkeypatch.setattr(background, "up", lambda root, *_: prepared.append(root))
    monkeypatch.setattr(background, "is_up", lambda _: False)
    prepare()
    assert prepared == []

    monkeypatch.setattr(background, "is_up", lambda _: True)
    prepare()
    assert prepared == [ROOT]

    def fail(*_: object) -> None:
        raise ServerError("no disk")

    monkeypatch.setattr(background, "up", fail)
    prepare()
    assert "Run `make servers` again: no disk" in capsys.readouterr().out


def test_a_service_that_is_made_gets_what_it_needs_from_servers_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr("sys.argv", ["dev.service", "new", SHORT, "--from", "order"])
    monkeypatch.setattr(copying, "new", lambda *_: (Spellings(SHORT), copying.Consumed()))
    monkeypatch.setattr(program, "_tell", lambda *_: done.append("told"))
    monkeypatch.setattr(program, "prepare", lambda: done.append("prepared"))
    assert program.main() == 0
    assert done == ["told", "prepared"]


def test_it_is_started_at_the_port_that_make_servers_names(capsys: pytest.CaptureFixture[str]) -> None:
    """No other service's, which may be up."""
    program._tell(Spellings(SHORT), copying.Consumed())
    assert f"HTTP_PORT={compose_port(SHORT)} " in capsys.readouterr().out


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """A copy with two new services, one of them with the longest name."""
    tree = Tree(tmp_path_factory.mktemp("copy") / "tree")
    (source, *_) = service_names()
    tree.make("service", f"NAME={SHORT}", f"FROM={source}")
    tree.make("service", f"NAME={LONG.replace('_', '-')}", f"FROM={SHORT}")
    yield tree
    tree.make("service-remove", f"NAME={LONG}")
    tree.make("service-remove", f"NAME={SHORT}")
    assert tree.status() == ""


@pytest.mark.proof
@pytest.mark.timeout(1_200)
def test_new_services_pass_every_check(tree: Tree) -> None:
    tree.make("check")


@pytest.mark.proof
@pytest.mark.timeout(1_200)
def test_new_services_pass_their_tests_and_are_found_by_those_of_all(tree: Tree) -> None:
    """They answer requests once, and kill workers at three calls; the books balance."""
    told = tree.pytest("tests/unit/services", "tests/unit/test_container.py", "tests/unit/test_imports.py", "-vv")
    for name in (SHORT, LONG):
        for found in (f"test_{name}.py", f"alike[{name}-container.py]", f"is_built[{name}]", f"no_migrations[{name}]"):
            assert found in told
    told = tree.pytest(
        f"tests/integration/test_{SHORT}.py",
        f"tests/integration/test_{LONG}.py",
        "tests/integration/test_migrations.py",
        "-vv",
    )
    for name in (SHORT, LONG):
        # Each line of a result; the slowest are named once more at the end.
        killed = rf"test_{name}\.py::test_a_worker_is_killed_and_the_books_balance\[\S+\] PASSED"
        assert len(re.findall(killed, told)) == 3
        assert f"schema_is_that_of_the_models[{name}]" in told


@pytest.mark.proof
@pytest.mark.timeout(1_200)
def test_a_service_that_is_consumed_is_not_removed(tree: Tree) -> None:
    before = tree.status()
    told = tree.make("service-remove", f"NAME={SHORT}", fails=True)
    assert f"{LONG} consumes MayflyNoted of {SHORT}" in told
    assert tree.status() == before


@pytest.mark.proof
@pytest.mark.timeout(1_200)
def test_a_service_that_was_changed_is_not_removed_before_git_has_it(tree: Tree) -> None:
    file = tree.root / "services" / LONG / "handlers.py"
    made = file.read_text()
    file.write_text(made + "\n# a thought\n")
    told = tree.make("service-remove", f"NAME={LONG}", fails=True)
    assert f"has changes that are not in git: services/{LONG}/handlers.py." in told
    assert file.exists()
    file.write_text(made)


@pytest.mark.proof
def test_a_service_is_not_made_twice(tree: Tree) -> None:
    before = tree.status()
    for name, why in ((SHORT, "there is a service with this name"), ("class", "keyword")):
        told = tree.make("service", f"NAME={name}", f"FROM={SHORT}", fails=True)
        assert f"Nothing was changed. '{name}'" in told
        assert why in told
    assert tree.status() == before
