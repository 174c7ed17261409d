from collections.abc import Sequence
from typing import Any

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.metrics import error_rates, nearest, translation_scores


def distance(reference: Sequence[Any], hypothesis: Sequence[Any]) -> int:
    """Levenshtein's, row by row."""
    row = list(range(len(hypothesis) + 1))
    for number, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], number
        for column, said in enumerate(hypothesis, 1):
            diagonal, row[column] = row[column], min(diagonal + (wanted != said), row[column] + 1, row[column - 1] + 1)
    return row[-1]


texts = st.lists(st.sampled_from(["a", "b", "ab", "ba", "été"]), max_size=6).map(" ".join)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
@settings(deadline=None)
def test_error_rates_are_edit_distances_over_all_pairs_together(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = zip(*pairs, strict=True)
    scores = error_rates(references, hypotheses)
    errors = sum(distance(reference.split(), said.split()) for reference, said in pairs)
    assert scores["substitutions"] + scores["deletions"] + scores["insertions"] == errors
    assert scores["words"] == sum(len(reference.split()) for reference in references)
    assert scores["utterances"] == len(pairs)
    assert scores["word_error_rate"] == pytest.approx(errors / max(1, scores["words"]))
    character_errors = sum(distance(reference, said) for reference, said in pairs)
    characters = sum(len(reference) for reference in references)
    assert scores["character_error_rate"] == pytest.approx(character_errors / max(1, characters))


def test_kinds_of_errors_are_told_apart() -> None:
    scores = error_rates(["one two three four", "five"], ["one too three", "five six seven"])
    assert (scores["substitutions"], scores["deletions"], scores["insertions"]) == (1, 1, 2)
    assert scores["word_error_rate"] == 4 / 5


def test_words_said_where_nothing_was_are_errors() -> None:
    assert error_rates([""], ["a b"])["word_error_rate"] == 2.0
    assert error_rates([""], [""])["word_error_rate"] == 0.0


# --- Translation ---

HYPOTHESES = [
    "The cat sat on the mat, and it was quiet.",
    "There is a dog in the garden of the old house.",
    "nothing at all",
    "He said that he would not come to the party tomorrow.",
]
REFERENCES = [
    ("The cat sat on a mat and was quiet.", "The cat was sitting on the mat, quietly.", "On the mat sat the cat."),
    ("A dog is in the garden of the old house.", "There is a dog in the old house's garden!", "A dog there is."),
    ("Nothing whatsoever.", "nothing", "nothing at all happened"),
    (
        "He said he wouldn't come to the party tomorrow.",
        "He will not come, he said.",
        "He said that he would not come.",
    ),
]


@pytest.mark.parametrize("num_references", [1, 2, 3])
def test_translation_scores_are_sacrebleu_s(num_references: int) -> None:
    scores = translation_scores([each[:num_references] for each in REFERENCES], HYPOTHESES, has_edit_rate=True)
    streams = [list(stream) for stream in zip(*REFERENCES, strict=True)][:num_references]
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, streams).score)
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, streams).score)
    assert scores["ter"] == pytest.approx(sacrebleu.corpus_ter(HYPOTHESES, streams).score)
    assert len({round(float(scores[name]), 3) for name in ("bleu", "chrf", "ter")}) == 3
    assert 0 < float(scores["bleu"]) < 100


def test_sentences_may_have_unequal_numbers_of_references() -> None:
    references = [REFERENCES[0], REFERENCES[1][:1], REFERENCES[2][:2], REFERENCES[3][:1]]
    scores = translation_scores(references, HYPOTHESES)
    # A reference that stands twice changes neither score, so it can fill the gaps.
    streams = [[each[min(number, len(each) - 1)] for each in references] for number in range(3)]
    assert scores == {
        "bleu": pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, streams).score),
        "chrf": pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, streams).score),
    }
    assert float(scores["bleu"]) > float(translation_scores([each[:1] for each in references], HYPOTHESES)["bleu"])


def test_full_scores_say_how_they_were_counted() -> None:
    scores = translation_scores([each[:2] for each in REFERENCES], HYPOTHESES, has_edit_rate=True)
    assert str(scores["bleu_signature"]).startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")
    assert str(scores["chrf_signature"]).startswith("nrefs:2|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.")
    assert str(scores["ter_signature"]).startswith("nrefs:2|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:2.")
    unequal = translation_scores(
        [REFERENCES[0], *(each[:1] for each in REFERENCES[1:])], HYPOTHESES, has_edit_rate=True
    )
    assert str(unequal["bleu_signature"]).startswith("nrefs:var|")


def test_a_perfect_translation_scores_highest_whichever_reference_it_is() -> None:
    hypotheses = [each[number % 3] for number, each in enumerate(REFERENCES)]
    scores = translation_scores(REFERENCES, hypotheses, has_edit_rate=True)
    assert (scores["bleu"], scores["chrf"], scores["ter"]) == (pytest.approx(100), pytest.approx(100), 0)
    assert translation_scores(REFERENCES, [""] * 4)["bleu"] == 0


@given(st.lists(texts, min_size=1, max_size=5), texts)
@settings(deadline=None)
def test_the_nearest_reference_needs_the_fewest_word_edits(references: list[str], hypothesis: str) -> None:
    found = nearest(references, hypothesis)
    edits = [distance(reference.split(), hypothesis.split()) for reference in references]
    assert found == references[edits.index(min(edits))]


def test_the_nearest_is_counted_in_words_not_in_letters() -> None:
    assert nearest(["AH B K", "AA BB"], "AA B") == "AA BB"
    assert nearest(["a bc", "abcdefgh xyz uvw"], "abcdefgh xyz") == "abcdefgh xyz uvw"
