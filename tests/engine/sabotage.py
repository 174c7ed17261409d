"""What is done to a training from inside: functions that a test chooses, with arguments, before it begins.

They travel to the process in the environment. This file is also a program: `segue`, sabotaged.
"""

import ctypes
import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import torch
import torch.distributed as dist
from torch import Tensor, nn

from segue.cli import main
from segue.data.audio import Samples
from segue.data.examples import Pair, Utterance
from segue.data.manifest import Manifest
from segue.data.source import ManifestSource
from segue.engine import log, prediction
from segue.engine import trainer as trainers
from segue.engine.loading import holding
from segue.engine.state.checkpoint import Checkpoints
from segue.engine.step import Outcome, Steps
from segue.engine.task import Batch, Split, Term
from segue.engine.trainer import Result, Trainer
from segue.errors import UserError
from segue.tasks import translation
from segue.tasks.speech_recognition import SpeechRecognition
from segue.tasks.speech_recognition.utterances import SpeechBatch
from segue.tasks.translation import Translation
from segue.tasks.translation.pairs import PairBatch, PairReader

VARIABLE = "SABOTAGE"
"""Of the environment."""
FOR_EVER = 10**6
"""Seconds."""
P = ParamSpec("P")


class Call(NamedTuple):
    """A function of this file with its arguments, for another process. Arguments of JSON only; or another call."""

    name: str
    arguments: tuple[Any, ...]
    named: dict[str, Any]


