"""How is a recognizer exported to sherpa-onnx? As `model.onnx` and `tokens.txt`, for `OfflineRecognizer.from_nemo_ctc`.

<https://k2-fsa.github.io/sherpa/onnx/>. It computes the same features itself (`data/features.py`); the graph normalizes
them.

Shape letters: B batch, F mel bins, T frames, T' output frames, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue import card
from segue.data.audio import Samples, padded
from segue.data.features import FLOOR, LogMelSection
from segue.data.tokenizer import WORD_MARK, Tokenizer
from segue.errors import UserError
from segue.formats import onnx
from segue.formats.exporter import GRAPH, Exporter
from segue.runtime.onnx import session
from segue.tasks.speech_recognition import AcousticModel, Trained, waveforms
from segue.tasks.speech_recognition.comparison import Recognize, Scores

BLANK = "<blk>"
LOUD = 256
"""Peak to which recordings are scaled if features are normalized over speech, which makes them independent of the
level. Samples are floats, so nothing is clipped; relative to them, sherpa-onnx's floor is then 48 dB lower."""


def write(model: AcousticModel, tokenizer: Tokenizer, folder: Path, features: LogMelSection) -> None:
    """Writes both files to `folder`. Raises a UserError if sherpa-onnx cannot represent a token."""
    lines = token_lines(tokenizer)
    metadata = {
        "vocab_size": str(len(lines)),
        "subsampling_factor": str(model.encoder.subsampling),
        # Empty: the graph normalizes. "per_feature" of sherpa-onnx 2.0.1 is off by half a sigma in silent low bins.
        "normalize_type": "",
        "model_type": "EncDecCTCModelBPE",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokens.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    onnx.write(
        _Graph(model),
        (torch.zeros(2, features.mel_bins, 40), torch.tensor([40, 30])),
        {"features": ("batch", features.mel_bins, "time"), "lengths": ("batch",)},
        ("log_probs", "frames", "positions"),
        folder / GRAPH,
        metadata,
    )


class _Graph(nn.Module):
    """The model after the front end, with frames reordered so that sherpa-onnx, which may drop one, loses no text."""

    def __init__(self, model: AcousticModel) -> None:
        super().__init__()
        self.model, self._subsampling = model, model.encoder.subsampling
        self.train(model.training)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, F, T), (B) -> (B, T', V) log-probabilities, (B) frames, (B, T') original positions of the rows.

        Of T' = ceil(T / subsampling) frames, sherpa-onnx uses only floor(T / subsampling). If that is less, the last
        frame whose best token repeats that of the frame before it is moved to the end: dropping it does not change the
        text.
        """
        log_probs, frames = self.model.of_features(features, lengths)
        best = log_probs.argmax(dim=2)
        index = torch.arange(best.shape[1], device=best.device).expand_as(best)
        end = frames.unsqueeze(1) - 1
        is_repeated = (best == torch.roll(best, 1, dims=1)) & (index > 0) & (index <= end)
        spare = (is_repeated * index).amax(dim=1, keepdim=True)  # 0 if no frame can be dropped
        spare = torch.where((spare > 0) & (lengths.unsqueeze(1) // self._subsampling <= end), spare, end)
        later = torch.where(index < end, index + 1, torch.where(index == end, spare, index))
        positions = torch.where(index < spare, index, later)
        return log_probs.gather(1, positions.unsqueeze(2).expand_as(log_probs)), frames, positions


def token_lines(tokenizer: Tokenizer) -> list[str]:
    """The lines of tokens.txt: symbol and number of each token, then the blank. Raises a UserError as `write` does."""
    symbols = []
    for number, piece in enumerate(tokenizer.pieces):
        try:
            text = piece.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(
                f"token {number} is a part of a character: sherpa-onnx needs a tokenizer of characters, bpe or unigram"
            ) from None
        symbols.append(text.replace(" ", WORD_MARK))
    taken = {BLANK}
    for number, symbol in enumerate(symbols):
        # sherpa-onnx separates symbol and number at any white space, and reads an empty symbol as a space.
        if not symbol or symbol.split() != [symbol]:
            raise UserError(f"token {number}, {symbol!r}, is not possible in sherpa-onnx's tokens.txt: remove it")
        if symbol in taken:
            raise UserError(f"token {number}, {symbol!r}, has another meaning in sherpa-onnx's tokens.txt as well")
        taken.add(symbol)
    return [f"{symbol} {number}" for number, symbol in enumerate([*symbols, BLANK])]


# --- Exporter ---


def _write(trained: Trained, folder: Path, weights: str) -> None:
    del weights
    write(trained.model, trained.tokenizer, folder, _features(trained))


def _features(trained: Trained) -> LogMelSection:
    """The front end. Raises a UserError if it is not the one that sherpa-onnx computes."""
    features = trained.recipe.features
    if not isinstance(features, LogMelSection):
        raise UserError(
            f'features.kind = "{features.kind}": sherpa-onnx computes other features (windows of 25 ms, pre-emphasis '
            "by frame), and cannot run this model; export it to onnx instead, whose graph includes the front end"
        )
    if features.highest_hz != features.sample_rate_hz / 2:
        raise UserError(
            f"features.top_hz = {features.top_hz:g}: sherpa-onnx's filters for recognizers end at half the sample "
            "rate; export it to onnx instead, whose graph includes the front end"
        )
    return features


def _is_leveled(trained: Trained) -> bool:
    """Whether recordings have to be scaled first, because of sherpa-onnx's floor."""
    return _features(trained).normalization == "speech"


