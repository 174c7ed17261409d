"""Benchmark: errors and CPU time of Segue's search in CTC scores, and of three other decoders on the same scores.

Scores are those of a trained model, or made up for the texts of a manifest: each letter stands in one or two frames of
20 ms, with noise that is the same in all frames of a letter, larger for letters that sound alike, and sometimes lost:

    python bench/search.py scores MODEL MANIFEST scores.npz
    python bench/search.py made-up MANIFEST scores.npz --noise 2.2

Then, on one core (OMP_NUM_THREADS=1):

    python bench/search.py speed scores.npz
    python bench/search.py compare dev.npz test.npz --language-model words.arpa --pyctcdecode PYTHON
    python bench/search.py ladder dev.npz test.npz --language-model words.arpa --phrases names.txt

`compare` chooses the weight and the bonus of each decoder on dev.npz from the same grid, at 16 beams (flashlight-text:
64). PYTHON is the interpreter of an environment with pyctcdecode, kenlm-ex and numpy. flashlight-text gets its lexicon
from the words of the language model, each with a space after it, and a frame with a space at the end; its scores are
log10.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
WEIGHTS, BONUSES = (0.4, 0.7, 1.1), (0.5, 2.0, 3.5)
ALIKE = ("aeiouy", "bpdtgk", "mn", "fvszc", "lrw", "hj", "xq")
FRAMES_A_SECOND = 50


class Data(NamedTuple):
    """Scores with their texts."""

    letters: list[str]
    """Of all outputs but the blank, which is the last."""
    scores: list[Scores]
    references: list[str]
    seconds: float


def save(path: Path, data: Data) -> None:
    facts = {"letters": data.letters, "references": data.references, "seconds": data.seconds}
    arrays: dict[str, Any] = {f"scores_{number}": each for number, each in enumerate(data.scores)}
    np.savez_compressed(path, facts=np.array(json.dumps(facts)), **arrays)


def load(path: Path) -> Data:
    with np.load(path) as found:
        facts = json.loads(str(found["facts"]))
        scores = [found[f"scores_{number}"] for number in range(len(facts["references"]))]
    return Data(facts["letters"], scores, facts["references"], facts["seconds"])


def first(data: Data, most: int) -> Data:
    """The first `most` texts."""
    kept = data.scores[:most]
    share = sum(map(len, kept)) / sum(map(len, data.scores))
    return Data(data.letters, kept, data.references[:most], data.seconds * share)


def of_model(model_path: Path, manifest: Path) -> Data:
    import segue
    from segue.runtime.search_tuning import development

    model = segue.load(model_path, "cpu")
    found = development(model, manifest, float("inf"))
    return Data([piece.decode() for piece in model.metadata.pieces], found.scores, found.references, found.seconds)


def made_up(manifest: Path, noise: float, seed: int) -> Data:
    from segue.data.examples import Utterance
    from segue.data.manifest import Manifest
    from segue.data.text import TextSection, normalize

    letters = list(" abcdefghijklmnopqrstuvwxyz'")
    draw = np.random.default_rng(seed)
    sounds_alike = np.zeros((len(letters), len(letters)))
    for group in ALIKE:
        for a, b in product(group, group):
            sounds_alike[letters.index(a), letters.index(b)] = 1
    references = [normalize(each.text, TextSection()) for each in Manifest(Utterance, [manifest])]
    references = ["".join(letter for letter in text if letter in letters) for text in references]
    scores = [_spoken(text, letters, sounds_alike, noise, draw) for text in references]
    return Data(letters, scores, references, sum(map(len, scores)) / FRAMES_A_SECOND)


def _spoken(
    text: str, letters: list[str], alike: NDArray[np.float64], noise: float, draw: np.random.Generator
) -> Scores:
    blank, rows = len(letters), list[NDArray[np.float64]]()

    def silence(count: int) -> None:
        for _ in range(count):
            row = draw.normal(0, 0.5, blank + 1)
            row[blank] += 7
            rows.append(row)

    silence(2)
    for letter in text:
        number = letters.index(letter)
        heard = draw.normal(0, noise, blank + 1)
        heard[:blank] += noise * alike[number] * (np.arange(blank) != number)
        heard[number] += 5
        heard[blank] += draw.normal(0, noise / 2)
        rows.extend(heard + draw.normal(0, 0.3, blank + 1) for _ in range(draw.integers(1, 3)))
        silence(int(draw.integers(1, 3)))
    raw = np.stack(rows)
    raw -= raw.max(axis=1, keepdims=True)
    found: Scores = (raw - np.log(np.exp(raw).sum(axis=1, keepdims=True))).astype(np.float32)
    return found


# --- Decoders: settings -> the text of each of the scores ---


class Settings(NamedTuple):
    """What all of them have."""

    beams: int
    weight: float = 0.0
    bonus: float = 0.0


Decoder = Callable[[Settings, Sequence[Scores]], list[str]]


def greedily(letters: list[str]) -> Decoder:
    from segue.decoding.ctc import greedy

    def decode(settings: Settings, scores: Sequence[Scores]) -> list[str]:
        del settings
        return ["".join(letters[each.token] for each in greedy(rows, len(letters))) for rows in scores]

    return decode


def segue_search(letters: list[str], language_model: Path | None, phrases: Path | None = None) -> Decoder:
    from segue.data.text import TextSection
    from segue.decoding.phrases import read
    from segue.runtime.search_tuning import UNKNOWN
    from segue.runtime.speech_search import SpeechSearch, SpeechSearchSection

    base = SpeechSearch(SpeechSearchSection(), [letter.encode() for letter in letters], TextSection())
    if language_model is not None:
        base = base.with_language_model(language_model)

    def decode(settings: Settings, scores: Sequence[Scores]) -> list[str]:
        changes: dict[str, float] = {"beams": settings.beams, "weight": settings.weight, "word_bonus": settings.bonus}
        changes["unknown_word_score"] = UNKNOWN[0] * settings.weight  # as `segue tune` does
        search = base.with_section(base.section.model_copy(update=changes))
        if phrases is not None:
            search = search.with_phrases(read(phrases))
        return ["".join(letters[each.token] for each in search.emissions(rows)) for rows in scores]

    return decode


def flashlight(letters: list[str], language_model: Path) -> Decoder:
    from flashlight.lib.text.decoder import (
        CriterionType,
        KenLM,
        LexiconDecoder,
        LexiconDecoderOptions,
        SmearingMode,
        Trie,
    )
    from flashlight.lib.text.dictionary import Dictionary

    words = words_of(language_model)
    numbers = Dictionary([*words, "<unk>"])
    model = KenLM(str(language_model), numbers)
    space, blank = letters.index(" "), len(letters)
    trie, start = Trie(len(letters) + 1, space), model.start(False)
    for word in words:
        if all(letter in letters for letter in word):
            number = numbers.get_index(word)
            trie.insert([*map(letters.index, word), space], number, model.score(start, number)[1])
    trie.smear(SmearingMode.MAX)
    last = np.full((1, len(letters) + 1), -20, np.float32)
    last[0, space] = 0

    def decode(settings: Settings, scores: Sequence[Scores]) -> list[str]:
        options = LexiconDecoderOptions(
            beam_size=settings.beams,
            beam_size_token=len(letters) + 1,
            beam_threshold=25,
            lm_weight=settings.weight * 2.302585,
            word_score=settings.bonus,
            unk_score=-np.inf,
            sil_score=0,
            log_add=False,
            criterion_type=CriterionType.CTC,
        )
        decoder = LexiconDecoder(options, trie, model, space, blank, numbers.get_index("<unk>"), [], False)
        found = []
        for rows in scores:
            padded = np.ascontiguousarray(np.concatenate([rows, last]))
            best = decoder.decode(padded.ctypes.data, *padded.shape)
            found.append(" ".join(numbers.get_entry(n) for n in best[0].words if n >= 0) if best else "")
        return found

    return decode


def ctc_beam(letters: list[str], language_model: Path) -> Decoder:
    import ctc_beam_decoder

    def decode(settings: Settings, scores: Sequence[Scores]) -> list[str]:
        decoder = ctc_beam_decoder.build_ctcdecoder(
            [*letters, ""],
            str(language_model),
            words_of(language_model),
            alpha=settings.weight,
            beta=settings.bonus,
        )
        return [decoder.decode(rows.astype(np.float64), beam_width=settings.beams) for rows in scores]

    return decode


def words_of(language_model: Path) -> list[str]:
    """The words of an ARPA file."""
    found, is_inside = [], False
    for line in language_model.read_text().splitlines():
        if line == "\\1-grams:":
            is_inside = True
        elif is_inside and not line.strip():
            break
        elif is_inside and line.split("\t")[1][0] != "<":
            found.append(line.split("\t")[1])
    return found


PYCTCDECODE = """
import json, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from search import load, words_of, Path
import logging; logging.disable(logging.CRITICAL)
from pyctcdecode import build_ctcdecoder
order = json.loads(sys.argv[2])
data = load(Path(order["data"]))
letters, path = [*data.letters, ""], Path(order["lm"])
decoder = build_ctcdecoder(letters, str(path), words_of(path), alpha=order["weight"], beta=order["bonus"])
before = time.process_time()
texts = [decoder.decode(rows.astype(np.float64), beam_width=order["beams"]) for rows in data.scores[: order["most"]]]
print(json.dumps({"seconds": time.process_time() - before, "texts": texts}))
"""


def rates(references: Sequence[str], texts: Sequence[str]) -> tuple[float, float]:
    """Word and character error rates in percent."""
    import jiwer

    cleaned = [" ".join(text.split()) for text in texts]
    return 100 * jiwer.wer(list(references), cleaned), 100 * jiwer.cer(list(references), cleaned)


def grid() -> Iterator[tuple[float, float]]:
    yield from product(WEIGHTS, BONUSES)


def compare(
    dev: Data, test: Data, language_model: Path, python: str | None, test_path: Path, only: Sequence[str]
) -> None:
    decoders: dict[str, tuple[Decoder, Sequence[int]]] = {
        "Segue": (segue_search(dev.letters, language_model), (8, 16, 32, 64, 128)),
        "flashlight-text": (flashlight(dev.letters, language_model), (16, 64, 250, 1000)),
        "ctc-beam-decoder": (ctc_beam(dev.letters, language_model), (16, 64, 128)),
    }
    print(f"greedy: {rates(test.references, greedily(test.letters)(Settings(1), test.scores))[0]:.1f}")
    chosen = {}
    for name, (decode, beams) in decoders.items():
        if only and name not in only:
            continue
        size = 64 if name == "flashlight-text" else 16
        tried = {each: rates(dev.references, decode(Settings(size, *each), dev.scores))[0] for each in grid()}
        best = chosen[name] = min(tried, key=lambda each: tried[each])
        print(f"{name}: weight {best[0]}, bonus {best[1]}: {tried[best]:.1f} on dev", flush=True)
        for size in beams:
            decode(Settings(size, *best), test.scores[:1])
            before = process_time()
            texts = decode(Settings(size, *best), test.scores)
            seconds = process_time() - before
            word, letter = rates(test.references, texts)
            speed = test.seconds / seconds
            print(
                f"{name:18} beams {size:5}  WER {word:6.2f}  CER {letter:6.2f}  {seconds:7.2f} CPU-s  {speed:6.0f}x",
                flush=True,
            )
    if python is not None and "ctc-beam-decoder" in chosen:
        weight, bonus = chosen["ctc-beam-decoder"]  # the same algorithm
        for size in (16, 64):
            order = {
                "data": str(test_path.resolve()),
                "lm": str(language_model.resolve()),
                "weight": weight,
                "bonus": bonus,
            }
            order |= {"beams": size, "most": len(test.scores)}
            with tempfile.TemporaryDirectory() as folder:
                words = [python, "-c", PYCTCDECODE, str(Path(__file__).parent), json.dumps(order)]
                done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=folder)
            found = json.loads(done.stdout.splitlines()[-1])
            word, letter = rates(test.references, found["texts"])
            print(
                f"{'pyctcdecode':18} beams {size:5}  WER {word:6.2f}  CER {letter:6.2f}  {found['seconds']:7.2f} CPU-s"
            )


def ladder(dev: Data, test: Data, language_model: Path, phrases: Path, beams: int) -> None:
    """Greedy, beams, n-gram, phrases: errors, and which phrases are found in the texts."""
    names = [line.strip() for line in phrases.read_text().splitlines() if line.strip()]

    def row(title: str, texts: Sequence[str], seconds: float) -> None:
        word, letter = rates(test.references, texts)
        said = hits = wrong = 0
        elsewhere: list[tuple[str, str]] = []
        for reference, text in zip(test.references, texts, strict=True):
            has = False
            for name in names:
                there, found = (f" {each} ".count(f" {name} ") for each in (reference, " ".join(text.split())))
                said, hits, wrong = said + there, hits + min(there, found), wrong + max(0, found - there)
                has = has or there > 0
            if not has:
                elsewhere.append((reference, text))
        others = rates([each[0] for each in elsewhere], [each[1] for each in elsewhere])[0]
        print(
            f"{title:28} WER {word:6.2f}  CER {letter:6.2f}  names {hits}/{said} (+{wrong} wrong)  "
            f"WER of the {len(elsewhere)} texts without names {others:6.2f}  {seconds:6.2f} CPU-s",
            flush=True,
        )

    def run(title: str, decode: Decoder, settings: Settings) -> None:
        before = process_time()
        texts = decode(settings, test.scores)
        row(title, texts, process_time() - before)

    run("greedy", greedily(test.letters), Settings(1))
    run("beams", segue_search(test.letters, None), Settings(beams))
    run("beams, phrases", segue_search(test.letters, None, phrases), Settings(beams))
    decode = segue_search(test.letters, language_model)
    tried = {each: rates(dev.references, decode(Settings(beams, *each), dev.scores))[0] for each in grid()}
    best = min(tried, key=lambda each: tried[each])
    print(f"chosen on dev: weight {best[0]}, bonus {best[1]}: {tried[best]:.1f}")
    run("n-gram", decode, Settings(beams, *best))
    run("n-gram, phrases", segue_search(test.letters, language_model, phrases), Settings(beams, *best))


def speed(data: Data) -> None:
    """The search without knowledge, and how often it agrees with ctc-beam-decoder."""
    import ctc_beam_decoder

    from segue.decoding.prefix_beam import search

    print(f"{len(data.scores)} scores, {data.seconds:.0f} s, {sum(map(len, data.scores))} frames")
    decode = segue_search(data.letters, None)
    for beams in (4, 8, 16, 32, 64):
        before = process_time()
        decode(Settings(beams), data.scores)
        seconds = process_time() - before
        print(f"beams {beams:4}: {seconds:.2f} CPU-s, {data.seconds / seconds:.0f} times real time", flush=True)
    theirs = ctc_beam_decoder.build_ctcdecoder([*data.letters, ""])
    same, before = 0, process_time()
    outputs = [
        theirs.decode(rows.astype(np.float64), beam_width=64, token_min_logp=-9, beam_prune_logp=-30)
        for rows in data.scores
    ]
    seconds = process_time() - before
    blank = len(data.letters)
    for rows, output in zip(data.scores, outputs, strict=True):
        ours = "".join(data.letters[token] for token in search(rows, blank, 64)[0].tokens)
        same += " ".join(ours.split()) == " ".join(output.split())
    print(f"ctc-beam-decoder, 64 beams: {seconds:.2f} CPU-s; {same} of {len(data.scores)} texts are the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    given = commands.add_parser("scores")
    for name in ("model", "manifest", "out"):
        given.add_argument(name, type=Path)
    given = commands.add_parser("made-up")
    for name in ("manifest", "out"):
        given.add_argument(name, type=Path)
    given.add_argument("--noise", type=float, default=2.2)
    given.add_argument("--seed", type=int, default=0)
    given = commands.add_parser("speed")
    given.add_argument("data", type=Path)
    given.add_argument("--most", type=int, default=1_000_000, help="texts")
    for command in ("compare", "ladder"):
        given = commands.add_parser(command)
        given.add_argument("dev", type=Path)
        given.add_argument("test", type=Path)
        given.add_argument("--language-model", type=Path, required=True)
        given.add_argument("--most", type=int, default=1_000_000, help="texts of the test data")
        if command == "compare":
            given.add_argument("--pyctcdecode", metavar="PYTHON")
            given.add_argument("--only", action="append", default=[], help="a decoder")
        else:
            given.add_argument("--phrases", type=Path, required=True)
            given.add_argument("--beams", type=int, default=32)
    words: Any = parser.parse_args()
    if words.command == "scores":
        save(words.out, of_model(words.model, words.manifest))
    elif words.command == "made-up":
        save(words.out, made_up(words.manifest, words.noise, words.seed))
    elif words.command == "speed":
        speed(first(load(words.data), words.most))
    elif words.command == "compare":
        test = first(load(words.test), words.most)
        compare(load(words.dev), test, words.language_model, words.pyctcdecode, words.test, words.only)
    else:
        ladder(load(words.dev), first(load(words.test), words.most), words.language_model, words.phrases, words.beams)


if __name__ == "__main__":
    main()
