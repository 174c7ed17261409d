# ruff: noqa: RUF001 (punctuation of many scripts, on purpose)
import codecs
import os
import random
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.encodings import encoding_of
from segue.data.subtitles.lines import Form
from segue.data.subtitles.translation import Shape, Translated, translate
from segue.errors import UserError

Translator = Callable[[list[str]], list[str]]
SLOW = Shape(reading_speed=1e9)  # then nothing is moved from a cue that is too fast
TAGS = re.compile(r"</?[a-z][^<>]*>|\{\\[^{}]*\}")


def same(texts: list[str]) -> list[str]:
    return texts


def shouted(texts: list[str]) -> list[str]:
    return [text.upper() for text in texts]


def noting(given: list[str], translator: Translator = same) -> Translator:
    """Adds to `given` what is translated."""

    def translate_and_note(texts: list[str]) -> list[str]:
        given.extend(texts)
        return translator(texts)

    return translate_and_note


def srt(*bodies: str, seconds: float = 3.0) -> str:
    """Cues without a pause between them."""

    def stamp(time: float) -> str:
        return f"00:{int(time) // 60:02}:{int(time) % 60:02},{round(time * 1000) % 1000:03}"

    return "\n".join(
        f"{number + 1}\n{stamp(number * seconds)} --> {stamp((number + 1) * seconds)}\n{body}\n"
        for number, body in enumerate(bodies)
    )


def bodies(text: str, form: Form = "srt") -> list[str]:
    """What pysubs2 reads as the texts, with tags as they are written."""
    return [event.text for event in pysubs2.SSAFile.from_string(text, form, keep_html_tags=True)]


def translated(*texts: str, by: Translator = shouted, shape: Shape = SLOW, seconds: float = 3.0) -> list[str]:
    """The texts of a SubRip file of these texts, translated."""
    return bodies(translate(srt(*texts, seconds=seconds).encode(), "srt", by, shape).text)


def words_of(text: str) -> list[str]:
    return re.sub(r"\\[Nnh]", " ", TAGS.sub("", text)).split()


def by_table(table: dict[str, str]) -> Translator:
    """A translator that knows these sentences and no other."""
    return lambda texts: [table[text] for text in texts]


# Properties

LATIN = """the a Thom I robot's don't Mr. Dr. 3 40 90% yes, well; love-letter "no" (maybe) we're. Stop! Why? now... …and
— & é über 3.5 it, U.S. #1 ♪ [door he] JOHN: >> < x:"""
words = st.lists(st.sampled_from(LATIN.split()), min_size=1, max_size=12).map(" ".join)
wide = st.lists(st.sampled_from(["你", "好，", "世", "界。", "「好」", "！"]), max_size=12).map(
    lambda parts: "大" + "".join(parts)
)
tagged = st.builds(
    "{}{}{}{}{}{}".format,
    st.sampled_from(["", "{\\an8}", "- ", "♪ ", "[sighs] ", "MARY: ", "-", "..."]),
    st.sampled_from(["", "", "some words "]),
    st.just("<i>"),
    words,
    st.just("</i>"),
    st.sampled_from(["", " ♪", ", said <b>he</b>.", "?", " <font color='red'>red</font>"]),
)
lines = words | wide | tagged
ends_in_number = re.compile(r"\n[0-9 ]+\Z")  # which pysubs2 takes for that of the next cue
cue_texts = st.lists(lines, max_size=3).map("\n".join).filter(lambda text: not ends_in_number.search(text))


