import json
import re
import shutil
from base64 import b64decode
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playwright.sync_api import sync_playwright

from segue.cli import main
from segue.data import audio
from segue.report import transcript as page
from segue.report.page import BASE64_BYTES, marker, write
from segue.runtime.recognizer import Transcript
from segue.runtime.words import Word, text_of

CHROMIUM = shutil.which("chromium")


def said() -> list[Word]:
    texts = ["</script><b>Hello,</b>", "world.", "Fine", "->", "thanks", "&", "you"]
    speakers = ["Ann", "Ann", *["Ben <x>"] * 5]
    return [
        Word(text, 0.5 * n, 0.5 * n + 0.4, 0.5 + 0.1 * n, speaker=speaker)
        for n, (text, speaker) in enumerate(zip(texts, speakers, strict=True))
    ]


def written(folder: Path, sound: bytes | str | None = None) -> str:
    transcript = Transcript("dir/a talk.wav", 4.0, text_of(said()), said())
    page.write(folder / "talk.html", transcript, sound)
    return (folder / "talk.html").read_text(encoding="utf-8")


def data_of(html: str) -> Any:
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(block)


def test_a_page_holds_words_speakers_and_cues(tmp_path: Path) -> None:
    """Whatever was said, it is text."""
    html = written(tmp_path)
    data = data_of(html)
    assert [row[0] for row in data["words"]] == [word.word for word in said()]
    assert [data["speakers"][row[5]] for row in data["words"]] == [word.speaker for word in said()]
    assert [row[6] for row in data["words"]] == [0, 0, 1, 1, 1, 1, 1]
    assert (len(data["cues"]), data["starts"]) == (2, [0, 2])
    assert "<b>" not in html
    assert "<audio" not in html


def test_a_page_without_sound_keeps_every_text(tmp_path: Path) -> None:
    """The SHA-256 sum of nothing, too."""
    write(tmp_path / "x.html", "Sums", {"of nothing": marker(b"")}, {}, "")
    assert marker(b"") in (tmp_path / "x.html").read_text(encoding="utf-8")


def test_a_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    html = written(tmp_path, b"OggS")
    assert "default-src 'none'" in html
    assert "media-src data:;" in html
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html)
    assert "media-src 'self' file:;" in written(tmp_path, "../a%20talk.wav")


def test_a_page_has_the_whole_sound(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).standard_normal((65_000, 2)).astype(np.float32) / 8
    soundfile.write(tmp_path / "x.wav", samples, 8000)
    sound = page.sound_of(tmp_path / "x.wav", "mix", 8.125, tmp_path / "x.html")
    assert isinstance(sound, bytes)
    (source,) = re.findall(r'src="data:audio/ogg;base64,([^"]*)"', written(tmp_path, sound))
    assert soundfile.info(BytesIO(b64decode(unescape(source)))).duration == pytest.approx(8.125, abs=0.001)
    longer = bytes(range(256)) * (BASE64_BYTES // 128) + b"x"  # written in three pieces
    (source,) = re.findall(r'src="data:audio/ogg;base64,([^"]*)"', written(tmp_path, longer))
    assert b64decode(source) == longer


def test_a_very_long_recording_stays_beside_its_page(tmp_path: Path) -> None:
    file = tmp_path / "talks" / "10 hours?.wav"
    assert page.sound_of(file, None, 36_000, tmp_path / "out" / "x.html") == "../talks/10%20hours%3F.wav"


def test_the_command_writes_a_page(exported_recognizer: Path, corpus: Path, tmp_path: Path) -> None:
    command = ["transcribe", str(exported_recognizer), str(corpus / "test_01.wav"), "--format", "html"]
    assert main(command) == 2
    assert main([*command, "--out", str(tmp_path)]) == 0
    html = (tmp_path / "test_01.html").read_text(encoding="utf-8")
    expected = json.loads((corpus / "test.jsonl").read_text().splitlines()[1])
    assert " ".join(row[0] for row in data_of(html)["words"]) == expected["text"]
    assert "data:audio/ogg" in html


CLICKS = """
window.saved = {};
URL.createObjectURL = (blob) => { blob.text().then((text) => { saved[blob.type] = text; }); return "data:,"; };
const at = (number) => document.querySelectorAll(".word")[number];
const enter = new KeyboardEvent("keydown", {key: "Enter"});
const type = (element, text) => { element.value = text; element.dispatchEvent(enter); };
at(1).dispatchEvent(new MouseEvent("dblclick", {bubbles: true}));
type(document.querySelector(".mend"), "whole world.");
const name = document.querySelector(".people input");
name.value = "Anna";
name.dispatchEvent(new Event("change"));
for (const each of ["html", "json", "txt", "srt"]) document.querySelector(`button[name=${each}]`).click();
setTimeout(() => { document.body.textContent = JSON.stringify(saved); }, 500);
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_saves_what_was_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved as a page, it can be mended again."""
    monkeypatch.setattr(page, "SCRIPT", page.SCRIPT + CLICKS)
    written(tmp_path, audio.encoded(np.zeros(32_000, np.float32), 8000))
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        opened.goto(f"file://{tmp_path}/talk.html")
        opened.wait_for_selector("body:not(:has(*))", state="attached")
        saved = json.loads(opened.text_content("body") or "")
        browser.close()
    words = said()
    first = words[0].word
    assert saved["text/plain"] == f"Anna  0:00\n{first} whole world.\n\nBen <x>  0:01\nFine -> thanks & you\n"
    found = json.loads(saved["application/json"])
    assert [each["word"] for each in found["words"]][:3] == [first, "whole", "world."]
    assert [each["start"] for each in found["words"]][1:4] == pytest.approx([0.5, 0.682, 1.0])
    assert found["segments"][0]["speaker"] == "Anna"
    assert saved["application/x-subrip"].split("\n")[2].startswith("Anna: ")
    assert data_of(saved["text/html"])["words"][1][0] == "whole"
