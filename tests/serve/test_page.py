"""The page of the server in a browser: Debian's Chromium, without a window."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

import segue
from segue.serve.loaded import Source

from .running import Running, running

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
PHONE: ViewportSize = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser(corpus: Path) -> Iterator[Browser]:
    """Its microphone plays a test recording again and again."""
    options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    options.append(f"--use-file-for-fake-audio-capture={corpus / 'test_01.wav'}")
    with sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield found
        found.close()


@pytest.fixture
def problems() -> list[str]:
    return []


@pytest.fixture
def page(browser: Browser, served: Running, problems: list[str]) -> Iterator[Page]:
    """The page, which may say nothing on the console and ask no other server."""
    with browser.new_context(accept_downloads=True) as context:
        found = context.new_page()
        found.on("console", lambda message: problems.append(message.text))
        found.on("pageerror", lambda error: problems.append(str(error)))
        found.on(
            "request",
            lambda each: None if each.url.startswith((served.url, "blob:", "data:")) else problems.append(each.url),
        )
        found.goto(served.url)
        found.wait_for_selector("#speech:not([hidden])")
        yield found


def wait(page: Page, condition: str) -> None:
    """Playwright's own waiting evaluates strings in the page, which its policy forbids."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def transcribed(page: Page, path: Path) -> str:
    page.set_input_files("#recording", path)
    page.wait_for_selector("#result:not([hidden])")
    return page.inner_text("#transcript")


def test_a_file_becomes_words_to_click(page: Page, trained: Path, corpus: Path, problems: list[str]) -> None:
    ours = segue.load(trained).transcribe(corpus / "test_01.wav")
    assert transcribed(page, corpus / "test_01.wav") == ours.text
    assert page.locator(".word").all_inner_texts() == [word.word for word in ours.words]
    page.locator(".word").last.click()
    wait(page, "document.getElementById('player').currentTime > 0")
    assert page.evaluate("document.getElementById('player').currentTime") >= ours.words[-1].start - 0.01
    page.locator(".word").last.press("Home")
    assert page.evaluate("document.activeElement.textContent") == ours.words[0].word
    painted = (
        "Array.from(document.getElementById('wave').getContext('2d').getImageData(0, 0, 300, 40).data).some(Boolean)"
    )
    wait(page, painted)
    assert not problems


def test_subtitles_are_downloaded(page: Page, trained: Path, corpus: Path) -> None:
    transcribed(page, corpus / "test_02.wav")
    with page.expect_download() as download:
        page.click("[data-form=srt]")
    assert download.value.suggested_filename == "test_02.srt"
    ours = segue.load(trained).transcribe(corpus / "test_02.wav").written("srt")
    assert Path(download.value.path()).read_text().strip() == ours.strip()


def test_what_is_said_is_recognized_while_it_is_said(page: Page, problems: list[str]) -> None:
    page.click("#record")
    wait(page, "document.getElementById('live').textContent.length > 2")
    page.click("#record")
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#transcript").strip()
    assert not problems


def test_texts_and_subtitles_are_translated(page: Page, tmp_path: Path, problems: list[str]) -> None:
    page.select_option("#translation-model", "reversal")
    page.fill("#source", "one two three four\nfive six seven")
    page.press("#source", "Control+Enter")
    page.wait_for_selector("#translated:not([hidden])")
    assert page.inner_text("#target-text") == "four three two one\nseven six five"
    film = tmp_path / "film.srt"
    film.write_text("1\n00:00:01,000 --> 00:00:04,000\none two three four\n")
    page.set_input_files("#subtitles", film)
    wait(page, "document.getElementById('target-text').textContent.includes('-->')")
    with page.expect_download() as download:
        page.click("#save-translation")
    assert download.value.suggested_filename == "film.en.srt"
    assert "four three two one" in Path(download.value.path()).read_text()
    assert not problems


def test_mistakes_are_shown_where_they_are_made(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("no audio")
    page.set_input_files("#recording", tmp_path / "notes.wav")
    page.wait_for_selector("#speech-status.trouble")
    assert page.inner_text("#speech-status").startswith("notes.wav: not audio")
    for each in ("#player", "#wave"):  # there is nothing to play
        page.wait_for_selector(each, state="hidden")


def test_an_old_result_does_not_stand_under_a_mistake(page: Page, tmp_path: Path) -> None:
    page.fill("#source", "one two three")
    page.press("#source", "Control+Enter")
    page.wait_for_selector("#translated:not([hidden])")
    (tmp_path / "film.srt").write_text("no subtitles")
    page.set_input_files("#subtitles", tmp_path / "film.srt")
    page.wait_for_selector("#translation-status.trouble")
    assert page.is_hidden("#translated")


STOPPED_AT_ONCE = """
window.sockets = [];
const Real = window.WebSocket;
window.WebSocket = class extends Real { constructor(...given) { super(...given); window.sockets.push(this); } };
addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("record");
  new MutationObserver(() => { if (button.getAttribute("aria-pressed") === "true") button.click(); })
    .observe(button, { attributes: true });
});
"""
"""Clicks as soon as the recording begins, which is before its socket is open."""


def test_a_recording_that_is_stopped_at_once_leaves_no_socket(browser: Browser, served: Running) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.add_init_script(STOPPED_AT_ONCE)
        page.goto(served.url)
        page.wait_for_selector("#speech:not([hidden])")
        page.click("#record")
        wait(page, "window.sockets.length === 1 && window.sockets[0].readyState === WebSocket.CLOSED")


def test_a_channel_can_be_chosen(page: Page, corpus: Path, tmp_path: Path) -> None:
    left, right = (
        np.concatenate([soundfile.read(corpus / f"test_0{number}.wav")[0] for number in numbers])
        for numbers in ((1, 2, 3, 4), (4, 3, 2, 1))
    )
    silence = np.zeros(len(left))
    call = np.stack([np.concatenate([left, silence]), np.concatenate([silence, right])], axis=1)
    soundfile.write(tmp_path / "call.wav", call, 8000)
    page.set_input_files("#recording", tmp_path / "call.wav")
    page.wait_for_selector("#channels:not([hidden])")
    assert "the field channel says which to use" in page.inner_text("#speech-status")
    page.select_option("#channel", "left")
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#transcript").strip()


def test_the_page_is_accessible_and_fits_a_phone(page: Page, corpus: Path) -> None:
    transcribed(page, corpus / "test_01.wav")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_key_is_asked_for(browser: Browser, trained: Path) -> None:
    with running([Source("tones", trained)], keys=("secret",)) as kept, browser.new_context() as context:
        page = context.new_page()
        page.goto(kept.url)
        page.wait_for_selector("#key:not([hidden])")
        assert page.is_hidden("#trouble")
        page.fill("#key-value", "wrong")
        page.press("#key-value", "Enter")
        page.wait_for_selector("#trouble:not([hidden])")
        page.fill("#key-value", "secret")
        page.press("#key-value", "Enter")
        page.wait_for_selector("#speech:not([hidden])")
        assert page.is_hidden("#key")
        assert page.is_hidden("#translation")
