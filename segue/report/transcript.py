"""How does a person read, hear and mend a transcript? One self-contained HTML page, with the sound in it.

The script `transcript.js` plays the sound, follows it word by word, and saves what was mended.
"""

import os
from collections.abc import Sequence
from importlib import resources
from itertools import accumulate
from pathlib import Path
from urllib.parse import quote
from xml.etree.ElementTree import Element

from segue.data import audio, paragraphs, reading
from segue.data.subtitles import cues
from segue.report import page
from segue.report.page import Part, tag
from segue.runtime.recognizer import Transcript

SCRIPT = resources.files("segue.report").joinpath("transcript.js").read_text(encoding="utf-8")
STYLE = """
:root { --now: #ffd54a; --now-text: #1c1c1e; --doubt: 217 72 15; --accent: #3d6f9e; }
@media (prefers-color-scheme: dark) { :root { --doubt: 255 138 76; --accent: #7fb0de; } }
header nav, h2 { display: none; }
section { scroll-margin-top: 8rem; }
.tools { position: sticky; top: 0; z-index: 1; background: var(--page); padding: .5rem 0;
  border-bottom: 1px solid var(--line); display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .6rem; }
.tools audio { flex: 1 1 20rem; min-width: 0; height: 2.25rem; }
.saving { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .6rem; margin: .75rem 0; }
.saving label { display: flex; align-items: center; gap: .3rem; font-size: .875rem; }
.tools :is(button, select), .saving button, .people :is(button, input) { font: inherit; font-size: .875rem;
  color: inherit; background: transparent; border: 1px solid var(--line); border-radius: .3rem; padding: .3rem .6rem; }
.tools option, .turns option { color: var(--text); background: var(--page); }
button, .tools select { cursor: pointer; }
#transcript :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.people { display: flex; flex-wrap: wrap; gap: .4rem; margin: .75rem 0; }
.people input { min-width: 0; max-width: 12rem; }
.said { color: var(--quiet); font-size: .875rem; }
.turns section { margin: 1.25rem 0; content-visibility: auto; contain-intrinsic-height: auto 12rem; }
.turns header { display: flex; align-items: baseline; gap: .6rem; }
.turns select { all: unset; field-sizing: content; font-weight: 600; cursor: pointer; border-radius: .2rem; }
.turns .time { all: unset; cursor: pointer; color: var(--quiet); font-size: .875rem;
  font-variant-numeric: tabular-nums; border-radius: .2rem; }
.turns .time:hover, .turns select:hover { text-decoration: underline; }
.turns p { margin: .1rem 0 0; line-height: 1.7; max-width: none; }
.word { cursor: pointer; border-radius: .2em; padding: .1em 0; touch-action: manipulation; }
.doubt1 { background: rgb(var(--doubt) / .1); }
.doubt2 { background: rgb(var(--doubt) / .2); }
.doubt3 { background: rgb(var(--doubt) / .3); }
.doubt4 { background: rgb(var(--doubt) / .42); }
.word:hover { text-decoration: underline; }
.plain .word { background: none; }
.word.mended { text-decoration: underline; text-decoration-color: var(--accent); text-decoration-thickness: 2px; }
.word.now { background: var(--now); color: var(--now-text); }
.mend { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--accent); border-radius: .2em;
  padding: 0 .2em; max-width: 100%; }
@media (max-width: 44rem) { body { padding: 1rem .875rem 3rem; } h1 { font-size: 1.25rem; }
  .tools audio { flex-basis: 100%; } .hint { display: none; } }
@media print { .tools, .saving, .people, .hint { display: none; } .word { background: none; } }
"""
RATE_HZ, COMPRESSION = 16000, 0.8
"""Of the sound in the page: 15 MB an hour (33 kbit/s), and a third more as text."""
MOST_SECONDS = 7200.0
"""Browsers open larger pages slowly. The page of a longer recording plays its file, which has to stay where it is."""
_DATA = "data:audio/ogg;base64,"
SPEEDS = ("0.75", "1", "1.25", "1.5", "2")
HEAR = "Click a word to hear it. Keys: space plays and pauses, p plays from the chosen word. "
MEND = (
    "Double-click a word to mend it. Keys: arrows go from word to word, Enter mends, Shift+Enter begins or joins a "
    "paragraph, n goes to the next doubtful word."
)


