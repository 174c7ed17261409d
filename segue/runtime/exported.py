"""What runs an exported model here? `segue.json` says what a directory holds and for which runtime."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from segue.errors import UserError, missing_extra
from segue.recipe import Section
from segue.runtime.recogniser import Recogniser, SpeechFacts

if TYPE_CHECKING:  # its tokenizers come with an extra
    from segue.runtime.translator import TranslationFacts, Translator

NAME = "segue.json"
OURS = {"speech_recognition": "onnx", "translation": "ctranslate2"}
"""Task -> the target that runs here."""


def save(folder: Path, target: str, facts: "SpeechFacts | TranslationFacts", **more: Any) -> None:
    """Writes what `load` reads, and what other programs may want to know."""
    values = {"target": target, **facts.model_dump(mode="json"), **more}
    (folder / NAME).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load(folder: Path, device: str = "auto", threads: int | None = None) -> "Recogniser | Translator":
    """The model in an exported directory, ready for use on the CPU."""
    if device not in ("auto", "cpu"):
        raise UserError(f"{folder}: exported models run on the CPU here, not on {device}")
    if threads is not None and threads < 1:
        raise UserError(f"threads: a number above 0 wanted, got {threads}")
    path = folder / NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        task, target = values["task"], values["target"]
        ours = OURS[task]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        raise _strange(path, str(problem)) from None
    if target != ours:
        raise UserError(
            f"{folder}: an export for {target}, which Segue does not run itself (its README.md says how); "
            f"export to {ours} to use it here"
        )
    if task == "speech_recognition":
        from segue.runtime.onnx import OnnxListener

        known = _facts(path, values, SpeechFacts)
        return Recogniser(known, OnnxListener(folder / "model.onnx", known, threads))
    try:
        from segue.data.vocabularies import Vocabularies
        from segue.runtime.ctranslate2 import CTranslate2Writer
        from segue.runtime.translator import TranslationFacts, Translator
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "tokenizers", "translate") from None
    facts = _facts(path, values, TranslationFacts)
    vocabularies, writer = Vocabularies.load(folder), CTranslate2Writer(folder, threads)
    writer.check(vocabularies)
    return Translator(facts, vocabularies, writer)


F = TypeVar("F", bound=Section)


def _facts(path: Path, values: dict[str, Any], kind: type[F]) -> F:
    """What is to be known of the model."""
    known = {key: value for key, value in values.items() if key in kind.model_fields}
    try:
        return kind.model_validate_json(json.dumps(known))  # JSON's rules: lists are tuples
    except ValidationError as problem:
        first = problem.errors()[0]
        raise _strange(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _strange(path: Path, problem: str) -> UserError:
    return UserError(f"{path}: not written by `segue export`: {problem}")
