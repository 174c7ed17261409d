"""Model directories of earlier versions say what they said then.

`data/recognizer_0342e48` was trained by commit 0342e48, when weights were named model.* and recipes had no [objective];
`log_probs.npy` is what that commit heard in `sweep()`.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import segue
from segue import recipe
from segue.data import audio
from segue.tasks.speech_recognition import AcousticModel, Recipe, TorchBackend

EARLIER = Path(__file__).parent / "data" / "recognizer_0342e48"


def sweep() -> audio.Samples:
    time = np.arange(6000) / 8000
    return (0.3 * np.sin(2 * np.pi * (300 + 2000 * time) * time)).astype(np.float32)


def heard(folder: Path) -> NDArray[np.float32]:
    (found,) = segue.load(folder, device="cpu").backend.recognize([sweep()])
    return found.scores  # type: ignore[no-any-return]


def earlier_name(name: str) -> str:
    return name.replace("head.output.", "model.head.").replace("encoder.", "model.")


def test_earlier_directories_have_equal_scores() -> None:
    assert "objective" not in (EARLIER / "recipe.toml").read_text()
    np.testing.assert_allclose(heard(EARLIER), np.load(EARLIER / "log_probs.npy"), atol=1e-5)


@pytest.mark.parametrize("change", [("dense", "dense"), ("dense", "plain"), ("is_separable = true", "")])
def test_earlier_weight_names_still_load(tmp_path: Path, change: tuple[str, str]) -> None:
    shutil.copy(EARLIER / "tokenizer.json", tmp_path)
    text = (EARLIER / "recipe.toml").read_text().replace(*change)
    (tmp_path / "recipe.toml").write_text(text)
    section = recipe.validate(recipe.read(tmp_path / "recipe.toml"), Recipe)
    torch.manual_seed(0)
    model = AcousticModel(section, len(" abcd"))
    weights = {earlier_name(name): tensor for name, tensor in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    if change == ("dense", "dense"):
        assert weights.keys() == load_file(EARLIER / "model.safetensors").keys()
    (expected,) = TorchBackend(model, section.objective.build(len(" abcd")), torch.device("cpu")).recognize([sweep()])
    np.testing.assert_array_equal(heard(tmp_path), expected.scores)