@st.composite
def files(draw: st.DrawFn, form: Form = "srt") -> str:
    """Files with cues of all kinds, overlapping, unordered and empty ones too."""
    cues = []
    time = 0
    for number, text in enumerate(draw(st.lists(cue_texts, min_size=1, max_size=8)), 1):
        start = max(0, time + draw(st.sampled_from([0, 0, 100, 1400, 9000, -100, -4000])))
        time = start + draw(st.sampled_from([0, 400, 2000, 5000]))
        stamps = [f"0:00:{each // 1000:02}.{each // 10 % 100:02}" for each in (start, time)]
        if form == "ass":
            text = re.sub("</?font[^>]*>", r"{\\fs20}", text.replace("\n", "\\N"))
            for old, new in [("<i>", "{\\i1}"), ("</i>", "{\\i0}"), ("<b>", "{\\c&HFF&}"), ("</b>", "{\\r}")]:
                text = text.replace(old, new)
            cues.append(f"Dialogue: 0,{','.join(stamps)},Default,,0,0,0,,{text}")
            continue
        if form == "vtt":
            text = re.sub(r"<(?![/a-z])", "&lt;", text.replace("&", "&amp;").replace(">>", "&gt;&gt;"))
        place = draw(st.sampled_from(["", "", {"vtt": " line:0 align:start"}.get(form, "  X1:10 X2:20 Y1:30 Y2:40")]))
        label = draw(st.sampled_from([f"{number}\n", f"{number}\n", ""]))
        times = f"0{stamps[0]}0 --> 0{stamps[1]}0".replace(".", "," if form == "srt" else ".")
        cues.append(f"{label}{times}{place}\n{text}\n")
    return {"srt": "", "vtt": "WEBVTT\n\n", "ass": "[Script Info]\n\n[Events]\n"}[form] + "\n".join(cues)


@pytest.mark.parametrize("form", ["srt", "vtt", "ass"])
@given(data=st.data())
@settings(deadline=None)
def test_an_identity_translator_changes_no_cue(form: Form, data: st.DataObject) -> None:
    """Every word, time and tag stays in its cue."""
    text = data.draw(files(form))
    result = translate(text.encode(), form, same, SLOW)
    before, after = (pysubs2.SSAFile.from_string(each, form, keep_html_tags=True) for each in (text, result.text))
    assert [(cue.start, cue.end) for cue in after] == [(cue.start, cue.end) for cue in before]
    assert result.num_cues == len(before)
    for old, new in zip(before, after, strict=True):
        assert "".join(words_of(new.text)) == "".join(words_of(old.text))
        assert TAGS.findall(new.text) == TAGS.findall(old.text)
    untouched = re.compile("-->.*|^Dialogue:[^ ]* .*?,,0,0,0,,", re.MULTILINE)
    assert untouched.findall(result.text) == untouched.findall(text)


@given(text=files())
@settings(deadline=None)
def test_words_moved_from_fast_cues_keep_order(text: str) -> None:
    result = translate(text.encode(), "srt", same, Shape())
    before, after = (
        list(pysubs2.SSAFile.from_string(each, "srt", keep_html_tags=True)) for each in (text, result.text)
    )
    order = sorted(range(len(before)), key=lambda index: (before[index].start, before[index].end))
    old, new = ("".join("".join(words_of(cues[index].text)) for index in order) for cues in (before, after))
    assert sorted(new) == sorted(old)
    if all(a.end <= b.start and a.start < a.end for a, b in pairwise(before)):  # else other cues may stand between
        dots = str.maketrans("", "", ".…")
        if not re.search(r"[\[♪]|[A-Z]:|- |-<|>>", text):
            assert new.translate(dots) == old.translate(dots)


@given(text=files(), seed=st.integers())
@settings(deadline=None)
def test_no_word_of_a_translation_is_lost(text: str, seed: int) -> None:
    """Tags are as they were."""
    answers: list[str] = []
    draw = random.Random(seed)

    def any_words(texts: list[str]) -> list[str]:
        some = [draw.choices(["ein,", "zwei", "drei.", "vier", "世界。"], k=draw.randint(1, 20)) for _ in texts]
        answers.extend(map(" ".join, some))
        return answers

    result = translate(text.encode(), "srt", any_words, Shape())
    before, after = bodies(text), bodies(result.text)
    assert [TAGS.findall(cue) for cue in after] == [TAGS.findall(cue) for cue in before]
    letters = "".join(word for cue in after for word in words_of(cue))
    for letter in "nwvr,.世":  # of no mark around the words
        assert letters.count(letter) >= "".join(answers).count(letter)


