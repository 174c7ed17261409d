"""How good is an output? Thin faces on the field's own scorers."""

import importlib
from collections.abc import Sequence
from typing import Any, Literal

from segue.errors import missing_extra


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Word and character error rates over all pairs together (jiwer), with the counts they are made of.

    Both sides must be normalised alike beforehand. Where no reference has a word, every word said is an insertion and
    the rate is that count over 1.
    """
    assert len(references) == len(hypotheses)
    jiwer = scorer("jiwer")
    words = jiwer.process_words(list(references), list(hypotheses))
    characters = jiwer.process_characters(list(references), list(hypotheses))
    errors = words.substitutions + words.deletions + words.insertions
    num_words = words.hits + words.substitutions + words.deletions
    num_characters = characters.hits + characters.substitutions + characters.deletions
    character_errors = characters.substitutions + characters.deletions + characters.insertions
    return {
        "word_error_rate": errors / max(num_words, 1),
        "character_error_rate": character_errors / max(num_characters, 1),
        "insertions": words.insertions,
        "deletions": words.deletions,
        "substitutions": words.substitutions,
        "words": num_words,
        "utterances": len(references),
    }


def translation_scores(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], *, has_edit_rate: bool = False
) -> dict[str, float | str]:
    """BLEU (13a, cased) and chrF of all pairs together, from 0 to 100, with their signatures (sacrebleu).

    `references[i]` are the right translations of sentence i, one or more, not tokenised. `has_edit_rate` adds TER,
    which is slow; there less is better.
    """
    assert len(references) == len(hypotheses)
    sacrebleu = scorer("sacrebleu")
    most = max(map(len, references))
    streams: Any = [[each[n] if n < len(each) else None for each in references] for n in range(most)]
    metrics = {"bleu": sacrebleu.BLEU(), "chrf": sacrebleu.CHRF()}
    if has_edit_rate:
        metrics["ter"] = sacrebleu.TER()
    scores: dict[str, float | str] = {
        name: metric.corpus_score(list(hypotheses), streams).score for name, metric in metrics.items()
    }
    if has_edit_rate:
        scores |= {f"{name}_signature": str(metric.get_signature()) for name, metric in metrics.items()}
    return scores


def output_scores(
    metric: Literal["bleu", "chrf", "word_error_rate"],
    references: Sequence[Sequence[str]],
    hypotheses: Sequence[str],
    *,
    is_full: bool,
) -> dict[str, float | str]:
    """What `metric` belongs to: error rates against the nearest reference; or BLEU and chrF, and with `is_full` TER and
    signatures."""
    if metric == "word_error_rate":
        closest = [nearest(each, hypothesis) for each, hypothesis in zip(references, hypotheses, strict=True)]
        wrong = sum(a != b for a, b in zip(closest, hypotheses, strict=True))
        return {**error_rates(closest, hypotheses), "sentence_error_rate": wrong / len(hypotheses)}
    return {**translation_scores(references, hypotheses, has_edit_rate=is_full), "sentences": len(hypotheses)}


def nearest(references: Sequence[str], hypothesis: str) -> str:
    """The reference that the fewest word edits turn into the hypothesis; the first of equals."""
    words, levenshtein = hypothesis.split(), scorer("rapidfuzz.distance").Levenshtein
    return min(references, key=lambda reference: levenshtein.distance(reference.split(), words))


def sentence_score(references: Sequence[str], hypothesis: str, *, is_by_edits: bool) -> float:
    """Of one output: word edits per word of the nearest reference, or chrF (0 to 100; Popovic 2015)."""
    if is_by_edits:
        words, levenshtein = nearest(references, hypothesis).split(), scorer("rapidfuzz.distance").Levenshtein
        return float(levenshtein.distance(words, hypothesis.split()) / max(1, len(words)))
    return float(scorer("sacrebleu").sentence_chrf(hypothesis, list(references)).score)


def scorer(name: str) -> Any:
    """A module that scores or aligns. They come with an extra: who only runs models needs none."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or name, "evaluate") from None
