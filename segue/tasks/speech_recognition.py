"""How is speech recognised? Manifests to batches, features to Jasper, CTC loss, word error rate, transcripts.

Read this file first: it holds the whole task. Its recipe is at the top, then the model, the batches, what the engine
asks for (`SpeechRecognition`), and the trained model (`load`). What a user does with it is `runtime/recogniser.py`.

Shape letters: B batch, S samples, T frames, F mel bins, V vocabulary (blank included, last), U target tokens.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from segue import metrics, recipe
from segue.card import LicenseId, card, speech_use
from segue.data import audio, automatic, manifests
from segue.data import tokenizer as tokenizers
from segue.data.augmentation import Augmentation, AugmentationSection, FeatureAugmentation, Joining
from segue.data.batching import BatchPlan, MicroBatch
from segue.data.examples import Utterance
from segue.data.features import FeaturesSection, LogMel, normalize
from segue.data.manifest import Manifest, ManifestsSection
from segue.data.sizes import stand_in, stand_in_model
from segue.data.text import TextSection
from segue.data.text import normalize as normalize_text
from segue.data.tokenizer import CharactersSection, Tokenizer, TokenizerSection
from segue.decoding import ctc
from segue.engine.distributed.parallel import World, choose_device
from segue.engine.loading import holding, with_tensors
from segue.engine.optimizer import OptimizerSection
from segue.engine.planning.estimate import Sketch
from segue.engine.schedule import ScheduleSection
from segue.engine.settings import EngineSection
from segue.engine.state.checkpoint import load_weights, write_text
from segue.engine.task import Loss, Split
from segue.errors import UserError, some_of, warn
from segue.models.jasper import Jasper, JasperSection, output_frames
from segue.progress import progress
from segue.runtime.recogniser import Recogniser, SpeechFacts, written
from segue.runtime.words import text_of, words

Seconds = Annotated[float, Field(gt=0)]


BUDGET = "seconds"
"""What `batch` bounds a micro-batch by."""

FEW_SECONDS, MUCH_SECONDS = 3600.0, 5 * 3600.0
"""Of training speech: up to which it is learnt from 100 times, and from which on the model is wider, for "auto"."""


class DataSection(ManifestsSection):
    """Where the recordings are."""

    longest_seconds: Seconds | None = None
    """Longer training utterances are left out, and counted."""


class BatchSection(recipe.Section):
    """How much is learnt from at once."""

    seconds: Seconds | Literal["auto"]
    """Budget of one micro-batch: utterances times the longest one, at the slowest speed. "auto" tries what fits in
    memory, once, and writes the number into the run's recipe."""
    micro_batches: Annotated[int, Field(gt=0)] = 1
    """Micro-batches in a step; devices share them out."""
    buckets: Annotated[int, Field(gt=0)] = 8
    """Groups of similar length that micro-batches are drawn from."""


class Recipe(recipe.Section):
    """Speech recognition by connectionist temporal classification."""

    task: Literal["speech_recognition"]
    """The task."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of weights, order, augmentation and dropout."""
    license: LicenseId = "unknown"
    """Licence of the trained model, for its card: an SPDX identifier in small letters, such as apache-2.0."""
    data: DataSection = DataSection()
    """Recordings."""
    text: TextSection = TextSection()
    """Text normalisation."""
    tokenizer: TokenizerSection
    """Output tokens."""
    features: FeaturesSection = FeaturesSection()
    """Front end."""
    augmentation: AugmentationSection = AugmentationSection()
    """Variation of the training speech."""
    model: JasperSection
    """Architecture."""
    metric: metrics.SpeechMetric = "auto"
    """What chooses the best model. "auto" is the word error rate, or the character error rate where the references put
    no spaces between words, as in Chinese, Japanese and Thai."""
    batch: BatchSection
    """Batches."""
    optimizer: OptimizerSection
    """Optimizer."""
    schedule: ScheduleSection
    """Learning rate over time."""
    engine: EngineSection
    """Training."""


