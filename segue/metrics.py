"""How good is an output? Thin faces on the field's own scorers."""

from collections.abc import Sequence

import jiwer


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Word and character error rates over all pairs together (jiwer), with the counts they are made of.

    Both sides must be normalised alike beforehand. Where no reference has a word, every word said is an insertion and
    the rate is that count over 1.
    """
    assert len(references) == len(hypotheses)
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
