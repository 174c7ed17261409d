"""Our Transformer and our search against Marian's in `transformers`, with the same weights."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import MarianMTModel

from segue.data import tokenizer
from segue.data.tokenizer import UNKNOWN, WordsSection
from segue.data.vocabularies import Vocabularies
from segue.decoding.autoregressive import beam_search
from segue.decoding.search import Hypothesis, SearchSection
from segue.formats.huggingface import write
from segue.layers.loss import cross_entropy
from segue.layers.mask import length_mask, real_places
from segue.models.transformer import Transformer, TransformerSection

PADDING, BEGIN, END = 0, 1, 2
FIRST_WORD, VOCABULARY = 4, 60
WORDS = tokenizer.build(
    WordsSection(kind="words"),
    [f"w{number}" for number in range(FIRST_WORD, VOCABULARY)],
    ["<pad>", "<s>", "</s>", UNKNOWN],
)
SIZES: dict[str, Any] = {"width": 32, "feed_forward": 48, "heads": 4, "encoder_layers": 2, "decoder_layers": 2}


def section_of(activation: str) -> TransformerSection:
    return TransformerSection.model_validate(
        {"kind": "transformer", "norm": "post", "activation": activation, "dropout": 0.0, **SIZES}
    )


def random_model(activation: str) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(section_of(activation), VOCABULARY, VOCABULARY)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter[0].item()), std=0.2)
    model.eval()
    return model


def as_marian(model: Transformer, activation: str, beams: int = 1) -> MarianMTModel:
    """Marian with the same weights and the same search; its tables of sinusoids are its own."""
    with TemporaryDirectory() as folder:
        write(model, section_of(activation), Vocabularies(WORDS, WORDS), SearchSection(beams=beams), Path(folder))
        marian: MarianMTModel = MarianMTModel.from_pretrained(folder)
        marian.eval()
        return marian


class Sources(NamedTuple):
    tokens: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """(B, S)"""
        return length_mask(self.lengths, self.tokens.shape[1]).squeeze(1)


def random_sources(count: int, seed: int) -> Sources:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 12, (count,), generator=generator)
    tokens = torch.randint(FIRST_WORD, VOCABULARY, (count, 12), generator=generator)
    sources = Sources(tokens, lengths)
    return Sources(tokens.masked_fill(~sources.mask, PADDING), lengths)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@torch.inference_mode()
def test_scores_are_marian_s_with_the_same_weights(activation: str) -> None:
    model = random_model(activation)
    sources = random_sources(20, 0)
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(VOCABULARY, (20, 9), generator=generator)
    lengths = torch.randint(1, 10, (20,), generator=generator)
    theirs = as_marian(model, activation)(
        input_ids=sources.tokens, attention_mask=sources.mask.long(), decoder_input_ids=target
    )
    wanted = theirs.logits[length_mask(lengths, 9).squeeze(1)]
    torch.testing.assert_close(model(*sources, target, real_places(lengths, 9)), wanted, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def model() -> Transformer:
    """A model that is unsure, and whose outputs differ and end early and late: random ones repeat themselves.

    It is taught a little to replace each word, and then made readier to end.
    """
    model = random_model("relu").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.98))
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
    rows = torch.arange(32)
    for step in range(150):
        tokens, lengths = random_sources(32, 1000 + step)
        answer = torch.where(tokens == PADDING, PADDING, FIRST_WORD + (tokens + 17) % (VOCABULARY - FIRST_WORD))
        labels = torch.cat([answer, torch.full((32, 1), PADDING)], dim=1)
        labels[rows, lengths] = END
        target = torch.cat([torch.full((32, 1), BEGIN), answer], dim=1)
        places = real_places(lengths + 1, 13)
        loss, _ = cross_entropy(model(tokens, lengths, target, places), labels.flatten()[places])
        optimizer.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        warmup.step()
    row = model.target_embedding.weight.detach()[END]
    model.get_parameter("decoder.1.feed_forward_norm.bias").data += row / row.square().sum()
    return model.eval()


class TranslationBackend:
    def __init__(self, model: Transformer, sources: Sources) -> None:
        self._model, self._cache = model, model.begin(*sources)

    def step(self, tokens: Tensor) -> Tensor:
        return self._model.step(tokens, self._cache)

    def select(self, rows: Tensor, sentences: Tensor | None) -> None:
        self._cache.select(rows, sentences)


def ours(model: Transformer, sources: Sources, beams: int, longest: int) -> list[list[Hypothesis]]:
    options: dict[str, Any] = {"begin": BEGIN, "end": END, "alpha": 1.0, "forbidden": [PADDING, BEGIN, FIRST_WORD - 1]}
    limits = [longest] * len(sources.tokens)
    with torch.inference_mode():
        return beam_search(TranslationBackend(model, sources), limits, beams=beams, num_best=beams, **options)


def theirs(model: Transformer, sources: Sources, beams: int, longest: int) -> list[list[Hypothesis]]:
    """What `generate` finds, in our terms: without padding and ends. It counts the end as a token, we do not."""
    found = as_marian(model, "relu", beams).generate(
        input_ids=sources.tokens,
        attention_mask=sources.mask.long(),
        max_new_tokens=longest + 1,
        num_return_sequences=beams,
        return_dict_in_generate=True,
        output_scores=True,
    )
    scores = found.sequences_scores.tolist() if beams > 1 else [0.0] * len(found.sequences)
    hypotheses = []
    for row, score in zip(found.sequences[:, 1:].tolist(), scores, strict=True):
        length = row.index(END) if END in row else len(row)
        hypotheses.append(Hypothesis(row[:length], score, 0.0, length < len(row)))
    return [hypotheses[start : start + beams] for start in range(0, len(hypotheses), beams)]


SOURCES = random_sources(200, 7)


@pytest.mark.parametrize("longest", [30, 4])
def test_greedy_outputs_are_marian_s(model: Transformer, longest: int) -> None:
    outputs, num_cut = set[tuple[int, ...]](), 0
    both = ours(model, SOURCES, 1, longest), theirs(model, SOURCES, 1, longest)
    for (mine,), (other,) in zip(*both, strict=True):
        assert mine.tokens == other.tokens[:longest]
        assert mine.is_complete == other.is_complete
        outputs.add(tuple(mine.tokens))
        num_cut += not mine.is_complete
    assert len(outputs) > 50
    assert len(set(map(len, outputs))) > 3
    assert num_cut < 10 if longest == 30 else num_cut > 50


@pytest.mark.parametrize("longest", [30, 4])
def test_four_beams_find_what_marian_s_find(model: Transformer, longest: int) -> None:
    num_same = num_long = 0
    both = ours(model, SOURCES, 4, longest), theirs(model, SOURCES, 4, longest)
    for mine, other in zip(*both, strict=True):
        ended, their_ended = ([each for each in best if each.is_complete] for best in (mine, other))
        ended = ended[: len(their_ended)]
        assert [each.tokens for each in ended] == [each.tokens for each in their_ended]
        assert [each.score for each in ended] == pytest.approx([each.score for each in their_ended], abs=1e-4)
        # At the limit Marian lets what has not ended compete with what has; we put it last. Nothing else differs.
        if mine[0].tokens == other[0].tokens:
            num_same += 1
        else:
            assert not other[0].is_complete
            assert len(other[0].tokens) == longest + 1
        num_long += len(mine[0].tokens) > 3
    assert num_same >= 196 if longest == 30 else num_same < 196
    assert num_long > 20
