"""How is a text written before it is learnt or scored? One rule for training and evaluation, kept in the recipe."""

import unicodedata
from typing import Literal

from segue.recipe import Section

_LETTERS = frozenset(["Lu", "Ll", "Lt", "Lo"])  # Lm are signs that change other letters: the Japanese ー, accents
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")  # letters of Hangul that are blank


class TextSection(Section):
    """One rule of text normalisation, applied to training targets, references and hypotheses alike."""

    case: Literal["lower", "upper", "keep"] = "lower"
    """Letter case of targets and references."""

    punctuation: Literal["remove", "keep"] = "remove"
    """Whether punctuation and symbols (Unicode categories P and S) become spaces."""

    keep_characters: str = "'"
    """Punctuation that stays when the rest is removed; typographic apostrophes count as '."""

    unicode_form: Literal["NFC", "NFKC"] = "NFKC"
    """Unicode normal form: NFKC also unifies ligatures, full-width forms and the like."""


def normalize(text: str, rule: TextSection) -> str:
    """`text` under `rule`, with every run of white space as one space and none at the ends."""
    text = unicodedata.normalize(rule.unicode_form, text)
    if rule.case == "lower":
        text = text.lower()
    elif rule.case == "upper":
        text = text.upper()
    text = unicodedata.normalize(rule.unicode_form, text)  # case may have split characters again: Ϊ́ from ΐ
    if rule.punctuation == "remove":
        text = text.replace("\u2019", "'").replace("\u2018", "'")
        text = "".join(" " if _is_punctuation(c) and c not in rule.keep_characters else c for c in text)
    return " ".join(text.split())


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def has_letters(text: str) -> bool:
    """Whether `text` holds a letter of any script, and not digits, punctuation and symbols alone."""
    return any(unicodedata.category(character) in _LETTERS and character not in _FILLERS for character in text)