class AcousticModel(nn.Module):
    """Waveforms to token scores: front end, normalisation, Jasper."""

    def __init__(self, section: Recipe, vocabulary: int) -> None:
        super().__init__()
        self.front_end = LogMel(section.features)
        self._normalization = section.features.normalization
        self.model = Jasper(section.model, section.features.mel_bins, vocabulary)

    def forward(
        self, waveforms: Tensor, lengths: Tensor, augmentation: "FeatureTensors | None" = None
    ) -> tuple[Tensor, Tensor]:
        """(B, S) samples, (B) their numbers -> (B, T', V) log-probabilities, (B) output frames."""
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            features, frames = self.front_end(waveforms, lengths)
            if augmentation is not None:
                features = _warp(features, augmentation.warps)
            features = normalize(features, frames, self._normalization)
            if augmentation is not None:
                features = _mask(features, augmentation)
        log_probs, frames = self.model(features, frames)
        return log_probs, frames


class FeatureTensors(NamedTuple):
    """`FeatureAugmentation` of a batch."""

    warps: Tensor
    """(B)"""
    frequency_spans: Tensor
    """(B, masks, 2)"""
    time_spans: Tensor
    """(B, masks, 2)"""


def _warp(features: Tensor, warps: Tensor) -> Tensor:
    """(B, F, T), (B) -> (B, F, T): bin f is read at f x warp, between its neighbours; past the last bin, from it."""
    bins = features.shape[1]
    place = (torch.arange(bins, device=features.device) * warps.unsqueeze(1)).clamp(max=bins - 1)  # (B, F)
    below = place.floor().long()
    share = (place - below).unsqueeze(2)
    below = below.unsqueeze(2).expand_as(features)
    above = (below + 1).clamp(max=bins - 1)
    return torch.lerp(features.gather(1, below), features.gather(1, above), share)


def _mask(features: Tensor, augmentation: FeatureTensors) -> Tensor:
    """(B, F, T) -> (B, F, T) with masked bands and spans set to 0, the mean of normalised features."""
    for axis, spans in ((1, augmentation.frequency_spans), (2, augmentation.time_spans)):
        place = torch.arange(features.shape[axis], device=features.device)
        inside = (place >= spans[..., :1]) & (place < spans[..., 1:])  # (B, masks, size)
        features = features.masked_fill(inside.any(dim=1).unsqueeze(3 - axis), 0.0)
    return features


@dataclass(frozen=True)
class SpeechBatch:
    """A micro-batch of utterances, padded."""

    ids: list[str]
    texts: list[str]
    """Normalised references."""
    amount: float
    """Seconds of audio."""
    num_skipped: int
    waveforms: Tensor
    """(B, S)"""
    lengths: Tensor
    """(B) samples"""
    targets: Tensor
    """(sum of target lengths) token numbers, one utterance after the other"""
    target_lengths: Tensor
    """(B)"""
    augmentation: FeatureTensors | None

    def pin_memory(self) -> Self:
        """The same batch with its tensors in memory that a GPU can read."""
        return with_tensors(self, Tensor.pin_memory)

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        return with_tensors(self, lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))


class SpeechPrediction(NamedTuple):
    """What was heard."""

    id: str
    reference: str
    hypothesis: str
    loss: float
    """Negative log-likelihood of the reference; 0 where CTC cannot align it."""
    num_targets: int


