"""What does a recognizer write of a text? Lower case, no punctuation, and numbers as words."""

import re
import unicodedata
from typing import Any

from segue.errors import UserError, missing_extra

_NUMBER = re.compile(
    r"(?<![^\W_])(?<!\w\.)(?P<money>[$£€])?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<rest>\d+))?(?P<ordinal>st|nd|rd|th)?(?P<percent> ?%)?"
    r"(?![^\W_])"
)
_SIGNS = "%&#@/\\*"
_DASHED = re.compile(r"[-\u2010-\u2015]\d")
_MONEY = {"$": "dollars", "£": "pounds", "€": "euros"}
_APOSTROPHES = str.maketrans("’ʼ", "''")  # noqa: RUF001


def plain(text: str, language: str = "en") -> str:
    """The words of a written text, as they are said: "In 1984, 3.5 % left." -> "in nineteen eighty four three point
    five percent left".

    Numbers are read by num2words; signs of money, percent and ordinals only in English. A number inside of a word, as
    in "R2D2", stays. Raises a UserError if num2words is not installed or does not know the language.
    """
    text = unicodedata.normalize("NFC", text).translate(_APOSTROPHES)
    spoken = _NUMBER.sub(lambda found: f" {_said(found, language)} ", text)
    is_letter = {c: c.isalnum() or unicodedata.category(c)[0] == "M" or c == "'" for c in set(spoken.lower())}
    letters = "".join(c if is_letter[c] else " " for c in spoken.lower())
    return " ".join(word for word in (each.strip("'") for each in letters.split()) if word)


def has_unread(text: str, language: str = "en") -> bool:
    """Whether `plain` drops signs of a text that are more than punctuation: the minus of "-5", the slash of "5/6"."""
    rest = _NUMBER.sub("0", text) if language.startswith("en") else text
    has_sign = any(unicodedata.category(c)[0] == "S" or c in _SIGNS for c in rest)
    return has_sign or _DASHED.search(text) is not None


def _said(found: re.Match[str], language: str) -> str:
    whole, rest = found["whole"].replace(",", ""), found["rest"]
    if len(whole) > 15:
        return found[0]
    is_english = language.startswith("en")
    if found["ordinal"] and is_english:
        return _words(int(whole), language, "ordinal")
    is_year = "," not in found["whole"] and rest is None and 1100 <= int(whole) <= 2099
    is_year = is_year and len(whole) == 4 and not found["money"] and not found["percent"]
    words = _words(int(whole), language, "year" if is_year else "cardinal")
    if rest is not None:
        point = "point" if is_english else ""
        words = " ".join([words, point, *(_words(int(digit), language, "cardinal") for digit in rest)])
    if is_english:
        words += f" {_MONEY[found['money']]}" if found["money"] else ""
        words += " percent" if found["percent"] else ""
    return words


def _words(number: int, language: str, kind: str) -> str:
    try:
        import num2words
    except ModuleNotFoundError:
        raise missing_extra("num2words", "written") from None
    convert: Any = num2words.num2words
    try:
        return str(convert(number, lang=language, to=kind))
    except (AttributeError, NotImplementedError, OverflowError) as error:
        if kind != "cardinal":
            return _words(number, language, "cardinal")
        if isinstance(error, NotImplementedError):
            raise UserError(f"language: num2words cannot read numbers in {language!r}") from None
        return str(number)  # larger than it can read
