"""The example for Kubernetes has all settings and gives each process the time that it needs.

`make check-manifests` asks whether Kubernetes would take it.
"""

import re
from pathlib import Path

import pytest

from shared.settings import Settings

MANIFEST = (Path(__file__).parents[3] / "docs" / "kubernetes.yaml").read_text()
FIELDS = Settings.model_fields


def value(name: str) -> str:
    """Return a value of the config map."""
    (found,) = re.findall(rf'^  {name}: "?([^"\n]*?)"?(?: #.*)?$', MANIFEST, re.MULTILINE)
    return str(found)


def document(kind: str, name: str) -> str:
    (found,) = (part for part in MANIFEST.split("\n---\n") if f"kind: {kind}\n" in part and f"  name: {name}\n" in part)
    return found


def mounted(text: str) -> list[str]:
    """Return the secrets that pods get."""
    return re.findall(r"secret: \{(?:name|secretName): ([\w-]+)", text)


def test_every_variable_is_a_setting() -> None:
    names = re.findall(r"^ +([A-Z][A-Z_]+):|\{name: ([A-Z][A-Z_]+),", MANIFEST, re.MULTILINE)
    names = [name for pair in names for name in pair if name]
    assert len(names) > 10
    assert [name for name in names if name.removesuffix("_FILE").lower() not in FIELDS] == []


def test_no_secret_is_in_it() -> None:
    secrets = [name.upper() for name, field in FIELDS.items() if field.annotation.__name__ == "SecretStr"]  # type: ignore[union-attr]
    assert secrets
    assert [name for name in secrets if re.search(rf"\b{name}\b", MANIFEST)] == []


@pytest.mark.parametrize(
    ("kind", "name", "secrets"),
    [
        ("Deployment", "order-worker", {"order-database", "order-kafka"}),
        ("Deployment", "order-api", {"order-database", "order-api"}),
        ("Deployment", "order-operator", {"order-database", "order-operator"}),
        ("Job", "order-prepare", {"order-database", "order-operator", "order-migration"}),
        ("Job", "order-finish", {"order-database", "order-migration"}),
    ],
)
def test_a_pod_gets_no_more_secrets_than_it_uses(kind: str, name: str, secrets: set[str]) -> None:
    assert set(mounted(document(kind, name))) == secrets


def test_every_secret_is_made() -> None:
    made = re.findall(r"^#   kubectl create secret generic ([\w-]+) ", MANIFEST, re.MULTILINE)
    assert sorted(made) == sorted(set(mounted(MANIFEST)))


def test_a_rollout_has_one_worker_more_than_slots_and_it_stands_by() -> None:
    worker = document("Deployment", "order-worker")
    assert f"replicas: {value('WORKER_SLOTS')}\n" in worker
    assert "{maxSurge: 1, maxUnavailable: 0}" in worker


def test_each_process_may_finish_what_it_has_begun() -> None:
    grace = float(value("SHUTDOWN_GRACE_SECONDS"))
    assert grace == FIELDS["shutdown_grace_seconds"].default
    for name, before in (("order-worker", 0), ("order-api", 5)):
        (seconds,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", document("Deployment", name))
        assert int(seconds) >= before + grace + 5


def test_the_page_tells_of_every_object() -> None:
    page = (Path(__file__).parents[3] / "docs" / "deploying.md").read_text()
    kinds = set(re.findall(r"^kind: (\w+)$", MANIFEST, re.MULTILINE))
    assert [kind for kind in kinds if kind not in page] == []
