# ruff: noqa: RUF001 (dashes and arrows of many kinds, on purpose)
"""What is a cue, whoever wrote the file? What cannot be read is refused with its line, and never becomes words."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segue import translate_files
from segue.data.subtitles.lines import Form
from segue.data.subtitles.translation import Shape, Translated, translate
from segue.errors import UserError

SLOW = Shape(reading_speed=1e9)
A, B, C = "00:00:01,000 --> 00:00:02,000", "00:00:02,500 --> 00:00:04,000", "00:00:09,000 --> 00:00:10,000"
WORDS = ["We were never there.", "Bye now."]


def lines(*parts: str) -> str:
    return "\n".join(parts) + "\n"


def asked(text: str | bytes, form: Form = "srt") -> tuple[list[str], Translated]:
    """What the translator was given, and the file in capitals."""
    given: list[str] = []

    def translator(texts: list[str]) -> list[str]:
        given.extend(texts)
        return [each.upper() for each in texts]

    return given, translate(text.encode() if isinstance(text, str) else text, form, translator, SLOW, "film.x")


def shouted(text: str) -> str:
    return text.replace("We were", "WE WERE").replace("never there", "NEVER THERE").replace("ye now", "YE NOW")


def numbered(times: str) -> str:
    return lines("1", A, "Hello there.", "", "2", times, "Two dogs.", "", "3", C, "Bye now.")


def bare(times: str) -> str:
    return lines(A, "Hello there.", "", times, "Two dogs.", "", C, "Bye now.")


def tight(times: str) -> str:
    return lines("1", A, "Hello there.", "2", times, "Two dogs.", "3", C, "Bye now.")


READ = """00:00:05 --> 00:00:07|100:00:05,000 --> 100:00:07,000|1234:00:05,000 --> 1234:00:07,000
00:00:05;000 --> 00:00:07;000|00:00:05.000 --> 00:00:07.000|00:00:05:000 --> 00:00:07:000
00:00:05,5000 --> 00:00:07,5000|00:00:05,5 --> 00:00:07,50|0:0:5,0 --> 0:0:7,0|00.00.05,000 --> 00.00.07,000
-00:00:05,000 --> 00:00:07,000|00:00:-5,000 --> 00:00:07,000|00:00:05,000 --&gt; 00:00:07,000
00:00:05,000 -> 00:00:07,000|00:00:05,000-->00:00:07,000|00:00:05,000 –> 00:00:07,000|00:00:05,000 —> 00:00:07,000
00:00:05,000 → 00:00:07,000|00:00:05,000 -- > 00:00:07,000|00:00:05,000 - -> 00:00:07,000
00:00:05,000 ---> 00:00:07,000|00:00:05,000 ->> 00:00:07,000|00:00:05,000 => 00:00:07,000|00:00:05,000 - 00:00:07,000
\ufeff00:00:05,000 --> 00:00:07,000|\u200e00:00:05,000 --> 00:00:07,000|\u202a00:00:05,000 --> 00:00:07,000\u202c
\u200b00:00:05,000\u200f --> \u00a000:00:07,000|\u00a000:00:05,000\u00a0-->\u00a000:00:07,000\u00a0
  00:00:05,000 --> 00:00:07,000  |00:00:05,000 --> 00:00:07,000  X1:100 X2:200 Y1:1 Y2:2
