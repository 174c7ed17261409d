"""Which tasks are there, and which runtimes does each have? A table of names, which imports none of the modules.

A new task is an entry; a new export format is a target of its tasks.
"""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple


class Target(NamedTuple):
    """An export target of a task's models. Objects are named as `module:name`."""

    exporter: str
    """The `formats.exporter.Exporter` that writes models for it."""
    opens: str | None = None
    """The function that opens an export without torch: (folder, metadata, threads) -> model. None if Segue cannot run
    it."""
    extra: str | None = None
    """The package extra that opening it requires."""


class Entry(NamedTuple):
    """A task."""

    module: str
    """Its module under `segue.tasks`."""
    metadata: str
    """The Section with the metadata of its exported models, as `module:name`."""
    targets: Mapping[str, Target]


TASKS: Mapping[str, Entry] = {
    "speech_recognition": Entry(
        module="segue.tasks.speech_recognition",
        metadata="segue.runtime.recognizer:SpeechMetadata",
        targets={
            "onnx": Target("segue.formats.onnx:SPEECH", "segue.runtime.onnx:open_recognizer"),
            "sherpa-onnx": Target("segue.formats.sherpa_onnx:SPEECH"),
            "triton": Target("segue.formats.triton:SPEECH"),
        },
    ),
    "translation": Entry(
        module="segue.tasks.translation",
        metadata="segue.runtime.translator:TranslationMetadata",
        targets={
            "onnx": Target("segue.formats.onnx:TEXT"),
            "ctranslate2": Target(
                "segue.formats.ctranslate2:TEXT", "segue.runtime.ctranslate2:open_translator", "translate"
            ),
            "huggingface": Target("segue.formats.huggingface:TEXT"),
            "peft": Target("segue.formats.peft:TEXT"),
        },
    ),
    "classification": Entry(
        module="segue.tasks.classification",
        metadata="segue.runtime.classifier:ClassifierMetadata",
        targets={
            "onnx": Target("segue.formats.onnx_classification:CLASSES", "segue.runtime.onnx_classifier:open_classifier")
        },
    ),
    "speaker_embedding": Entry(
        module="segue.tasks.speaker_embedding",
        metadata="segue.runtime.speaker_embedder:SpeakerMetadata",
        targets={
            "onnx": Target("segue.formats.onnx_speakers:VOICES", "segue.runtime.onnx_embedder:open_embedder"),
            "sherpa-onnx": Target("segue.formats.sherpa_onnx_speakers:VOICES"),
        },
    ),
    "language_modeling": Entry(
        module="segue.tasks.language_modeling",
        metadata="segue.runtime.language_model:LanguageMetadata",
        targets={
            "onnx": Target(
                "segue.formats.onnx_language:LANGUAGE", "segue.runtime.onnx_language:open_language_model", "translate"
            ),
            "ctranslate2": Target(
                "segue.formats.ctranslate2_language:LANGUAGE",
                "segue.runtime.ctranslate2_language:open_language_model",
                "translate",
            ),
            "huggingface": Target("segue.formats.huggingface_language:LANGUAGE"),
            "gguf": Target("segue.formats.gguf:LANGUAGE"),
        },
    ),
}


def targets() -> list[str]:
    """The names of all targets, each once."""
    return list(dict.fromkeys(name for entry in TASKS.values() for name in entry.targets))


def find(place: str) -> Any:
    """The object named `module:name`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