SNIPPETS = r"""WEBVTT+|+|1+|00:01.000 --> 00:02.000|00:00:01,0 --> 00:00:02,5| line:0+|NOTE x+|
[Script Info]+|[Events]|Dialogue: 0,0:00:01.00,0:00:02.00,D,,0,0,0,,|Comment: 0,|{\i1}|<i>|</i>|{|}
|<|>|- |♪|[|]|(|JOHN: |a| word|。|\N|\h|..."""
rubble = st.lists(st.sampled_from(SNIPPETS.replace("\n", "").replace("+", "\n").split("|"))).map("".join)


@given(content=st.binary() | rubble.map(str.encode), form=st.sampled_from(["srt", "vtt", "ass"]))
@settings(deadline=None, max_examples=500)
def test_any_bytes_are_translated_or_refused(content: bytes, form: Form) -> None:
    try:
        result = translate(content, form, shouted, Shape())
    except UserError:
        return
    assert translate(content, form, same, Shape()).num_cues == result.num_cues
    again = translate(result.text.encode(), form, same, Shape())
    assert again.num_cues == result.num_cues


# Sentences over cues


def test_a_sentence_is_shared_out_over_its_cues() -> None:
    """It is translated as one, and shared out in proportion."""
    table = {
        "I think that we should never have come to this place.": "Ich glaube, dass wir nie hätten kommen sollen.",
        "Stop!": "Halt!",
    }
    found = translated("I think that", "we should never have", "come to this place. Stop!", by=by_table(table))
    assert found == ["Ich glaube,", "dass wir nie hätten", "kommen sollen. Halt!"]


def test_a_sentence_is_rather_cut_behind_punctuation() -> None:
    table = {"I don't know what you are talking about, but I like it.": "我不知道你在说什么，但是我很喜欢它。"}
    assert translated("I don't know what you are talking about,", "but I like it.", by=by_table(table)) == [
        "我不知道你在说什么，",
        "但是我很喜欢它。",
    ]


def test_every_cue_of_a_sentence_gets_words() -> None:
    """If there are enough."""
    assert translated("One long beginning of it", "and", "an end.", by=lambda texts: ["A b c"]) == ["A", "b", "c"]
    result = translate(srt("This is", "a sentence", "of three.").encode(), "srt", lambda texts: ["Eins."], SLOW)
    assert " ".join(words_of(" ".join(bodies(result.text)))) == "Eins."
    assert any("2 cues are empty now" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    "texts",
    [
        ("He came.", "She left."),
        ("What?", "he said."),  # a question may be a cue of its own
        ("- I am", "- no."),
        ("I am", "- you are."),
        ("I am", "JOHN: you are."),
        ("I am", "[door slams]"),
        ("<i>I am</i>", "you are."),
        ("I am", "{\\an8}you are."),
        ("THE END", "and so on."),
        ("I'm-", "Sorry."),
        ("Well...", "That is it."),
        ("♪ La la la", "♪ Sing with me"),
    ],
)
def test_unrelated_cues_are_not_joined(texts: tuple[str, str]) -> None:
    """Cues of other sentences, speakers or styles."""
    given: list[str] = []
    translate(srt(*texts, "End.").encode(), "srt", noting(given), SLOW)
    assert len(given) == 3 or texts[0] == "What?"


@pytest.mark.parametrize(
    "texts", [("<i>We</i> were", "never."), ("<i>We were</i>", "<i>never.</i>"), ("♪ we", "♪ go ♪")]
)
def test_sentences_go_on_in_cues_of_one_style(texts: tuple[str, str]) -> None:
    given: list[str] = []
    translate(srt(*texts, "End.").encode(), "srt", noting(given), SLOW)
    assert len(given) == 2


def test_sentences_go_on_at_the_same_position() -> None:
    """From the last cue that was there."""
    given: list[str] = []
    texts = ["{\\an8}A sign", "We were", "[door slams]", "{\\an8}up here.", "never there."]
    content = srt(*texts, seconds=0.5).encode()
    translate(content, "srt", noting(given), SLOW)
    assert given == ["A sign up here.", "We were never there.", "door slams"]


