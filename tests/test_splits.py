"""Who divides examples into train, dev and test: whole speakers where they are known and enough, else a hash."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.corpora.splits import SplitOptions, divide
from segue.data.examples import Pair, Utterance


def utterances(counts: dict[str | None, int]) -> list[Utterance]:
    return [
        Utterance(f"{speaker} {number}", Path(f"{speaker}_{number}.wav"), 1.0, "text", speaker=speaker)
        for speaker, count in counts.items()
        for number in range(count)
    ]


def splits_of(examples: list[Utterance] | list[Pair], **options: float) -> dict[str, list[Utterance | Pair]]:
    found = defaultdict(list)
    for split, example in divide((("", example) for example in examples), SplitOptions(**options)):
        assert isinstance(example, Utterance | Pair)
        found[split].append(example)
    assert sum(map(len, found.values())) == len(examples)
    return found


def speakers(examples: list[Utterance | Pair]) -> set[str | None]:
    return {example.speaker for example in examples if isinstance(example, Utterance)}


@given(st.lists(st.integers(1, 40), min_size=16, max_size=40))
@settings(deadline=None, max_examples=50)
def test_no_speaker_is_in_two_splits(sizes: list[int]) -> None:
    """Where there are enough."""
    all_examples = utterances({f"speaker {number}": size for number, size in enumerate(sizes)})
    found = splits_of(all_examples)
    assert set(found) == {"train", "dev", "test"}
    heard = [speakers(each) for each in found.values()]
    assert sum(map(len, heard)) == len(set().union(*heard)) == len(sizes)
    for split in ("dev", "test"):
        assert 0.25 <= len(found[split]) / max(1, round(0.1 * len(all_examples))) <= 2
    again = splits_of(all_examples[::-1])
    assert {split: speakers(each) for split, each in again.items()} == dict(zip(found, heard, strict=True))


def test_the_split_of_speakers_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    splits_of(utterances({f"speaker {number}": 10 for number in range(20)}))
    assert capsys.readouterr().err == "divided by speaker: 16 in train, 2 in dev, 2 in test\n"
    found = splits_of(utterances({"ann": 20, "bob": 20, "eve": 20}))
    assert {split: len(each) for split, each in found.items()} == {"train": 48, "dev": 6, "test": 6}
    assert "3 speakers: too few to keep apart, so those of dev and test are in train too; larger dev_share" in (
        capsys.readouterr().err
    )
    found = splits_of(utterances({"ann": 20, "bob": 20, "eve": 20}), dev_share=0.2, test_share=0.2)
    assert sorted(map(len, map(speakers, found.values()))) == [1, 1, 1]
    splits_of(utterances({"ann": 20}))
    assert "1 speaker: too few" in capsys.readouterr().err


def test_examples_without_speaker_are_for_training(capsys: pytest.CaptureFixture[str]) -> None:
    found = splits_of(utterances({f"speaker {number}": 10 for number in range(20)} | {None: 7}))
    assert Counter(each.speaker for each in found["train"] if isinstance(each, Utterance))[None] == 7
    assert "7 utterances without a speaker are for training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, {"train": 1}), (2, {"train": 1, "dev": 1}), (3, {"train": 1, "dev": 1, "test": 1})]
)
def test_train_gets_the_first_example_then_dev(
    count: int, sizes: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    found = splits_of(utterances({None: count}))
    assert {split: len(each) for split, each in found.items()} == sizes
    assert ("too few to reserve one for test" in capsys.readouterr().err) == (count < 3)


def test_pairs_of_one_source_alone_are_for_training() -> None:
    found = splits_of([Pair(str(number), "same", f"way {number}") for number in range(10)])
    assert {split: len(each) for split, each in found.items()} == {"train": 10}
