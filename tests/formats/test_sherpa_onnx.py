"""What sherpa-onnx itself recognizes with an exported model, against our own search."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sherpa_onnx
import torch
from torch import Tensor

from segue.data import tokenizer as tokenizers
from segue.data.features import LogMelSection, normalize
from segue.data.tokenizer import (
    BPESection,
    BytesSection,
    CharactersSection,
    Tokenizer,
    TokenizerSection,
    UnigramSection,
    WordsSection,
)
from segue.decoding import ctc
from segue.errors import UserError
from segue.formats import sherpa_onnx as target
from segue.models.jasper import JasperSection
from segue.runtime.onnx import session
from segue.tasks.speech_recognition.ctc import CTCSection
from segue.tasks.speech_recognition.model import AcousticModel

RATE_HZ, BINS = 8000, 20
FEATURES = LogMelSection(sample_rate_hz=RATE_HZ, mel_bins=BINS, normalization="speech")
NUM_TOKENS = 60  # of most tokenizers below, so that they share a graph
TEXTS = ["the cat sat on the mat", "a café, an über-naïve “quote”", "that hat's the cat's", "漢字 and kana"] * 3
BLOCKS = ({"channels": 24, "kernel": 5, "stride": 2, "has_residual": False}, {"channels": 24, "kernel": 5})

TOKENIZERS: dict[str, TokenizerSection] = {
    "characters": CharactersSection(
        kind="characters", alphabet=" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVW0<#\"'é漢ü-."
    ),
    "characters without a space": CharactersSection(kind="characters", alphabet="0123456789-"),
    "bpe": BPESection(kind="bpe", size=NUM_TOKENS),
    "unigram": UnigramSection(kind="unigram", size=50),
    "words": WordsSection(kind="words"),
}


def built(name: str) -> Tokenizer:
    return tokenizers.build(TOKENIZERS[name], TEXTS)


def spread_model(num_tokens: int) -> AcousticModel:
    """Random weights whose best paths hold many different tokens."""
    torch.manual_seed(4)
    section = JasperSection.model_validate({"kind": "jasper", "residual": "dense", "blocks": BLOCKS})
    recipe: Any = SimpleNamespace(features=FEATURES, model=section, objective=CTCSection(kind="ctc"))
    model = AcousticModel(recipe, num_tokens).eval()
    model.head.output.weight.data *= 8
    return model


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("characters", "bpe") else pytest.mark.slow) for name in TOKENIZERS],
)
def test_sherpa_onnx_recognizes_what_we_do(name: str, tmp_path: Path) -> None:
    tokenizer = built(name)
    model = spread_model(len(tokenizer))
    target.write(model, tokenizer, tmp_path, FEATURES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "tokens.txt"]
    recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(
        model=str(tmp_path / "model.onnx"),
        tokens=str(tmp_path / "tokens.txt"),
        feature_dim=BINS,
        sample_rate=RATE_HZ,
        num_threads=1,
    )
    streams, expected = [], []
    draw = np.random.default_rng(0)
    for length in (2480, 8000, 4880, 12240):  # of different lengths: sherpa-onnx pads them
        samples = (draw.standard_normal(length) * np.linspace(0.01, 0.2, length)).astype(np.float32)
        streams.append(recognizer.create_stream())
        streams[-1].accept_waveform(RATE_HZ, samples)
        expected.append(heard(model, tokenizer, torch.from_numpy(samples)))
    assert all(len(text) > 3 for text in expected)
    recognizer.decode_streams(streams)
    assert [stream.result.text.strip() for stream in streams] == expected
    alone = recognizer.create_stream()
    alone.accept_waveform(RATE_HZ, samples)
    recognizer.decode_stream(alone)
    assert alone.result.text.strip() == expected[-1]


@torch.inference_mode()
def heard(model: AcousticModel, tokenizer: Tokenizer, samples: Tensor) -> str:
    log_probs, _ = model(samples.unsqueeze(0), torch.tensor([len(samples)]))
    return tokenizer.decode(e.token for e in ctc.greedy(log_probs[0].numpy(), len(tokenizer)))


def test_the_frame_sherpa_onnx_skips_is_a_repeat(tmp_path: Path) -> None:
    """Where it reads one frame less, the graph puts one that can be spared last."""
    tokenizer = built("characters")
    assert len(tokenizer) == NUM_TOKENS
    model = spread_model(NUM_TOKENS)
    target.write(model, tokenizer, tmp_path, FEATURES)
    features = torch.randn(5, BINS, 51, generator=torch.Generator().manual_seed(0)) * 3 - 8
    lengths = torch.tensor([51, 50, 1, 30, 49])
    with torch.inference_mode():
        expected, _ = model.score(normalize(features, lengths, FEATURES.normalization), lengths)
    for number, length in enumerate(lengths.tolist()):
        features[number, :, length:] = -23.0259  # sherpa-onnx's padding
    inputs = {"features": features.numpy(), "lengths": lengths.numpy()}
    rows, frames, positions = session(tmp_path / "model.onnx").run(None, inputs)
    assert frames.tolist() == [26, 25, 1, 15, 25]
    num_moved = 0
    for number, count in enumerate(frames.tolist()):
        own = expected[number, :count].numpy()
        np.testing.assert_allclose(rows[number, np.argsort(positions[number])][:count], own, atol=2e-4)
        looked_at = rows[number, : lengths[number] // 2]
        if len(looked_at) == count:
            assert positions[number, :count].tolist() == list(range(count))
            continue
        num_moved += 1
        found, wanted = ([e.token for e in ctc.greedy(each, NUM_TOKENS)] for each in (looked_at, own))
        if count > 1:
            assert found == wanted
    assert num_moved == 3


def test_the_blank_is_last_and_spaces_are_marked() -> None:
    tokenizer = tokenizers.build(CharactersSection(kind="characters", alphabet=" ab"), ())
    assert target.token_lines(tokenizer) == ["▁ 0", "a 1", "b 2", "<blk> 3"]


def test_what_tokens_txt_cannot_hold_is_refused() -> None:
    with pytest.raises(UserError, match=r"token \d+ is a part of a character: .* bpe or unigram"):
        target.token_lines(tokenizers.build(BytesSection(kind="bytes"), ()))
    with pytest.raises(UserError, match=r"token 1, '\\u3000', is not possible"):
        target.token_lines(tokenizers.build(CharactersSection(kind="characters", alphabet="a\u3000"), ()))
    with pytest.raises(UserError, match=r"token 2, '▁', has another meaning"):
        target.token_lines(tokenizers.build(CharactersSection(kind="characters", alphabet=" a▁"), ()))
    with pytest.raises(UserError, match="token 0, '', is not possible"):
        target.token_lines(tokenizers.build(WordsSection(kind="words"), ["a b"], special=["<unk>"]))