def test_a_long_pause_ends_a_sentence() -> None:
    given: list[str] = []
    text = srt("We were", "never there.").replace("00:00:03,000 --> 00:00:06", "00:00:04,500 --> 00:00:06")
    translate(text.encode(), "srt", noting(given), SLOW)
    assert given == ["We were", "never there."]


def test_without_punctuation_cues_stay_apart() -> None:
    given: list[str] = []
    texts = [f"so this is cue {number}" for number in range(20)]
    translate(srt(*texts).encode(), "srt", noting(given), SLOW)
    assert given == texts


def test_no_more_than_six_cues_are_one_sentence() -> None:
    given: list[str] = []
    translate(srt(*["and on"] * 12, "end.", "End.").encode(), "srt", noting(given), SLOW)
    assert [text.count("on") for text in given] == [6, 6, 0, 0]


def test_dots_between_cues_stay_untranslated() -> None:
    table = {"I dream that I am chased by robots.": "Ich träume, dass mich Roboter verfolgen."}
    found = translated("I dream that I am chased...", "...by robots.", by=by_table(table))
    assert found == ["Ich träume, dass mich Roboter...", "...verfolgen."] or found == [
        "Ich träume, dass mich...",
        "...Roboter verfolgen.",
    ]


def test_unordered_cues_are_read_by_time() -> None:
    """They are written in place."""
    first, second = srt("We were", "never there.").split("\n\n")
    result = translate(
        f"{second}\n{first}\n".encode(), "srt", by_table({"We were never there.": "Wir waren niemals da."}), SLOW
    )
    assert bodies(result.text) == ["niemals da.", "Wir waren"]
    assert any("1 cue is earlier than the one before: 2 (0:00:00)" in warning for warning in result.warnings)


def test_sentences_of_a_cue_are_separate_units() -> None:
    table = {"Abort!": "Abbruch!", "We have to go.": "Wir müssen gehen."}
    assert translated("Abort! We have\nto go.", by=by_table(table)) == ["Abbruch! Wir müssen gehen."]


def test_fast_cues_give_words_to_slow_ones() -> None:
    """Of the same sentence."""
    text = "1\n00:00:00,000 --> 00:00:00,500\nwe have really\n\n2\n00:00:00,500 --> 00:00:06,000\nseen it.\n"
    kept, moved = (bodies(translate(text.encode(), "srt", same, shape).text) for shape in (SLOW, Shape()))
    assert kept == ["we have really", "seen it."]
    assert moved == ["we have", "really seen it."] or moved == ["we", "have really seen it."]


# What is around the words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<i>Hello there.</i>", "<i>HELLO THERE.</i>"),
        ("{\\an8}<b>Hello.</b>", "{\\an8}<b>HELLO.</b>"),
        ('<font color="#ff0000">Hello.</font>', '<font color="#ff0000">HELLO.</font>'),
        ("I <i>really</i> do.", "I <i>REALLY</i> DO."),
        ("un<b>believ</b>able day", "<b>UNBELIEVABLE</b> DAY"),
        ("- Hello.\n- Hi.", "- HELLO.\\N- HI."),
        ("-Hello.\n-Hi.", "-HELLO.\\N-HI."),
        ("<i>- Hello.</i>\n- Hi.", "<i>- HELLO.</i>\\N- HI."),
        ("- <i>Hello.</i>\n- Hi.", "- <i>HELLO.</i>\\N- HI."),
        ("♪ la la ♪", "♪ LA LA ♪"),
        ("♪ one\ntwo ♪", "♪ ONE TWO ♪"),
        ("# la la #", "# LA LA #"),
        ("[door slams]", "[DOOR SLAMS]"),
        ("[sighs] Fine.", "[SIGHS] FINE."),
        ("Fine. (sighs)", "FINE. (SIGHS)"),
        ("(he laughs)\nFine.", "(HE LAUGHS)\\NFINE."),
        ("MAN: we go", "MAN: WE GO"),
        ("MARY ANN:\nwe go", "MARY ANN: WE GO"),
        (">> we go\n>> you stay", ">> WE GO\\N>> YOU STAY"),
        ("3 2 1", "3 2 1"),
        ("♪ ♪", "♪ ♪"),
        ("<i>...</i>", "<i>...</i>"),
    ],
)
def test_marks_around_the_words_stay(text: str, expected: str) -> None:
    assert translated(text) == [expected]


