"""`segue generate`: continue a text, or music, with a language model."""

import datetime
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segue.commands import options
from segue.errors import UserError
from segue.files import check_targets, replacing

SUMMARY = "continue a text, or music, with a language model"
EXAMPLE = 'segue generate runs/shakespeare "ROMEO:" --tokens 300'


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    options.model(parser)
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        nargs="?",
        help="text to continue (default: an empty one), or a MIDI file",
    )
    parser.add_argument(
        "--prompts", metavar="FILE", type=Path, help="a prompt per line; - is standard input; prints JSON lines"
    )
    parser.add_argument(
        "--tokens", metavar="N", type=options.positive, default=200, help="most new tokens (default: 200)"
    )
    parser.add_argument("--samples", metavar="N", type=options.positive, default=1, help="continuations of each prompt")
    parser.add_argument("--stop", metavar="TEXT", action="append", default=[], help="end before this text; repeatable")
    parser.add_argument(
        "--slide", action="store_true", help="go on past the model's context, with the last half of it in view"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object per continuation")
    music = parser.add_argument_group("models of music; of several pieces each gets a number, as in new_2.mid")
    music.add_argument("--midi", metavar="FILE.mid", type=Path, help="write the music")
    music.add_argument("--wav", metavar="FILE.wav", type=Path, help="write its sound, by fluidsynth, else as sines")
    music.add_argument("--report", metavar="FILE.html", type=Path, help="a page with piano rolls and sound")
    music.add_argument("--soundfont", metavar="FILE", type=Path, help="instruments for fluidsynth (.sf2, .sf3)")
    how = parser.add_argument_group("how tokens are drawn (default: as in the model's recipe)")
    how.add_argument("--temperature", metavar="T", type=options.number, help="0: always the likeliest token")
    how.add_argument("--top-k", metavar="K", type=options.whole, help="only the K likeliest tokens; 0: all")
    how.add_argument("--top-p", metavar="P", type=options.number, help="only the likeliest that together have it")
    how.add_argument("--min-p", metavar="P", type=options.number, help="only with this share of the likeliest's")
    how.add_argument("--repetition-penalty", metavar="R", type=options.above_zero, help="above 1: fewer repetitions")
    how.add_argument("--seed", metavar="N", type=options.whole, help="the same seed gives the same text")
    options.device(parser)


def run(given: Namespace) -> None:
    """Runs the command; returns the exit status, None for 0."""
    model = options.load_model(given, "generate")
    sampling = _sampling(model.metadata.sampling, given)
    files = {"--midi": given.midi, "--wav": given.wav, "--report": given.report}
    notation = model.metadata.notation
    if any(files.values()):
        if notation is None:
            name = next(name for name, path in files.items() if path)
            raise UserError(f"{name}: {given.model} is no model of music; its recipe would say so in `notation`")
        if given.json:
            raise UserError("--json: music is written to files; leave one of them out")
        check_targets(files)
    if given.soundfont and not (given.wav or given.report):
        raise UserError("--soundfont: only sound needs it (--wav, --report)")
    how = {"tokens": given.tokens, "stop": given.stop, "sampling": sampling, "is_sliding": given.slide}
    if given.prompts is not None:
        if given.prompt is not None:
            raise UserError("--prompts: give PROMPT or --prompts, not both")
        prompts = _lines(given.prompts)
        if any(files.values()):
            _write_music(given, notation, prompts, model.generate(prompts, samples=given.samples, **how))
            return
        for prompt, each in zip(prompts, model.generate_each(prompts, samples=given.samples, **how), strict=True):
            _print(prompt, each)
        return
    prompt = given.prompt or ""
    if notation is not None and Path(prompt).suffix.lower() in (".mid", ".midi"):
        from segue.data import music

        prompt = music.read(Path(prompt), notation)
    if any(files.values()):
        _write_music(given, notation, [prompt], model.generate([prompt], samples=given.samples, **how))
        return
    if given.json or given.samples > 1:
        (each,) = model.generate([prompt], samples=given.samples, **how)
        if given.json:
            _print(prompt, each)
            return
        for number, found in enumerate(each, 1):
            print(f"--- {number} of {given.samples}\n{prompt}{found.text}", flush=True)
        return
    pieces = model.stream(prompt, **how)
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def _write_music(given: Namespace, notation: Any, prompts: Sequence[str], continuations: Any) -> None:
    """Writes the prompts with their continuations as MIDI, as sound and as a page."""
    from segue.data import music, music_sound
    from segue.report import music as report

    texts = [f"{prompt}{each.text}" for prompt, found in zip(prompts, continuations, strict=True) for each in found]
    play = music_sound.player(given.soundfont) if given.wav or given.report else None
    pieces = []
    for number, text in enumerate(texts, 1):
        score = music.score_of(text, notation)
        if given.midi:
            midi = _numbered(given.midi, number, len(texts))
            music.write_midi(score, midi)
            print(midi, flush=True)
        if play is None:
            continue
        sound = play(score)
        if given.wav:
            wav = _numbered(given.wav, number, len(texts))
            with replacing(wav) as partial:
                partial.write_bytes(music_sound.wav(sound))
            print(wav, flush=True)
        if given.report:
            pieces.append(report.Piece(f"Piece {number}", music.notes_of(score), music_sound.ogg(sound), text.strip()))
    if given.report:
        report.write(pieces, {"model": str(given.model), "date": f"{datetime.date.today():%Y-%m-%d}"}, given.report)
        print(given.report, flush=True)


def _numbered(path: Path, number: int, num_pieces: int) -> Path:
    return path.with_stem(f"{path.stem}_{number}") if num_pieces > 1 else path


def _print(prompt: str, continuations: Any) -> None:
    for number, found in enumerate(continuations):
        values = {"prompt": prompt, "sample": number, "text": found.text, "ending": found.ending}
        print(json.dumps({**values, "tokens": len(found.tokens)}, ensure_ascii=False), flush=True)


def _lines(path: Path) -> list[str]:
    """The prompts of a file. Raises a UserError if there is none."""
    from segue import translate_files

    if path == Path("-"):
        if sys.stdin is None:
            raise UserError("standard input is closed; name a file")
        found = list(translate_files.lines(sys.stdin.buffer, "standard input"))
    else:
        if path.is_dir():
            raise UserError(f"--prompts {path}: a folder; a file with a prompt a line is wanted")
        found = list(translate_files.of_file(path))
    if not found:
        raise UserError(f"{path}: no prompt in it")
    return found


def _sampling(section: Any, given: Namespace) -> Any:
    """The model's settings with those of the command line. Raises a UserError for a value out of range."""
    from pydantic import ValidationError

    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    values = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    try:
        return type(section).model_validate({**section.model_dump(), **values})
    except ValidationError as problem:
        first = problem.errors()[0]
        raise UserError(f"--{str(first['loc'][0]).replace('_', '-')} {first['input']}: {first['msg']}") from None
