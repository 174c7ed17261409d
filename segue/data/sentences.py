"""Where does a sentence end, and how is a long text split for translation and joined again?"""

# ruff: noqa: RUF001 (punctuation of many scripts, on purpose)

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from segue.data.scripts import NO_END, NO_START, WIDE, WIDE_CLOSING, WIDE_OPENING

_IS_WIDE = re.compile(f"[{WIDE}{WIDE_OPENING}{WIDE_CLOSING}]")  # Thai puts a space between sentences
_WORD = re.compile(rf"[{NO_END}]*+(?:[{WIDE}]|[^ {WIDE}{NO_END}{NO_START}]++)?+[{NO_START}]*+ *+")
_END = re.compile(r"[.!?…‥‽؟۔।॥።։。！？｡．]++[\"'“”’«»‹›)\]}」』）】》〉]*+")
_WIDE_STOP = re.compile("[。！？｡．]")
_BEFORE_SENTENCE = re.compile(r"[\"'“”„‚‘’«»‹›(\[{「『（【¿¡.…–—♪*\- ]*+")
_BEFORE_WORD = "\"'“„‚‘«»‹›([{¿¡-–—"
_CLOSING = "[\"'“”’«»‹›)\\]}」』）】]*\\Z"
_STOPS_HERE = re.compile(f"[.!?…‽؟۔।॥։።。！？]{_CLOSING}")
_CLAUSE_ENDS = re.compile(f"[,;:.!?…‽،؛؟۔।॥։።、，；：。！？–—]{_CLOSING}")
_SHORT_WORD = re.compile(r"\w{1,3}\Z")

_INITIALS = re.compile(r"(?:[^\W\d_]{1,3}\.)+[^\W\d_]{1,3}")  # U.S, e.g, z.B
_WORDS = re.compile(r"\w+")
_NEVER_LAST = frozenset(
    _WORDS.findall(
        "mr mrs ms messrs dr prof st sr jr gen col maj sgt lt capt cmdr adm rev hon gov sen rep pres supt mt ft vs "
        "approx mme mlle mm mgr sra srta dra sig fr hr hrn frl ing dipl bzw ca evtl ggf inkl exkl zzgl vgl sog bspw cf "
        "viz al"
    )
)
_BEFORE_NUMBER = frozenset(
    _WORDS.findall(
        "no nr nos art abs fig figs vol pp ch chap sec eq abb kap bd tel "
        "jan feb mar apr jun jul aug sep sept oct okt nov dec dez"
    )
)


def split(text: str) -> list[str]:
    """The sentences of `text`, each with its trailing space: joined by "" they give the text with single spaces."""
    text = " ".join(text.split())
    ends = [end.end() for end in _END.finditer(text) if _ends_sentence(text, end)]
    cuts = [0, *(end + text.startswith(" ", end) for end in ends), len(text)]
    return [text[start:end] for start, end in pairwise(cuts) if start < end]


def are_ends(words: Sequence[str]) -> list[bool]:
    """Whether a sentence ends with each word of a text; words have the spaces before them, but not the first."""
    found = split("".join(words))
    stops = {end - part.endswith(" ") for end, part in zip(accumulate(map(len, found)), found, strict=True)}
    return [end in stops for end in accumulate(map(len, words))]


def pieces(text: str, longest: int, length: Callable[[str], int]) -> list[str]:
    """The sentences of `text`, cut where their `length` exceeds `longest`; joined by "" they give the text as `split`.

    A sentence is cut after the last punctuation that fits, else after the last word, else inside a word that is too
    long by itself. A single character is never cut, whatever its length.
    """
    found: list[str] = []
    for sentence in split(text):
        found += [sentence] if length(sentence.rstrip()) <= longest else _cut(sentence, longest, length)
    return found


def words(text: str) -> list[str]:
    """The words of a text with single spaces, each with its trailing space; each ideograph or kana is a word.

    A line may be broken after each: punctuation that must not start a line stays with the word before it.
    """
    return [word for word in _WORD.findall(text) if word]


def has_stop(text: str) -> bool:
    """Whether the text ends with punctuation that ends sentences."""
    return bool(_STOPS_HERE.search(text.rstrip()[-12:]))


