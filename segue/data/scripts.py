"""Which scripts have no spaces between words, and where may a line be broken in them?"""

# ruff: noqa: RUF001 (punctuation of many scripts, on purpose)

import re
import unicodedata

from segue.writing import HAN, KANA, UNSPACED

WIDE = f"{HAN}{KANA}"  # Korean puts spaces between words
WIDE_OPENING = "「『（【〔《〈｛［"
WIDE_CLOSING = "、。，．・：；！？｡､」』）】〕》〉｝］"
NO_END = f"{WIDE_OPENING}“"  # must not end a line
NO_START = f"{WIDE_CLOSING}”…‥〜ー々ゝゞぁぃぅぇぉっゃゅょァィゥェォッャュョ"  # must not start a line

_UNSPACED = re.compile(f"[{UNSPACED}]")
# Vowel signs written before the consonant that they follow in speech.
_VOWEL_BEFORE = "\u0e40-\u0e44\u0ec0-\u0ec4\u19b5-\u19b7\u19ba\uaab5\uaab6\uaab9\uaabb\uaabc"
_STAYS_BEFORE = re.compile(f"[{NO_END}{_VOWEL_BEFORE}]\\Z")
_STAYS_BEHIND = re.compile(f"[{NO_START}]")
_JOINS = "\u200d\u1039\u17d2\u1a60"  # zero width joiner; signs that subjoin the next consonant
_IS_MARK_LIKE = "\u200c\u200d\u0e33\u0eb3\uff9e\uff9f"  # marks whose Unicode category is letter or format


def is_unspaced(text: str) -> bool:
    """Whether the text begins with a letter of a script without spaces between words."""
    return bool(_UNSPACED.match(text))


def extends(before: str, character: str) -> bool:
    """Whether the character belongs to the last one of `before`: an accent, a vowel sign, part of a cluster."""
    return unicodedata.category(character)[0] == "M" or character in _IS_MARK_LIKE or before[-1:] in _JOINS


def opens(character: str) -> bool:
    """Whether the character stands before what it belongs to: an opening bracket or quotation mark, ¿ or ¡."""
    return unicodedata.category(character) in ("Ps", "Pi") or character in "¿¡"


def may_break(before: str, after: str) -> bool:
    """Whether a line may be broken between two texts in a script without spaces."""
    return not (_STAYS_BEFORE.search(before) or _STAYS_BEHIND.match(after))
