# ruff: noqa: RUF001 (letters and punctuation of many scripts, on purpose)
import unicodedata
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.text import TextSection, folded, has_letters, normalize

rules = st.builds(
    TextSection,
    **{
        name: st.sampled_from(get_args(TextSection.model_fields[name].annotation))
        for name in ("case", "punctuation", "unicode_form")
    },
    keep_characters=st.sampled_from(["", "'", "'-."]),
)
# Greek is the script in which letter case and Unicode's forms disturb each other.
texts = (
    st.text()
    | st.text("ΐΰΪΫϔᾼαιυΣσς\u0301\u0308\u0345 '-.ßİı")
    | st.text("ab '’‘´`-\u200b\u200c\u200dکع\u0915\u094d™²½1①\ufe0f\u20e3☺👩\U0001f3f4\U000e0067tis", max_size=12)
)


@given(texts, rules)
@settings(deadline=None)
def test_normalizing_twice_changes_nothing_more(text: str, rule: TextSection) -> None:
    assert normalize(normalize(text, rule), rule) == normalize(text, rule)


@given(texts, rules)
@settings(deadline=None)
def test_normalized_texts_follow_their_rule(text: str, rule: TextSection) -> None:
    normalized = normalize(text, rule)
    assert normalized == " ".join(normalized.split())
    assert folded(normalized, rule.unicode_form) == normalized
    assert not set(normalized) & set("\0\u200b\ufeff\xad")
    if rule.punctuation == "remove":
        assert unicodedata.is_normalized(rule.unicode_form, normalized)
        assert all(unicodedata.category(c)[0] not in "PS" or c in rule.keep_characters for c in normalized)


@pytest.mark.parametrize(
    ("text", "changes", "wanted"),
    [
        ("  Don\u2019t  stop,\tnow!\n", {}, "don't stop now"),
        ("Don\u2019t", {"keep_characters": ""}, "don t"),
        ("well-known: 5 %", {}, "well known 5"),
        ("well-known", {"keep_characters": "'-"}, "well-known"),
        ("Don\u2019t stop!", {"punctuation": "keep", "case": "upper"}, "DON\u2019T STOP!"),
        ("Straße", {"case": "upper"}, "STRASSE"),
        ("\ufb01ne \uff21\uff22", {}, "fine ab"),
        ("\ufb01ne", {"unicode_form": "NFC"}, "\ufb01ne"),
        ("e\u0301te\u0301", {}, "été"),
        ("?!...", {}, ""),
        # What nobody sees.
        ("o\u200bne\u200b \u200btwo\0 \ufeff\u202dthree\u202c \ud83dfour", {}, "one two three four"),
        ("co\xadoperate\u200e", {"punctuation": "keep", "case": "keep"}, "cooperate"),
        ("می\u200cخواهم خانه\u200c، Auf\u200clage", {}, "می\u200cخواهم خانه auflage"),
        ("क्\u200dष ക\u0d4d\u200d क\u200b", {}, "क्\u200dष ക\u0d4d\u200d क"),
        ("a 👩\u200d🚀 1\ufe0f\u20e3", {"punctuation": "keep"}, "a 👩\u200d🚀 1\ufe0f\u20e3"),
        ("a 👩\u200d🚀 1\ufe0f\u20e3 🏴\U000e0067\U000e007f", {}, "a 1"),
        # Apostrophes and quotation marks.
        ("'Hello,' she said, 'don't.'", {}, "hello she said don't"),
        ("‘Hello,’ she said, ‘don’t.’", {}, "hello she said don't"),
        ("``hello'' and `hello'", {}, "hello and hello"),
        ("‚Hallo‘", {}, "hallo"),
        ("don´t don`t don′t donʼt", {}, "don't don't don't don't"),
        ("the dogs' bone; rock 'n' roll, goin' home", {}, "the dogs' bone rock 'n' roll goin' home"),
        ("'Tis the dogs' bone", {}, "'tis the dogs' bone"),
        ("5′ 6″ ' '' it", {}, "5 6 it"),
        # Compatibility forms.
        ("Segue™ ℠ ´ ¨", {}, "segue"),
        ("Segue™ don´t", {"punctuation": "keep", "case": "keep"}, "Segue™ don´t"),
        ("5㎏ at 20℃, ①② Ⅳ", {}, "5kg at 20 c 1 2 iv"),
        ("10² x²³ 5½ CO₂", {}, "10 2 x23 5 1 2 co2"),
        ("5½", {"punctuation": "keep"}, "5 1⁄2"),
        # The two letters i of Turkish, where no language is known.
        ("İSTANBUL i\u0307", {}, "istanbul i"),
    ],
)
def test_normalization_by_example(text: str, changes: dict[str, str], wanted: str) -> None:
    assert normalize(text, TextSection.model_validate(changes)) == wanted


@pytest.mark.parametrize("language", ["tr", "tr-TR", "az_AZ", "TR"])
def test_turkish_has_two_letters_i(language: str) -> None:
    assert normalize("IĞDIR İZMİR", TextSection(), language) == "ığdır izmir"
    assert normalize("ığdır izmir", TextSection(case="upper"), language) == "IĞDIR İZMİR"
    assert normalize("IN", TextSection(), "en") == "in"


@pytest.mark.parametrize("text", ["a", "Ж", "中", "ए", "12 Äpfel", "ﬁ", "1st"])
def test_a_text_has_letters(text: str) -> None:
    assert has_letters(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-",
        "...",
        "12:30",
        "😀",
        "👩\u200d🚀",
        "§ 5",
        "♪ ♪",
        "①",
        "½",
        "™",
        "5 ㎏",
        "ー",
        "\u3164",
        "\0\u200b",
        "\ud83d",
    ],
)
def test_a_text_has_no_letters(text: str) -> None:
    assert not has_letters(text)
