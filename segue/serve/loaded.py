"""Which models does a server have? Loaded with their batches, found by name and task, replaced by new versions."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from segue.errors import UserError, gathered
from segue.runtime.classifier import Classifier
from segue.runtime.language_model import LanguageModel
from segue.runtime.recognizer import Recognizer
from segue.runtime.translator import Translator
from segue.serve import batching
from segue.serve.batched import (
    BatchedClassifierBackend,
    BatchedGeneration,
    BatchedRecognizerBackend,
    BatchedTranslationBackend,
)
from segue.serve.batching import Batcher, Bounds
from segue.serve.metrics import Metrics
from segue.serve.refusals import RefusedError
from segue.serve.settings import Settings

BATCH_TOKENS = 4096
"""Largest batch of texts, padded."""
LEAST_FILLED_OF_GENERATION = 0.5
"""Rows of a generation leave when they end: unequal ones cost less than padding does elsewhere."""

TASKS: Mapping[type, str] = {
    Recognizer: "speech_recognition",
    Translator: "translation",
    Classifier: "classification",
    LanguageModel: "language_modeling",
}
"""The tasks that have endpoints."""
WORDS: Mapping[str, str] = {
    "speech_recognition": "a model that recognizes speech",
    "translation": "a model that translates",
    "classification": "a classifier",
    "language_modeling": "a language model",
}
"""How messages call their models."""


class Source(NamedTuple):
    """A model as it is named on the command line."""

    name: str
    path: Path
    languages: tuple[str, str] | None = None
    """Source and target language of a translator whose training data did not name any."""


@dataclass(eq=False)
class Loaded:
    """A model with its batches."""

    source: Source
    task: str
    model: Any
    """A `Recognizer`, `Translator`, `Classifier` or `LanguageModel` that submits to the batcher."""
    batcher: Batcher[Any, Any]
    created: int
    """When it was loaded, in seconds since 1970."""

    @property
    def name(self) -> str:
        """Its name in requests."""
        return self.source.name

    @property
    def source_language(self) -> str | None:
        """Language that a translator reads, if it is known."""
        return self.source.languages[0] if self.source.languages else None

    @property
    def target_languages(self) -> list[str]:
        """Languages that a translator writes, as far as they are known."""
        if self.source.languages:
            return [self.source.languages[1]]
        return list(self.model.languages) if self.task == "translation" else []


class Models:
    """All models of a server. Thread-safe."""

    def __init__(
        self, sources: Sequence[Source], load: Callable[[Path], Any], settings: Settings, metrics: Metrics
    ) -> None:
        """`load` opens a directory. Raises a UserError for one that cannot be served, or two of a name."""
        names = [source.name for source in sources]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"two models are named {twice!r}; name one of them: NAME=PATH")
        self._load, self._settings, self._metrics = load, settings, metrics
        self._reloading = threading.Lock()
        self._loaded: Mapping[str, Loaded] = {source.name: self._opened(source) for source in sources}

    def __iter__(self) -> Any:
        return iter(self._loaded.values())

    def of(self, task: str) -> list[Loaded]:
        """The models of a task."""
        return [each for each in self._loaded.values() if each.task == task]

    def some(self, task: str, param: str = "model") -> list[Loaded]:
        """The models of a task, one at least. Raises a RefusedError, which names the field `param`."""
        found = self.of(task)
        if not found:
            raise RefusedError(
                404, f"this server has no model for this: {WORDS[task]} is needed", "model_not_found", param
            )
        return found

    def find(self, name: str | None, task: str, param: str = "model") -> Loaded:
        """The model of this name, which must be of the task; with None, the only one.

        Raises a RefusedError, which names the field `param`.
        """
        found = self.some(task, param)
        names = f"models for this: {', '.join(each.name for each in found)}"
        if not name:
            if len(found) > 1:
                raise RefusedError(400, f"{param}: which one? ({names})", "missing_required_parameter", param)
            return found[0]
        loaded = self._loaded.get(name)
        if loaded is None:
            raise RefusedError(404, f"there is no model {name[:100]!r} ({names})", "model_not_found", param)
        if loaded.task != task:
            message = f"the model {name!r} is {WORDS[loaded.task]}, not {WORDS[task]} ({names})"
            raise RefusedError(400, message, "model_not_supported", param)
        return loaded

    def named(self, name: str) -> Loaded:
        """The model of this name. Raises a RefusedError."""
        if name not in self._loaded:
            raise RefusedError(404, f"there is no model {name[:100]!r}", "model_not_found", "model")
        return self._loaded[name]

    def reload(self) -> list[str]:
        """Loads all models anew; the names. Requests under way keep the old ones, which go when the last has left.

        If one cannot be loaded, all stay as they are, and a UserError says so.
        """
        with self._reloading:
            new: dict[str, Loaded] = {}
            try:
                for name, loaded in self._loaded.items():
                    new[name] = self._opened(loaded.source)
                    if new[name].task != loaded.task:
                        raise UserError(f"the model {name!r} was {WORDS[loaded.task]}, and is {WORDS[new[name].task]}")
            except Exception:
                for loaded in new.values():
                    loaded.batcher.close()
                raise
            old, self._loaded = self._loaded, new
            for loaded in old.values():
                loaded.batcher.close()
            return list(new)

    def _opened(self, source: Source) -> Loaded:
        model = self._load(source.path.resolve())  # a link may lead to a new version the next time
        task = TASKS.get(type(model))
        if task is None:
            is_called = getattr(model.metadata, "task", "other").replace("_", " ")
            *others, last = WORDS.values()
            raise UserError(
                f"{source.path}: a {is_called} model, for which the server has no endpoint; it serves "
                f"{', '.join(others)} or {last}"
            )
        if source.languages and task != "translation":
            raise UserError(f"--pair {source.name}: only a model that translates has languages")
        if source.languages and model.languages and source.languages[1] not in model.languages:
            known = ", ".join(model.languages)
            raise UserError(f"--pair {source.name}: this model writes {known}, not {source.languages[1]}")
        settings, backend = self._settings, model.backend
        samples, filled = settings.batch_seconds, batching.LEAST_FILLED
        if task == "speech_recognition":
            samples *= model.metadata.sample_rate_hz
            run: Any = partial(BatchedRecognizerBackend.run, backend)
        elif task == "translation":
            samples, run = BATCH_TOKENS, partial(BatchedTranslationBackend.run, backend)
        elif task == "classification":
            samples = samples * model.sample_rate_hz if model.is_of_sounds else BATCH_TOKENS
            run = partial(BatchedClassifierBackend.run, backend)
        else:
            samples, filled, run = BATCH_TOKENS, LEAST_FILLED_OF_GENERATION, partial(BatchedGeneration.run, backend)
        bounds = Bounds(samples, settings.batch_items, settings.wait_milliseconds / 1000, settings.requests, filled)
        batcher: Batcher[Any, Any] = Batcher(run, bounds, source.name, self._metrics.batches_of(source.name))
        if task == "speech_recognition":
            model.backend = BatchedRecognizerBackend(batcher)
        elif task == "translation":
            model.backend = BatchedTranslationBackend(batcher, backend)
        elif task == "classification":
            model.backend = BatchedClassifierBackend(batcher)
        else:
            model.generation = BatchedGeneration(batcher)
        loaded = Loaded(source, task, model, batcher, int(time.time()))
        try:
            self._warm(loaded)
        except BaseException:
            batcher.close()
            raise
        return loaded

    def _warm(self, loaded: Loaded) -> None:
        """Runs the model once: what it allocates then is not the first client's wait."""
        if loaded.task == "speech_recognition":
            import numpy as np

            rate = loaded.model.metadata.sample_rate_hz
            loaded.model.recognize([(np.arange(rate // 2) % 7 / 100).astype(np.float32)])
        elif loaded.task == "translation":
            with suppress(UserError), gathered():
                loaded.model.translate(["a"], next(iter(loaded.model.languages), None))