class SpeechRecognition:
    """The task, as the engine asks for it (`engine/task.py`)."""

    unit = "seconds"

    def __init__(self, section: Recipe, tokenizer: Tokenizer, manifests: dict[Split, Manifest[Utterance]]) -> None:
        self.recipe, self.tokenizer, self.manifests = section, tokenizer, manifests
        self.blank = len(tokenizer)
        dev = (utterance.text for utterance in manifests.get("dev", ()))
        self._rate = metrics.speech_metric(section.metric, dev)
        self.best_metric: tuple[str, Literal["min", "max"]] = (self._rate, "min")
        self.front_end = LogMel(section.features)  # counts frames
        root = Path(section.data.root)
        self.augmentation = Augmentation(
            section.augmentation, section.features.sample_rate_hz, section.features.mel_bins, root
        )
        self.joining: Joining | None = None
        if "train" in manifests:
            rates = Counter[int]()
            for split in ("train", "dev"):
                if split in manifests:
                    self._leave_out_unusable(manifests[split], rates, is_training=split == "train")
            _say_rates(rates, section.features.sample_rate_hz)
            if section.augmentation.joined_utterances > 1 or section.augmentation.pause_probability:
                speakers = [utterance.speaker for utterance in manifests["train"]]
                self.joining = Joining(manifests["train"].sizes, speakers, section.augmentation, section.seed)
        self._plans = {split: self._build_plan(split) for split in manifests}

    def build_model(self) -> nn.Module:
        """The model with fresh weights."""
        return AcousticModel(self.recipe, len(self.tokenizer) + 1)

    def plan(self, split: Split) -> BatchPlan:
        """Training data in buckets, shuffled; development data sorted by length."""
        return self._plans[split]

    def budgets(self) -> tuple[float, float]:
        """The longest utterance; all utterances, each as long."""
        seconds = self._seconds()
        return float(seconds.max()), float(seconds.max() * len(seconds))

    def with_budget(self, budget: float) -> Self:
        """The same task with other training micro-batches."""
        batch = self.recipe.batch.model_copy(update={"seconds": budget})
        return self.with_recipe(self.recipe.model_copy(update={"batch": batch}))

    def with_recipe(self, section: Recipe) -> Self:
        """The same task with a recipe that differs in `batch` and `engine` alone."""
        other = copy(self)
        other.recipe = section
        other._plans = {split: other._build_plan(split) for split in self._plans}
        return other

    def epochs(self) -> float:
        """How often to learn from the training data where the recipe leaves it open."""
        return automatic.epochs(_seconds_in(self.manifests["train"]), FEW_SECONDS)

    def load(self, split: Split, micro_batch: MicroBatch) -> SpeechBatch:
        """Reads, augments and pads the utterances of a micro-batch."""
        examples = []
        num_skipped = 0
        for index in micro_batch.indices.tolist():
            try:
                examples.append(self._load_example(split, index, micro_batch.epoch))
            except UserError as problem:
                if not self.recipe.data.skip_bad:
                    raise UserError(f"{problem} (--skip-bad leaves such examples out and counts them)") from None
                num_skipped += 1
        waveforms, lengths = map(torch.from_numpy, audio.padded([example.samples for example in examples]))
        drawn = [example.augmentation for example in examples if example.augmentation is not None]
        return SpeechBatch(
            ids=[example.id for example in examples],
            texts=[example.text for example in examples],
            amount=int(lengths.sum()) / self.recipe.features.sample_rate_hz,
            num_skipped=num_skipped,
            waveforms=waveforms,
            lengths=lengths,
            targets=torch.tensor([token for example in examples for token in example.tokens], dtype=torch.int64),
            target_lengths=torch.tensor([len(example.tokens) for example in examples], dtype=torch.int64),
            augmentation=_collate(drawn) if drawn else None,
        )

    def num_targets(self, batch: SpeechBatch) -> int:
        """Target tokens."""
        return int(batch.target_lengths.sum())

    def loss(self, model: nn.Module, batch: SpeechBatch) -> Loss:
        """Negative log-likelihood of the references."""
        log_probs, frames = model(batch.waveforms, batch.lengths, batch.augmentation)
        return Loss(self._ctc_loss(log_probs, frames, batch).sum(), {})

    def predict(self, model: nn.Module, batch: SpeechBatch) -> list[SpeechPrediction]:
        """Greedy transcripts."""
        log_probs, frames = model(batch.waveforms, batch.lengths)
        # A reference that CTC cannot align (no tokens, or too many) counts in the error rates, not in the loss.
        losses = self._ctc_loss(log_probs, frames, batch, zero_infinity=True) * (batch.target_lengths > 0)
        scores, num_frames = log_probs.cpu().numpy(), frames.tolist()
        shift = self.front_end.shift / self.recipe.features.sample_rate_hz
        seconds_per_frame = shift * Jasper.subsampling(self.recipe.model)
        hypotheses = [
            text_of(words(ctc.greedy(row[:length], self.blank), self.tokenizer.pieces, seconds_per_frame))
            for row, length in zip(scores, num_frames, strict=True)
        ]
        counts = batch.target_lengths.tolist()
        columns = zip(batch.ids, batch.texts, hypotheses, losses.tolist(), counts, strict=True)
        return [SpeechPrediction(*row) for row in columns]

    def score(self, predictions: Sequence[SpeechPrediction]) -> dict[str, float]:
        """Word and character error rates of normalised texts, and the loss per target."""
        if not predictions:
            raise UserError("nothing to score: no example could be used")
        hypotheses = [normalize_text(p.hypothesis, self.recipe.text) for p in predictions]
        scores = metrics.speech(self._rate, [p.reference for p in predictions], hypotheses).overall()
        loss = sum(p.loss for p in predictions) / max(1, sum(p.num_targets for p in predictions))
        return {**scores, "utterances": len(predictions), "loss": loss}

    def fingerprint(self) -> str:
        """Changes when an example of the training or development data does."""
        return " ".join(f"{split} {len(each)} {each.checksum():08x}" for split, each in self.manifests.items())

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        """Recipe, tokenizer and model card."""
        write_text(folder / "recipe.toml", recipe.dump(self.recipe))
        self.tokenizer.save(folder / "tokenizer.json")
        write_text(folder / "README.md", _model_card(self, scores))

    def _ctc_loss(self, log_probs: Tensor, frames: Tensor, batch: SpeechBatch, zero_infinity: bool = False) -> Tensor:
        """(B) negative log-likelihoods (Graves et al. 2006, equation 8)."""
        # torch has no CTC for Apple's GPUs.
        device = torch.device("cpu") if log_probs.device.type == "mps" else log_probs.device
        return F.ctc_loss(
            log_probs.transpose(0, 1).to(device),  # (B, T, V) -> (T, B, V)
            batch.targets.to(device),
            frames.to(device),
            batch.target_lengths.to(device),
            blank=self.blank,
            reduction="none",
            zero_infinity=zero_infinity,
        ).to(log_probs.device)

    def _build_plan(self, split: Split) -> BatchPlan:
        sizes, batch = self.manifests[split].sizes, self.recipe.batch
        if split != "train":
            budget = 0.0 if batch.seconds == "auto" else batch.seconds
            return BatchPlan(sizes, max(budget, float(sizes.max())), buckets=16, seed=0, is_shuffled=False)
        seconds = self._seconds()
        budget = float(seconds.max()) if batch.seconds == "auto" else batch.seconds  # auto: not resolved yet
        if seconds.max() > budget:
            raise UserError(
                f"batch.seconds: {budget} s cannot hold the longest utterance: {seconds.max():.2f} s "
                f"(joined, with pauses, at speed {min(self.recipe.augmentation.speeds)}, where the recipe says so; "
                f"{self._longest()}); mend that line, raise the budget, or set data.longest_seconds"
            )
        return BatchPlan(seconds, budget, buckets=batch.buckets, seed=self.recipe.seed)

    def _longest(self) -> str:
        """Where the longest training utterance stands, and how long it is said to be."""
        utterance = self.manifests["train"][int(self.manifests["train"].sizes.argmax())]
        return f"{utterance.origin}: {utterance.seconds:g} s"

    def _seconds(self) -> NDArray[np.float64]:
        """Of each training utterance: joined, with pauses, at the slowest speed."""
        seconds = self.manifests["train"].sizes if self.joining is None else self.joining.seconds
        return seconds / min(self.recipe.augmentation.speeds)

    def _leave_out_unusable(self, manifest: Manifest[Utterance], rates: Counter[int], *, is_training: bool) -> None:
        """Checks that every recording is there and long enough, and of training texts that they can be learnt.

        Raises, or leaves out and counts, as the recipe says; counts the recordings' sample rates.
        """
        data, too_long, problems, unusable, strange = self.recipe.data, [], [], [], dict[str, None]()
        for index, utterance in enumerate(progress(manifest, "checks the examples", unit="utterances")):
            if is_training and data.longest_seconds is not None and utterance.seconds > data.longest_seconds:
                too_long.append(index)
                continue
            problem = None
            if is_training:
                text = normalize_text(utterance.text, self.recipe.text, utterance.language)
                strange.update(dict.fromkeys(self._unknown_characters(text)))
                problem = self._problem(utterance, text)
            try:
                if problem is not None:
                    raise UserError(f"{utterance.origin}: {problem}")
                rates[utterance.check_audio().sample_rate_hz] += 1
            except UserError as mistake:
                problems.append(str(mistake))
                unusable.append(index)
        if problems and not data.skip_bad:
            advice = [self._wider_alphabet(strange)] if strange else []
            raise UserError(
                "\n".join([some_of(problems), *advice, "(--skip-bad leaves such examples out and counts them)"])
            )
        if problems:
            warn(f"{len(problems)} unusable examples left out:\n{some_of(problems, 3)}")
        if too_long:
            warn(f"{len(too_long)} utterances longer than data.longest_seconds ({data.longest_seconds:g} s) left out")
        manifest.without([*too_long, *unusable])
        if not len(manifest):
            raise UserError(f"{', '.join(map(str, manifest.paths))}: no usable example")

    def _unknown_characters(self, text: str) -> list[str]:
        """Of a training text, which others may be joined to."""
        is_joined = self.recipe.augmentation.joined_utterances > 1
        return self.tokenizer.unknown_characters(f"{text} " if is_joined else text)

    def _wider_alphabet(self, strange: Iterable[str]) -> str:
        """What to write so that no training text is outside the alphabet."""
        known, line = self.recipe.tokenizer, "tokenizer.alphabet=auto takes the characters of the training texts"
        if not isinstance(known, CharactersSection):
            return line
        alphabet = known.alphabet + "".join(sorted(strange))
        if len(alphabet) > 200 or not alphabet.isprintable():
            return line
        return f"{line}; or in [tokenizer]:\nalphabet = {json.dumps(alphabet, ensure_ascii=False)}"

    def _problem(self, utterance: Utterance, text: str) -> str | None:
        """Why CTC cannot learn from this utterance, whose normalised text is given."""
        if not text:
            return f"text: nothing is left of {utterance.text!r} after normalisation"
        strange = self._unknown_characters(text)
        if strange:
            return f"text: outside the tokenizer's alphabet: {' '.join(map(repr, strange))}"
        tokens = self.tokenizer.encode(text)
        needed = len(tokens) + sum(a == b for a, b in pairwise(tokens))  # a blank between repeats
        if self.recipe.augmentation.joined_utterances > 1:
            needed += 2  # a space to the next one, and a frame that rounding may take
        fastest = max(self.recipe.augmentation.speeds)
        samples = round(utterance.seconds / fastest * self.recipe.features.sample_rate_hz)
        frames = output_frames(self.front_end.num_frames(samples), Jasper.subsampling(self.recipe.model))
        if frames < needed:
            return (
                f"text: CTC needs {needed} frames for {len(tokens)} tokens, but {utterance.seconds} s at speed "
                f"{fastest} give {frames}"
            )
        return None

    def _load_example(self, split: Split, index: int, epoch: int) -> "_Example":
        is_training = split == "train"
        members, pauses = [index], ()
        if is_training and self.joining is not None:
            members, pauses = self.joining.members(index, epoch), self.joining.pauses[index]
        utterances = [self.manifests[split][member] for member in members]
        name = "+".join(utterance.id for utterance in utterances) or f"noise {index}"
        holding(name)
        rate = self.recipe.features.sample_rate_hz
        pieces = [utterance.samples(rate) for utterance in utterances]
        text = " ".join(normalize_text(each.text, self.recipe.text, each.language) for each in utterances).strip()
        if not is_training:
            # References may hold what the model cannot write; that is an error of the model's, not of the data.
            tokens = [] if self.tokenizer.unknown_characters(text) else self.tokenizer.encode(text)
            return _Example(name, text, pieces[0], tokens, None)
        draw = np.random.default_rng([self.recipe.seed, epoch, crc32(name.encode())])
        samples = self.augmentation.waveform(self.augmentation.join(pieces, pauses, draw), draw)
        frames = self.front_end.num_frames(len(samples))
        return _Example(name, text, samples, self.tokenizer.encode(text), self.augmentation.features(frames, draw))


