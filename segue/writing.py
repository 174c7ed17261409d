"""How does a text write words: with spaces between them, or as Chinese, Japanese, Korean or Thai do?"""

import re
from collections.abc import Iterable
from typing import Literal

Writing = Literal["spaced", "chinese", "japanese", "korean", "unspaced"]
"""`unspaced` are scripts like Thai: no spaces between words, and no characters that are words."""

HAN = "\u3005-\u3007\u3105-\u312f\u31a0-\u31bf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb"
# Thai, Lao, Tibetan, Burmese, Khmer, and their smaller relatives: the scripts for whose lines Unicode asks for a
# dictionary (UAX 14, class SA) or that break between syllables.
_OTHERS = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u0f00-\u0fff\u1000-\u109f\u1780-\u17d3\u17d7\u17dc\u17dd"
    "\u1950-\u19df\u1a20-\u1aad\u1b00-\u1b7c\ua980-\ua9ff\uaa60-\uaadf"
)
UNSPACED = f"{HAN}{KANA}{_OTHERS}"
"""Letters that stand without spaces between words, for a class of a regular expression."""

# A character without spaces around it says about as much as a word with them.
_UNITS = re.compile(
    f"(?P<han>[{HAN}])|(?P<kana>[{KANA}])|(?P<others>[{_OTHERS}])|(?P<hangul>[{_HANGUL}]+)|(?P<words>"
    f"[^\\W\\d_{UNSPACED}{_HANGUL}]+)"
)
_SPACES = re.compile(f"(?<=[{UNSPACED}]) +| +(?=[{UNSPACED}])")
KANA_SHARE = 0.1
"""Of the letters of a Japanese text, at least; Chinese quotes some, Japanese is half of it."""

# ISO 639. Other languages, and other names of these, are told by their letters.
_LANGUAGES: dict[str, Writing] = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue", "wuu", "lzh"), "chinese"),
    **dict.fromkeys(("ja", "jpn"), "japanese"),
    **dict.fromkeys(("ko", "kor"), "korean"),
    **dict.fromkeys(
        ("th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bur", "bo", "bod", "tib", "dz", "dzo", "shn"), "unspaced"
    ),
}  # fmt: skip


def writing(texts: Iterable[str], language: str | None = None) -> Writing:
    """How most of the texts write.

    `language`, an ISO 639 code with or without region, decides where the texts have letters of its script at all: a
    Japanese title may have Chinese characters only, and a Chinese manual may be half English.
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
    """Whether what stands between spaces is a word."""
    return found in ("spaced", "korean")


def joined(text: str) -> str:
    """`text` without the spaces beside letters that need none: transcripts differ in whether they have them."""
    return _SPACES.sub("", text)