def ends_clause(word: str) -> bool:
    """Whether a clause ends with this word: punctuation follows it."""
    return bool(_CLAUSE_ENDS.search(word.rstrip()[-12:]))


def is_short(word: str) -> bool:
    """Whether the word is so short that it likely belongs to the next one: an article, preposition or conjunction."""
    return bool(_SHORT_WORD.match(word.rstrip())) and not _IS_WIDE.match(word)


def join(sources: Sequence[str], translations: Sequence[str]) -> str:
    """Joins the translations of `sources`, which are results of `split` or `pieces`, to one text.

    Parts of a word are joined directly; sentences are separated by a space if the script has spaces.
    """
    parts = [(source, part) for source, part in zip(sources, translations, strict=True) if part]
    text = "".join(part for _, part in parts[:1])
    for (source, _), (next_source, part) in pairwise(parts):
        had_space = source.endswith(" ")
        is_wide = _are_wide(text, part)
        if is_wide == _are_wide(source.rstrip(), next_source):
            text += " " * had_space + part
        else:
            text += part if is_wide else f" {part}"
    return text


def are_apart(before: str, after: str) -> bool:
    """Whether two neighboring texts are separated by a space, which depends on their script."""
    return not _are_wide(before, after)


def _are_wide(before: str, after: str) -> bool:
    return bool(_IS_WIDE.match(before[-1:]) and _IS_WIDE.match(after[:1]))


def _ends_sentence(text: str, end: re.Match[str]) -> bool:
    """Whether the punctuation `end` ends a sentence, by the word before it and the case of the letter after it."""
    if _WIDE_STOP.search(end[0]):
        following = text[end.end() : end.end() + 1]
        return bool(following) and not (end[0] == "．" and following.isdecimal())
    if not text.startswith(" ", end.end()):
        return False
    is_period = end[0].startswith((".", "…", "‥"))
    if is_period and text[max(0, end.start() - 1) : end.start()] in (" ", ""):
        return False  # a spaced ellipsis, or one that begins a sentence
    following_match = _BEFORE_SENTENCE.match(text, end.end())
    assert following_match is not None  # it matches the empty text
    following = text[following_match.end() : following_match.end() + 1]
    if not following or following.islower():
        return False
    if end[0][0] != "." or end[0].startswith(".."):
        return True
    start = text.rfind(" ", max(0, end.start() - 40), end.start()) + 1
    word = text[max(start, end.start() - 40) : end.start()].lstrip(_BEFORE_WORD)
    is_initial = len(word) == 1 and word.upper() != word.lower() and word != "I"
    is_ordinal = word.isdecimal() and len(word) < 3  # 3. Oktober, and numbers of a list
    if is_initial or is_ordinal or word.lower() in _NEVER_LAST:
        return False
    if _INITIALS.fullmatch(word):
        return word.lower() in ("a.m", "p.m")
    return not (word.lower() in _BEFORE_NUMBER and following.isdecimal())


def _cut(sentence: str, longest: int, length: Callable[[str], int]) -> list[str]:
    """Pieces of one sentence that is too long."""
    found: list[str] = []
    parts = words(sentence)
    start = 0
    while start < len(parts):
        end = _reach(parts, start, longest, length)
        if end == start:  # a word that is too long by itself
            word, position = parts[start], 0
            while position < len(word):
                cut = max(position + 1, _reach(word, position, longest, length))
                if cut >= len(word.rstrip()):  # no piece may be only a space
                    cut = len(word)
                found.append(word[position:cut])
                position = cut
            start += 1
            continue
        if end < len(parts):
            clause_ends = (here for here in range(end, start, -1) if ends_clause(parts[here - 1]))
            end = next(clause_ends, end)
        found.append("".join(parts[start:end]))
        start = end
    return found


def _reach(parts: Sequence[str], start: int, longest: int, length: Callable[[str], int]) -> int:
    """The largest end such that parts[start:end] fit, by exponential and then binary search."""

    def fits(end: int) -> bool:
        return length("".join(parts[start:end]).rstrip()) <= longest

    good, step, bad = start, 1, len(parts) + 1
    while good < len(parts):
        end = min(good + step, len(parts))
        if not fits(end):
            bad = end
            break
        good, step = end, 2 * step
    while bad - good > 1 and good < len(parts):
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good
