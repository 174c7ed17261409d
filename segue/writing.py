"""Detects how a text separates words: by spaces, or as Chinese, Japanese, Korean or Thai do."""

import re
from collections.abc import Iterable
from typing import Literal

Writing = Literal["spaced", "chinese", "japanese", "korean", "unspaced"]
"""`unspaced` are scripts like Thai: without spaces between words, and with characters that are not words."""

HAN = "\u3005-\u3007\u3105-\u312f\u31a0-\u31bf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb"
# Thai, Lao, Tibetan, Burmese, Khmer and related scripts: those for which Unicode line breaking requires a dictionary
# (UAX 14, class SA) or that break lines between syllables.
_OTHERS = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u0f00-\u0fff\u1000-\u109f\u1780-\u17d3\u17d7\u17dc\u17dd"
    "\u1950-\u19df\u1a20-\u1aad\u1b00-\u1b7c\ua980-\ua9ff\uaa60-\uaadf"
)
UNSPACED = f"{HAN}{KANA}{_OTHERS}"
"""Letters of scripts without spaces between words, for a character class in a regular expression."""

# Units of text: a character of these scripts counts as much as a word of the others.
_UNITS = re.compile(
    f"(?P<han>[{HAN}])|(?P<kana>[{KANA}])|(?P<others>[{_OTHERS}])|(?P<hangul>[{_HANGUL}]+)|(?P<words>"
    f"[^\\W\\d_{UNSPACED}{_HANGUL}]+)"
)
_SPACES = re.compile(f"(?<=[{UNSPACED}]) +| +(?=[{UNSPACED}])")
KANA_SHARE = 0.1
"""Minimum share of kana in a Japanese text. Chinese texts quote a few; about half of a Japanese text is kana."""

# ISO 639 codes. Other languages, and other names of these, are recognized by their letters.
_LANGUAGES: dict[str, Writing] = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue", "wuu", "lzh"), "chinese"),
    **dict.fromkeys(("ja", "jpn"), "japanese"),
    **dict.fromkeys(("ko", "kor"), "korean"),
    **dict.fromkeys(
        ("th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bur", "bo", "bod", "tib", "dz", "dzo", "shn"), "unspaced"
    ),
}  # fmt: skip


def writing(texts: Iterable[str], language: str | None = None) -> Writing:
    """How the majority of the texts separates words.

    `language`, an ISO 639 code with or without region, decides if the texts have any letters of its script: a Japanese
    title may have only Chinese characters, and a Chinese manual may be half English.
    """
    counts = dict.fromkeys(_UNITS.groupindex, 0)
    for text in texts:
        for found in _UNITS.finditer(text):
            assert found.lastgroup is not None
            counts[found.lastgroup] += 1
    wide = counts["han"] + counts["kana"]
    said = _LANGUAGES.get(re.split("[-_]", (language or "").lower())[0])
    scripts = {"chinese": wide, "japanese": wide, "korean": counts["hangul"], "unspaced": counts["others"]}
    if said is not None and scripts[said]:
        return said
    half = sum(counts.values()) / 2
    if wide > half:
        return "japanese" if counts["kana"] >= KANA_SHARE * wide else "chinese"
    if wide + counts["others"] > half:
        return "unspaced"
    return "korean" if counts["hangul"] > half else "spaced"


def has_spaces(found: Writing) -> bool:
    """Whether spaces separate words."""
    return found in ("spaced", "korean")


def joined(text: str) -> str:
    """`text` without spaces next to letters of UNSPACED scripts: some transcripts have them, others do not."""
    return _SPACES.sub("", text)