def _say_rates(rates: Counter[int], wanted_hz: int) -> None:
    """Says, once, what is lost or not there because recordings have another rate than the model."""
    lower = {rate: count for rate, count in rates.items() if rate < wanted_hz}
    if lower:
        warn(
            f"{sum(lower.values())} of {rates.total()} recordings have {min(lower)} samples a second, and are "
            f"resampled to features.sample_rate_hz ({wanted_hz}): there is no sound above {max(lower) // 2} Hz in them"
        )
    higher = {rate: count for rate, count in rates.items() if rate > wanted_hz}
    if higher and wanted_hz < USUAL_RATE_HZ:
        warn(
            f"{sum(higher.values())} of {rates.total()} recordings have more than {wanted_hz} samples a second: their "
            f"sound above {wanted_hz // 2} Hz is lost; features.sample_rate_hz={min(USUAL_RATE_HZ, min(higher))} "
            "would keep it"
        )


USUAL_RATE_HZ = 16000
"""There is little speech above its half."""


class _Example(NamedTuple):
    id: str
    text: str
    samples: audio.Samples
    tokens: list[int]
    augmentation: FeatureAugmentation | None


def _collate(drawn: Sequence[FeatureAugmentation]) -> FeatureTensors:
    return FeatureTensors(
        torch.tensor([each.warp for each in drawn], dtype=torch.float32),
        torch.from_numpy(np.stack([each.frequency_spans for each in drawn])),
        torch.from_numpy(np.stack([each.time_spans for each in drawn])),
    )


