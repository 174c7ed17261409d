"""Models in CTranslate2 against the models that they were written from."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from ctranslate2.specs import TransformerSpec

from segue.data import tokenizer
from segue.data.tokenizer import UNKNOWN, WordsSection
from segue.data.vocabularies import BEGIN, END, PADDING, Vocabularies
from segue.decoding.search import Hypothesis, SearchSection
from segue.errors import UserError
from segue.formats.ctranslate2 import TEXT, write
from segue.layers.loss import cross_entropy
from segue.layers.mask import real_places
from segue.models.transformer import Transformer, TransformerSection
from segue.runtime.ctranslate2 import CTranslate2Backend
from segue.tasks.translation.search import TorchBackend

SPECIAL = [PADDING, BEGIN, END, UNKNOWN]
LANGUAGES = ["<2de>", "<2fr>"]
NUM_WORDS = 20
COUNT = 100
SIZES: dict[str, Any] = {"width": 32, "feed_forward": 48, "heads": 4, "encoder_layers": 1, "decoder_layers": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "paper": {"norm": "post"},
    "today": {
        "positions": "rotary",
        "activation": "swiglu",
        "key_value_heads": 2,
        "tied": "none",
        "has_biases": False,
    },
    "mixed": {"activation": "gelu", "key_value_heads": 1, "tied": "target"},
    "languages": {"norm": "post", "activation": "swish", "has_output_bias": True},
}
GREEDY, BEAMS = SearchSection(beams=1), SearchSection(beams=5)
NEAR = 0.03
"""Nats a token between the mean scores of two searches that are as good."""
TIE = 1e-3
"""Log-probabilities that are nearer than that: the last bits decide, and processors and runs differ in those."""


class Case(NamedTuple):
    name: str
    section: TransformerSection
    vocabularies: Vocabularies
    ours: TorchBackend
    folder: Path
    theirs: CTranslate2Backend


def words(letter: str, count: int, special: list[str]) -> tokenizer.Tokenizer:
    texts = [f"{letter}{number:02}" for number in range(count)]
    return tokenizer.build(WordsSection(kind="words"), texts, special)


def vocabularies_of(name: str) -> Vocabularies:
    if name in ("today", "mixed"):
        return Vocabularies(words("s", NUM_WORDS + 5, SPECIAL), words("t", NUM_WORDS, SPECIAL))
    joint = words("w", NUM_WORDS, SPECIAL + LANGUAGES * (name == "languages"))
    return Vocabularies(joint, joint)


def sources_of(vocabularies: Vocabularies, count: int, seed: int) -> list[list[int]]:
    """Source tokens of random lengths."""
    draw = torch.Generator().manual_seed(seed)
    first = len(vocabularies.source.special)
    rows = []
    for number, length in enumerate(torch.randint(1, 12, (count,), generator=draw).tolist()):
        tokens = torch.randint(first, first + NUM_WORDS, (length,), generator=draw).tolist()
        rows.append(vocabularies.source_tokens(tokens, ("de", "fr")[number % 2]))
    return rows


def taught(section: TransformerSection, vocabularies: Vocabularies) -> Transformer:
    """A model that is unsure, and whose outputs differ and end early and late: random ones repeat themselves.

    It is taught a little to replace each word, by another for each language.
    """
    torch.manual_seed(0)
    model = Transformer(section, len(vocabularies.source), len(vocabularies.target))
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3, betas=(0.9, 0.98))
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
    first_source, first_target = len(vocabularies.source.special), len(vocabularies.target.special)
    german = vocabularies.source.special.get("<2de>")
    pad = torch.nn.utils.rnn.pad_sequence
    for step in range(250):
        rows = sources_of(vocabularies, 32, 1000 + step)
        answers = [
            [
                first_target + (token - first_source + (17 if row[0] == german else 23)) % NUM_WORDS
                for token in row
                if token >= first_source
            ]
            for row in rows
        ]
        target = pad([torch.tensor([vocabularies.begin, *row]) for row in answers], batch_first=True)
        labels = pad([torch.tensor([*row, vocabularies.end]) for row in answers], batch_first=True)
        places = real_places(torch.tensor([len(row) + 1 for row in answers]), labels.shape[1])
        source = pad([torch.tensor(row) for row in rows], batch_first=True)
        scores = model(source, torch.tensor([len(row) for row in rows]), target, places)
        loss, _ = cross_entropy(scores, labels.flatten()[places])
        optimizer.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        warmup.step()
    return model.eval()


# The others' weights are proven by `test_weights_of_any_architecture_are_ours`, in a hundredth of the time.
CASES = [pytest.param(name, marks=() if name == "today" else pytest.mark.slow) for name in ARCHITECTURES]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name = request.param
    section = TransformerSection.model_validate({"kind": "transformer", "dropout": 0.0, **SIZES, **ARCHITECTURES[name]})
    vocabularies = vocabularies_of(name)
    model = taught(section, vocabularies)
    folder = tmp_path_factory.mktemp(name)
    write(model, section, vocabularies, folder)
    ours = TorchBackend(model, vocabularies, torch.device("cpu"))
    return Case(name, section, vocabularies, ours, folder, CTranslate2Backend(folder))


@torch.inference_mode()
def score(case: Case, source: list[int], hypothesis: Hypothesis, alpha: float) -> float:
    """What our model says of an output as a whole."""
    target = [case.vocabularies.begin, *hypothesis.tokens]
    tokens = (torch.tensor([each]) for each in (source, len(source), target))
    scores = case.ours.model(*tokens, torch.arange(len(target)))
    scores[:, [number for token, number in case.vocabularies.target.special.items() if token != END]] = -torch.inf
    wanted = hypothesis.tokens + [case.vocabularies.end] * hypothesis.is_complete
    total = float(scores.log_softmax(dim=1)[range(len(wanted)), wanted].sum())
    return float(total / len(wanted) ** alpha)


def outputs(found: list[list[Hypothesis]]) -> list[tuple[list[int], bool]]:
    return [(best[0].tokens, best[0].is_complete) for best in found]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("activation", ["relu", "gelu", "swish", "swiglu"])
def test_weights_of_any_architecture_are_ours(name: str, activation: str, tmp_path: Path) -> None:
    """Random models, which write strange things, but are as sure of them in both."""
    settings = {"kind": "transformer", "dropout": 0.0, **SIZES, **ARCHITECTURES[name], "activation": activation}
    section, vocabularies = TransformerSection.model_validate(settings), vocabularies_of(name)
    torch.manual_seed(5)
    model = Transformer(section, len(vocabularies.source), len(vocabularies.target)).eval()
    for parameter in model.parameters():  # also those that begin as 0 or 1
        parameter.data += 0.2 * torch.randn(parameter.shape)
    write(model, section, vocabularies, tmp_path)
    ours = TorchBackend(model, vocabularies, torch.device("cpu"))
    case = Case(name, section, vocabularies, ours, tmp_path, CTranslate2Backend(tmp_path))
    rows = sources_of(vocabularies, 5, 7)
    scores = []
    for row, (found,) in zip(rows, case.theirs.search(rows, SearchSection(beams=1, longest_factor=1.0)), strict=True):
        scores.append(found.score)
        assert found.score == pytest.approx(score(case, row, found, 1.0), abs=1e-4)
    assert len(set(scores)) == len(rows)


@torch.inference_mode()
def preference(case: Case, source: list[int], mine: Hypothesis, other: Hypothesis) -> float:
    """By how many nats our model prefers `mine` where the two part; 0 where they are the same."""
    (ours, theirs) = ([*each.tokens, *[case.vocabularies.end] * each.is_complete] for each in (mine, other))
    at = next((place for place, (one, two) in enumerate(zip(ours, theirs, strict=False)) if one != two), None)
    if at is None:
        return 0.0 if len(ours) == len(theirs) else math.inf
    target = [case.vocabularies.begin, *ours[:at]]
    scores = case.ours.model(*(torch.tensor([each]) for each in (source, len(source), target)), torch.arange(at + 1))
    return float(scores[at, ours[at]] - scores[at, theirs[at]])


def assert_same(
    case: Case, rows: list[list[int]], ours: list[list[Hypothesis]], theirs: list[list[Hypothesis]]
) -> None:
    """Greedy outputs are the same, but for the few where two tokens are as likely."""
    assert num_same(ours, theirs) >= 0.95 * COUNT
    for row, (mine,), (other,) in zip(rows, ours, theirs, strict=True):
        assert abs(preference(case, row, mine, other)) < TIE


def mean_score(found: list[list[Hypothesis]]) -> float:
    return sum(best[0].score for best in found) / len(found)


def num_same(ours: list[list[Hypothesis]], theirs: list[list[Hypothesis]]) -> int:
    return sum(mine == other for mine, other in zip(outputs(ours), outputs(theirs), strict=True))


@pytest.mark.parametrize("limits", [{}, {"longest_factor": 0.4, "longest_extra": 0}], ids=["long", "short"])
def test_greedy_outputs_are_ours(case: Case, limits: dict[str, Any]) -> None:
    """Each within the limit of its row."""
    rows, section = sources_of(case.vocabularies, COUNT, 7), SearchSection(beams=1, **limits)
    ours, theirs = case.ours.search(rows, section), case.theirs.search(rows, section)
    assert_same(case, rows, ours, theirs)
    for (mine,), (other,) in zip(ours, theirs, strict=True):
        if mine.tokens == other.tokens:
            assert mine.score == pytest.approx(other.score, abs=1e-4)
            assert mine.log_probability == pytest.approx(other.log_probability, abs=1e-4)
    num_cut = sum(not is_complete for _, is_complete in outputs(ours))
    assert num_cut > 50 if limits else num_cut < 10
    assert len({tuple(tokens) for tokens, _ in outputs(ours)}) > 50


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_five_beams_agree_with_ours(case: Case, alpha: float) -> None:
    """Where one search finds a better output, it is a longer one, which the other stopped before."""
    rows, section = sources_of(case.vocabularies, COUNT, 7), SearchSection(beams=5, alpha=alpha)
    ours, theirs = (writer.search(rows, section, num_best=3) for writer in (case.ours, case.theirs))
    assert num_same(ours, theirs) >= 0.95 * COUNT
    for row, mine, other in zip(rows, ours, theirs, strict=True):
        assert len(mine) == len(other) == 3
        assert other == sorted(other, key=lambda each: (each.is_complete, each.score), reverse=True)
        for each in other:
            assert each.score == pytest.approx(score(case, row, each, alpha), abs=1e-4)
        if mine[0].tokens != other[0].tokens:
            worse, better = sorted((mine[0], other[0]), key=lambda each: each.score)
            assert len(better.tokens) > len(worse.tokens)


def test_outputs_at_the_limit_are_cut_and_marked(case: Case) -> None:
    rows, section = sources_of(case.vocabularies, COUNT, 8), SearchSection(longest_factor=0.4, longest_extra=0)
    ours, theirs = case.ours.search(rows, section), case.theirs.search(rows, section)
    assert num_same(ours, theirs) >= 0.97 * COUNT
    for row, (mine,), (other,) in zip(rows, ours, theirs, strict=True):
        assert len(other.tokens) <= int(0.4 * len(row))
        assert other.is_complete == mine.is_complete
        if other.tokens:
            assert other.score == pytest.approx(score(case, row, other, 1.0), abs=1e-4)


@pytest.mark.parametrize("section", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_outputs_continue_their_prefixes(case: Case, section: SearchSection) -> None:
    rows, target = sources_of(case.vocabularies, COUNT, 9), case.vocabularies.target
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 5, (COUNT,), generator=draw).tolist()
    prefixes = [
        torch.randint(len(target.special), len(target), (size,), generator=draw).tolist()
        if number % 2
        else best[0].tokens[:size]
        for number, (size, best) in enumerate(zip(lengths, case.ours.search(rows, GREEDY), strict=True))
    ]
    ours, theirs = (writer.search(rows, section, prefixes=prefixes) for writer in (case.ours, case.theirs))
    if section is GREEDY:
        assert_same(case, rows, ours, theirs)
    else:  # most are strange to the model
        assert mean_score(theirs) == pytest.approx(mean_score(ours), abs=NEAR)
    for row, prefix, (other,) in zip(rows, prefixes, theirs, strict=True):
        assert other.tokens[: len(prefix)] == prefix
        assert other.score == pytest.approx(score(case, row, other, 1.0), abs=1e-4)
    unknown = case.theirs.search(rows[:1], section, prefixes=[[target.special[UNKNOWN]]])
    assert unknown[0][0].tokens[0] == target.special[UNKNOWN]


@pytest.mark.parametrize("size", [1, 2])
def test_no_n_gram_stands_twice(case: Case, size: int) -> None:
    rows = sources_of(case.vocabularies, COUNT, 7)
    greedy, beams = (SearchSection(beams=beams, no_repeat_ngram=size) for beams in (1, 5))
    ours, theirs = case.ours.search(rows, greedy), case.theirs.search(rows, greedy)
    assert_same(case, rows, ours, theirs)
    # While it searches, CTranslate2 gives the probability of what is forbidden to the other tokens: of an unsure model
    # many outputs are others. They are better than greedy ones, and on average no better than ours.
    found = case.theirs.search(rows, beams)
    assert mean_score(theirs) < mean_score(found) < mean_score(case.ours.search(rows, beams)) + NEAR
    for row, (other,) in zip(rows, found, strict=True):
        grams = [tuple(other.tokens[at : at + size]) for at in range(len(other.tokens) - size + 1)]
        assert len(grams) == len(set(grams))
        assert other.score == pytest.approx(score(case, row, other, 1.0), abs=1e-4)


def test_special_tokens_are_never_written(case: Case, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = Transformer(case.section, len(case.vocabularies.source), len(case.vocabularies.target)).eval()
    special = list(case.vocabularies.target.special.values())
    (model.head or model.target_embedding).weight.data[special] *= 20  # which it would like to write
    write(model, case.section, case.vocabularies, tmp_path)
    rows = sources_of(case.vocabularies, 50, 0)
    found = CTranslate2Backend(tmp_path).search(rows, SearchSection(beams=3, longest_factor=1.0), num_best=3)
    assert not {token for best in found for each in best for token in each.tokens} & set(special)
    assert all(found)


# In int8 90 to 94 were the same; with all eight bits of the weights, 34 to 57 where the processor has no VNNI.
@pytest.mark.parametrize(("quantization", "least"), [("int8", 0.8), ("float16", 0.99)])
def test_smaller_formats_change_few_outputs(case: Case, quantization: str, least: float, tmp_path: Path) -> None:
    write(case.ours.model, case.section, case.vocabularies, tmp_path, quantization)
    rows = sources_of(case.vocabularies, COUNT, 7)
    found = CTranslate2Backend(tmp_path).search(rows, BEAMS)
    ours, theirs = case.ours.search(rows, GREEDY), case.theirs.search(rows, GREEDY)
    assert_same(case, rows, ours, theirs)  # writing did not change the model
    assert num_same(found, case.theirs.search(rows, BEAMS)) >= least * COUNT
    assert (tmp_path / "model.bin").stat().st_size < (case.folder / "model.bin").stat().st_size


def test_int8_outputs_agree_on_a_generic_cpu(case: Case, tmp_path: Path) -> None:
    write(case.ours.model, case.section, case.vocabularies, tmp_path, "int8")
    rows = sources_of(case.vocabularies, COUNT, 7)
    here = CTranslate2Backend(tmp_path).search(rows, GREEDY)
    assert TEXT.least is not None
    name, runtime = TEXT.least(tmp_path, 1)
    assert name == "CT2_FORCE_CPU_ISA=GENERIC"
    with runtime as least:
        assert num_same(here, least.search(rows, GREEDY)) >= 0.95 * COUNT
        assert least.search([], GREEDY) == []


def test_int8_weights_use_seven_bits(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    monkeypatch.setattr(TransformerSpec, "save", lambda spec, folder: kept.update(spec.variables()))
    monkeypatch.setattr(TransformerSpec, "validate", watched(TransformerSpec.validate, exact))
    write(case.ours.model, case.section, case.vocabularies, tmp_path, "int8")
    rounded = {name: value.numpy() for name, value in kept.items() if getattr(value, "dtype", "") == "int8"}
    matrices = {name: value for name, value in rounded.items() if value.ndim == 2}
    assert len(matrices) > 10
    for name, weight in matrices.items():
        steps = 1 / kept[f"{name}_scale"].numpy()[:, None]
        assert abs(weight).max() == 63
        assert abs(weight * steps - exact[name]).max() <= 0.5001 * steps.max()


def watched(validate: Any, exact: dict[str, Any]) -> Any:
    def validate_and_note(spec: Any) -> None:
        validate(spec)
        exact.update({name: value.numpy().copy() for name, value in spec.variables().items()})

    return validate_and_note


def test_batching_changes_no_output(case: Case) -> None:
    rows = sources_of(case.vocabularies, 40, 11)
    together = case.theirs.search(rows, BEAMS)
    for row, best in zip(rows, together, strict=True):
        alone = case.theirs.search([row], BEAMS)
        assert outputs(alone) == outputs([best])
    assert case.theirs.search([], BEAMS) == []


def test_num_best_may_exceed_the_first_tokens(tmp_path: Path) -> None:
    vocabulary = words("w", 3, SPECIAL)
    vocabularies = Vocabularies(vocabulary, vocabulary)
    section = TransformerSection.model_validate({"kind": "transformer", "dropout": 0.0, **SIZES})
    torch.manual_seed(0)
    model = Transformer(section, len(vocabulary), len(vocabulary)).eval()
    write(model, section, vocabularies, tmp_path)
    search = SearchSection(longest_factor=1.0, longest_extra=1)
    ours = TorchBackend(model, vocabularies, torch.device("cpu")).search([[4, 2]], search, num_best=12)
    theirs = CTranslate2Backend(tmp_path).search([[4, 2]], search, num_best=12)
    assert [each.tokens for each in theirs[0][:8]] == [each.tokens for each in ours[0][:8]]
    assert all(each.is_complete for each in ours[0][:8])


@pytest.mark.parametrize("case", ["languages"], indirect=True)
def test_the_language_is_read_and_changes_the_output(case: Case) -> None:
    rows = [case.vocabularies.source_tokens([10, 15, 20], language) for language in ("de", "fr")]
    german, french = (best[0].tokens for best in case.theirs.search(rows, BEAMS))
    assert german != french


def test_sources_and_outputs_fit_the_positions(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    token = len(case.vocabularies.source.special)
    with pytest.raises(UserError, match="a source of 4097 tokens: this model reads 4096 at most"):
        case.theirs.search([[token] * 4097], GREEDY)
    assert case.theirs.search([[token] * 4096], SearchSection(beams=1, longest_factor=0.001))[0][0].tokens
    monkeypatch.setattr("segue.runtime.ctranslate2.POSITIONS", 6)
    found = case.theirs.search([[token] * 6], GREEDY)
    assert len(found[0][0].tokens) <= 5


def test_a_folder_without_a_model_is_one_line(case: Case, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "missing", tmp_path / "empty"):
        with pytest.raises(UserError, match=f"{folder}: not a CTranslate2 model: .+") as raised:
            CTranslate2Backend(folder)
        assert "\n" not in str(raised.value)
