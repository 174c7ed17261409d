"""How do recordings of any length become transcripts? Windows, search, words with times; scores on a manifest.

What hears, a `Listener`, is PyTorch's model or an exported one; all else is the same for both.

Shape letters: S samples, T frames, V vocabulary (blank included, last).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segue import metrics
from segue.data import audio, channels, recordings
from segue.data.audio import Samples
from segue.data.batching import BatchPlan
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.data.subtitles import cues
from segue.data.text import TextSection, normalize
from segue.decoding import ctc
from segue.errors import UserError, warn
from segue.evaluation import Evaluation, Example, chosen
from segue.progress import Bar, progress
from segue.recipe import Section
from segue.runtime.words import Word, text_of, words

PositiveInt = Annotated[int, Field(gt=0)]
Byte = Annotated[int, Field(ge=0, le=255)]


class SpeechFacts(Section):
    """What is to be known of a speech model to use it."""

    task: Literal["speech_recognition"] = "speech_recognition"
    """The task."""
    sample_rate_hz: PositiveInt
    """Of the samples that the model hears."""
    feature_dim: PositiveInt
    """Mel bins of its front end."""
    tokens: tuple[str | tuple[Byte, ...], ...]
    """What each writes: text, or the bytes of a part of a character. After the last comes the blank."""
    samples_per_frame: PositiveInt
    """Samples from one output frame to the next."""
    text: TextSection
    """How texts are written before they are scored."""
    metric: metrics.SpeechMetric = "auto"
    """What the model is scored by (`metrics.speech_metric`)."""
    parameters: PositiveInt
    """Numbers that were trained."""

    @property
    def pieces(self) -> list[bytes]:
        """What each token writes, in UTF-8."""
        return [token.encode() if isinstance(token, str) else bytes(token) for token in self.tokens]


def written(pieces: Sequence[bytes]) -> tuple[str | tuple[int, ...], ...]:
    """`SpeechFacts.tokens` of pieces."""
    found: list[str | tuple[int, ...]] = []
    for piece in pieces:
        try:
            found.append(piece.decode())
        except UnicodeDecodeError:
            found.append(tuple(piece))
    return tuple(found)


class Listener(Protocol):
    """What hears, in some runtime."""

    def log_probs(self, waveforms: Sequence[Samples]) -> list[NDArray[np.float32]]:
        """Mono waveforms (S) at the model's rate -> (T, V) log-probabilities of each: ceil(S / samples a frame) at the
        most. Company never changes an answer."""
        ...


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording."""

    audio: str
    duration: float
    """Seconds."""
    text: str
    words: list[Word]

    def written(self, form: Literal["text", "json", "srt", "vtt"]) -> str:
        """The transcript in a format. JSON is one line; its segments are the cues of srt and vtt, as they were said."""
        if form == "text":
            return self.text
        found = cues.cut(self.words, self.duration)
        if form == "json":
            words = [
                {"word": word, "start": round(start, 3), "end": round(end, 3), "confidence": round(confidence, 4)}
                for word, start, end, confidence, _ in self.words
            ]
            segments = [
                {"id": number, "start": cue.spoken[0] / 1000, "end": cue.spoken[1] / 1000, "text": cue.text}
                for number, cue in enumerate(found)
            ]
            said = {"audio": self.audio, "duration": round(self.duration, 3), "text": self.text}
            # A path that is not UTF-8 is escaped, and all else then.
            is_text = not any("\udc80" <= character <= "\udcff" for character in self.audio)
            return json.dumps({**said, "segments": segments, "words": words}, ensure_ascii=not is_text)
        return cues.write(found, form).rstrip("\n")


class Heard(NamedTuple):
    """What was heard in an utterance of a manifest."""

    id: str
    reference: str
    """Normalised."""
    hypothesis: str
    """As the model wrote it."""
    seconds: float
    origin: str = ""
    """The line of the manifest."""
    speaker: str | None = None
    num_utterances: int = 1