def _model_card(task: SpeechRecognition, scores: dict[str, float]) -> str:
    section, (name, _) = task.recipe, task.best_metric
    data, rate = section.data, section.features.sample_rate_hz
    train, dev = task.manifests["train"], task.manifests["dev"]
    return card(
        "Speech recognition model",
        kind="automatic-speech-recognition",
        license_id=section.license,
        languages=sorted({utterance.language for utterance in dev if utterance.language is not None}),
        facts=[
            f"Trained on {', '.join(data.train)}: {len(train):,} utterances, {train.sizes.sum() / 3600:.1f} hours.",
            f"Hears speech, resampled to {rate} Hz; writes text, {section.text.case} case.",
            f"{name.replace('_', ' ').capitalize()} on {manifests.dev_name(data)}, which chose this state of the "
            "model: "
            f"{scores[name]:.2%} ({len(dev):,} utterances).",
        ],
        use=speech_use("model"),
    )


def build_task(section: Recipe, run: Path, world: World) -> SpeechRecognition:
    """The task of a run, with what its recipe leaves to the data; the tokenizer is learnt and kept there.

    Every rank calls it.
    """
    data = world.first(lambda: manifests.resolved(section.data))
    section = section.model_copy(update={"data": data})
    splits = manifests.splits(Utterance, data)
    section = section.model_copy(
        update={
            "tokenizer": tokenizers.resolved(section.tokenizer, _texts(section, splits.train)),
            "model": automatic.widened(section.model, _seconds_in(splits.train), MUCH_SECONDS),
        }
    )
    # Learnt once and kept: a resumed run must not depend on the tokenizer's training being repeatable.
    kept = run / "tokenizer.json"

    def build() -> None:
        if not kept.is_file():
            run.mkdir(parents=True, exist_ok=True)
            tokenizers.build(section.tokenizer, _texts(section, splits.train)).save(kept)

    world.first(build)
    tokenizer = Tokenizer.load(kept)
    return SpeechRecognition(section, tokenizer, splits.by_name())


