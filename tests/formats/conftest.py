"""Graphs are written once a session: tracing a model takes ten seconds, and the same ones again for the same model."""

import hashlib
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from torch import Tensor, nn

from segue.formats import onnx


@pytest.fixture(scope="session", autouse=True)
def _graphs_are_written_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A model with any other weight, size or setting is another, and so is any other wish about the graph."""
    folder = tmp_path_factory.mktemp("graphs")
    real = onnx.write

    def write(
        model: nn.Module,
        example: tuple[Tensor, ...],
        dimensions: onnx.Names,
        outputs: Sequence[str],
        path: Path,
        metadata: Mapping[str, str],
    ) -> None:
        given = (model, example, dimensions, list(outputs), dict(metadata))
        kept = folder / hashlib.sha256(pickle.dumps(given)).hexdigest()
        if not kept.exists():
            real(model, example, dimensions, outputs, path, metadata)
            shutil.copyfile(path, kept)
        shutil.copyfile(kept, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "write", write)
        yield