def test_speakers_of_a_cue_have_separate_lines() -> None:
    """Each is translated alone."""
    given: list[str] = []
    long = "- I do not know what you are talking about.\n- No."
    result = translate(srt(long).encode(), "srt", noting(given), SLOW)
    assert given == ["I do not know what you are talking about.", "No."]
    assert bodies(result.text)[0].endswith("\\N- No.")
    assert "1 cue is larger than 2 lines of 42 characters: 1 (3 lines)" in result.warnings


def test_inline_tags_keep_their_share_of_words() -> None:
    assert translated("You <i>really</i> are it.", by=lambda texts: ["Du bist es wirklich."]) == [
        "Du <i>bist es</i> wirklich."
    ]
    assert translated("I <i>am</i> <b>it</b>.", by=lambda texts: ["Je"]) == ["<i></i><b>Je</b>"]


def test_tags_in_a_translation_are_taken_out() -> None:
    assert translated("Hello.", by=lambda texts: ["<i>Hallo</i>\n\n{\\b1}du ."]) == ["Hallo du ."]


def test_empty_translations_leave_the_words() -> None:
    """A warning says so."""
    result = translate(srt("Hello.", "You.").encode(), "srt", lambda texts: ["", "Du."], SLOW)
    assert bodies(result.text) == ["Hello.", "Du."]
    assert "1 cue is left untranslated, since the translation came back empty: 1 (0:00:00)" in result.warnings


def test_without_words_no_translator_is_asked() -> None:
    def fails(texts: list[str]) -> list[str]:
        raise AssertionError(texts)

    text = srt("123", "♪", "")
    assert translate(text.encode(), "srt", fails, Shape()).text == text


# Lines and reading speed


def test_lines_are_few_and_balanced() -> None:
    """They end behind punctuation."""
    found = translated("I would really like to go there, but I simply cannot do that.", by=same)
    assert found == ["I would really like to go there,\\Nbut I simply cannot do that."]
    assert translated("aaaaa bbbbb ccccc ddddd, eee. fffff ggggg hhhhh iiiii", by=same) == [
        "aaaaa bbbbb ccccc ddddd, eee.\\Nfffff ggggg hhhhh iiiii"
    ]
    assert translated("this one fits\non a line", by=same) == ["this one fits on a line"]
    assert translated("你" * 50, by=same) == ["你" * 25 + "\\N" + "你" * 25]


def test_marks_numbers_and_notes_stay_with_words() -> None:
    """No line begins with a mark or a number, or ends with a note."""
    assert translated("aaaaa bbbbb ccccc ddddd ! eeeee fffff ggggg ddddd", by=same) == [
        "aaaaa bbbbb ccccc ddddd !\\Neeeee fffff ggggg ddddd"
    ]
    assert translated("aaaaa bbbbb ccccc ddddd 1999 eeeee fffff ggggg ddd", by=same) == [
        "aaaaa bbbbb ccccc ddddd 1999\\Neeeee fffff ggggg ddd"
    ]
    assert translated(f"♪ {'x' * 42} ♪", by=same) == [f"♪ {'x' * 42} ♪"]


def test_oversized_cues_are_complete() -> None:
    """A warning names them."""
    text = " ".join(["word"] * 40)
    result = translate(srt("Hi.", text, "x" * 50).encode(), "srt", same, SLOW)
    assert bodies(result.text)[1].replace("\\N", " ") == text
    assert bodies(result.text)[2] == "x" * 50
    assert result.warnings == ["2 cues are larger than 2 lines of 42 characters: 2 (5 lines), 3 (50 characters)"]


