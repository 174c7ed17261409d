"""How are texts normalized for scoring? By name: rates are only comparable with those of the same normalizer."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from segue.errors import missing_extra

Normalizer = Literal["ours", "whisper", "none"]
Normalize = Callable[[str, str | None], str]
"""(text, language tag or None) -> text."""


def chosen(name: Normalizer, ours: Normalize) -> Normalize:
    """The normalizer of a name: `ours`, that of the model; Whisper's, as in the Open ASR leaderboard; or none, words as
    written. Raises a UserError if the package for Whisper's is not installed.

    Whisper's rewrites numbers, contractions and British spelling in English, also where no language is given.
    """
    if name == "none":
        return lambda text, _: " ".join(text.split())
    if name == "ours":
        return ours
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "whisper-normalizer", "whisper-normalizer") from None
    return partial(_whisper, EnglishTextNormalizer(), BasicTextNormalizer())


def _whisper(english: Any, basic: Any, text: str, language: str | None) -> str:
    is_english = language is None or language.lower().replace("_", "-").split("-")[0] in ("en", "eng", "english")
    return str((english if is_english else basic)(text)).strip()
