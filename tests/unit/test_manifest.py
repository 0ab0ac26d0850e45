"""The example for Kubernetes sets what there is to set, and leaves each process the time that it needs.

Whether Kubernetes would take it is asked by `make check-manifests`.
"""

import re
from pathlib import Path

from shared.settings import Settings

MANIFEST = (Path(__file__).parents[2] / "docs" / "kubernetes.yaml").read_text()
FIELDS = Settings.model_fields


def value(name: str) -> str:
    """What the config map says."""
    (found,) = re.findall(rf'^  {name}: "?([^"\n]*?)"?(?: #.*)?$', MANIFEST, re.MULTILINE)
    return str(found)


def document(kind: str, name: str) -> str:
    (found,) = (part for part in MANIFEST.split("\n---\n") if f"kind: {kind}\n" in part and f"  name: {name}\n" in part)
    return found


def test_every_variable_is_a_setting() -> None:
    names = re.findall(r"^ +(?:- name: )?([A-Z][A-Z_]+)(?::|$)", MANIFEST, re.MULTILINE)
    assert len(names) > 10
    assert [name for name in names if name.removesuffix("_FILE").lower() not in FIELDS] == []


def test_no_secret_is_in_it() -> None:
    secrets = [name.upper() for name, field in FIELDS.items() if field.annotation.__name__ == "SecretStr"]  # type: ignore[union-attr]
    assert secrets
    assert [name for name in secrets if re.search(rf"\b{name}\b", MANIFEST)] == []


def test_a_rollout_has_one_worker_more_than_slots_and_it_stands_by() -> None:
    worker = document("Deployment", "order-worker")
    assert f"replicas: {value('WORKER_SLOTS')}\n" in worker
    assert "{maxSurge: 1, maxUnavailable: 0}" in worker


def test_each_process_may_finish_what_it_has_begun() -> None:
    grace = float(value("GRACE_SECONDS"))
    assert grace == FIELDS["grace_seconds"].default
    for name, before in (("order-worker", 0), ("order-api", 5)):
        (seconds,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", document("Deployment", name))
        assert int(seconds) >= before + grace + 5


def test_the_page_tells_of_every_object() -> None:
    page = (Path(__file__).parents[2] / "docs" / "deploying.md").read_text()
    kinds = set(re.findall(r"^kind: (\w+)$", MANIFEST, re.MULTILINE))
    assert [kind for kind in kinds if kind not in page] == []
