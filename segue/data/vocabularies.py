"""Which tokens do the two sides of a translation have? Two tokenizers or a joint one, and the target languages."""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from segue.data import tokenizer
from segue.data.examples import Pair
from segue.data.text import TextSection, normalize
from segue.data.tokenizer import UNKNOWN, Tokenizer, TokenizerSection
from segue.errors import UserError

PADDING, BEGIN, END = "<pad>", "<s>", "</s>"
TO_LANGUAGE = "<2{}>"  # before the source (Johnson et al. 2017, arXiv:1611.04558, section 3)


class Vocabularies:
    """The tokenizers of both sides, and the target languages of a multilingual model."""

    def __init__(self, source: Tokenizer, target: Tokenizer) -> None:
        self.source, self.target = source, target
        before, after = TO_LANGUAGE.split("{}")
        self.languages = [
            token.removeprefix(before).removesuffix(after) for token in source.special if token.startswith(before)
        ]
        """Target languages of the training data; empty if these did not name any."""
        for side in (source, target):
            for token in (PADDING, BEGIN, END, UNKNOWN):
                if token not in side.special:
                    raise UserError(f"tokenizer: it lacks the special token {token}; it belongs to another task")
        self.padding, self.begin, self.end = (target.special[token] for token in (PADDING, BEGIN, END))

    def source_tokens(self, tokens: list[int], language: str | None) -> list[int]:
        """The encoder's input: the target language if there are several, the tokens, the end token."""
        first = [self.source.special[TO_LANGUAGE.format(language)]] if len(self.languages) > 1 else []
        return [*first, *tokens, self.source.special[END]]

    def check(self, language: str | None) -> None:
        """Raises a UserError if the model cannot translate into this language."""
        if language is None and len(self.languages) > 1:
            raise UserError(f"a target language is needed (languages: {', '.join(self.languages)})")
        if language is not None and self.languages and language not in self.languages:
            raise UserError(f"unknown target language {language!r} (languages: {', '.join(self.languages)})")

    def language(self, named: str | None) -> str | None:
        """The language of a target: the one named, or else the model's only target language."""
        return self.languages[0] if named is None and len(self.languages) == 1 else named

    def problem(self, pair: Pair, source: str, target: str) -> str | None:
        """Why a pair is unusable, or None; `source` and `target` are its normalized texts."""
        for name, text, normalized in (("source", pair.source, source), ("target", pair.target, target)):
            if not normalized:
                return f"{name}: nothing is left of {text!r} after normalization"
        try:
            self.check(pair.target_language)
        except UserError as problem:
            return f"target_language: {problem}"
        return None

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json`, and `source_tokenizer.json` if the source has its own."""
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / "source_tokenizer.json"
        if self.source is self.target:
            source.unlink(missing_ok=True)  # of an earlier recipe
        else:
            self.source.save(source)
        self.target.save(folder / "tokenizer.json")  # last: if it exists, saving is complete

    @staticmethod
    def load(folder: Path) -> "Vocabularies":
        """Reads what `save` wrote."""
        target, source = Tokenizer.load(folder / "tokenizer.json"), folder / "source_tokenizer.json"
        return Vocabularies(Tokenizer.load(source) if source.is_file() else target, target)

    @staticmethod
    def resolved(
        section: TokenizerSection, source_section: TokenizerSection | None, rule: TextSection, pairs: Sequence[Pair]
    ) -> dict[str, TokenizerSection | None]:
        """The sections by their keys, with "auto" resolved from the training pairs."""
        languages = {pair.target_language for pair in pairs if pair.target_language is not None}
        num_special = len((PADDING, BEGIN, END, UNKNOWN)) + len(languages)

        sources = (normalize(pair.source, rule) for pair in pairs)
        targets = (normalize(pair.target, rule, pair.target_language) for pair in pairs)
        if source_section is None:
            return {"tokenizer": tokenizer.resolved(section, chain(sources, targets), num_special)}
        return {
            "tokenizer": tokenizer.resolved(section, targets, num_special),
            "source_tokenizer": tokenizer.resolved(source_section, sources, num_special),
        }

    @staticmethod
    def build(
        section: TokenizerSection, source_section: TokenizerSection | None, rule: TextSection, pairs: Iterable[Pair]
    ) -> "Vocabularies":
        """Learns the tokenizers from the training pairs; from both sides jointly if `source_section` is None."""
        sources, targets, languages = list[str](), list[str](), set[str]()
        for pair in pairs:
            sources.append(normalize(pair.source, rule))
            targets.append(normalize(pair.target, rule, pair.target_language))
            if pair.target_language is not None:
                languages.add(pair.target_language)
        special = [PADDING, BEGIN, END, UNKNOWN, *(TO_LANGUAGE.format(each) for each in sorted(languages))]
        if source_section is not None:
            source = tokenizer.build(source_section, sources, special)
            return Vocabularies(source, tokenizer.build(section, targets, special))
        joint = tokenizer.build(section, sources + targets, special)
        return Vocabularies(joint, joint)
