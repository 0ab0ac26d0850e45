"""What a worker knows of pauses is what PostgreSQL was asked for last, whoever asked."""

from shared.worker.paused import Paused


def test_the_answer_to_the_latest_question_counts() -> None:
    paused = Paused()
    assert paused.topics == frozenset()
    paused.note({"orders"}, asked=2.0)
    paused.note((), asked=1.0)  # the observer asked before, and heard later
    assert paused.topics == {"orders"}
    paused.note((), asked=3.0)
    assert paused.topics == frozenset()
