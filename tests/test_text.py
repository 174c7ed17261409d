import unicodedata
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.text import TextSection, normalize

rules = st.builds(
    TextSection,
    **{
        name: st.sampled_from(get_args(TextSection.model_fields[name].annotation))
        for name in ("case", "punctuation", "unicode_form")
    },
    keep_characters=st.sampled_from(["", "'", "'-."]),
)
# Greek is the script in which letter case and Unicode's forms disturb each other.
texts = st.text() | st.text("ΐΰΪΫϔᾼαιυΣσς\u0301\u0308\u0345 '-.ßİı")


@given(texts, rules)
@settings(deadline=None)
def test_normalizing_twice_changes_nothing_more(text: str, rule: TextSection) -> None:
    assert normalize(normalize(text, rule), rule) == normalize(text, rule)


@given(texts, rules)
@settings(deadline=None)
def test_a_normalized_text_is_what_its_rule_says(text: str, rule: TextSection) -> None:
    normalized = normalize(text, rule)
    assert normalized == " ".join(normalized.split())
    assert unicodedata.is_normalized(rule.unicode_form, normalized)
    if rule.punctuation == "remove":
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
    ],
)
def test_the_rule_by_example(text: str, changes: dict[str, str], wanted: str) -> None:
    assert normalize(text, TextSection(**changes)) == wanted
