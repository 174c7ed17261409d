"""All tests of formats share graphs, and models that take seconds to trace or to train."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import segue
from segue.data.features import LogMelSection
from segue.models.jasper import JasperSection
from segue.tasks.speech_recognition.ctc import CTCSection
from segue.tasks.speech_recognition.model import AcousticModel

PAPER = ("model.norm=post", "model.positions=sinusoidal")
"""The paper's Transformer, as Hugging Face and PEFT take it."""
DENSE = (
    {"channels": 16, "kernel": 7, "stride": 2, "has_residual": False},
    {"channels": 16, "kernel": 5, "repeats": 2},
    {"channels": 24, "kernel": 5, "dilation": 2},
    {"channels": 16, "kernel": 1, "has_residual": False},
)
SEPARABLE = (
    {"channels": 32, "kernel": 7, "stride": 2, "has_residual": False},
    {"channels": 32, "kernel": 5, "repeats": 2},
    {"channels": 32, "kernel": 5},
)


@pytest.fixture(scope="session", autouse=True)
def _graphs_are_shared(traced_once: None) -> None:
    del traced_once


def random_recognizer(residual: str, is_separable: bool, blocks: Any) -> AcousticModel:
    """A small one of eight tokens, with weights and statistics that matter."""
    torch.manual_seed(0)
    section = {"kind": "jasper", "residual": residual, "is_separable": is_separable, "blocks": blocks}
    features = LogMelSection(sample_rate_hz=8000, mel_bins=16, normalization="speech")
    recipe: Any = SimpleNamespace(
        features=features, model=JasperSection.model_validate(section), objective=CTCSection(kind="ctc")
    )
    model = AcousticModel(recipe, 8)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            for tensor, middle in ((module.running_mean, 0.0), (module.running_var, 1.0), (module.bias.data, 0.0)):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.6 - 0.3 + middle)
    model.head.output.weight.data *= 6
    return model.eval()


@pytest.fixture(scope="session")
def jasper() -> AcousticModel:
    """Not to be changed."""
    return random_recognizer("dense", False, DENSE)


@pytest.fixture(scope="session")
def quartznet() -> AcousticModel:
    """Not to be changed."""
    return random_recognizer("plain", True, SEPARABLE)


@pytest.fixture(scope="session")
def paper_translator(reversal_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of the paper's Transformer, which has learned a little. Not to be written to."""
    run = tmp_path_factory.mktemp("paper") / "base"
    segue.train(reversal_recipe, run, *PAPER, "engine.steps=120")
    return run