def write(path: Path, transcript: Transcript, sound: bytes | str | None) -> None:
    """Writes the page, atomically.

    `sound` is the content of an Ogg file, which becomes a part of the page, or the URL of a file beside it, or None.
    """
    title = Path(transcript.audio).name or "Transcript"
    facts = {"duration": paragraphs.clock(transcript.duration), "words": f"{len(transcript.words):,}"}
    inside, source = (sound, _DATA + page.marker(sound)) if isinstance(sound, bytes) else (b"", sound)
    media = "'self' file:" if isinstance(sound, str) else "data:"
    body = tag(
        "div",
        _tools(source),
        _saving(),
        tag("div", class_="people"),
        tag("p", (HEAR if source else "") + MEND, class_="hint quiet"),
        tag("noscript", tag("p", transcript.text, dir="auto")),
        tag("div", class_="turns"),
        id="transcript",
        data_stem=path.stem,
    )
    block = tag("script", page.json(_data(transcript)), type="application/json", id="data")
    page.write(path, title, facts, {"Transcript": [body, block]}, STYLE, SCRIPT, media, inside)


def sound_of(recording: Path, channel: int | str | None, seconds: float, page_path: Path) -> bytes | str:
    """What the page plays: the recording as a small Ogg file; of a longer one than MOST_SECONDS, its URL."""
    if seconds > MOST_SECONDS:
        return quote(os.path.relpath(recording, page_path.parent))
    _, blocks = reading.opened(recording, RATE_HZ, None, channel)
    return audio.encoded_blocks(blocks, RATE_HZ, COMPRESSION)


def _tools(source: str | None) -> Element:
    """The player, and what is done with words."""
    player: list[Part] = [] if source is None else [tag("audio", controls="", preload="auto", src=source)]
    speeds = [tag("option", f"{each}x", value=each, **({"selected": ""} if each == "1" else {})) for each in SPEEDS]
    return tag(
        "div",
        *player,
        *([tag("select", *speeds, name="speed", aria_label="Speed")] if player else []),
        *(_button(name, text) for name, text in (("mend", "Mend word"), ("next", "Next doubtful"))),
        class_="tools",
    )


def _saving() -> Element:
    """What is done with the whole transcript."""
    forms = (("html", "Save page"), ("json", "JSON"), ("txt", "Text"), ("srt", "SRT"))
    return tag(
        "div",
        *(_button(name, text) for name, text in forms),
        tag("label", tag("input", type="checkbox", name="shade", checked=""), "Shade doubtful words"),
        tag("span", class_="said", role="status"),
        class_="saving",
    )


def _button(name: str, text: str) -> Element:
    return tag("button", text, type="button", name=name)


def _data(transcript: Transcript) -> dict[str, object]:
    """What the script reads."""
    words = transcript.words
    speakers = list(dict.fromkeys(word.speaker for word in words if word.speaker is not None))
    shown = cues.cut(words, transcript.duration)
    rows = [
        [
            *(word.word, round(word.start, 3), round(word.end, 3), round(word.confidence, 4), word.follows_space),
            *(-1 if word.speaker is None else speakers.index(word.speaker), cue),
        ]
        for word, cue in zip(words, _cue_of(words, shown), strict=True)
    ]
    return {
        "audio": transcript.audio,
        "duration": transcript.duration,
        "speakers": speakers,
        "words": rows,
        "starts": [each.first for each in paragraphs.cut(words)],
        "cues": [[cue.start, cue.end] for cue in shown],
    }


def _cue_of(words: Sequence[cues.TimedWord], shown: Sequence[cues.Cue]) -> list[int]:
    """The number of the cue that has the first character of each word. Cues have all characters, in order."""
    ends = list(accumulate(len(cue.text.replace(" ", "")) for cue in shown))
    found, place, cue = list[int](), 0, 0
    for word in words:
        while place >= ends[cue]:
            cue += 1
        found.append(cue)
        place += len(word.word.replace(" ", ""))
    return found
