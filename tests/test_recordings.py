from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from segue.data.examples import Utterance
from segue.data.recordings import JOINED_SECONDS, Recording, join, of


def utterance(name: str, text: str, seconds: float = 2.0, offset: float = 0.0, speaker: str | None = None) -> Utterance:
    return Utterance(f"{name}@{offset}", Path(name), seconds, text, offset, speaker)


def ids(found: Sequence[Recording]) -> list[list[str]]:
    return [[each.id for each in recording.utterances] for recording in found]


def test_utterances_of_one_file_are_one_recording() -> None:
    """In order of time."""
    lines = [utterance("a.wav", "two", offset=5.0), utterance("b.wav", "x"), utterance("a.wav", "one", offset=1.0)]
    found = list(of(lines))
    assert ids(found) == [["a.wav@1.0", "a.wav@5.0"], ["b.wav@0.0"]]
    assert [recording.path for recording in found] == [Path("a.wav"), None]
    assert found[0].text == "one two"
    assert [found[0].covers(seconds) for seconds in (0.5, 1.0, 2.9, 3.1, 6.0, 7.0)] == [
        False,
        True,
        True,
        False,
        True,
        False,
    ]


def test_clips_of_a_speaker_are_joined() -> None:
    """To recordings of a minute."""
    lines = [utterance(f"{n}.wav", "x", speaker="ann" if n % 2 else "bob") for n in range(90)]
    found = list(of(lines))
    assert sorted(chain.from_iterable(ids(found))) == sorted(line.id for line in lines)
    for recording in found:
        assert len({each.speaker for each in recording.utterances}) == 1
        assert sum(each.seconds + 1 for each in recording.utterances) <= JOINED_SECONDS
    assert max(map(len, ids(found))) == 20


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [(["a b", "c"], "a b c"), (["我们", "很好"], "我们很好"), (["สวัสดี", "ครับ"], "สวัสดีครับ"), (["我", "a"], "我 a")],
)
def test_texts_are_joined_as_the_script_has_it(texts: list[str], wanted: str) -> None:
    assert Recording([utterance(f"{text}.wav", text) for text in texts], None).text == wanted


def test_pauses_are_as_quiet_as_their_clip() -> None:
    """As its quietest part."""
    draw = np.random.default_rng(0)
    clip = np.concatenate([draw.standard_normal(4000) * 0.3, draw.standard_normal(4000) * 0.01]).astype(np.float32)
    joined = join([clip, np.zeros(100, np.float32), clip[:50]], 8000)
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined[:8000], clip)
    assert joined[8000:16000].std() == pytest.approx(0.01, rel=0.1)
    assert not joined[16000:24100].any()
    assert len(joined) == 8000 + 100 + 50 + 3 * 8000