def test_too_fast_cues_are_warned_about() -> None:
    result = translate(srt("Short.", "x" * 40 + ".", seconds=2.0).encode(), "srt", same, Shape())
    assert result.warnings == ["1 cue is faster than 17 characters a second: 2 (20.5)"]


def test_only_the_first_of_many_cues_are_named() -> None:
    warning = translate(srt(*["x" * 40 + "."] * 9, seconds=1.0).encode(), "srt", same, Shape()).warnings[0]
    assert warning.startswith("9 cues are faster")
    assert warning.endswith("5 (41.0), ...")


# Encodings


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
    ],
)
def test_unicode_is_read_with_or_without_a_mark(encoding: str, mark: bytes) -> None:
    for text in (srt("Schöne Grüße, 世界."), srt("Я не знаю, что это."), srt("我不知道发生了什么。我们回家吧。")):
        content = mark + text.encode(encoding)
        assert content.decode(encoding_of(content)) == text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Schöne Grüße aus München"),
        ("cp1252", "Le garçon a été très gêné, hélas… à Noël. Ma sœur où ?"),
        ("cp1252", "¿qué pasó mañana? ¡Está aquí, señor!"),
        ("cp1252", "Non so cosa sta succedendo. Perché è così? La città è più bella, però non c'è libertà."),
        ("cp1252", "Jeg ved ikke, hvad der sker. Det er for sent, men bølgerne er høje på øen, kære."),
        ("cp1252", "Não sei. A situação é difícil, não é? Você já pôs o pão à mesa. Põe."),
        ("cp1250", "Nie wiem, co się stało. Proszę pana, że też był żółty."),
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy."),
        ("cp1250", "Nem tudom, mi történik. Menjünk haza, jó? Őszintén szólva fűtött szobában ülök."),
        ("cp1250", "Nu ştiu ce se întâmplă. Haideţi să mergem acasă, băieţi, e aşa de bine."),
        ("cp1251", "Я не знаю, что происходит. Пойдём домой."),
        ("cp1253", "Δεν ξέρω τι συμβαίνει. Πάμε σπίτι."),
        ("cp1254", "Ne olduğunu bilmiyorum. Eve gidelim, çocuklar! Şimdi."),
        ("gb18030", "我不知道发生了什么。我们回家吧。"),
        ("big5", "我不知道發生了什麼。我們回家吧。"),
        ("cp932", "何が起こっているのか分からない。家に帰ろう。"),
        ("cp949", "무슨 일이 일어나고 있는지 모르겠어. 집에 가자."),
    ],
)
def test_old_encodings_are_guessed_with_warning(encoding: str, text: str) -> None:
    content = srt(text).encode(encoding)
    assert content.decode(encoding_of(content)) == srt(text)
    assert f"read as {encoding}" in " ".join(translate(content, "srt", same, Shape()).warnings)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UserError, match="save it as UTF-8"):
        encoding_of(bytes(range(256)) * 20)


# Forms


def test_only_the_words_of_subrip_change() -> None:
    text = """7|00:00:01,5 --> 0:00:02.75  X1:1 X2:2 Y1:3 Y2:4|Hello.|||00:00:03,000 --> 00:00:04,000|You.|12|\
00:00:05,000 --> 00:00:06,000||Apart||9||00:00:07,000 --> 00:00:08,000|42||""".replace("|", "\r\n")
    expected = text.replace("Hello", "HELLO").replace("You", "YOU").replace("Apart", "APART")
    result = translate(codecs.BOM_UTF8 + text.encode(), "srt", shouted, SLOW)
    assert result.text == expected
    assert result.num_cues == 4


def test_odd_cues_are_kept_with_a_warning() -> None:
    times = ["1,000 --> 00:00:03,000", "2,000 --> 00:00:04,000", "0,500 --> 00:00:00,500", "9,000 --> 00:00:08,000"]
    texts = ["One.", "Two.", "Three.", ""]
    text = "\n".join(
        f"{n}\n00:00:0{time}\n{body}\n" for n, (time, body) in enumerate(zip(times, texts, strict=True), 1)
    )
    result = translate(text.encode(), "srt", same, SLOW)
    assert result.text == text
    assert result.warnings == [
        "1 cue is earlier than the one before: 3 (0:00:00)",
        "1 cue is shown while another still is: 2 (0:00:02)",
        "2 cues are of zero duration: 3 (0:00:00), 4 (0:00:09)",
        "1 cue is empty: 4 (0:00:09)",
    ]