def _seconds_in(manifest: Manifest[Utterance]) -> float:
    return float(manifest.sizes.sum())


def _texts(section: Recipe, utterances: Iterable[Utterance]) -> Iterator[str]:
    return (normalize_text(each.text, section.text, each.language) for each in utterances)


TOKENS_A_SECOND = 15.0  # LJSpeech: 1.3 million characters in 24 hours; other tokens are longer


def sketch(section: Recipe) -> Sketch:
    """The recipe without its data: the longest utterances, as many as the budget permits."""
    budget, longest, augmentation = section.batch.seconds, section.data.longest_seconds, section.augmentation
    if budget == "auto":
        raise UserError("batch.seconds: auto is found on the device itself; give a number, like batch.seconds=60")
    seconds = budget
    if longest is not None:
        pauses = (augmentation.joined_utterances + 1) * augmentation.longest_pause_seconds
        longest = longest * augmentation.joined_utterances + pauses * (augmentation.pause_probability > 0)
        seconds = budget / math.ceil(budget * min(augmentation.speeds) / longest)
    rows, samples = round(budget / seconds), round(seconds * section.features.sample_rate_hz)
    tokenizer, assumed = stand_in(section.tokenizer, section.data, section.text, Utterance, ("text",))
    model, more = stand_in_model(section.model, section.data, Utterance, _seconds_in, MUCH_SECONDS)
    assumed = (*assumed, *more)
    section = section.model_copy(update={"model": model})
    silent = section.model_copy(update={"augmentation": augmentation.model_copy(update={"noise_manifest": None})})
    task = SpeechRecognition(silent, tokenizers.build(tokenizer, ()), {})
    frames = task.front_end.num_frames(samples)
    # Half the frames: CTC needs a blank between equal tokens.
    tokens = min(round(seconds * TOKENS_A_SECOND), output_frames(frames, Jasper.subsampling(section.model)) // 2)
    drawn = task.augmentation.features(frames, np.random.default_rng(0))

    def batch() -> SpeechBatch:
        return SpeechBatch(
            ids=[""] * rows,
            texts=[""] * rows,
            amount=budget,
            num_skipped=0,
            waveforms=torch.zeros(rows, samples),
            lengths=torch.full((rows,), samples),
            targets=torch.zeros(rows * tokens, dtype=torch.int64),
            target_lengths=torch.full((rows,), tokens),
            augmentation=None if drawn is None else _collate([drawn] * rows),
        )

    notes = (f"{tokens} target tokens in each, {TOKENS_A_SECOND:g} a second at the most", *assumed)
    if longest is None:
        notes = (*notes, "one utterance fills the budget, for data.longest_seconds is not given")
    return Sketch(task, batch, f"{rows} utterances of {seconds:.2f} s", "batch.seconds", notes)


class TorchListener:
    """The model, as a `Recogniser` sees it."""

    def __init__(self, model: AcousticModel, device: torch.device) -> None:
        self.model, self._device = model.eval().to(device), device

    @torch.inference_mode()
    def log_probs(self, waveforms: Sequence[audio.Samples]) -> list[NDArray[np.float32]]:
        """(S) each -> (T, V) each."""
        padded, lengths = (torch.from_numpy(each).to(self._device) for each in audio.padded(waveforms))
        log_probs, frames = self.model(padded, lengths)
        return [row[:length] for row, length in zip(log_probs.cpu().numpy(), frames.tolist(), strict=True)]


class Trained(NamedTuple):
    """What a model directory holds."""

    recipe: Recipe
    tokenizer: Tokenizer
    model: AcousticModel

    def facts(self) -> SpeechFacts:
        """What is to be known of the model to use it."""
        return SpeechFacts(
            sample_rate_hz=self.recipe.features.sample_rate_hz,
            feature_dim=self.recipe.features.mel_bins,
            tokens=written(self.tokenizer.pieces),
            samples_per_frame=self.model.front_end.shift * Jasper.subsampling(self.recipe.model),
            text=self.recipe.text,
            metric=self.recipe.metric,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )


def restore(folder: Path) -> Trained:
    """The model in a model directory, for evaluation."""
    section = recipe.validate(recipe.read(folder / "recipe.toml"), Recipe)
    section = section.model_copy(update={"model": section.model.widened()})
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    model = AcousticModel(section, len(tokenizer) + 1)
    load_weights(model, folder / "model.safetensors")
    return Trained(section, tokenizer, model.eval())


def load(folder: Path, device: str) -> Recogniser:
    """The model in a model directory, ready for use."""
    trained = restore(folder)
    return Recogniser(trained.facts(), TorchListener(trained.model, choose_device(device)))
