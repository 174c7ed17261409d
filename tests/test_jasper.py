from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.data.features import LogMelSection
from segue.layers.mask import length_mask
from segue.models.jasper import Block, BlockSection, Jasper, JasperSection
from segue.tasks.speech_recognition.ctc import CTCHead, CTCSection
from segue.tasks.speech_recognition.model import AcousticModel

Residual = Literal["dense", "plain", "none"]

FEATURES, VOCABULARY = 64, 29


def sized(residual: Residual, blocks_each: int, repeats: int) -> JasperSection:
    """Jasper BxR as the paper and OpenSeq2Seq have it: five kinds of blocks between a first and two last ones."""
    return JasperSection(
        kind="jasper",
        residual=residual,
        blocks=(
            BlockSection(channels=256, kernel=11, stride=2, has_residual=False),
            *(
                BlockSection(channels=channels, kernel=kernel, repeats=repeats)
                for channels, kernel in ((256, 11), (384, 13), (512, 17), (640, 21), (768, 25))
                for _ in range(blocks_each)
            ),
            BlockSection(channels=896, kernel=29, dilation=2, has_residual=False),
            BlockSection(channels=1024, kernel=1, has_residual=False),
        ),
    )


QUARTZNET_15X5 = JasperSection(
    kind="jasper",
    residual="plain",
    is_separable=True,
    blocks=(
        BlockSection(channels=256, kernel=33, stride=2, has_residual=False),
        *(
            BlockSection(channels=channels, kernel=kernel, repeats=5)
            for channels, kernel in ((256, 33), (256, 39), (512, 51), (512, 63), (512, 75))
            for _ in range(3)
        ),
        BlockSection(channels=512, kernel=87, dilation=2, has_residual=False),
        BlockSection(channels=1024, kernel=1, has_residual=False),
    ),
)


def num_parameters(section: JasperSection) -> int:
    with torch.device("meta"):
        encoder = Jasper(section, FEATURES)
        head = CTCHead(encoder.width, VOCABULARY)
    return sum(parameter.numel() for part in (encoder, head) for parameter in part.parameters())


def test_jasper_10x5_has_the_published_size() -> None:
    assert num_parameters(sized("dense", 2, 5)) == 332_632_349
    assert num_parameters(sized("plain", 2, 5)) == 322_286_877


@pytest.mark.parametrize(
    ("section", "millions"),
    [
        pytest.param(sized("dense", 1, 3), "109.7", id="Jasper 5x3 dense"),
        pytest.param(sized("plain", 1, 3), "107.7", id="Jasper 5x3 plain"),
        pytest.param(sized("none", 1, 3), "106.5", id="Wave2Letter+"),
        pytest.param(sized("dense", 2, 3), "210.8", id="Jasper 10x3 dense"),
        pytest.param(sized("plain", 2, 3), "200.5", id="Jasper 10x3 plain"),
        pytest.param(QUARTZNET_15X5, "18.9", id="QuartzNet 15x5"),
    ],
)
def test_other_sizes_have_the_published_parameters(section: JasperSection, millions: str) -> None:
    assert f"{num_parameters(section) / 1e6:.1f}" == millions


def tiny(residual: Residual = "dense", *, is_separable: bool = False) -> JasperSection:
    """All that a Jasper can have: strides, dilation, repeats, residuals, a block without one between them.

    Its output has a quarter of the frames; with dense residuals, which need equal rates, half of them.
    """
    return JasperSection(
        kind="jasper",
        residual=residual,
        is_separable=is_separable,
        blocks=(
            BlockSection(channels=8, kernel=5, repeats=2, stride=2, has_residual=False, dropout=0.1),
            BlockSection(channels=8, kernel=7, repeats=3, dropout=0.1),
            BlockSection(channels=12, kernel=3, stride=2 - (residual == "dense"), dilation=2, has_residual=False),
            BlockSection(channels=12, kernel=5, repeats=2, dilation=3),
            BlockSection(channels=10, kernel=9),
            BlockSection(channels=16, kernel=1, has_residual=False),
        ),
    )


def recognizer(section: JasperSection) -> AcousticModel:
    """With a head for 4 tokens and the blank."""
    torch.manual_seed(0)
    features, objective = LogMelSection(sample_rate_hz=8000, mel_bins=6), CTCSection(kind="ctc")
    recipe: Any = SimpleNamespace(features=features, model=section, objective=objective)
    return AcousticModel(recipe, 4)


def lived_in(section: JasperSection) -> AcousticModel:
    """A model in evaluation mode whose batch norms have learned something, so that padding would shine through."""
    model = recognizer(section).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.weight, mean=1.0, std=0.3)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