class Recogniser:
    """A trained model, ready for recordings of any length. It holds no state between calls: threads may share it."""

    WINDOW_SECONDS = 24.0
    OVERLAP_SECONDS = 6.0
    BATCH = 4  # windows at once: bounds the memory of long recordings

    def __init__(self, facts: SpeechFacts, listener: Listener) -> None:
        self.facts, self.listener = facts, listener
        self._pieces = facts.pieces
        self._seconds_per_frame = facts.samples_per_frame / facts.sample_rate_hz
        # Windows start on output frames, so that frames of all windows share one clock.
        self._window_frames = round(self.WINDOW_SECONDS / self._seconds_per_frame)
        self._overlap_frames = round(self.OVERLAP_SECONDS / self._seconds_per_frame)

    def transcribe(
        self, recording: str | Path | NDArray[Any], sample_rate_hz: int | None = None, channel: int | str | None = None
    ) -> Transcript:
        """The words of a recording, with times; silence gives none.

        A file (its own rate counts), or samples (S) or (S, channels) at `sample_rate_hz`, from 1 kHz to 1 MHz: floats
        in [-1, 1] or whole numbers. `channel` is a number from 1, "left", "right" or "mix"; None: the mean, or one of
        channels that cancel each other. A UserError says why it cannot be heard, also of two channels that hold
        different speakers where no `channel` is given.
        """
        rate = self.facts.sample_rate_hz
        try:
            chosen = channels.parse(channel)
        except ValueError as problem:
            raise UserError(f"channel: {problem}") from None
        if isinstance(recording, str | Path):
            name, path = str(recording), Path(recording)
            seconds = audio.properties(path).seconds
            blocks = audio.stream(path, rate, channel=chosen)
        elif sample_rate_hz is None:
            raise UserError("samples need their rate: transcribe(samples, sample_rate_hz=...)")
        elif not (isinstance(sample_rate_hz, int | float | np.number) and 1000 <= sample_rate_hz <= 1_000_000):
            raise UserError(f"sample_rate_hz: a number from 1000 to 1000000 wanted, got {sample_rate_hz!r}")
        else:
            samples = audio.mono(np.asarray(recording), sample_rate_hz, chosen)
            name, seconds = "", len(samples) / sample_rate_hz
            blocks = iter([audio.resample(samples, sample_rate_hz, rate)])
        what = f"hears {name or 'samples'}"
        blocks = progress(blocks, what, seconds, "seconds", lambda block: len(block) / rate)
        emissions: list[list[ctc.Emission]] = []
        windows, step = self._windows(blocks), self._window_frames - self._overlap_frames
        while batch := list(islice(windows, self.BATCH)):
            emissions += self._emissions(batch, len(emissions) * step)
            last = len(batch[-1])
        overlaps = [(n * step, n * step + self._overlap_frames) for n in range(1, len(emissions))]
        found = self._words(ctc.merge(emissions, overlaps))
        duration = ((len(emissions) - 1) * step * self.facts.samples_per_frame + last) / rate
        found = [word._replace(start=min(word.start, duration), end=min(word.end, duration)) for word in found]
        return Transcript(name, duration, text_of(found), found)

    @staticmethod
    def rate_of(path: Path) -> int:
        """Samples a second of a recording."""
        return audio.properties(path).sample_rate_hz

    def evaluate(self, manifest: Path, skip_bad: bool = False, *, as_transcribed: bool = False) -> dict[str, Any]:
        """Error rates on a manifest with their intervals, also by speaker, and how many bad examples were left out.

        `as_transcribed` scores recordings (`data/recordings.py`) as `transcribe` hears them, and says the rate of
        utterances that are heard alone beside it.
        """
        return self.explain(manifest, skip_bad, has_media=False, as_transcribed=as_transcribed).as_json()

    def explain(
        self, manifest: Path, skip_bad: bool = False, *, has_media: bool = True, as_transcribed: bool = False
    ) -> Evaluation:
        """Scores on a manifest, and what was heard in each utterance or recording; `has_media` adds the sound of some
        utterances."""
        utterances = Manifest(Utterance, [manifest], skip_bad=skip_bad)
        all_heard = self.heard(utterances)
        beside: dict[str, float] = {}
        if as_transcribed:
            alone = self.score(all_heard)
            usable = {each.origin for each in all_heard}
            all_heard = self._heard_as_transcribed([each for each in utterances if each.origin in usable], skip_bad)
            name = alone.chosen.name
            beside = {f"alone_{name}": alone.overall()[name], "recordings": len(all_heard)}
        place = {utterance.origin: number for number, utterance in enumerate(utterances)}
        all_heard.sort(key=lambda each: place[each.origin])
        num_heard = sum(each.num_utterances for each in all_heard)
        num_skipped = utterances.num_skipped + len(utterances) - num_heard
        self._check(manifest, all_heard)
        speakers = [each.speaker for each in all_heard]
        with Bar(f"scores {manifest.name}"):
            found = self.score(all_heard)
            rates, of_speakers = found.of_each(), found.by_speaker(speakers)
            resampled = found.resampling("recordings" if as_transcribed else "utterances", speakers)
        name = found.chosen.name
        examples = [
            Example(
                each.id,
                each.reference,
                each.hypothesis,
                own[name],
                length=each.seconds,
                scores=own,
                details={} if each.speaker is None else {"speaker": each.speaker},
            )
            for each, own in zip(all_heard, rates, strict=True)
        ]
        for index in chosen(examples, "min") if has_media and not as_transcribed else ():
            samples = utterances[place[all_heard[index].origin]].samples(self.facts.sample_rate_hz)
            examples[index] = examples[index]._replace(audio=audio.encoded(samples, self.facts.sample_rate_hz))
        return Evaluation(
            title=f"Speech recognition of {manifest.name}",
            scores={**found.overall(), **beside, "utterances": num_heard, "skipped": num_skipped},
            examples=examples,
            score_name=name.replace("_", " "),
            direction="min",
            length_name="seconds",
            facts={"manifest": str(manifest), "parameters": f"{self.facts.parameters:,}"},
            intervals=resampled.intervals,
            interval_note=resampled.note,
            groups={"speakers": of_speakers} if of_speakers else {},
        )

    def heard(self, manifest: Manifest[Utterance]) -> list[Heard]:
        """What was heard in each utterance of a manifest, short ones first. Each is heard as a whole.

        Bad examples raise a UserError, or are left out, as the manifest says.
        """
        all_heard: list[Heard] = []
        sounds = progress(
            self.sounds(manifest),
            f"evaluates {', '.join(path.name for path in manifest.paths)}",
            float(manifest.sizes.sum()),
            "s",
            lambda group: sum(utterance.seconds for utterance in group[0]),
        )
        for utterances, waveforms in sounds:
            texts, _ = self.hear(waveforms)
            for utterance, hypothesis in zip(utterances, texts, strict=True):
                reference = normalize(utterance.text, self.facts.text, utterance.language)
                seconds, speaker = utterance.seconds, utterance.speaker
                all_heard.append(Heard(utterance.id, reference, hypothesis, seconds, utterance.origin, speaker))
        return all_heard

    def _heard_as_transcribed(self, utterances: Sequence[Utterance], skip_bad: bool) -> list[Heard]:
        """What `transcribe` hears in their recordings; of whole files, the words that are said in the utterances."""
        all_heard: list[Heard] = []
        rate, total = self.facts.sample_rate_hz, sum(each.seconds for each in utterances)
        for recording in progress(recordings.of(utterances), "transcribes", total, "s", lambda each: each.seconds):
            origin = recording.utterances[0].origin
            try:
                if recording.path is None:
                    clips = (each.samples(rate) for each in recording.utterances)
                    found = self.transcribe(recordings.join(clips, rate), rate).words
                else:
                    found = self.transcribe(recording.path, channel=recording.utterances[0].channel).words
                    found = [word for word in found if recording.covers((word.start + word.end) / 2)]
            except UserError as problem:
                if not skip_bad:
                    raise UserError(f"{origin}: {problem} (--skip-bad leaves such recordings out)") from None
                continue
            reference = normalize(recording.text, self.facts.text)
            sizes = recording.seconds, origin, recording.speaker, len(recording.utterances)
            all_heard.append(Heard(recording.id, reference, text_of(found), *sizes))
        return all_heard

    def hear(self, waveforms: Sequence[Samples]) -> tuple[list[str], list[NDArray[np.float32]]]:
        """Waveforms (S) of any length, each as a whole -> their texts, and log-probabilities (T, V)."""
        rows = self._answers(waveforms)
        return [text_of(self._words(ctc.greedy(row, len(self._pieces)))) for row in rows], rows

    def _words(self, emissions: Sequence[ctc.Emission]) -> list[Word]:
        return words(emissions, self._pieces, self._seconds_per_frame)

    def _check(self, manifest: Path, all_heard: Sequence[Heard]) -> None:
        """Raises a UserError where no rate has a meaning; warns of references that hold nothing."""
        num_empty = sum(not each.reference for each in all_heard)
        if all_heard and num_empty == len(all_heard):
            raise UserError(f"{manifest}: nothing to score: normalization leaves nothing of any reference")
        if num_empty:
            warn(
                f"{manifest}: normalization leaves nothing of {num_empty} of {len(all_heard)} references; all that is "
                "heard there counts as insertions"
            )

    def score(self, all_heard: Sequence[Heard]) -> metrics.Scores:
        """Word and character error rates of normalised texts."""
        if not all_heard:
            raise UserError("nothing to score: no example could be used")
        hypotheses = [normalize(each.hypothesis, self.facts.text) for each in all_heard]
        return metrics.speech(self.facts.metric, [each.reference for each in all_heard], hypotheses)

    def sounds(self, manifest: Manifest[Utterance]) -> Iterator[tuple[list[Utterance], list[Samples]]]:
        """All utterances and their sound, in groups of like length that are heard at once: short ones first.

        Bad ones raise a UserError, or are left out, as the manifest says.
        """
        if not len(manifest):
            return
        longest = float(manifest.sizes.max())
        seconds = max(self.BATCH * self.WINDOW_SECONDS, longest)
        plan = BatchPlan(manifest.sizes, seconds, buckets=16, seed=0, is_shuffled=False)
        for number in range(plan.num_micro_batches):
            utterances: list[Utterance] = []
            waveforms: list[Samples] = []
            for index in plan.micro_batch(number).indices.tolist():
                utterance = manifest[index]
                try:
                    waveforms.append(utterance.samples(self.facts.sample_rate_hz))
                    utterances.append(utterance)
                except UserError as problem:
                    if not manifest.skip_bad:
                        raise UserError(f"{problem} (--skip-bad leaves such examples out and counts them)") from None
            if utterances:
                yield utterances, waveforms

    def _windows(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Overlapping windows; only the last one may be shorter."""
        size, overlap = (n * self.facts.samples_per_frame for n in (self._window_frames, self._overlap_frames))
        held = np.zeros(0, np.float32)
        for block in blocks:
            held = np.concatenate([held, block])
            # One sample more than a window: the last window is never only what the one before it has heard.
            while len(held) > size:
                yield held[:size]
                held = held[size - overlap :]
        yield held

    def _emissions(self, windows: list[Samples], first_frame: int) -> list[list[ctc.Emission]]:
        """The tokens of consecutive windows; frames count from the start of the recording."""
        step = self._window_frames - self._overlap_frames
        return [
            ctc.greedy(row, len(self._pieces), first_frame + number * step)
            for number, row in enumerate(self._answers(windows))
        ]

    def _answers(self, waveforms: Sequence[Samples]) -> list[NDArray[np.float32]]:
        """(T, V) of each; no frames for digital silence: no recording that a model learns from has it, so it could
        answer anything."""
        answers = iter(self.listener.log_probs(sounding) if (sounding := [w for w in waveforms if w.any()]) else [])
        nothing = np.zeros((0, len(self._pieces) + 1), np.float32)
        return [next(answers) if waveform.any() else nothing for waveform in waveforms]
