"""What runs an exported model here? `segue.json` says what a directory holds and for which runtime."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segue.data.tokenizer import Tokenizer
from segue.data.vocabularies import Vocabularies
from segue.errors import UserError
from segue.runtime.recogniser import Recogniser, SpeechFacts
from segue.runtime.translator import TranslationFacts, Translator

NAME = "segue.json"
FACTS: dict[str, type[SpeechFacts] | type[TranslationFacts]] = {
    "speech_recognition": SpeechFacts,
    "translation": TranslationFacts,
}


def save(folder: Path, target: str, facts: SpeechFacts | TranslationFacts, **more: Any) -> None:
    """Writes what `load` reads, and what other programs may want to know."""
    values = {"target": target, **facts.model_dump(mode="json"), **more}
    (folder / NAME).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load(folder: Path, device: str = "auto", threads: int | None = None) -> Recogniser | Translator:
    """The model in an exported directory, ready for use on the CPU."""
    if device not in ("auto", "cpu"):
        raise UserError(f"{folder}: exported models run on the CPU here, not on {device}")
    target, facts = _read(folder / NAME)
    if isinstance(facts, SpeechFacts) and target == "onnx":
        from segue.runtime.onnx import OnnxListener

        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        return Recogniser(facts, tokenizer, OnnxListener(folder / "model.onnx", threads))
    if isinstance(facts, TranslationFacts) and target == "ctranslate2":
        from segue.runtime.ctranslate2 import CTranslate2Writer

        return Translator(facts, Vocabularies.load(folder), CTranslate2Writer(folder, threads or 0))
    ours = {"speech_recognition": "onnx", "translation": "ctranslate2"}[facts.task]
    raise UserError(
        f"{folder}: exported for {target}, which runs it by itself (see its README.md); export to {ours} to use it here"
    )


def _read(path: Path) -> tuple[str, SpeechFacts | TranslationFacts]:
    """The target, and what is to be known of the model."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kind = FACTS[values["task"]]
        known = {key: value for key, value in values.items() if key in kind.model_fields}
        return str(values["target"]), kind.model_validate_json(json.dumps(known))  # JSON's rules: lists are tuples
    except (OSError, ValueError, KeyError, TypeError) as problem:
        first = problem.errors()[0] if isinstance(problem, ValidationError) else None
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else f"{problem}"
        raise UserError(f"{path}: not written by `segue export`: {said}") from None
