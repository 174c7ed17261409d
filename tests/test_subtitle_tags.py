# ruff: noqa: RUF001 (letters of many scripts, on purpose)
"""Where are the tags of a translated cue? Between the sentences and speakers between which they were."""

from collections.abc import Callable

import pytest

from segue.data.subtitles.lines import Form
from segue.data.subtitles.translation import Shape, translate

SLOW = Shape(reading_speed=1e9)
TABLE = {
    "We went to the pool.": "Wir sind alle zusammen ins Schwimmbad gegangen.",
    "Two dogs.": "Zwei Hunde.",
    "Hello.": "Hallo, mein guter alter Freund!",
    "Yes.": "Ja.",
    "No, never!": "Nein!",
}


def german(texts: list[str]) -> list[str]:
    return [TABLE[text] for text in texts]


def in_file(form: Form, *cues: str) -> bytes:
    """Cues of three seconds, without a pause between them."""
    if form == "ass":
        events = [
            f"Dialogue: 0,0:00:{3 * n:02}.00,0:00:{3 * n + 3:02}.00,A,,0,0,0,,{cue}" for n, cue in enumerate(cues)
        ]
        return "\n".join(["[Events]", *events]).encode()
    mark = "," if form == "srt" else "."
    times = [f"00:00:{3 * n:02}{mark}000 --> 00:00:{3 * n + 3:02}{mark}000" for n in range(len(cues))]
    body = "\n\n".join(f"{time}\n{cue}" for time, cue in zip(times, cues, strict=True))
    return (("WEBVTT\n\n" if form == "vtt" else "") + body).encode()


def only_text(form: Form, *cues: str, by: Callable[[list[str]], list[str]] = german) -> list[str]:
    text = translate(in_file(form, *cues), form, by, SLOW).text
    if form == "ass":
        return [line.split(",,", 2)[2] for line in text.split("\n")[1:]]
    return [block.split("\n", 1)[1] for block in text.removeprefix("WEBVTT\n\n").split("\n\n")]


def units(form: Form, *cues: str) -> list[str]:
    """What is translated as one."""
    given: list[str] = []

    def note(texts: list[str]) -> list[str]:
        given.extend(texts)
        return texts

    translate(in_file(form, *cues, "END."), form, note, SLOW)
    return given[:-1]


LONG, POOL = TABLE["Hello."], TABLE["We went to the pool."]
SPLIT_POOL = "Wir sind alle zusammen\nins Schwimmbad gegangen."


@pytest.mark.parametrize(
    ("form", "cue", "expected"),
    [
        ("vtt", "<v Ann>We went to the pool.\n<v Bob>Two dogs.", f"<v Ann>{SPLIT_POOL}\n<v Bob>Zwei Hunde."),
        ("vtt", "<v Ann>Hello.</v>\n<v Bob>Yes.</v>", f"<v Ann>{LONG}</v>\n<v Bob>Ja.</v>"),
        ("vtt", "<v Ann>Hello.</v> <v.loud Bob>Yes.</v>", f"<v Ann>{LONG}</v>\n<v.loud Bob>Ja.</v>"),
        ("vtt", "<v Ann>Hello. <v Bob>No, never!", f"<v Ann>{LONG}\n<v Bob>Nein!"),
        ("vtt", "<c.yellow>Hello.</c>\n<c.cyan>Yes.</c>", f"<c.yellow>{LONG}</c>\n<c.cyan>Ja.</c>"),
        (
            "srt",
            '<font color="#ff0">Hello.</font>\n<font color="#0ff">Yes.</font>',
            f'<font color="#ff0">{LONG}</font>\n<font color="#0ff">Ja.</font>',
        ),
        ("srt", "Hello.\n<font color=red>Yes.</font>", f"{LONG}\n<font color=red>Ja.</font>"),
        ("srt", "<font color=red>Hello.</font>\nYes.", f"<font color=red>{LONG}</font>\nJa."),
        ("ass", r"{\c&HFF&}Hello.\N{\c&HFF00&}Yes.", rf"{{\c&HFF&}}{LONG}\N{{\c&HFF00&}}Ja."),
        ("ass", r"{\c&HFF&}Hello.{\c}\NYes.", rf"{{\c&HFF&}}{LONG}{{\c}}\NJa."),
        # Between sentences of one speaker
        ("srt", "<i>Hello.</i> Yes.", f"<i>{LONG}</i> Ja."),
        ("srt", "Hello. <i>Yes.</i>", f"{LONG} <i>Ja.</i>"),
        ("srt", "Yes. <b>No, never!</b> Yes.", "Ja. <b>Nein!</b> Ja."),
        ("srt", "<i>Hello.</i>\n<b>Yes.</b>", f"<i>{LONG}</i> <b>Ja.</b>"),
        ("vtt", "<00:01.000>Hello. <00:02.000>Yes.", f"<00:01.000>{LONG} <00:02.000>Ja."),
        ("ass", r"{\i1}Hello.{\i0} Yes.", rf"{{\i1}}{LONG}{{\i0}} Ja."),
        ("ass", r"{\k20}Hello. {\k30}Yes.", rf"{{\k20}}{LONG} {{\k30}}Ja."),
        ("vtt", "<lang en>Hello.</lang> &lrm;Yes.&lrm;", f"<lang en>{LONG}</lang> &lrm;Ja.&lrm;"),
    ],
)
def test_tags_stay_between_speakers_and_sentences(form: Form, cue: str, expected: str) -> None:
    assert only_text(form, cue) == [expected]


