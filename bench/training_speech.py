"""Benchmark: training speed of Jasper in Segue and in NeMo 3.0, in seconds of audio per second.

Two measurements, for two sizes of model:

- compute: waveforms in memory -> features -> Jasper -> CTC -> backward -> clip -> AdamW; the same plain loop for both.
- loop: what a user runs. Segue: its Trainer (engine/trainer.py), without evaluations and checkpoints. NeMo: its
  AudioToCharDataset with a DataLoader as built by its `setup_training_data`, in the plain loop, which is faster than
  lightning's Trainer. Each has one loader process, which reads, decodes and resamples the recordings.

Each side is a process with its own interpreter. Blocks of steps alternate (turns.py); blocks of a pair use the same
batches, which are planned by Segue. Before the timing, NeMo gets Segue's initial weights, and both must agree on
parameters, samples, frames, targets and the loss of the first batch.

The peer's environment (Linux; torch is installed first, in a separate step, in the same build as Segue's):

    python3.11 -m venv nemo && nemo/bin/pip install torch==2.13.0
    nemo/bin/pip install 'nemo_toolkit[asr]==3.0.0' torch==2.13.0

Two manifests (which must not change during the run), and the run (five to ten minutes):

    segue prepare fsdd free-spoken-digit-dataset/recordings data/fsdd
    segue prepare ljspeech LJSpeech-1.1 data/ljspeech
    python bench/training_speech.py --peer nemo/bin/python \\
        --small data/fsdd/train_strings.jsonl --medium data/ljspeech/train.jsonl
"""

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import peer_models
import torch
import turns
from torch import Tensor, nn

if TYPE_CHECKING:  # peers' environments have no Segue
    from segue.tasks.speech_recognition import SpeechRecognition

MODES = ("compute", "loop")
CLIP_NORM = 1.0
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-3
MEL_BINS = 64
LOADERS = 1
PREFETCH = 4  # batches read ahead, as Segue does
BATCHES_IN_MEMORY = 8
WARM_UP_STEPS = 8
PLANNED_BATCHES = 20_000


@dataclass(frozen=True)
class Size:
    """A model and its data."""

    sample_rate_hz: int
    batch_seconds: float
    blocks: tuple[tuple[int, int, int, int, int], ...]
    """(channels, kernel, repeats, stride, dilation). The last block and strided or dilated ones have no residual."""


SMALL_BLOCKS = ((64, 11, 1, 2, 1), (64, 11, 2, 1, 1), (64, 13, 2, 1, 1), (96, 15, 2, 1, 1), (128, 1, 1, 1, 1))
MEDIUM_BLOCKS = (
    (256, 11, 1, 2, 1),
    *((256, kernel, 1, 1, 1) for kernel in (11, 13, 17, 21, 25)),
    (256, 29, 1, 1, 2),
    (512, 1, 1, 1, 1),
)
SIZES = {
    "small": Size(8000, 24.0, SMALL_BLOCKS),  # as recipes/speech_recognition/digits_jasper.toml, with plain residuals
    "medium": Size(16000, 24.0, MEDIUM_BLOCKS),  # Jasper 5x1: kernels of the paper's table 1, 256 channels
}


@dataclass(frozen=True)
class Plan:
    """The work for both sides."""

    recipe: dict[str, Any]
    """Segue's recipe, from which NeMo's configuration is made."""
    alphabet: str
    utterances: list[dict[str, Any]]
    """Manifest lines with absolute paths and normalized texts."""
    batches: list[list[int]]
    """Indices in `utterances`."""
    folder: str
    """Folder for files of this run."""
    threads: int


def run_plain_loop(
    model: nn.Module,
    update: Callable[[], None],
    batches: Iterable[Any],
    loss: Callable[[Any], tuple[Tensor, float]],
    pace: turns.Pace,
) -> None:
    """Trains. `loss` returns the loss and the seconds of audio of a batch; `update` applies and clears gradients."""
    model.train()
    parameters = list(model.parameters())
    for batch in batches:
        value, audio_seconds = loss(batch)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        update()
        pace.after_step(audio_seconds)