VTT = """\
WEBVTT - a title
X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000

STYLE
::cue(.loud) { color: red }

REGION
id:below

NOTE
not to be translated

intro
00:01.000 --> 00:02.500 line:0 position:20% align:start region:below
<v Mary><c.loud>Fish &amp; chips</c> for 3 &lt; 4.</v>

NOTE neither this

00:03.000 --> 1000:00:04.000
We <00:03.500>go <00:03.800>home.

2
00:05.000 --> 00:06.000
\u0020
\u266a Sing&nbsp;it \u266a
"""


def test_only_the_words_of_webvtt_change() -> None:
    """Settings, identifiers, notes, styles and voices stay."""
    expected = VTT.replace("Fish &amp; chips</c> for 3", "FISH &amp; CHIPS</c> FOR 3").replace(
        "Sing&nbsp;it", "SING IT"
    )
    expected = expected.replace("We <00:03.500>go <00:03.800>home", "WE <00:03.500>GO <00:03.800>HOME")
    result = translate(VTT.encode(), "vtt", shouted, SLOW)
    assert result.text == expected
    assert result.num_cues == 3


def test_webvtt_writes_as_text_what_looks_like_a_tag() -> None:
    result = translate(VTT.encode(), "vtt", lambda texts: ["<b> a --> b"] * len(texts), SLOW)
    assert "&lt;b&gt; a --&gt; b" in result.text


def test_text_outside_cues_is_warned_about() -> None:
    text = "WEBVTT\n\n00:01.000 --> 00:02.000\nOne.\n\nlost\n\nid\n00:03.000 --> 00:04.000\nTwo.\n"
    result = translate(text.encode(), "vtt", shouted, SLOW)
    assert "lost" in result.text
    assert result.warnings == ["blocks that belong to no cue and are left as they were: 1"]


ASS = """\
[Script Info]
; a comment
Title: Test
ScriptType: v4.00+
PlayResX: 1280

[Aegisub Project Garbage]
Last Style Storage: Default

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,20,&H00FFFFFF,&H0000FFFF,&H00000000,&H00000000,-1,0,0,0,100,100,0,0,1,2,0,2,10,10,10,0
Style: Sign,Arial,20,&H00FFFFFF,&H0000FFFF,&H00000000,&H00000000,0,0,0,0,100,100,0,0,1,2,0,8,10,10,10,0

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,not to be translated
Dialogue: 0,0:00:01.00,0:00:03.50,Default,Ann,0000,0000,0000,,We were {\\i1}never{\\i0}, ever
Dialogue: 5,0:00:02.00,0:00:04.00,Sign,,0,0,0,,{\\an8\\pos(10,20)\\fad(200,200)}KEEP\\NOUT
Dialogue: 0,0:00:03.50,0:00:05.00,Default,Ann,0000,0000,0000,,there, Bob.\\N- Stop!
Dialogue: 1,0:00:05.00,0:00:06.00,Default,,0,0,0,,{\\p1}m 0 0 l 10 0 10 10 0 10{\\p0}
Dialogue: 1,0:00:06.00,0:00:07.00,Default,,0,0,0,fx,{\\k20}syl
Dialogue: 0,0:00:08.00,0:00:09.00,Default,Bob,0,0,0,,{a remark}Hard\\hspace, soft\\nline

[Fonts]
fontname: a.ttf
0000AB
"""


