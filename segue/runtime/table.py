"""Which tasks are there, and in which runtimes does each run? One table, of names: it imports nothing of what it names.

A new task is an entry; a new format a target of the tasks whose models it holds.
"""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple


class Target(NamedTuple):
    """A runtime for a task's models. Places are `module:name`."""

    exporter: str
    """What writes models for it: a `formats.exporter.Exporter`."""
    opens: str | None = None
    """What opens what was written, here and without torch: (folder, metadata, threads) -> a model. None where only
    others can."""
    extra: str | None = None
    """The extra that opening it needs."""


class Entry(NamedTuple):
    """A task."""

    module: str
    """Its module under `segue.tasks`."""
    metadata: str
    """The place of what has to be known of its models to use them, a Section."""
    targets: Mapping[str, Target]


TASKS: Mapping[str, Entry] = {
    "speech_recognition": Entry(
        module="segue.tasks.speech_recognition",
        metadata="segue.runtime.recognizer:SpeechMetadata",
        targets={
            "onnx": Target("segue.formats.onnx:SPEECH", "segue.runtime.onnx:open_recognizer"),
            "sherpa-onnx": Target("segue.formats.sherpa_onnx:SPEECH"),
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
        },
    ),
    "classification": Entry(
        module="segue.tasks.classification",
        metadata="segue.runtime.classifier:ClassifierMetadata",
        targets={
            "onnx": Target("segue.formats.onnx_classification:CLASSES", "segue.runtime.onnx_classifier:open_classifier")
        },
    ),
}


def targets() -> list[str]:
    """All names of targets, each once."""
    return list(dict.fromkeys(name for entry in TASKS.values() for name in entry.targets))


def find(place: str) -> Any:
    """What a place names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