def _leveled(trained: Trained, waveforms: Sequence[Samples]) -> list[Samples]:
    """Scales waveforms to about the level that the model card prescribes: by powers of two, which is exact."""
    if not _is_leveled(trained):
        return list(waveforms)
    peaks = [max(float(np.abs(samples).max(initial=0.0)), 1e-9) for samples in waveforms]
    return [
        samples * np.float32(LOUD * 2.0 ** -math.ceil(math.log2(peak)))
        for samples, peak in zip(waveforms, peaks, strict=True)
    ]


@torch.inference_mode()
def _inputs(trained: Trained, waveforms: Sequence[Samples]) -> dict[str, NDArray[Any]]:
    """Inputs of the graph: features with sherpa-onnx's floor, which equal those it computes itself."""
    features, frames = trained.model.front_end(*map(torch.from_numpy, padded(_leveled(trained, waveforms))))
    return {"features": features.clamp(min=math.log(FLOOR)).numpy(), "lengths": frames.numpy()}


def _hear(trained: Trained, folder: Path, threads: int) -> Recognize:
    """Texts from sherpa-onnx. It returns no scores, so these come from its graph for the same features."""
    import sherpa_onnx

    metadata = trained.metadata()
    recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(
        model=str(folder / GRAPH),
        tokens=str(folder / "tokens.txt"),
        num_threads=threads,
        sample_rate=metadata.sample_rate_hz,
        feature_dim=metadata.feature_dim,
    )
    graph = session(folder / GRAPH, threads)

    def recognize(waveforms: Sequence[Samples]) -> tuple[list[str], Callable[[], Scores]]:
        streams = [recognizer.create_stream() for _ in waveforms]
        for stream, waveform in zip(streams, _leveled(trained, waveforms), strict=True):
            stream.accept_waveform(metadata.sample_rate_hz, waveform)
        # Without any frame, sherpa-onnx terminates the process.
        with_frames = [
            each for each, samples in zip(streams, waveforms, strict=True) if len(samples) >= metadata.samples_per_frame
        ]
        if with_frames:
            recognizer.decode_streams(with_frames)
        return [stream.result.text.strip() for stream in streams], lambda: scores(waveforms)

    def scores(waveforms: Sequence[Samples]) -> Scores:
        rows = zip(*graph.run(None, _inputs(trained, waveforms)), strict=True)
        return [log_probs[np.argsort(positions)][:frames] for log_probs, frames, positions in rows]

    return recognize


def _use(trained: Trained, folder: str) -> str:
    metadata = trained.metadata()
    loud = f"samples *= {LOUD} / max(abs(samples).max(), 1e-9)  # so that sherpa-onnx's floor has no effect\n"
    scaled = loud if _is_leveled(trained) else ""
    code = f"""import sherpa_onnx
import soundfile

recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(
    model="{folder}/model.onnx",
    tokens="{folder}/tokens.txt",
    sample_rate={metadata.sample_rate_hz},
    feature_dim={metadata.feature_dim},
)
samples, rate = soundfile.read("speech.wav", dtype="float32")  # mono, any rate
{scaled}stream = recognizer.create_stream()
stream.accept_waveform(rate, samples)
recognizer.decode_stream(stream)
print(stream.result.text)"""
    return (
        "With [sherpa-onnx](https://k2-fsa.github.io/sherpa/onnx/), on computers, phones and small boards, and in the "
        f"browser:\n\n{card.python(code)}\n\n"
        "Its search is greedy: for CTC models of this kind sherpa-onnx has no hotwords and no language model. The "
        "target `onnx` takes both, in Segue."
    )


SPEECH = Exporter(
    packages=("sherpa_onnx", "onnx", "onnxscript"),
    write=_write,
    run=_hear,
    use=_use,
    quantizations=("int8", "float16"),
    inputs=lambda trained, utterances: (_inputs(trained, [each]) for each in waveforms(trained, utterances)),
)