00:00:05,000 --> 00:00:07,000 line:0% align:start|04:48,460 --> 04:52,364|4:48 --> 4:52
00: 00: 05, 000 --> 00: 00: 07, 000|00：00：05，000 --> 00：00：07，000|٠٠:٠٠:٠٥,٠٠٠ --> ٠٠:٠٠:٠٧,٠٠٠
00:00:05¡000 --> 00:00:07¡000|99:99:99,999 --> 99:99:99,999|00:00:07,000 --> 00:00:05,000
00:00:05,000 --> 00:00:07"""


@pytest.mark.parametrize("times", re.split("[|\n]", READ))
@pytest.mark.parametrize("file", [numbered, bare, tight])
def test_times_are_read_however_they_are_written(file: object, times: str) -> None:
    text = file(times)  # type: ignore[operator]
    given, result = asked(text)
    assert sorted(given) == ["Bye now.", "Hello there.", "Two dogs."]
    assert result.num_cues == 3
    expected = text
    for words in given:
        expected = expected.replace(words, words.upper())
    assert result.text == expected.removeprefix("\ufeff")


REFUSED = """00:00:05,000 -->|--> 00:00:07,000|00:00:05,000|00:00:05,000 00:00:07,000|00:00:05,000 --> x
00:00:05,000 --> 00:00:07,000 Hello|00:00:05,000 to 00:00:07,000|5,000 --> 7,000|5 --> 7|00:00:0o,000 --> 00:00:07,000
OO:00:05,000 --> 00:00:07,000|x00:00:05,000 --> 00:00:07,000|00:00:05,000 --> 00:00:07,000,000
00:00:05,000 <-- 00:00:07,000|00:00:05,000 --\\> 00:00:07,000|00::00:05,000 --> 00:00:07,000
00:00:05,000,00:00:07,000|00:00:123,000 --> 00:00:07,000"""


@pytest.mark.parametrize("times", re.split("[|\n]", REFUSED))
@pytest.mark.parametrize("file", [numbered, bare, tight])
def test_malformed_times_are_refused(file: object, times: str) -> None:
    """With their line."""
    text = file(times)  # type: ignore[operator]
    line = text.split("\n").index(times) + 1
    with pytest.raises(UserError, match=rf"^film.x:({line}|{line - 1}): "):
        asked(text)


@pytest.mark.parametrize("times", ["soon --> later", "-->", "NaN:NaN --> NaN:NaN", "00:00:O5,000 --> 00:00:O7,000"])
@pytest.mark.parametrize("file", [numbered, bare])
def test_words_in_place_of_times_are_refused(file: object, times: str) -> None:
    text = file(times)  # type: ignore[operator]
    line = text.split("\n").index(times) + 1
    with pytest.raises(UserError, match=rf"^film.x:{line}: times that cannot be read"):
        asked(text)


def test_an_arrow_between_words_is_text() -> None:
    given, _ = asked(lines("1", A, "Home --> school.", "", "2", B, "", "School --> home."))
    assert given == ["Home --> school.", "School --> home."]


@pytest.mark.parametrize("times", ["{100}{200}", "at five", "5 sec"])
def test_a_number_without_times_is_refused(times: str) -> None:
    for file in (numbered(times), tight(times), numbered(times).replace(f"{times}\n", "")):
        with pytest.raises(UserError, match=r"film.x:\d: the number of a cue without a line of times after it: 2"):
            asked(file)


@pytest.mark.parametrize(
    "label",
    ["2", "2\n", "\n2\n", "2\n\n2", "2\n2", "#2", "2.", "2:", "(2)", "[2]", "№ 2", "\ufeff2", "\u200f2\u200e", " 2 ",
     "\u00a02", "２", "1", "7", "0", "002", "-1", "2\n\n3", ""],
)  # fmt: skip
def test_numbers_of_cues_never_join_a_sentence(label: str) -> None:
    text = lines("1", A, "We were", "", label, B, "never there.", "", "3", C, "Bye now.")
    given, result = asked(text)
    assert given == WORDS
    assert result.text == text.replace("We were", "WE WERE").replace("never there", "NEVER THERE").replace(
        "ye now", "YE NOW"
    )


@pytest.mark.parametrize(
    "parts",
    [
        (A, "We were", "", B, "never there.", "", C, "Bye now."),  # no numbers
        (A, "We were", B, "never there.", C, "Bye now."),  # nor empty lines
        ("1", A, "We were", "2", B, "never there.", "3", C, "Bye now."),
        ("1", "", A, "We were", "", "2", "", B, "never there.", "", "3", "", C, "Bye now."),
        ("1", A, "", "We were", "", "2", B, "", "never there.", "", "3", C, "", "Bye now."),
        ("1", "", A, "", "We were", "", "", "", "2", "", B, "", "never there.", "", "", "", "3", "", C, "", "Bye now."),
        ("3", A, "We were", "", "2", B, "never there.", "", "1", C, "Bye now."),
        ("1", A, "We were", "", B, "never there.", "", "1", C, "Bye now.", "", "2"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_empty_lines_and_numbers_may_vary(parts: tuple[str, ...], end: str) -> None:
    """They may be missing, or too many."""
    text = lines(*parts).replace("\n", end)
    given, result = asked(text)
    assert given == WORDS
    assert result.text == shouted(text)


def test_a_text_may_be_a_number() -> None:
    for text in (
        lines("1", A, "42", "", "2", B, "1984", "", "3", C, "Bye now."),
        lines("1", A, "", "42", "", "2", B, "", "100", "", "3", C, "Bye now."),
        lines(A, "42", "", B, "1984", "", C, "Bye now."),
    ):
        given, result = asked(text)
        assert given == ["Bye now."]
        assert (result.num_cues, result.warnings) == (3, [])
    assert asked(lines("1", A, "Room", "101", "", "2", B, "Hall", "", "9", "", "3", C, "Bye."))[0][0] == "Room 101 Hall"


def test_line_ends_that_are_mixed_stay_mixed() -> None:
    text = f"1\r\n{A}\r\nOne\r\ntwo.\r\n\r\n2\n{B}\nThree.\n\r3\r{C}\r42\r"
    expected = text.replace("One\r\ntwo.", "ONE TWO.").replace("Three", "THREE")
    assert asked(text)[1].text == expected


def test_ambiguous_lines_are_refused() -> None:
    """A line that may be a number or text."""
    with pytest.raises(UserError, match=r"film\.x:4: neither the number of the next cue nor text"):
        asked(lines(A, "Hello.", "", "Two", B, "World."))


def test_arrows_and_times_in_a_text_are_text() -> None:
    text = lines(
        "1", A, "Train 10:30 --> 11:45", "10:30 -> 11:45", "", "2", B, "He says 00:00:01,000 --> 00:00:02,000."
    )
    given, result = asked(text)
    assert " ".join(given) == "Train 10:30 --> 11:45 10:30 -> 11:45 He says 00:00:01,000 --> 00:00:02,000."
    assert asked(result.text)[1].num_cues == 2


def test_translations_like_times_are_not_written() -> None:
    result = translate(lines("1", A, "Hello.").encode(), "srt", lambda texts: [f"{B} Hallo."], SLOW)
    assert result.text == lines("1", A, "Hello.")
    assert "looks like the times of another cue: 1 (0:00:01)" in result.warnings[0]


def test_oddities_are_warned_about() -> None:
    """Odd times, words without a cue, and another format than the name says."""
    assert "2 (0:00:05)" in asked(numbered("00:00:05 --> 00:00:07"))[1].warnings[0]
    assert asked("Film\n\n" + numbered(B))[1].warnings == ["blocks that belong to no cue and are left as they were: 1"]
    assert asked("\n", "srt")[1].warnings == ["there are no subtitles in it"]
    for form, text in {"vtt": "WEBVTT\n\n00:01.000 --> 00:02.000\n&lt;Hi\n", "ass": "[Script Info]\n" + ASS}.items():
        given, result = asked(text, "srt")
        assert given == ["<Hi"] or given == ["Hello, there."]
        assert "not SubRip as its name says" in result.warnings[0]
        assert result.text == asked(text, form)[1].text  # type: ignore[arg-type]
    given, result = asked(numbered(B), "vtt")
    assert given == ["Hello there.", "Two dogs.", "Bye now."]
    assert "it contains SubRip, not WebVTT" in result.warnings[0]


# WebVTT

KEPT = """\
NOTE 00:00:01.000 --> 00:00:02.000
00:00:05.000 --> 00:00:07.000
hidden\r
\r
STYLE
::cue { color: red } /* Hello */
00:00:05.000 --> 00:00:07.000