def test_only_the_words_of_substation_change() -> None:
    """Styles, comments, drawings and positions stay."""
    given: list[str] = []
    result = translate(ASS.encode(), "ass", noting(given, shouted), SLOW)
    assert given == ["We were never, ever there, Bob.", "KEEP OUT", "Stop!", "Hard space, soft line"]
    replaced = {
        "We were {\\i1}never{\\i0}, ever": "WE WERE {\\i1}NEVER,{\\i0} EVER",
        "KEEP\\NOUT": "KEEP OUT",
        "there, Bob.\\N- Stop!": "THERE, BOB.\\N- STOP!",
        "Hard\\hspace, soft\\nline": "HARD SPACE, SOFT LINE",
    }
    expected = ASS
    for old, new in replaced.items():
        assert old in expected
        expected = expected.replace(old, new)
    assert result.text == expected
    assert "1 cue is a generated effect, and left as it was: 5 (0:00:06)" in result.warnings
    before, after = pysubs2.SSAFile.from_string(ASS), pysubs2.SSAFile.from_string(result.text)
    assert (before.info, before.styles) == (after.info, after.styles)
    assert [event.type for event in before] == [event.type for event in after]


def test_substation_translations_add_no_tags() -> None:
    """Their braces become parentheses."""
    result = translate(ASS.encode(), "ass", lambda texts: ["a {b} c d"] * len(texts), SLOW)
    assert "a (b) c" in result.text


def test_substation_fields_follow_the_format_line() -> None:
    text = "[Script Info]\n[Events]\nFormat: Start, End, Text\nDialogue: 0:00:01.00,0:00:02.00,Well, yes.\n"
    assert translate(text.encode(), "ass", shouted, SLOW).text == text.replace("Well, yes.", "WELL, YES.")


def test_a_mistake_in_a_file_is_named() -> None:
    with pytest.raises(UserError, match="the file:2: not an event with Start, End and Text"):
        translate(b"[Script Info]\nDialogue: 0,soon,later,Default,,0,0,0,,Hi.\n", "ass", same, Shape())
    for form in ("srt", "vtt", "ass"):
        with pytest.raises(UserError, match="no subtitles with times"):
            translate(b"Just some text.", form, same, Shape())


def test_files_without_cues_stay_as_they_are() -> None:
    assert translate(b"", "srt", same, Shape()) == Translated("", ["there are no subtitles in it"], 0, 0)
    assert translate(b"WEBVTT\n\nNOTE x\n", "vtt", same, Shape()).text == "WEBVTT\n\nNOTE x\n"


@pytest.mark.parametrize(
    "body",
    ["{" * 50_000, "<" * 50_000, "<i>" * 20_000, "(" * 50_000, "- a\\N" * 20_000, "word " * 20_000, "♪" * 50_000],
)
def test_a_huge_cue_takes_linear_time(body: str) -> None:
    """It is translated whole."""
    text = f"[Script Info]\n[Events]\nDialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{body}a{{\\i1}}\n"
    before, after = (bodies(each, "ass")[0] for each in (text, translate(text.encode(), "ass", same, Shape()).text))
    assert words_of(after.replace("(", "{")) == words_of(before.replace("(", "{"))  # never ends where it is quadratic


# Real files


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_a_real_film_keeps_its_cues(language: str, encoding: str) -> None:
    """Its sentences are joined."""
    if "SEGUE_DATA" not in os.environ:
        pytest.skip("real subtitles: set SEGUE_DATA to their folder")
    path = Path(os.environ["SEGUE_DATA"]) / "tears_of_steel" / f"TOS-{language}.srt"
    if not path.exists():
        pytest.skip(f"no {path}")
    given: list[str] = []
    content = path.read_bytes().decode("utf-8").encode(encoding)
    result = translate(content, "srt", noting(given), SLOW)
    before, after = bodies(path.read_text("utf-8")), bodies(result.text)
    assert result.num_cues == len(after) == 76
    assert [words_of(cue) for cue in after] == [words_of(cue) for cue in before]
    stamps = re.compile(r"\d\d:.*-->.*\d")
    assert stamps.findall(result.text) == stamps.findall(path.read_text("utf-8"))
    joined = {
        "en": "I have nightmares that I'm being chased by these giant robotic claws of death...",
        "de": "Wieso gibst du nicht einfach zu dass dich meine Roboterhand irre macht?",
    }
    assert joined[language] in given
