"""How is a recognizer of NeMo imported? Its `.nemo` archive becomes a recipe, a tokenizer and weights of Segue.

Jasper and QuartzNet with CTC over characters (`EncDecCTCModel`, `ConvASREncoder`): they are our Jasper, and their front
end is `data/nemo_features.py`. A `.nemo` file is a tar archive, of older versions compressed by gzip, with
model_config.yaml and model_weights.ckpt (nemo/core/connectors/save_restore_connector.py). References like
`${model.labels}` are followed, other expressions are not evaluated.

Not imported: dither and the padding of features to a multiple of 16, which do not change what is recognized.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segue import recipe
from segue.data import tokenizer as tokenizers
from segue.data.nemo_features import GUARD, NemoSection
from segue.engine.distributed.materialize import blueprint
from segue.errors import UserError, count_of, note, warn
from segue.formats import weights
from segue.formats.archive import read_members
from segue.formats.imported import Imported
from segue.formats.settings import Settings, read_yaml, shown
from segue.tasks import speech_recognition
from segue.tasks.speech_recognition import AcousticModel, Recipe

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
MOST_BYTES = {CONFIG: 1 << 20, WEIGHTS: 1 << 36}
KNOWN = ("EncDecCTCModel",)
"""The models that can be imported, by the last part of `target`."""
ZEROS_SINCE = (2, 5)
"""The version of NeMo that replaced reflection by zeros: nemo_toolkit 2.4.1 has the former, 2.5.0 the latter."""
LEARNING_RATE = 1e-3
"""A third of that of `your_speech`, whose models are smaller and new."""
_OTHERS = ("preprocessor.", "spec_augmentation.", "loss.")  # parts of the model without weights of their own


def read(path: Path, version: str | None = None) -> Imported:
    """The model in a `.nemo` archive. `version` is that of the NeMo that trained it; None: as the archive says.

    Raises a UserError if the archive is not safe, not a model that can be imported, or not complete.
    """
    members = read_members(path, MOST_BYTES)
    settings = read_yaml(members[CONFIG], f"{path}: {CONFIG}")
    _check_classes(settings)
    section = _recipe(settings, version, path)
    features = section.features
    assert isinstance(features, NemoSection)
    generation = "since" if features.padding == "zeros" else "before"
    tokenizer = tokenizers.build(section.tokenizer, ())
    model = blueprint(lambda: AcousticModel(section, len(tokenizer)))
    tensors = weights.of_torch(members.pop(WEIGHTS), f"{path}: {WEIGHTS}")
    names = _names(section, tensors)
    blank = model.state_dict()
    shapes = {names[name]: tensor.shape for name, tensor in blank.items()}
    weights.check(tensors, shapes, f"{path}: {WEIGHTS}", CONFIG)
    unknown = [name for name in tensors if name not in shapes and not name.startswith(_OTHERS)]
    if unknown:
        raise UserError(f"{path}: {WEIGHTS}: {', '.join(unknown[:3])}: Segue's Jasper has no such weights")
    said = f"--nemo-version {version}" if version is not None else f"nemo_version {settings.get('nemo_version', str)}"
    note(f"front end of NeMo {generation} 2.5.0 ({said})")
    return Imported(
        section,
        {name: tensors[names[name]].to(tensor.dtype) for name, tensor in blank.items()},
        path,
        lambda folder: tokenizer.save(folder / "tokenizer.json"),
        title="Speech recognition model",
        kind="automatic-speech-recognition",
        facts=(
            f"A model of NeMo ({KNOWN[0]}), with the front end of NeMo {generation} 2.5.0.",
            f"Input: speech, resampled to {features.sample_rate_hz} Hz. Output: text.",
        ),
        use=speech_recognition.use,
    )


def _check_classes(settings: Settings) -> None:
    """Raises a UserError if the model or one of its parts is of another class."""
    name = settings.get("target", str).rpartition(".")[2]
    if name not in KNOWN:
        raise settings.error("target", f"{name} cannot be imported, only {', '.join(KNOWN)} (Jasper and QuartzNet)")
    parts = {
        "preprocessor": "AudioToMelSpectrogramPreprocessor",
        "encoder": "ConvASREncoder",
        "decoder": "ConvASRDecoder",
    }
    for part, wanted in parts.items():
        key = f"{part}._target_" if settings.has(f"{part}._target_") else f"{part}.cls"  # as NeMo 1.0 wrote it at first
        found = settings.get(key, str).rpartition(".")[2]
        if found != wanted:
            raise settings.error(key, f"{found} cannot be imported, only {wanted}")


def _recipe(settings: Settings, version: str | None, path: Path) -> Recipe:
    """The recipe of the model; what concerns its training is from `your_speech`."""
    labels = _labels(settings)
    draft = recipe.read(recipe.shipped()["your_speech"], [f"optimizer.learning_rate={LEARNING_RATE}"])
    values = draft.values | {
        "tokenizer": {"kind": "characters", "alphabet": "".join(labels)},
        "text": _text(labels),
        "features": _features(settings, version),
        "model": _model(settings),
    }
    return recipe.validate(recipe.Draft(values, {}, str(path)), Recipe)


def _inner(settings: Settings, part: str) -> str:
    """The table with the arguments of a part: the first versions of NeMo 1.0 had it in `params`."""
    return f"{part}.params" if settings.has(f"{part}.params") else part


def _labels(settings: Settings) -> list[str]:
    decoder = _inner(settings, "decoder")
    key = f"{decoder}.vocabulary" if settings.has(f"{decoder}.vocabulary") else "labels"
    labels: list[Any] = settings.get(key, list)
    for number, label in enumerate(labels):
        if not isinstance(label, str) or len(label) != 1:
            raise settings.error(f"{key}.{number}", f"{shown(label)}: a label of one character is wanted, in quotes")
        if label in labels[:number]:
            raise settings.error(f"{key}.{number}", f"{shown(label)} is in it twice")
    if not labels:
        raise settings.error(key, "no labels")
    count = settings.get(f"{decoder}.num_classes", int, -1)
    if count > 0 and count != len(labels):
        raise settings.error(f"{decoder}.num_classes", f"{count}, but {key} has {count_of(len(labels), 'label')}")
    return labels


def _text(labels: list[str]) -> dict[str, Any]:
    """Text normalization that leaves the characters that the model can write."""
    has_upper = any(label != label.lower() for label in labels)
    has_lower = any(label != label.upper() for label in labels)
    return {
        "case": "keep" if has_upper and has_lower else "upper" if has_upper else "lower",
        "keep_characters": "".join(label for label in labels if unicodedata.category(label)[0] in "PS"),
    }


def _features(settings: Settings, version: str | None) -> dict[str, Any]:
    part = _inner(settings, "preprocessor")
    rate = settings.get(f"{part}.sample_rate", int, 16000)
    settings.require(
        {
            "sample_rate": (rate,),
            f"{part}.window": ("hann",),
            f"{part}.normalize": ("per_feature",),
            f"{part}.lowfreq": (0,),
            f"{part}.highfreq": (rate / 2,),
            f"{part}.log": (True,),
            f"{part}.log_zero_guard_type": ("add",),
            f"{part}.frame_splicing": (1,),
            f"{part}.exact_pad": (False,),
            f"{part}.stft_exact_pad": (False,),
            f"{part}.stft_conv": (False,),
            f"{part}.mag_power": (2,),
            f"{part}.mel_norm": ("slaney",),
        }
    )

    def samples(name: str, seconds: float) -> int:
        own = f"{part}.n_{name}"  # in samples, instead of seconds
        return (
            settings.get(own, int) if settings.has(own) else int(settings.get(f"{part}.{name}", float, seconds) * rate)
        )

    window = samples("window_size", 0.02)
    if window < 1:
        raise settings.error(f"{part}.window_size", "less than one sample")
    table = {
        "kind": "nemo",
        "sample_rate_hz": rate,
        "mel_bins": settings.get(f"{part}.features", int, 64),
        "window_samples": window,
        "shift_samples": samples("window_stride", 0.01),
        "fft_samples": settings.get(f"{part}.n_fft", int, 1 << math.ceil(math.log2(window))),
        "padding": _padding(settings, version),
        "guard": settings.get(f"{part}.log_zero_guard_value", float, GUARD),
    }
    # null is none, but a missing key has NeMo's default.
    known = settings.get(part, dict)
    if "preemph" in known:
        table["pre_emphasis"] = settings.get(f"{part}.preemph", float, 0.0)
    return table


def _padding(settings: Settings, version: str | None) -> str:
    """What NeMo of this version continues recordings with. Raises a UserError if the version is not known."""
    origin = "--nemo-version" if version is not None else f"{settings.origin}: nemo_version"
    if version is None and not settings.has("nemo_version"):
        raise settings.error(
            "nemo_version",
            "missing, and the front end of NeMo 2.5.0 differs from that of earlier versions; say which one trained "
            "this model: --nemo-version 1.0 (any before 2.5.0), or --nemo-version 2.5.0 (any since)",
        )
    said = version if version is not None else settings.get("nemo_version", str)
    found = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)?(.*)", said)
    if found is None or (found[4] and (int(found[1]), int(found[2])) == ZEROS_SINCE):
        raise UserError(
            f"{origin}: {shown(said)}: no version of which it is known whether its front end is that before or since "
            "2.5.0; give --nemo-version 2.4 or --nemo-version 2.5.0"
        )
    return "zeros" if (int(found[1]), int(found[2])) >= ZEROS_SINCE else "reflect"


def _model(settings: Settings) -> dict[str, Any]:
    """The table `model` for the list `jasper` of blocks."""
    part = _inner(settings, "encoder")
    features = settings.get(f"{_inner(settings, 'preprocessor')}.features", int, 64)
    settings.require(
        {
            f"{part}.feat_in": (features,),
            f"{part}.activation": ("relu",),
            f"{part}.normalization_mode": ("batch",),
            f"{part}.residual_mode": ("add", "stride_add"),  # the same without a stride
            f"{part}.frame_splicing": (1,),
            f"{part}.quantize": (False,),
        }
    )
    if not settings.get(f"{part}.conv_mask", bool, True):
        warn(
            f"{settings.origin}: {part}.conv_mask is false: in NeMo the ends of a text depend on the padding of its "
            "batch; here they do not, and may differ"
        )
    keys = [f"{part}.jasper.{number}" for number in range(len(settings.get(f"{part}.jasper", list)))]
    if not keys:
        raise settings.error(f"{part}.jasper", "no blocks")
    is_separable = any(settings.get(f"{key}.separable", bool, False) for key in keys)
    is_dense = any(settings.get(f"{key}.residual_dense", bool, False) for key in keys)
    blocks = [_block(settings, key, is_separable, is_dense) for key in keys]
    has_any = any(block["has_residual"] for block in blocks)
    return {
        "kind": "jasper",
        "residual": "dense" if is_dense else "plain" if has_any else "none",
        "is_separable": is_separable,
        "blocks": blocks,
    }


def _block(settings: Settings, key: str, is_separable: bool, is_dense: bool) -> dict[str, Any]:
    """A block. The file is checked for everything that our blocks cannot be."""
    has_residual = settings.get(f"{key}.residual", bool)
    factor = settings.get(f"{key}.kernel_size_factor", float, 1.0)
    kernel = max(1, int(_single(settings, f"{key}.kernel") * factor))
    kernel += kernel % 2 == 0  # compute_new_kernel_size makes all of them odd
    stride, repeats = _single(settings, f"{key}.stride"), settings.get(f"{key}.repeat", int)
    settings.require(
        {
            f"{key}.separable": (is_separable and kernel > 1,),
            f"{key}.residual_dense": (is_dense and has_residual,),
            f"{key}.residual_mode": ("add", "stride_add"),
            f"{key}.groups": (1,),
            f"{key}.heads": (-1,),
            f"{key}.se": (False,),
            f"{key}.future_context": (-1,),
        }
    )
    if is_dense and has_residual and not settings.has(f"{key}.residual_dense"):
        raise settings.error(f"{key}.residual_dense", "missing, but other blocks have dense residuals")
    if is_separable and kernel > 1 and not settings.has(f"{key}.separable"):
        raise settings.error(f"{key}.separable", "missing, but other blocks are separable")
    if stride > 1 and repeats > 1:
        raise settings.error(f"{key}.stride", "a stride in a block with several convolutions cannot be imported")
    return {
        "channels": settings.get(f"{key}.filters", int),
        "kernel": kernel,
        "repeats": repeats,
        "stride": stride,
        "dilation": _single(settings, f"{key}.dilation"),
        "dropout": settings.get(f"{key}.dropout", float),
        "has_residual": has_residual,
    }


def _single(settings: Settings, key: str) -> int:
    """A number, or the only item of a list: NeMo has lists, for convolutions of more dimensions."""
    found = settings.get(key, object)
    return settings.get(f"{key}.0", int) if isinstance(found, list) and len(found) == 1 else settings.get(key, int)


def _names(section: Recipe, tensors: Mapping[str, Any]) -> dict[str, str]:
    """Maps the names of our weights to NeMo's."""

    def convolution(place: str) -> str:
        masked = f"{place}.conv.weight"  # MaskedConv1d, or without conv_mask the convolution itself
        return masked if masked in tensors or f"{place}.weight" not in tensors else f"{place}.weight"

    def norm(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
        for each in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            yield f"{ours}.{each}", f"{theirs}.{each}"

    found: dict[str, str] = {}
    num_dense = 0
    for number, block in enumerate(section.model.blocks):
        ours, theirs = f"encoder.blocks.{number}", f"encoder.encoder.{number}"
        num_convolutions = 2 if section.model.is_separable and block.kernel > 1 else 1
        for repeat in range(block.repeats):
            first = repeat * (num_convolutions + 3)  # then norm, activation, dropout
            for each in range(num_convolutions):
                found[f"{ours}.layers.{repeat}.{each}.weight"] = convolution(f"{theirs}.mconv.{first + each}")
            found |= norm(f"{ours}.layers.{repeat}.{num_convolutions}", f"{theirs}.mconv.{first + num_convolutions}")
        if block.has_residual and section.model.residual != "none":
            num_dense += 1
            for source in range(num_dense if section.model.residual == "dense" else 1):
                found[f"{ours}.residuals.{source}.0.weight"] = convolution(f"{theirs}.res.{source}.0")
                found |= norm(f"{ours}.residuals.{source}.1", f"{theirs}.res.{source}.1")
    found |= {f"head.output.{part}": f"decoder.decoder_layers.0.{part}" for part in ("weight", "bias")}
    return found