@pytest.mark.parametrize(
    ("form", "cues", "expected"),
    [
        ("vtt", ("<v Ann>so we went", "<v Ann>to the pool."), ["so we went to the pool."]),
        ("vtt", ("<v Ann>so we went", "<v Bob>to the pool."), ["so we went", "to the pool."]),
        ("vtt", ("<v Ann>Yes.\n<v Bob>so we went", "<v Bob>to the pool."), ["Yes.", "so we went to the pool."]),
        ("vtt", ("<v Ann>Yes.\n<v Bob>so we went", "<v Ann>to the pool."), ["Yes.", "so we went", "to the pool."]),
        ("vtt", ("<v Ann>we went\n<v Bob>two dogs",), ["we went", "two dogs"]),
        ("vtt", ("<00:01.000>so we <00:02.000>went", "<00:05.000>to the pool."), ["so we went to the pool."]),
        ("srt", ("so we\n<font color=red>never</font> went.",), ["so we never went."]),
        ("srt", ("<font color=red>R</font><font color=blue>a</font><font color=red>in</font> now.",), ["Rain now."]),
        ("srt", ("<i>so we went", "to the pool.</i>"), ["so we went to the pool."]),
        ("srt", ("\u200eso we went\u200e", "to the pool."), ["so we went to the pool."]),
        ("ass", (r"{\k20}so {\k30}we went", r"{a remark}{\k10}to the pool."), ["so we went to the pool."]),
    ],
)
def test_sentences_span_cues_but_not_speakers(form: Form, cues: tuple[str, ...], expected: list[str]) -> None:
    assert units(form, *cues) == expected


@pytest.mark.parametrize(
    ("cue", "expected"),
    [
        ("\u200f- שלום לך.\u200f\n\u200f- מה שלומך?", ["שלום לך.", "מה שלומך?"]),
        ("\u202b- שלום לך.\u202c\n\u202b- מה שלומך?\u202c", ["שלום לך.", "מה שלומך?"]),
        ("\u2067-שלום.\u2069\n\u2067-כן.\u2069", ["שלום.", "כן."]),
        ("\u202b♪ مرحبا بك ♪\u202c", ["مرحبا بك"]),
        ("\u200f[باب] مرحبا.", ["باب", "مرحبا."]),
        ("\ufeff- می\u200cروم.\n\u200b- نمی\u200cدانم.", ["می\u200cروم.", "نمی\u200cدانم."]),
        ("שלום \u200fלך\u200f חבר.", ["שלום לך חבר."]),
    ],
)
@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_direction_marks_stay_and_hide_nothing(form: Form, cue: str, expected: list[str]) -> None:
    """No dash, note or bracket."""
    assert units(form, cue) == expected
    assert only_text(form, cue, by=lambda texts: texts) == [cue]
    for mark, name in [("\u200f", "&rlm;"), ("\u200e", "&lrm;")]:
        cue = cue.replace(mark, name)
    assert units("vtt", cue) == expected
    assert only_text("vtt", cue, by=lambda texts: texts) == [cue]


def test_ruby_readings_stay_untranslated() -> None:
    cue = "I <ruby>go<rt>g</rt></ruby> <ruby>x<rt>y<rt>z</ruby>."
    assert units("vtt", cue) == ["I go x."]
    assert only_text("vtt", cue, by=lambda texts: texts) == [cue.replace("</ruby>.", "</ruby>").replace("x<", "x.<")]


def test_subrip_angle_brackets_may_hold_words() -> None:
    for cue in ("<<flash gordon\népisode 4\nsaison 1>", "<<That's OK, >> - he calmed himself.", "2 < 3 > 1 and a"):
        assert " ".join(units("srt", cue)) == " ".join(cue.split())


def test_entities_are_read_and_written() -> None:
    """Written where a text has some."""
    assert units("srt", "Fish &amp; chips&nbsp;now.") == ["Fish & chips now."]
    assert only_text("srt", "Fish &amp; chips.", by=lambda texts: texts) == ["Fish &amp; chips."]
    assert only_text("srt", "R & B; AT&T <3", by=lambda texts: texts) == ["R & B; AT&T <3"]
    assert only_text("vtt", "A &lt; B&#33; &quot;C&quot;", by=lambda texts: texts) == ['A &lt; B! "C"']


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_escaped_tags_are_no_words(form: Form) -> None:
    """As converters leave them; other words between escaped brackets are text."""
    head = "WEBVTT\n\n00:01.000 --> 00:02.000\n" if form == "vtt" else "1\n00:00:01,000 --> 00:00:02,000\n"
    for body, words in (
        ("&lt;i&gt;Two dogs.&lt;/i&gt;", "Two dogs."),
        ('&lt;font color="red"&gt;Hi &amp; bye.&lt;/font&gt;', "Hi & bye."),
        ("&lt;name&gt; says hi.", "<name> says hi."),
    ):
        given: list[str] = []

        def note(texts: list[str], given: list[str] = given) -> list[str]:
            given += texts
            return texts

        found = translate((head + body + "\n").encode(), form, note, Shape())
        assert given == [words]
        assert found.text.strip().splitlines()[-1] == body
