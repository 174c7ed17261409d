"""What does a recognizer write of a text? Lower case, no punctuation, and numbers as words."""

import random
import re
import unicodedata
from typing import Any

from segue.errors import UserError, missing_extra

_NUMBER = re.compile(
    r"(?<![^\W_])(?<!\w\.)(?P<money>[$£€])?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<rest>\d+))?(?P<ordinal>st|nd|rd|th)?(?P<percent> ?%)?"
    r"(?![^\W_])"
)
LONGEST_DIGITS = 15
"""Of a number that is read; Python refuses to convert thousands of them."""
_SIGNS = "%&#@/\\*"
_DASHED = re.compile(r"[-\u2010-\u2015]\d")
_AFTER_HOURS = re.compile(r":\d\d|\s?(?:[ap]\.?\s?m|o['’]clock)\b", re.IGNORECASE)  # noqa: RUF001
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


def with_other_numbers(text: str, draw: random.Random) -> str:
    """The text with others of the same kind in place of its numbers: "In 1984, $3,500 at 12:30" -> "In 1907, $8,100 at
    4:52".

    Years are less than a century apart, hours stay in their half of the day, and what is no year becomes none. Other
    numbers have as many digits and zeros at their end, and stay at most 31 if they are, as days are. 1, what
    begins with 0, what has more digits than are read, and digits of other scripts stay.
    """
    return _NUMBER.sub(lambda found: _another(found, draw), text)


def _another(found: re.Match[str], draw: random.Random) -> str:
    digits, before, after = found["whole"].replace(",", ""), found.string[: found.start()], found.string[found.end() :]
    size = len(digits)
    if size > LONGEST_DIGITS or not (digits + (found["rest"] or "")).isascii():
        return found[0]
    value = int(digits)
    if digits[0] == "0" or (digits == "1" and found["rest"] is None):
        return found[0]
    zeros = 10 ** (size - len(digits.rstrip("0")))
    if _is_year(found):
        other = draw.randint(max(1100, value - 99), min(2099, value + 99))
    elif re.search(r"\d:$", before) and size == 2:  # minutes
        other = draw.randint(10, 59)
    elif _AFTER_HOURS.match(after) and value < 24:
        other = draw.randint(1, 12) if value <= 12 else draw.randint(13, 23)
    elif value <= 31:
        other = draw.randint(2, 9) if size == 1 else draw.randint(10, 31)
    else:
        least, most = 10 ** (size - 1), 10**size - 1
        if _is_bare(found) and size == 4:  # not read as a year, nor is the other
            least, most = (1000, 1099) if value < 1100 else (2100, 9999)
        other = draw.randint(-(-least // zeros), most // zeros) * zeros
    rest = "." + "".join(draw.choice("0123456789") for _ in found["rest"]) if found["rest"] is not None else ""
    ordinal = ordinal_letters(other) if found["ordinal"] else ""
    whole = f"{other:,}" if "," in found["whole"] else str(other)
    return f"{found['money'] or ''}{whole}{rest}{ordinal}{found['percent'] or ''}"


def ordinal_letters(number: int) -> str:
    """The letters behind an ordinal number: st, nd, rd or th."""
    return "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _is_year(found: re.Match[str]) -> bool:
    """Whether a number is read as a year: four digits from 1100 to 2099."""
    return _is_bare(found) and len(found["whole"]) == 4 and 1100 <= int(found["whole"]) <= 2099


def _is_bare(found: re.Match[str]) -> bool:
    """Whether a number is nothing but digits."""
    return found["whole"].isdigit() and not (found["rest"] or found["money"] or found["percent"] or found["ordinal"])


def _said(found: re.Match[str], language: str) -> str:
    whole, rest = found["whole"].replace(",", ""), found["rest"]
    if len(whole) > LONGEST_DIGITS:
        return found[0]
    is_english = language.startswith("en")
    if found["ordinal"] and is_english:
        return _words(int(whole), language, "ordinal")
    words = _words(int(whole), language, "year" if _is_year(found) else "cardinal")
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
    except (AttributeError, NotImplementedError, OverflowError, TypeError) as error:
        if kind != "cardinal":
            return _words(number, language, "cardinal")
        if isinstance(error, NotImplementedError):
            raise UserError(f"language: num2words cannot read numbers in {language!r}") from None
        return str(number)  # it cannot read this one
