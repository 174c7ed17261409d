"""Models are traced once a session: that takes ten seconds, and the graph is the same for the same model."""

import hashlib
import io
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segue.formats import onnx


class _ByValue(pickle.Pickler):
    """What torch itself writes of a tensor is another each time."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        return str, (f"{obj.dtype} {tuple(obj.shape)} {obj.detach().flatten().view(torch.uint8).numpy().tobytes()!r}",)


def digest(value: object) -> str:
    """Equal for equal models."""
    file = io.BytesIO()
    _ByValue(file).dump(value)
    return hashlib.sha256(file.getvalue()).hexdigest()


@pytest.fixture(scope="session", autouse=True)
def _models_are_traced_once() -> Iterator[None]:
    """A model with any other weight, size or setting is another."""
    kept: dict[str, torch.onnx.ONNXProgram] = {}
    real = onnx.traced

    def traced(
        model: nn.Module, example: tuple[Tensor, ...], dimensions: onnx.Names, outputs: Sequence[str]
    ) -> torch.onnx.ONNXProgram:
        key = digest((model, example, dimensions, list(outputs)))
        if key not in kept:
            kept[key] = real(model, example, dimensions, outputs)
        kept[key].model.metadata_props.clear()
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "traced", traced)
        yield
