"""What is said of an input that cannot be read on, and how long it is left alone."""

import pytest
from confluent_kafka import KafkaError

from shared.batch_header import Header
from shared.ports import Input
from shared.unreadable import AGAIN_SECONDS, CODES, Unreadable

SOURCE = Input("asked", 1)


class Clock:
    """Stands still until a test moves it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("code", CODES)
def test_it_names_the_batch_and_the_command_that_passes_over_it(code: int) -> None:
    made = Unreadable("tally", lambda _source, _offset: Header(17, 21, 1_012, "zstd"))
    words = made.note(SOURCE, 18, KafkaError(code))
    assert words.startswith("asked[1] cannot be read from offset 18 on: its batch goes from 17 to 21, 1012 bytes, zstd")
    assert words.endswith("positions skip --source 'asked[1]' --to 22`")
    assert made.words() == words


def test_nobody_need_tell_how_far_it_goes() -> None:
    def look(_source: Input, _offset: int) -> Header:
        raise TimeoutError("no answer")

    words = Unreadable("tally", look).note(SOURCE, 18, KafkaError(KafkaError._BAD_COMPRESSION))
    assert "is not known (TimeoutError: no answer)" in words
    assert "--to OFFSET" in words


def test_it_is_left_alone_for_a_while_and_forgotten_with_its_owner() -> None:
    clock = Clock()
    made = Unreadable("tally", lambda _source, _offset: None, clock)
    made.note(SOURCE, 18, KafkaError(KafkaError._BAD_COMPRESSION))
    assert (made.held({SOURCE}), made.due(), SOURCE in made) == ({SOURCE}, None, True)
    clock.now = AGAIN_SECONDS
    assert (made.due(), made.due(), made.held({SOURCE}), made.words()) == (SOURCE, None, set(), "")
    made.note(SOURCE, 18, KafkaError(KafkaError._BAD_COMPRESSION))
    assert (made.held(()), SOURCE in made) == (set(), False)
