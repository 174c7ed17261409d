"""Number formats: how float16 keeps its gradients, what devices can do, and that fewer bits learn the same."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

import segue
from segue.engine import precision
from segue.engine.precision import PATIENCE, LossScale, LossScalingSection
from segue.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def scale_of(kind: str, **keys: Any) -> LossScale:
    section: LossScalingSection = TypeAdapter(LossScalingSection).validate_python({"kind": kind, **keys})
    return LossScale(section)


# --- Loss scaling ---


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30).map(sorted), st.sampled_from([2000, 7]))
@settings(deadline=None, max_examples=40)
def test_backoff_halves_and_doubles_the_scale(overflows: list[int], window: int) -> None:
    """It halves at an overflow, and doubles after 2,000 clean steps."""
    # Restated from the steps at which it overflowed, without a counter. The scale, as an exponent, is at most 14.
    scale = scale_of("backoff") if window == 2000 else scale_of("backoff", window=window)
    exponent, last, at = 14, -1, set(overflows)
    for step in range(overflows[-1] + 1):
        assert scale.value == 2.0**exponent
        if step in at and exponent == 0:
            with pytest.raises(UserError, match=r"engine\.loss_scaling: the gradients are not finite"):
                scale.update(None)
            return
        scale.update(None if step in at else 1.0)
        if step in at:
            exponent, last = exponent - 1, step
        elif (step - last) % window == 0:
            exponent = min(14, exponent + 1)


def open_seq2seq_scales(exponents: list[float | None]) -> Iterator[float]:
    """OpenSeq2Seq's LogMax, in closed form: weighted means of log2 |g|max over all steps, newest heaviest.

    It differs in one thing: an overflow counts there as 2 ** log_max where a logarithm is meant, here as log_max.
    """
    seen: list[float] = []
    for exponent in exponents:
        seen.append(16.0 if exponent is None else exponent)

        def mean(values: list[float], beta: float) -> float:
            weights = [beta**age for age in range(len(values))]
            pairs = zip(weights, reversed(values), strict=True)
            return math.fsum(weight * value for weight, value in pairs) / math.fsum(weights)

        center = mean(seen, 0.999)
        variance = mean([(each - center) ** 2 for each in seen], 0.999)
        proposed = 2 ** (16 - (mean(seen, 0.99) + 3.09 * math.sqrt(variance)))
        yield min(2.0**14, max(1.0, proposed))


@given(st.lists(st.floats(-20, 15), min_size=1, max_size=60), st.integers(1, 60))
@settings(deadline=None, max_examples=40)
def test_logmax_has_the_scales_of_open_seq2seq(exponents: list[float], overflow_at: int) -> None:
    """They follow the largest gradient."""
    scale = scale_of("logmax")
    assert scale.value == 1.0
    # An overflow where it could still fall.
    steps = [None if n == overflow_at else each for n, each in enumerate(exponents)]
    for exponent, expected in zip(steps, open_seq2seq_scales(steps), strict=True):
        if exponent is None and scale.value == 1.0:
            return
        scale.update(None if exponent is None else 2.0**exponent)
        assert scale.value == pytest.approx(expected, rel=1e-4)


def test_logmax_overflows_once_in_a_thousand() -> None:
    """It leaves room for three standard deviations."""
    draw = torch.Generator().manual_seed(0)
    scale, overflows = scale_of("logmax"), 0
    for exponent in (-2 + torch.randn(4000, generator=draw)).tolist():
        overflows += scale.value * 2.0**exponent >= 2.0**16
        scale.update(2.0**exponent)
    assert overflows <= 12  # 1 in 1000 is the aim
    assert 2.0**13 < scale.value <= 2.0**14  # 16 + 2 - 3.09 is more than 14


def test_a_static_scale_stops_after_100_overflows() -> None:
    """In a row; until then it stays as it is."""
    scale = scale_of("static", scale=512.0)
    for _ in range(3):
        for _ in range(PATIENCE - 1):
            scale.update(None)
        scale.update(1.0)
    for _ in range(PATIENCE - 1):
        scale.update(None)
    assert (PATIENCE, scale.value) == (100, 512.0)
    with pytest.raises(UserError, match=r"smallest loss scale \(512\); a lower optimizer.learning_rate or "):
        scale.update(None)


@pytest.mark.parametrize("kind", ["backoff", "logmax"])
def test_overflow_at_the_smallest_scale_stops(kind: str) -> None:
    """The message says what may help."""
    scale = scale_of(kind)
    if kind == "backoff":
        for _ in range(14):
            scale.update(None)
    assert scale.value == 1.0
    with pytest.raises(UserError, match=r"smallest loss scale \(1\).* or engine.precision bfloat16 or float32"):
        scale.update(None)


@pytest.mark.parametrize("kind", ["backoff", "logmax", "static"])
def test_a_loss_scale_goes_on_from_its_state_in_json(kind: str) -> None:
    all_keys: dict[str, dict[str, float]] = {"backoff": {"window": 5}, "logmax": {}, "static": {"scale": 64.0}}
    keys = all_keys[kind]
    largest = [0.1, None, 0.3, 0.01, 0.2, 0.5, 0.1, 4.0, 0.1, 0.2, 0.2]
    through, stopped = scale_of(kind, **keys), scale_of(kind, **keys)
    through.update(largest[0])
    stopped.update(largest[0])
    for each in largest[1:]:
        resumed = scale_of(kind, **keys)
        resumed.state = json.loads(json.dumps(stopped.state))
        through.update(each)
        resumed.update(each)
        stopped = resumed
        assert (resumed.value, resumed.state) == (through.value, through.state)


# --- What a device can do ---


@pytest.mark.parametrize(
    ("number_format", "capability", "message"),
    [
        ("bfloat16", (7, 0), "engine.precision: Tesla V100 has no bfloat16; use float16"),
        ("float16", (5, 2), "engine.precision: Tesla V100 has no float16; use float32"),
        ("float16", (7, 0), None),
        ("float32", (5, 2), None),
        ("bfloat16", (8, 0), None),
    ],
)
def test_formats_that_a_gpu_lacks_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    number_format: precision.Precision,
    capability: tuple[int, int],
    message: str | None,
) -> None:
    """The message names one that it has."""

    def has_bfloat16(*, including_emulation: bool) -> bool:
        assert not including_emulation  # slower than float32
        return capability >= (8, 0)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", has_bfloat16)
    if message is None:
        precision.check(number_format, GPU)
        return
    with pytest.raises(UserError) as raised:
        precision.check(number_format, GPU)
    assert str(raised.value) == message


@pytest.mark.parametrize("has_units", [False, True])
@pytest.mark.parametrize("number_format", ["float16", "bfloat16"])
def test_emulated_formats_are_warned_about(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number_format: precision.Precision,
    has_units: bool,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_amx_fp16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: has_units)
    precision.check(number_format, CPU)
    precision.check("float32", CPU)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (not has_units)
    assert all(
        line.startswith(f"warning: engine.precision: this processor has no {number_format} units; float32 is")
        for line in said
    )


def test_the_recipe_sets_cuda_matmul_precision() -> None:
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)  # type: ignore[attr-defined]
    before = [each.fp32_precision for each in switches]
    try:
        for matmul in ("tf32", "ieee"):
            precision.set_matmul(matmul)
            assert [each.fp32_precision for each in switches] == [matmul] * 3
    finally:
        for each, value in zip(switches, before, strict=True):
            each.fp32_precision = value


@pytest.mark.parametrize("number_format", precision.DTYPES)
def test_autocast_keeps_weights_in_float32(number_format: precision.Precision) -> None:
    layer = torch.nn.Linear(2, 2)
    with precision.autocast(number_format, CPU):
        out = layer(torch.ones(1, 2))
    assert out.dtype == precision.DTYPES[number_format]
    assert layer.weight.dtype == torch.float32


# --- Learning ---


@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        # float16 rounds activations to 2^-11 = 5e-4. 12 steps of Adam amplify little: found 1e-4.
        pytest.param("translation", 1e-3, marks=pytest.mark.slow),
        pytest.param("language", 1e-3, marks=pytest.mark.slow),
        # BatchNorm and NovoGrad at this rate amplify more: found 3e-3.
        ("speech", 1e-2),
    ],
)
def test_float16_learns_what_float32_learns(
    tiny_recipe: Path, reversal_recipe: Path, language_recipe: Path, tmp_path: Path, kind: str, bound: float
) -> None:
    recipe, own = {
        "speech": (tiny_recipe, ("engine.steps=8", "engine.average_count=0")),
        "translation": (
            reversal_recipe,
            ("engine.steps=12", "batch.tokens=256", "search.longest_factor=0.1", "search.longest_extra=1"),
        ),
        "language": (language_recipe, ("engine.steps=12",)),
    }[kind]
    found = {}
    for number_format, scaling in (("float32", "backoff"), ("float16", "backoff"), ("float16", "logmax")):
        run = tmp_path / f"{number_format} {scaling}"
        overrides = (f"engine.precision={number_format}", f"engine.loss_scaling.kind={scaling}", *own)
        segue.train(recipe, run, "engine.log_every=1", *overrides)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found[run.name] = [line["loss"] for line in lines]
    exact = found.pop("float32 backoff")
    assert exact[-1] < 0.8 * exact[0]
    for losses in found.values():
        assert losses == pytest.approx(exact, rel=bound)
        assert losses != exact