ARCHITECTURES = [
    pytest.param(tiny("dense"), id="dense"),
    pytest.param(tiny("plain"), id="plain"),
    pytest.param(tiny("none"), id="no residual"),
    pytest.param(tiny("dense", is_separable=True), id="dense separable"),
    pytest.param(tiny("plain", is_separable=True), id="plain separable"),
]


@pytest.mark.parametrize("section", ARCHITECTURES)
def test_padding_never_changes_an_output(section: JasperSection) -> None:
    model = lived_in(section)
    frames = torch.tensor([97, 96, 50, 33, 7, 3, 2, 1])
    features = torch.randn(len(frames), 6, 110)  # noise in the padding, and more of it than any utterance needs
    with torch.inference_mode():
        together, together_frames = model.score(features, frames)
        for number, count in enumerate(frames.tolist()):
            alone, alone_frames = model.score(features[number : number + 1, :, :count], frames[number : number + 1])
            assert alone_frames.item() == together_frames[number] == alone.shape[1]
            assert alone_frames == -(-count // section.subsampling)
            torch.testing.assert_close(together[number, : alone.shape[1]], alone[0], atol=1e-5, rtol=0)


def test_outputs_are_subsampled_log_probs() -> None:
    model = lived_in(tiny("plain"))
    log_probs, frames = model.score(torch.randn(2, 6, 41), torch.tensor([41, 20]))
    assert model.encoder.subsampling == tiny("plain").subsampling == 4
    assert frames.tolist() == [11, 5]
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(dim=-1), torch.ones(2, 11))


@pytest.mark.parametrize("section", ARCHITECTURES)
def test_the_gradient_reaches_every_parameter(section: JasperSection) -> None:
    model = recognizer(section).train()
    log_probs, _ = model.score(torch.randn(3, 6, 60), torch.tensor([60, 50, 20]))
    (log_probs * torch.randn(log_probs.shape)).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def normalized(x: Tensor, norm: Any) -> Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3)


@pytest.mark.parametrize(
    ("residual", "summed"), [("dense", [[1], [1, 3], [1, 3, 4]]), ("plain", [[1], [3], [4]]), ("none", [[], [], []])]
)
def test_blocks_add_the_residuals_of_their_kind(residual: Residual, summed: list[list[int]]) -> None:
    model = lived_in(tiny(residual)).encoder
    inputs: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    outputs: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, given, output: outputs.append(output))
    frames = torch.tensor([44, 31])
    with torch.inference_mode():
        model(torch.randn(2, 6, 44), frames)
        mask = length_mask(-(-frames // model.subsampling), 44 // model.subsampling)
        for position, sources in zip((3, 4), summed[1:], strict=True):
            block = model.blocks[position]
            assert isinstance(block, Block)
            assert len(block.residuals) == len(sources)
            x = inputs[position]
            for layer in block.layers[:-1]:
                x = layer(x).relu() * mask
            x = block.layers[-1](x)
            for projection, source in zip(block.residuals, sources, strict=True):
                assert isinstance(projection, nn.Sequential)
                x = x + normalized(F.conv1d(inputs[source], projection.get_parameter("0.weight")), projection[1])
            torch.testing.assert_close(outputs[position], x.relu() * mask)


def test_batch_norm_momentum_is_a_tenth() -> None:
    torch.manual_seed(0)
    section = JasperSection(kind="jasper", residual="none", blocks=(BlockSection(channels=8, kernel=3),))
    model = Jasper(section, 6).train()
    (norm,) = (module for module in model.modules() if isinstance(module, nn.BatchNorm1d))
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model(torch.randn(4, 6, 50) + 3, torch.tensor([50] * 4))
    (x,) = seen
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(dim=(0, 2)))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x.transpose(0, 1).flatten(1).var(dim=1))


@pytest.mark.parametrize(
    ("residual", "change", "message"),
    [
        ("none", {"kernel": 4}, "kernel 4 is even"),
        ("plain", {"stride": 2}, "a block with a residual needs stride 1"),
        ("dense", {"stride": 2, "has_residual": False}, "with dense residuals, no stride after the first block"),
    ],
)
def test_sizes_that_cannot_work_are_refused(residual: Residual, change: dict[str, Any], message: str) -> None:
    last = BlockSection(**{"channels": 8, "kernel": 3} | change)
    with pytest.raises(ValueError, match=f"block 1: {message}"):
        JasperSection(kind="jasper", residual=residual, blocks=(BlockSection(channels=8, kernel=3), last))