REGION
id:x --> y\tz

NOTE

REGION: id=old width=40%
00:00:05.000 --> 00:00:07.000

NOTE
two --> lines
"""


def test_notes_styles_and_regions_do_not_change() -> None:
    text = f"WEBVTT - a --> title\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000\n\n{KEPT}\n"
    cue = "a\n00:01.000 --> 00:02.000 region:x\nHello.\n\n"
    given, result = asked(f"{text}{cue}{KEPT}", "vtt")
    assert given == ["Hello."]
    assert result.text == f"{text}{cue}{KEPT}".replace("\nHello.", "\nHELLO.")
    assert result.warnings == []


@pytest.mark.parametrize(
    "text",
    [
        "WEBVTT\n\n00:00:01,000 --> 00:00:02,000\nOne.\n\n00:00:03,000 --> 00:00:04,000\nTwo.\n",
        "WEBVTT\n00:01.000 --> 00:02.000\nOne.\n\n00:03.000 --> 00:04.000\nTwo.\n",
        "WEBVTT\n\n1\n00:01.000 --> 00:02.000\nOne.\n2\n00:03.000 --> 00:04.000\nTwo.\n",
        "WEBVTT\n\n00:01.000 --> 00:02.000\nOne.\n00:03.000 --> 00:04.000\nTwo.\n",
        "WEBVTT\n\n1\n\n00:01.000 --> 00:02.000\n\nOne.\n\n2\n\n00:03.000 --> 00:04.000\n\nTwo.\n",
        "00:01.000 --> 00:02.000\nOne.\n\n00:03.000 --> 00:04.000\nTwo.\n",
        "\ufeffWEBVTT\ttitle\n\n\u200f00:01 --> 00:02 line:0\nOne.\n\nNOTE\n\n99:00:03.000 --&gt; 99:00:04.000\nTwo.\n",
        "WEBVTT\n\n00:01.000 --> 00:02.000\nOne.\n\nWEBVTT\nX-TIMESTAMP-MAP=x\n\n00:03.000 --> 00:04.000\nTwo.\n",
        "WEBVTT\r\r00:01.000 --> 00:02.000\rOne.\r\r00:03.000 --> 00:04.000\rTwo.",
    ],
)
def test_webvtt_is_read_however_it_is_written(text: str) -> None:
    given, result = asked(text, "vtt")
    assert given == ["One.", "Two."]
    assert result.text == text.removeprefix("\ufeff").replace("One", "ONE").replace("Two", "TWO")


@pytest.mark.parametrize(
    "times",
    ["00:01.000 -->", "--> 00:02.000", "00:00:01.000 00:00:02.000", "00:00:01.000 --> 00:00:02.000 Hello", "a --> b",
     "00:00:0a.000 --> 00:00:02.000"],
)  # fmt: skip
def test_bad_webvtt_times_are_refused(times: str) -> None:
    """With their line."""
    with pytest.raises(UserError, match=r"^film\.x:6: "):
        asked(f"WEBVTT\n\n00:01.000 --> 00:02.000\nOne.\n\n{times}\nTwo.\n", "vtt")


# SubStation

ASS = """\
[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Dialogue: 0,0:00:01.00,0:00:02.00,Default,Ann,0,0,0,,Hello, there.
"""
EVENT = "Dialogue: 0,0:00:01.00,0:00:02.00,Default,Ann,0,0,0,,"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),  # events without a Format line, behind styles with one
        ("[Events]", "[EVENTS]\nComment: x\n; y\n!: z\nPicture: 0,soon"),
        ("Dialogue", "dialogue "),
        ("0:00:02.00", "0:00:02"),
        ("0:00:02.00", "00:00:02.000"),
        ("0:00:02.00", "\u200e0:00:02:00 "),
        ("Dialogue: 0", "Dialogue: Marked=0"),
        ("V4+", "V4"),
        ("[V4+ Styles]", "[Fonts]\nfontname: a\n[ABC]\nDialogue: x\n\n[V4+ Styles]"),
    ],
)
def test_scripts_are_read_however_they_are_written(old: str, new: str) -> None:
    text = ASS.replace(old, new) if old else ASS
    given, result = asked(text, "ass")
    assert given == ["Hello, there."]
    assert result.text == text.replace("Hello, there.", "HELLO, THERE.")


@pytest.mark.parametrize(
    "line",
    ["the rest of a text", EVENT.replace("0:00:02.00", "soon") + "Hi.", EVENT.replace("0:00:02.00", "0:00.02") + "Hi.",
     "Dialogue: 0,0:00:01.00,0:00:02.00,Hi.", "Format: Layer, Start, End, Text, Name", "Format: Layer, Start, Text"],
)  # fmt: skip
def test_unreadable_events_are_refused(line: str) -> None:
    """With their line."""
    with pytest.raises(UserError, match=r"^film\.x:7: "):
        asked(ASS + line + "\n", "ass")


def test_events_among_the_styles_are_refused() -> None:
    with pytest.raises(UserError, match=r"^film\.x:\d+: an event among the styles"):
        asked(f"{ASS.replace('[Events]', '[V4+ Styles]')}{EVENT}Hi.\n", "ass")


def test_text_beside_a_drawing_is_translated() -> None:
    drawn = r"{\p1}m 0 0 l 10 0{\p0}Hello.{\pos(1,2)\p2}m 0 0 \N b 1 1{\p0\fs20}"
    given, result = asked(f"{ASS}{EVENT}{drawn}\n{EVENT}{drawn[:17]}", "ass")
    assert given == ["Hello, there.", "Hello."]
    assert result.text.endswith(f"{EVENT}{drawn.replace('Hello', 'HELLO')}\n{EVENT}{drawn[:17]}")


def test_ssa_files_are_subtitles(tmp_path: Path) -> None:
    source = tmp_path / "a.SSA"
    source.write_text(ASS)
    [target] = translate_files.targets([source], None, "de")
    translate_files.translate(source, target, lambda texts: (text.upper() for text in texts), Shape())
    assert target == tmp_path / "a.de.SSA"
    assert "HELLO, THERE." in target.read_text()


# Whatever a file holds

SEEDS = {
    "srt": numbered(B + "  X1:1 X2:2") + lines("", "4", "00:00:11,000 --> 00:00:12,000", "<i>- Ja.</i>", "- ♪ La ♪"),
    "vtt": f"WEBVTT\n\n{KEPT}\n1\n00:01.000 --> 00:02.000 line:0\n<v Ann>Fish &amp; <b>chips</b>.\n<v Bob>No.\n",
    "ass": ASS + EVENT + r"{\i1}Well{\i0}, \Nyes.{\p1}m 0 0{\p0}" + "\n",
}
PIECES = [
    *"\n\r\0:,.;->–→&<>{}[]()\\ \u200f\ufeff0123aZé世\u2028",
    *("\n\n", "-->", "--&gt;", "NOTE", "WEBVTT\n", B, "00:00:05", "Dialogue: ", "[Events]\n", "Format:"),
    *("<v Bob>", "</i>", "{\\p1}", "{\\c&HFF&}", "<ruby>", "<rt>", "&lrm;"),
]
changes = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 9), st.sampled_from(["", *PIECES])), min_size=1, max_size=6
)


@pytest.mark.parametrize("form", ["srt", "vtt", "ass"])
@given(all_changes=changes, suffix=st.sampled_from(["srt", "vtt", "ass"]))
@example([(1555, 0, "<ruby>")], "srt")
@settings(deadline=None, max_examples=150)
def test_damaged_files_keep_times_or_are_refused(
    form: Form, all_changes: list[tuple[int, int, str]], suffix: Form
) -> None:
    """They keep notes too."""
    text = SEEDS[form]
    for start, size, piece in all_changes:
        start %= len(text)
        text = text[:start] + piece + text[start + size :]
    check(text.encode(), suffix)


@given(content=st.binary(max_size=300), form=st.sampled_from(["srt", "vtt", "ass"]))
@settings(deadline=None, max_examples=150)
def test_random_bytes_are_translated_or_refused(content: bytes, form: Form) -> None:
    check(content, form)


def check(content: bytes, form: Form) -> None:
    """Either a UserError, or all times, tags, notes and words of the file come back, in their order."""
    problem = ""
    try:
        result = translate(content, form, lambda texts: texts, SLOW, "film.x")
    except UserError as raised:
        problem = str(raised)
    if problem:
        assert re.match(r"film\.x(:\d+)?: ", problem)
        return
    again = translate(result.text.encode(), form, lambda texts: texts, SLOW)
    assert again.num_cues == result.num_cues
    if "&" not in result.text and "\\h" not in result.text and "{" not in result.text:
        text = content.decode("utf-8", "replace").removeprefix("\ufeff")
        if "\ufffd" not in text:
            assert solid(result.text) == solid(text)


def solid(text: str) -> str:
    """All that one sees but tags, which may move, and what lines are parted by; of "<<i>/b>" nothing is left."""
    num_tags = 1
    while num_tags:
        text, num_tags = re.subn(r"<[^<>]*>|\\[Nn]|<br */?>", "", text, flags=re.IGNORECASE)
    return re.sub(r"[\s\u200f\ufeff<>]+", "", text)


def test_a_translator_may_return_anything() -> None:
    for answer in ("", "\ud800", "\0", "\n\n2\n" + B, "</i><v x>", "{\\p1}", "WEBVTT", "\r\r", "\u2028"):
        for form, text in SEEDS.items():
            result = translate(text.encode(), form, lambda texts: [answer] * len(texts), SLOW)  # type: ignore[arg-type]  # noqa: B023
            assert asked(result.text, form)[1].num_cues == asked(text, form)[1].num_cues  # type: ignore[arg-type]