def endless(batches: list[Any]) -> Iterable[Any]:
    while True:
        yield from batches


# --- Segue ---


def build_task(plan: Plan) -> "SpeechRecognition":
    from segue.data import tokenizer
    from segue.data.examples import Utterance
    from segue.data.manifest import Manifest
    from segue.tasks import speech_recognition
    from segue.tasks.speech_recognition.utterances import UtteranceReader

    section = speech_recognition.Recipe.model_validate_json(json.dumps(plan.recipe))
    manifest = Manifest(Utterance, [Path(section.data.root) / name for name in section.data.train])
    reader = UtteranceReader(section, tokenizer.build(section.tokenizer, []))
    source = speech_recognition.source_of(section, reader, {"train": manifest})
    source.check()
    return speech_recognition.build_task(section, source)


class SegueSide:
    """Segue, as its Trainer runs it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.task = build_task(plan)
        self.source = self.task.source
        dealt = self.source.plan("train")
        assert all(
            dealt.micro_batch(number).indices.tolist() == batch for number, batch in enumerate(plan.batches[:100])
        )
        self.batches = [self.source.load("train", dealt.micro_batch(number)) for number in range(BATCHES_IN_MEMORY)]
        torch.manual_seed(0)
        self.model = self.task.build_model()
        torch.save(list(self.model.parameters()), Path(plan.folder) / "weights.pt")

    def facts(self) -> dict[str, Any]:
        batch = self.batches[0]
        _, frames = self.model(batch.waveforms, batch.lengths)
        return {
            "parameters": [list(parameter.shape) for parameter in self.model.parameters()],
            "samples": batch.lengths.tolist(),
            "frames": frames.tolist(),
            "targets": batch.targets.tolist(),
            "loss": self.task.loss(self.model, batch)["loss"].total.item() / len(batch.ids),
        }

    def compute(self, pace: turns.Pace) -> None:
        from segue.engine.optimizer import Updater

        updater = Updater(self.task.recipe.optimizer, self.model)

        def update() -> None:
            updater.step(1.0)
            updater.clear()

        def loss(batch: Any) -> tuple[Tensor, float]:
            return self.task.loss(self.model, batch)["loss"].total / self.task.counts(batch)["targets"], batch.amount

        run_plain_loop(self.model, update, endless(self.batches), loss, pace)

    def loop(self, pace: turns.Pace) -> None:
        from segue.engine.trainer import Trainer

        class PacedTrainer(Trainer):
            def _take_step(self, batches: list[Any], is_asked_to_stop: bool) -> Any:
                found = super()._take_step(batches, is_asked_to_stop)
                pace.after_step(sum(batch.amount for batch in batches))
                return found

        section = self.task.recipe
        run, micro_batches = Path(self.plan.folder) / "run", section.batch.micro_batches
        PacedTrainer(self.task, self.source, run, section.engine, micro_batches, section.seed).train()


# --- NeMo ---


class NemoSide:
    """NeMo's EncDecCTCModel and AudioToCharDataset."""

    def __init__(self, plan: Plan) -> None:
        from nemo.collections.asr.data.audio_to_text import AudioToCharDataset

        self.plan = plan
        self.sample_rate_hz = plan.recipe["features"]["sample_rate_hz"]
        manifest = Path(plan.folder) / "nemo.jsonl"
        manifest.write_text("".join(json.dumps(utterance) + "\n" for utterance in plan.utterances))
        self.dataset = AudioToCharDataset(
            str(manifest), labels=list(plan.alphabet), sample_rate=self.sample_rate_hz, normalize=False
        )
        self.batches = [self.dataset.collate_fn(self.dataset[batch]) for batch in plan.batches[:BATCHES_IN_MEMORY]]
        weights = torch.load(Path(plan.folder) / "weights.pt")
        self.model = peer_models.nemo(plan.recipe, list(plan.alphabet), weights).train()

    def loss(self, batch: Any) -> tuple[Tensor, float]:
        waveforms, lengths, targets, target_lengths = batch
        log_probs, frames, _ = self.model(input_signal=waveforms, input_signal_length=lengths)
        loss = self.model.loss(
            log_probs=log_probs, targets=targets, input_lengths=frames, target_lengths=target_lengths
        )
        return loss, int(lengths.sum()) / self.sample_rate_hz

    def facts(self) -> dict[str, Any]:
        waveforms, lengths, targets, target_lengths = self.batches[0]
        _, frames, _ = self.model(input_signal=waveforms, input_signal_length=lengths)
        return {
            "parameters": [list(parameter.shape) for parameter in self.model.parameters()],
            "samples": lengths.tolist(),
            "frames": frames.tolist(),
            "targets": torch.cat([row[:end] for row, end in zip(targets, target_lengths, strict=True)]).tolist(),
            "loss": self.loss(self.batches[0])[0].item(),
        }

    def compute(self, pace: turns.Pace) -> None:
        self._train(endless(self.batches), pace)

    def loop(self, pace: turns.Pace) -> None:
        loader = torch.utils.data.DataLoader(
            self.dataset,
            batch_size=None,
            sampler=self.plan.batches,  # lists of indices, as from NeMo's own semi-sorted sampler
            collate_fn=self.dataset.collate_fn,
            num_workers=LOADERS,
            prefetch_factor=PREFETCH,
        )
        self._train(loader, pace)

    def _train(self, batches: Iterable[Any], pace: turns.Pace) -> None:
        from nemo.core.optim.optimizers import get_optimizer

        optimizer = get_optimizer("adamw")(self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

        def update() -> None:
            optimizer.step()
            optimizer.zero_grad()

        run_plain_loop(self.model, update, batches, self.loss, pace)


# --- The process of one side ---


def serve(side: str, plan_path: Path) -> None:
    """Runs a side. Answers go to the original standard output; what libraries print goes to standard error."""
    answer = turns.channel()
    plan = Plan(**json.loads(plan_path.read_text()))
    torch.set_num_threads(plan.threads)
    chosen = SegueSide(plan) if side == "segue" else NemoSide(plan)
    answer(chosen.facts())
    for mode in MODES:
        pace = turns.Pace(answer)
        try:
            pace.wait()
            getattr(chosen, mode)(pace)
        except turns.LoopEnds:
            continue


# --- The parent ---


def write_plan(size: Size, manifest_path: Path, folder: Path, threads: int) -> Path:
    """Plans the batches with Segue and writes the plan for both sides."""
    from segue.data.examples import Utterance
    from segue.data.manifest import Manifest
    from segue.data.text import TextSection, normalize

    manifest = Manifest(Utterance, [manifest_path])
    texts = [normalize(utterance.text, TextSection()) for utterance in manifest]
    alphabet = "".join(sorted(set("".join(texts))))
    names = ("channels", "kernel", "repeats", "stride", "dilation")
    blocks: list[dict[str, Any]] = [dict(zip(names, block, strict=True)) for block in size.blocks]
    for number, block in enumerate(blocks):
        block["has_residual"] = block["stride"] == block["dilation"] == 1 and number < len(blocks) - 1
    recipe = {
        "task": "speech_recognition",
        "data": {"root": str(manifest_path.parent.resolve()), "train": [manifest_path.name]},
        "tokenizer": {"kind": "characters", "alphabet": alphabet},
        "features": {"sample_rate_hz": size.sample_rate_hz, "mel_bins": MEL_BINS},
        "model": {"kind": "jasper", "residual": "plain", "blocks": blocks},
        "batch": {"seconds": size.batch_seconds},
        "optimizer": {"kind": "adamw", "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
        "schedule": {"kind": "constant"},
        "engine": {
            "steps": PLANNED_BATCHES,
            "device": "cpu",
            "threads": threads,
            "workers": LOADERS,
            "evaluate_every": PLANNED_BATCHES,
            "save_every": PLANNED_BATCHES,
            "clip_norm": CLIP_NORM,
        },
    }
    utterances = [
        {"audio_filepath": str(utterance.audio.resolve()), "duration": utterance.seconds, "text": text}
        for utterance, text in zip(manifest, texts, strict=True)
    ]
    plan = Plan(recipe, alphabet, utterances, [], str(folder), threads)
    dealt = build_task(plan).source.plan("train")
    plan.batches.extend(dealt.micro_batch(number).indices.tolist() for number in range(PLANNED_BATCHES))
    for utterance in utterances:
        Path(str(utterance["audio_filepath"])).read_bytes()  # so that it is in the page cache for both sides
    path = folder / "plan.json"
    path.write_text(json.dumps(asdict(plan)))
    return path


def check_same_work(segue: dict[str, Any], nemo: dict[str, Any]) -> None:
    """Asserts that both sides have the same model and the same first batch."""
    count, frames = sum(map(math.prod, segue["parameters"])), [sum(facts["frames"]) for facts in (segue, nemo)]
    print(f"  {count} parameters; the first batch: {frames[0]} and {frames[1]} output frames, ", end="")
    print(f"loss {segue['loss']:.3f} and {nemo['loss']:.3f}")
    assert segue["parameters"] == nemo["parameters"]
    assert segue["targets"] == nemo["targets"]
    for name, tolerance in (("samples", 2), ("frames", 1)):
        assert all(abs(a - b) <= tolerance for a, b in zip(segue[name], nemo[name], strict=True)), name
    # The weights are the same, but features differ at the ends of windows and in the floor of the logarithm.
    assert abs(segue["loss"] / nemo["loss"] - 1) < 0.05


def measure(sides: dict[str, turns.Side], mode: str, pairs: int, block_seconds: float) -> None:
    """Alternates blocks and prints the ratios."""
    slowest = max(side.ask(WARM_UP_STEPS)["wall"] for side in sides.values()) / WARM_UP_STEPS
    steps = max(1, round(block_seconds / slowest))
    blocks = turns.take_turns(sides, [steps] * pairs)
    for side in sides.values():
        side.tell("end")
    speed = {name: np.array([block["amount"] / block["wall"] for block in blocks[name]]) for name in sides}
    processor = {name: np.array([block["processor"] / block["amount"] for block in blocks[name]]) for name in sides}
    faster = turns.interval(speed["segue"] / speed["nemo"])
    processor_share = turns.interval(processor["segue"] / processor["nemo"])
    print(f"  {mode}: {pairs} pairs of {steps} steps; s of audio a second: ", end="")
    print(", ".join(f"{name} {np.median(values):.1f}" for name, values in speed.items()))
    print(f"    segue / nemo: speed {faster}, processor time {processor_share}", flush=True)


def main() -> None:
    parser = turns.parser(__doc__, block_seconds=1.0)
    parser.add_argument("--peer", help="Python of NeMo's environment")
    parser.add_argument("--small", type=Path, metavar="MANIFEST", help="for the small model, at 8 kHz")
    parser.add_argument("--medium", type=Path, metavar="MANIFEST", help="for the medium model, at 16 kHz")
    options = parser.parse_args()
    if options.side:
        serve(options.side[0], Path(options.side[1]))
        return
    if options.peer is None:
        parser.error("--peer is missing")
    for name, size in SIZES.items():
        manifest = getattr(options, name)
        if manifest is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            plan_path = write_plan(size, manifest, Path(folder), options.threads)
            print(f"{name}, torch {torch.__version__}, {options.threads} thread(s):")
            sides = turns.start(__file__, {"segue": sys.executable, "nemo": options.peer}, plan_path)
            check_same_work(sides["segue"].facts, sides["nemo"].facts)
            for mode in MODES:
                measure(sides, mode, options.pairs, options.block_seconds)
            for side in sides.values():
                side.end()


if __name__ == "__main__":
    main()
