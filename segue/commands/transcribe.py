"""`segue transcribe`: speech to text."""

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segue import progress
from segue.commands import options, speech_options
from segue.errors import UserError, warn
from segue.files import replacing

if TYPE_CHECKING:
    from segue.runtime.recognizer import Recognizer, Transcript
    from segue.runtime.speaker_embedder import SpeakerEmbedder
    from segue.runtime.written import Writer

SUMMARY = "speech to text"
FORMATS = ("text", "json", "srt", "vtt", "interview", "html")
_SUFFIXES = (".txt", ".json", ".srt", ".vtt", ".html")
EXAMPLE = "segue transcribe runs/digits lecture.mp3 --format srt"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    options.model(parser)
    parser.add_argument(
        "audio", metavar="AUDIO", type=Path, nargs="+", help="recordings of any length, folders, or - (standard input)"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="(default: text)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write a file per recording there")
    parser.add_argument(
        "--channel",
        type=options.channel,
        help="left, right, mix or a number from 1 (default: mix, if that makes sense)",
    )
    parser.add_argument(
        "--channels", action="store_true", help="each channel is a speaker, as in recorded calls: left and right"
    )
    parser.add_argument(
        "--names",
        metavar="NAME,NAME",
        type=options.names,
        help="the speakers' names, in the order of the channels, or in which they first speak",
    )
    options.speakers(parser)
    parser.add_argument("--speaker-model", metavar="VOICES", type=Path, help="model of voices, for --speakers")
    parser.add_argument(
        "--written",
        metavar="MODEL",
        type=Path,
        help="a model from plain to written text restores case, punctuation and numbers (segue prepare written)",
    )
    parser.add_argument(
        "--voice-activity",
        choices=("auto", "on", "off"),
        default="auto",
        help="cut in silences and skip them (auto: recordings longer than a window, if segue[voice] is installed)",
    )
    speech_options.search(parser)
    options.device(parser)


def run(given: Namespace) -> int:
    """Runs the command; returns the exit status, None for 0."""
    from segue import transcribe_files
    from segue.runtime.written import language_of

    if given.names is not None and not given.channels and given.speakers is None:
        raise UserError("--names: names for whom? It needs --speakers or --channels")
    _check_speakers(given)
    if given.channels and given.channel is not None:
        raise UserError("--channel is one channel, --channels are all of them: give one of both")
    if given.channels and given.format == "text":
        raise UserError("--channels: --format text shows no speakers; interview, html, json, srt and vtt do")
    paths = transcribe_files.recordings(given.audio)
    if given.format == "html" and given.out is None:
        raise UserError("--format html needs --out DIR")
    if given.format not in ("text", "json") and len(paths) > 1 and given.out is None:
        raise UserError(f"--format {given.format} with several recordings needs --out DIR")
    if given.out is not None and not given.out.is_dir() and given.out.suffix.lower() in _SUFFIXES:
        raise UserError(f"--out {given.out}: the name of a folder is wanted; --format says what its files are")
    suffix = "txt" if given.format in ("text", "interview") else given.format
    targets = [] if given.out is None else transcribe_files.targets(paths, given.out, suffix)
    model = speech_options.searching(options.load_model(given, "transcribe"), given)
    voices = None if given.speakers is None else options.load_voices(given.speaker_model, given.device)
    wanted = "--written takes one from plain to written text (segue prepare written)"
    writer = None if given.written is None else options.load_model(given, "translate", given.written, wanted)
    if writer is not None:
        language_of(writer)  # what is missing is said now, not after the recognition
    rates = transcribe_files.LowRates(model.metadata.sample_rate_hz, "words may be wrong because of that")
    has_failed = False
    for number, path in enumerate(progress.progress(paths, "transcribes", unit="recordings")):
        try:
            with transcribe_files.local(path) as file:
                transcript = _transcribed(given, model, voices, writer, file)
                rate = model.rate_of(file)
                if given.format == "html":
                    _write_page(given, replace(transcript, audio=str(path)), file, targets[number])
        except UserError as problem:
            progress.say(f"segue: {problem}")
            has_failed = True
            continue
        rates.say(path, rate)
        if given.format == "html":
            progress.say(str(targets[number]), sys.stdout)
            continue
        text = replace(transcript, audio=str(path)).written(given.format)
        if targets:
            with replacing(targets[number]) as partial:
                partial.write_text(text + "\n", encoding="utf-8")
            progress.say(str(targets[number]), sys.stdout)
        elif given.format == "text" and len(paths) > 1:
            progress.say(f"{path}\t{text}", sys.stdout)
        else:
            progress.say(text, sys.stdout)
    return 2 if has_failed else 0


def _check_speakers(given: Namespace) -> None:
    """Raises a UserError if --speakers cannot do what is asked for."""
    if given.speakers is None:
        if given.speaker_model is not None:
            raise UserError("--speaker-model is for --speakers N or --speakers auto, which is not given")
        return
    if given.channels:
        raise UserError("--channels takes each channel as a speaker, --speakers tells voices apart: give one of both")
    if given.format == "text":
        raise UserError("--speakers: --format text shows no speakers; interview, html, json, srt and vtt do")
    if given.speaker_model is None:
        raise UserError(f"--speakers needs --speaker-model VOICES: {options.VOICES_WANTED}")
    options.check_names(given.names, given.speakers)


def _transcribed(
    given: Namespace, model: "Recognizer", voices: "SpeakerEmbedder | None", writer: "Writer | None", file: Path
) -> "Transcript":
    from segue.runtime import channels, speaker_words, written

    if given.channels:
        transcript = channels.transcribe(model, file, given.names, given.voice_activity)
    else:
        transcript = model.transcribe(file, channel=given.channel, voice_activity=given.voice_activity)
    if voices is not None:
        count = None if given.speakers == options.AUTO else given.speakers
        found = voices.diarize(file, channel=given.channel, speakers=count, names=given.names or ())
        transcript = replace(transcript, words=speaker_words.assigned(transcript.words, found.turns))
    return transcript if writer is None else written.restored(transcript, writer)


def _write_page(given: Namespace, transcript: "Transcript", file: Path, target: Path) -> None:
    """The page of a recording, whose content is `file`."""
    from segue.report import transcript as page

    is_copy = str(file) != transcript.audio
    sound = None
    if is_copy and transcript.duration > page.MOST_SECONDS:
        warn(f"{transcript.audio}: too long to be in the page, which has no sound: give the recording as a file")
    else:
        sound = page.sound_of(file, "mix" if given.channels else given.channel, transcript.duration, target)
    page.write(target, transcript, sound)
