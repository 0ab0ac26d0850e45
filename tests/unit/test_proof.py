"""The published report says what the ledger says."""

from tests.faults import proof


def test_the_page_shows_the_figures_of_the_ledger() -> None:
    page = proof.REPORT.read_text()
    assert f"{proof.BEGIN}{proof.figures(proof.read())}\n{proof.END}" in page


def test_no_storm_of_the_present_protocol_had_an_anomaly_and_the_page_tells_of_every_earlier_one() -> None:
    lines, page = proof.read(), proof.REPORT.read_text()
    for line in [line for line in lines if line["anomalies"]]:
        assert line["protocol"] != lines[-1]["protocol"], line["anomalies"]
        assert f"*{line['scenario']}* with SEED={line['seed']}" in page


def test_the_published_proof_is_one_of_the_present_code() -> None:
    """Another commit of the protocol needs another publication: `make faults PUBLISH=1`."""
    assert proof.read()[-1]["protocol"] == proof.protocol()
