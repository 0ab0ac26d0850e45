"""The published report says what the ledger says."""

from tests.faults import proof


def test_the_page_shows_the_figures_of_the_ledger() -> None:
    page = proof.REPORT.read_text()
    assert f"{proof.BEGIN}{proof.figures(proof.read())}\n{proof.END}" in page


def test_no_published_storm_had_an_anomaly() -> None:
    assert [line for line in proof.read() if line["anomalies"]] == []


def test_the_published_proof_is_one_of_the_present_code() -> None:
    """Another commit of the protocol needs another publication: `make faults PUBLISH=1`."""
    assert proof.read()[-1]["protocol"] == proof.protocol()