def call(function: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> Call:
    """This call, made in the process that is started."""
    return Call(function.__name__, arguments, named)


def environment(calls: Sequence[Call]) -> dict[str, str]:
    """What tells a process to make them."""
    return {VARIABLE: json.dumps(calls)}


def carry_out(environment: Mapping[str, str]) -> None:
    """What the environment says."""
    for name, arguments, named in json.loads(environment.get(VARIABLE, "[]")):
        globals()[name](*arguments, **named)


def replace(owner: object, name: str, function: Callable[..., object]) -> None:
    """In a class or module, which has had it."""
    assert hasattr(owner, name), (owner, name)
    setattr(owner, name, function)


def rank() -> int:
    """Of this process."""
    return int(os.environ.get("RANK", "0"))


def num_ranks() -> int:
    """Of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


# --- At a moment ---


def die_at(operation: str, part: str, passes: int = 0, victim: int | None = 0) -> None:
    """Dies just before a file operation: its name (or *) and a part of its path; so many are let pass.

    The victim is a rank; None: all of them, with the first. Python reports each operation to a hook just before.
    """
    process, left = os.getpid(), passes

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if operation in ("*", event) and part in repr(arguments) and os.getpid() == process:
            left -= 1
            if left < 0:
                os.killpg(0, signal.SIGKILL) if victim is None else os.kill(process, signal.SIGKILL)

    if rank() == (victim or 0):
        sys.addaudithook(watch)


def at_step(step: int, ranks: Sequence[int], act: Call) -> None:
    """Acts on some ranks at the end of a step, before anything is saved."""
    name, arguments, named = act

    def hook(kind: type[log.Log] | type[log.Silence]) -> None:
        advance = kind.advance

        def advance_and_act(self: Any, taken: int) -> None:
            advance(self, taken)
            if taken == step:
                globals()[name](*arguments, **named)

        replace(kind, "advance", advance_and_act)

    if rank() in ranks:
        hook(log.Log)
        hook(log.Silence)


def send(number: int) -> None:
    """A signal to this process."""
    os.kill(os.getpid(), number)


def send_to_all(number: int) -> None:
    """To each process of the run: ranks and loaders."""
    os.killpg(0, number)


def send_to_all_twice(number: int) -> None:
    """As a scheduler and torchrun both do."""
    threading.Timer(0.3, os.killpg, (0, number)).start()
    os.killpg(0, number)


def send_to_loaders_too(number: int) -> None:
    """To this process and its loaders."""
    for each in multiprocessing.active_children():
        assert each.pid is not None
        os.kill(each.pid, number)
    send(number)


def name_loaders_and_send(number: int, to_group: bool) -> None:
    """Says the numbers of the loader processes first. The group is every process, as Ctrl-C does."""
    loaders = [each.pid for each in multiprocessing.active_children()]
    print("loader processes:", *loaders, file=sys.stderr, flush=True)
    (send_to_all if to_group else send)(number)


def sleep() -> None:
    """And never wake."""
    time.sleep(FOR_EVER)


def freeze_when_noted(run: str, noted: str) -> None:
    """As a machine that hangs, once the others can read in this rank's file where it is."""
    file = Path(run) / ".ranks" / f"rank_{rank():05d}.json"
    while not file.exists() or noted not in file.read_text():
        time.sleep(0.02)
    send(signal.SIGSTOP)


def fill_disk(after: str) -> None:
    """The system refuses longer files, as a full disk would; once this path is there."""
    while not os.path.exists(after):
        time.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


# --- In the engine ---


def only_say_where_it_resumes() -> None:
    """And end."""

    def end(self: Trainer) -> Result:
        print("resumed at", self.step, file=sys.stderr)
        raise SystemExit(0)

    replace(Trainer, "train", end)


def note_examples(path: str) -> None:
    """Writes down which examples each micro-batch of a step that was taken had."""
    take = Steps.take

    def take_and_note(self: Steps, batches: Sequence[Batch], step: int, *arguments: Any, **named: Any) -> Outcome:
        outcome = take(self, batches, step, *arguments, **named)
        for place, batch in enumerate(batches):
            number = step * self.micro_batches + place * self.parallel.layout.data_ranks + self.parallel.data_rank
            with open(path, "a") as file:
                file.write(json.dumps([number, batch.ids]) + "\n")
        return outcome

    replace(Steps, "take", take_and_note)


def signal_in_evaluation(number: int, of_rank: int) -> None:
    """A rank is terminated at the first batch of evaluation `number`."""
    predict, evaluations = prediction.predict, iter(range(1, FOR_EVER))

    def predict_and_signal(task: Any, *arguments: Any) -> Any:
        evaluation, own, calls = next(evaluations), type(task).predict, iter(range(1, FOR_EVER))

        def signaled(task: Any, *arguments: Any) -> Any:
            if evaluation == number and rank() == of_rank:
                send(signal.SIGTERM)
                print("signaled", next(calls), file=sys.stderr)
            return own(task, *arguments)

        replace(type(task), "predict", signaled)
        try:
            return predict(task, *arguments)
        finally:
            replace(type(task), "predict", own)

    replace(trainers, "predict", predict_and_signal)


def fail_in_evaluation() -> None:
    """A fault of ours, in the trainer."""

    def fail(self: Trainer) -> dict[str, float]:
        raise ZeroDivisionError

    replace(Trainer, "_evaluate_and_keep", fail)


def fail_to_save() -> None:
    """A mistake of a user, in the trainer."""

    def fail(*_: object, **_named: object) -> None:
        Path("/no such folder/x").read_bytes()

    replace(Checkpoints, "save", fail)


# --- In the data ---


def freeze_while_preparing(run: str, of_rank: int) -> None:
    """A rank is held before it has any data."""

    def build_source(*_: object) -> None:
        freeze_when_noted(run, "prepares the data")

    if rank() == of_rank:
        replace(translation, "build_source", build_source)


def kill_trainer_and_hang_in_loader() -> None:
    """The loader outlives the trainer, unless it is ended."""

    def hang(self: object, split: Split, micro_batch: object) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        sleep()

    replace(ManifestSource, "load", hang)


def hang_at_pair(name: str) -> None:
    """A loader never gets done with an example."""
    read = PairReader.read

    def endless(self: PairReader, split: Split, examples: Manifest[Pair], index: int, epoch: int) -> Any:
        if examples[index].id.endswith(name):
            holding(examples[index].id)
            print("loader", os.getpid(), file=sys.stderr, flush=True)
            sleep()
        return read(self, split, examples, index, epoch)

    replace(PairReader, "read", endless)


def spoil_pair(name: str, of_rank: int) -> None:
    """A rank cannot read an example."""
    read = PairReader.read

    def spoilt(self: PairReader, split: Split, examples: Manifest[Pair], index: int, epoch: int) -> Any:
        if split == "train" and examples[index].id.endswith(name):
            raise UserError(f"{examples[index].id}: no text")
        return read(self, split, examples, index, epoch)

    if rank() == of_rank:
        replace(PairReader, "read", spoilt)


def fail_to_read() -> None:
    """A fault of ours, where recordings are read."""

    def fail(*_: object) -> Samples:
        raise ZeroDivisionError

    replace(Utterance, "samples", fail)


def die_at_recording(name: str) -> None:
    """What reads a recording dies."""
    read = Utterance.samples

    def deadly(utterance: Utterance, rate: int) -> Samples:
        if utterance.id.endswith(name):
            send(signal.SIGKILL)
        return read(utterance, rate)

    replace(Utterance, "samples", deadly)


# --- In the loss ---


def sleep_in_loss(number: int, of_rank: int) -> None:
    """A rank never gets done with the loss of a micro-batch, counted from 1; it says whose."""
    loss, calls = Translation.loss, iter(range(1, FOR_EVER))

    def sleepy(self: Translation, model: nn.Module, batch: PairBatch, phase: str = "") -> dict[str, Term]:
        if next(calls) == number:
            print("sleeps over", *batch.ids, file=sys.stderr, flush=True)
            sleep()
        return loss(self, model, batch, phase)

    if rank() == of_rank:
        replace(Translation, "loss", sleepy)


def overflow_at_pair(name: str) -> None:
    """An example makes the feed-forward layer of the encoder overflow."""
    loss = Translation.loss

    def infinite(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output * float("inf")

    def poisoned(self: Translation, model: Any, batch: PairBatch, phase: str = "") -> dict[str, Term]:
        layer = getattr(model, "module", model).encoder[0].feed_forward.up
        if name not in batch.ids:
            return loss(self, model, batch, phase)
        handle = layer.register_forward_hook(infinite, prepend=True)
        try:
            return loss(self, model, batch, phase)
        finally:
            handle.remove()

    replace(Translation, "loss", poisoned)


def overflow_on_last_rank(calls_before: Mapping[str, int]) -> None:
    """On the last rank alone the loss of one micro-batch is huge, in speech; which, by the number of ranks."""
    loss, calls, at = SpeechRecognition.loss, iter(range(FOR_EVER)), calls_before[str(num_ranks())]

    def spoiled(self: SpeechRecognition, model: nn.Module, batch: SpeechBatch, phase: str = "") -> dict[str, Term]:
        [(name, found)] = loss(self, model, batch, phase).items()
        return {name: found._replace(total=found.total * (1e8 if next(calls) == at else 1))}

    if rank() == num_ranks() - 1:
        replace(SpeechRecognition, "loss", spoiled)


# --- In the system ---


def lay_down_roots_rights() -> None:
    """Root may write anywhere by a capability of its own, which can be laid down.

    CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, bits 1 and 2 (linux/capability.h).
    """
    header, bits = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capget(header, bits) == 0
    bits[0] &= ~0b110
    assert ctypes.CDLL(None).capset(header, bits) == 0


def share_a_gpu() -> None:
    """Where there are fewer GPUs than ranks, all have the first, and talk through the processor."""
    if torch.cuda.device_count() >= num_ranks():
        return
    from torch.distributed import _functional_collectives as collectives

    os.environ["LOCAL_RANK"] = "0"
    init: Any = dist.init_process_group
    gathered: Any = collectives.all_gather_tensor

    def meet(backend: str, **options: Any) -> None:
        init(backend.replace("nccl", "gloo"), **options)

    def gather(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        found: Tensor = gathered(x.cpu(), *arguments, **options).to(x.device)
        return found

    replace(dist, "init_process_group", meet)
    # Over gloo this crashes on tensors of a GPU (pytorch issue 152645).
    replace(collectives, "all_gather_tensor", gather)


def limit_gpu_memory(megabytes: int) -> None:
    """As if the GPU had so much."""
    torch.cuda.set_per_process_memory_fraction(megabytes * 1e6 / torch.cuda.mem_get_info()[1])


if __name__ == "__main__":
    carry_out(os.environ)
    sys.exit(main())
