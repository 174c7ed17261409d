from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from segue import metrics
from segue.errors import UserError
from segue.metrics import choice, error_rates, nearest, resampling, speech, texts


def distance(reference: Sequence[Any], hypothesis: Sequence[Any]) -> int:
    """Levenshtein's, row by row."""
    row = list(range(len(hypothesis) + 1))
    for number, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], number
        for column, said in enumerate(hypothesis, 1):
            diagonal, row[column] = row[column], min(diagonal + (wanted != said), row[column] + 1, row[column - 1] + 1)
    return row[-1]


lines = st.lists(st.sampled_from(["a", "b", "ab", "ba", "été"]), max_size=6).map(" ".join)


def translation_scores(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], *, has_edit_rate: bool = False
) -> dict[str, Any]:
    found = texts("bleu", "auto", references, hypotheses, [None] * len(hypotheses), has_edit_rate=has_edit_rate)
    return {**found.overall(), **(found.signatures() if has_edit_rate else {})}


@given(st.lists(st.tuples(lines, lines), min_size=1, max_size=6))
@settings(deadline=None)
def test_error_rates_pool_the_edits_of_all_pairs(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = zip(*pairs, strict=True)
    scores = error_rates(references, hypotheses)
    errors = sum(distance(reference.split(), said.split()) for reference, said in pairs)
    assert scores["substitutions"] + scores["deletions"] + scores["insertions"] == errors
    assert scores["words"] == sum(len(reference.split()) for reference in references)
    assert scores["word_error_rate"] == pytest.approx(errors / max(1, scores["words"]))
    character_errors = sum(distance(reference, said) for reference, said in pairs)
    characters = sum(len(reference) for reference in references)
    assert scores["character_error_rate"] == pytest.approx(character_errors / max(1, characters))


def test_kinds_of_errors_are_told_apart() -> None:
    scores = error_rates(["one two three four", "five"], ["one too three", "five six seven"])
    assert (scores["substitutions"], scores["deletions"], scores["insertions"]) == (1, 1, 2)
    assert scores["word_error_rate"] == 4 / 5


def test_words_for_empty_references_are_errors() -> None:
    assert error_rates([""], ["a b"])["word_error_rate"] == 2.0
    assert error_rates([""], [""])["word_error_rate"] == 0.0


# --- Translation ---

HYPOTHESES = [
    "The cat sat on the mat, and it was quiet.",
    "There is a dog in the garden of the old house.",
    "nothing at all",
    "He said that he would not come to the party tomorrow.",
]
REFERENCES = [
    ("The cat sat on a mat and was quiet.", "The cat was sitting on the mat, quietly.", "On the mat sat the cat."),
    ("A dog is in the garden of the old house.", "There is a dog in the old house's garden!", "A dog there is."),
    ("Nothing whatsoever.", "nothing", "nothing at all happened"),
    (
        "He said he wouldn't come to the party tomorrow.",
        "He will not come, he said.",
        "He said that he would not come.",
    ),
]


@pytest.mark.parametrize("num_references", [1, 2, 3])
def test_translation_scores_are_sacrebleu_s(num_references: int) -> None:
    scores = translation_scores([each[:num_references] for each in REFERENCES], HYPOTHESES, has_edit_rate=True)
    streams = [list(stream) for stream in zip(*REFERENCES, strict=True)][:num_references]
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, streams).score)
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, streams).score)
    assert scores["ter"] == pytest.approx(sacrebleu.corpus_ter(HYPOTHESES, streams).score)
    assert len({round(float(scores[name]), 3) for name in ("bleu", "chrf", "ter")}) == 3
    assert 0 < float(scores["bleu"]) < 100


def test_numbers_of_references_may_differ() -> None:
    references = [REFERENCES[0], REFERENCES[1][:1], REFERENCES[2][:2], REFERENCES[3][:1]]
    scores = translation_scores(references, HYPOTHESES)
    # A reference that stands twice changes neither score, so it can fill the gaps.
    streams = [[each[min(number, len(each) - 1)] for each in references] for number in range(3)]
    assert scores == {
        "bleu": pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, streams).score),
        "chrf": pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, streams).score),
    }
    assert float(scores["bleu"]) > float(translation_scores([each[:1] for each in references], HYPOTHESES)["bleu"])


def test_full_scores_say_how_they_were_counted() -> None:
    scores = translation_scores([each[:2] for each in REFERENCES], HYPOTHESES, has_edit_rate=True)
    assert str(scores["bleu_signature"]).startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")
    assert str(scores["chrf_signature"]).startswith("nrefs:2|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.")
    assert str(scores["ter_signature"]).startswith("nrefs:2|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:2.")
    unequal = translation_scores(
        [REFERENCES[0], *(each[:1] for each in REFERENCES[1:])], HYPOTHESES, has_edit_rate=True
    )
    assert str(unequal["bleu_signature"]).startswith("nrefs:var|")


def test_matching_any_reference_is_perfect() -> None:
    hypotheses = [each[number % 3] for number, each in enumerate(REFERENCES)]
    scores = translation_scores(REFERENCES, hypotheses, has_edit_rate=True)
    assert (scores["bleu"], scores["chrf"], scores["ter"]) == (pytest.approx(100), pytest.approx(100), 0)
    assert translation_scores(REFERENCES, [""] * 4)["bleu"] == 0


@given(st.lists(lines, min_size=1, max_size=5), lines)
@settings(deadline=None)
def test_the_nearest_reference_has_fewest_edits(references: list[str], hypothesis: str) -> None:
    found = nearest(references, hypothesis)
    edits = [distance(reference.split(), hypothesis.split()) for reference in references]
    assert found == references[edits.index(min(edits))]


def test_nearest_counts_words_not_letters() -> None:
    assert nearest(["AH B K", "AA BB"], "AA B") == "AA BB"
    assert nearest(["a bc", "abcdefgh xyz uvw"], "abcdefgh xyz") == "abcdefgh xyz uvw"


# --- How the references write words ---

CHINESE = ["今天天气很好。我们去公园散步吧。", "他昨天买了三本书。", "这座桥建于 1998 年。"]
NEARLY_CHINESE = ["今天天气很好。我们去公园走走吧。", "他昨天买了两本书。", "这座桥建于 1999 年。"]
JAPANESE = ["今日は天気がいいので、公園を散歩しましょう。", "彼は昨日本を三冊買いました。"]
NEARLY_JAPANESE = ["今日は天気がいいから、公園を散歩しましょう。", "彼は昨日本を二冊買いました。"]
KOREAN = ["오늘은 날씨가 좋으니 공원을 산책합시다.", "그는 어제 책 세 권을 샀습니다."]
NEARLY_KOREAN = ["오늘은 날씨가 좋아서 공원을 산책합시다.", "그는 어제 책 두 권을 샀습니다."]
THAI = ["วันนี้อากาศดีมากเราไปเดินเล่นที่สวนกันเถอะ"]
NEARLY_THAI = ["วันนี้อากาศดีมากเราไปเที่ยวที่สวนกันเถอะ"]
GERMAN = ["Heute ist das Wetter schön.", "Er hat gestern drei Bücher gekauft."]


def scored(references: Sequence[str], hypotheses: Sequence[str], language: str | None = None) -> dict[str, Any]:
    right, languages = [(each,) for each in references], [language] * len(references)
    found = texts("bleu", "auto", right, hypotheses, languages, has_edit_rate=True)
    return {**found.overall(), **found.signatures()}


@pytest.mark.parametrize(
    ("references", "hypotheses", "languages", "tokenizer"),
    [
        (CHINESE, NEARLY_CHINESE, ["zh", "zh-Hant", "zho_Hans", "cmn", "chinese", None], "zh"),
        (JAPANESE, NEARLY_JAPANESE, ["ja", "jpn_Jpan", "jp", None], "ja-mecab"),
        (KOREAN, NEARLY_KOREAN, ["ko", "kor_Hang", None], "ko-mecab"),
        (THAI, NEARLY_THAI, ["th", "tha_Thai", "thai", None], "char"),
        (GERMAN, GERMAN, ["de", None], "13a"),
    ],
)
def test_bleu_tokenizes_by_target_language(
    references: list[str], hypotheses: list[str], languages: list[str | None], tokenizer: str
) -> None:
    expected = sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenizer).score
    for language in languages:
        scores = scored(references, hypotheses, language)
        assert scores["bleu"] == pytest.approx(expected)
        assert scores["bleu"] > 50
        assert f"|tok:{tokenizer}" in scores["bleu_signature"]


def test_chinese_ter_is_of_characters() -> None:
    """Thai has none."""
    assert 0 < scored(CHINESE, NEARLY_CHINESE)["ter"] < 25
    assert "norm:yes|punct:yes|asian:yes" in scored(CHINESE, NEARLY_CHINESE)["ter_signature"]
    assert set(scored(THAI, NEARLY_THAI)) == {"bleu", "chrf", "bleu_signature", "chrf_signature"}


@pytest.mark.parametrize(
    ("references", "language", "tokenizer"),
    [
        (["日本語"], "ja", "ja-mecab"),  # Chinese characters alone
        (["東京の大学"], "zh", "zh"),
        (["请点击 OK 按钮打开 Microsoft Windows"], None, "zh"),
        (["The Japanese word 桜 means cherry tree."], None, "13a"),
        (["ni hao"], "zh", "13a"),
        (["saya makan nasi"], "my", "13a"),  # Malay, misnamed
        (["ས་སྐྱ་པ་"], None, "char"),
        (["ဒီနေ့ရာသီဥတုကောင်းတယ်"], None, "char"),
        (["ថ្ងៃនេះអាកាសធាតុល្អ"], None, "char"),
        (["ມື້ນີ້ອາກາດດີ"], None, "char"),
        (["आज मौसम अच्छा है"], None, "13a"),
        (["الطقس جميل اليوم"], "ar", "13a"),
        (["123 45"], None, "13a"),
    ],
)
def test_the_language_decides_if_its_letters_occur(references: list[str], language: str | None, tokenizer: str) -> None:
    assert metrics.bleu_tokenizer("auto", references, language) == tokenizer


def test_a_tokenizer_that_is_given_is_taken() -> None:
    scores = texts("bleu", "char", [(each,) for each in GERMAN], GERMAN, ["de", "de"]).signatures()
    assert "|tok:char|" in scores["bleu_signature"]


def test_without_mecab_bleu_counts_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which is said once."""
    missing = "ja-mecab needs its dictionary: pip install 'segue[japanese]'"
    monkeypatch.setattr(choice, "_mecab_problem", lambda name: missing)
    choice._warn_of_characters.cache_clear()
    for _ in range(2):
        assert "|tok:char|" in scored(JAPANESE, NEARLY_JAPANESE)["bleu_signature"]
    assert capsys.readouterr().err == (
        f"warning: BLEU of Japanese counts characters here, which is not comparable with words: {missing}\n"
    )
    with pytest.raises(UserError, match=r"bleu_tokenizer: ja-mecab needs .* pip install 'segue\[japanese\]'"):
        metrics.bleu_tokenizer("ja-mecab", JAPANESE, None)


def test_languages_are_scored_apart_and_averaged() -> None:
    references = [(each,) for each in (*CHINESE, *GERMAN)]
    hypotheses = [*NEARLY_CHINESE, *GERMAN]
    found = texts("bleu", "auto", references, hypotheses, ["zh"] * 3 + ["de"] * 2, has_edit_rate=True)
    of_languages = found.by_language("sentences")
    assert list(of_languages) == ["zh", "de"]
    assert of_languages["zh"]["bleu"] == pytest.approx(scored(CHINESE, NEARLY_CHINESE)["bleu"])
    assert of_languages["de"]["bleu"] == pytest.approx(100)
    assert found.overall()["bleu"] == pytest.approx((of_languages["zh"]["bleu"] + 100) / 2)
    assert "zh nrefs:1|case:mixed|eff:no|tok:zh" in found.signatures()["bleu_signature"]
    assert [round(each["chrf"]) == 100 for each in found.of_each()] == [False] * 3 + [True] * 2


@pytest.mark.parametrize(("references", "hypotheses"), [(CHINESE, NEARLY_CHINESE), (THAI, NEARLY_THAI)])
def test_unspaced_speech_uses_character_errors(references: list[str], hypotheses: list[str]) -> None:
    found = speech("auto", references, hypotheses)
    assert found.chosen.name == next(iter(found.overall())) == "character_error_rate"
    assert found.overall()["character_error_rate"] < 0.2 < found.overall()["word_error_rate"]
    assert speech("word_error_rate", references, hypotheses).chosen.name == "word_error_rate"
    assert speech("auto", GERMAN, GERMAN).chosen.name == "word_error_rate"


def test_spaces_beside_chinese_are_no_characters() -> None:
    scores = speech("auto", ["而 对 楼市 成交", "买 OK 了"], ["而对楼市成交", "买OK 了"]).overall()
    assert (scores["character_error_rate"], scores["characters"]) == (0, 10)


# --- Intervals ---


def noisy(count: int, share: float, seed: int) -> tuple[list[str], list[str]]:
    """References of ten words, each of which is wrong with this probability."""
    draw = np.random.default_rng(seed)
    wrong = draw.random((count, 10)) < share
    return ["a b c d e f g h i j"] * count, [
        " ".join("x" if is_wrong else word for word, is_wrong in zip("abcdefghij", row, strict=True)) for row in wrong
    ]


def test_intervals_have_the_expected_width() -> None:
    references, hypotheses = noisy(400, 0.2, seed=1)
    found = speech("auto", references, hypotheses).resampling("utterances")
    low, high = found.intervals["word_error_rate"]
    deviation = (0.2 * 0.8 / 4000) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    rate = error_rates(references, hypotheses)["word_error_rate"]
    assert low < rate < high
    assert found == speech("auto", references, hypotheses).resampling("utterances")
    assert found.note == "95 % intervals: bootstrap, 1,000 draws of 400 utterances"


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
def test_resampled_scores_are_sacrebleu_s(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the sentences that were drawn."""
    monkeypatch.setattr(resampling, "NUM_RESAMPLES", 3)
    [part] = texts("bleu", "auto", REFERENCES, HYPOTHESES, [None] * 4, has_edit_rate=True).parts
    draw = np.random.default_rng(0)
    for value in part.resampled()[name]:
        rows = draw.integers(4, size=4)
        streams = [[REFERENCES[row][number] for row in rows] for number in range(3)]
        score = getattr(sacrebleu, f"corpus_{name}")([HYPOTHESES[row] for row in rows], streams).score
        assert value == pytest.approx(score)


def test_resampling_draws_whole_speakers() -> None:
    good, bad = noisy(200, 0.02, seed=1), noisy(200, 0.6, seed=2)
    found = speech("auto", good[0] + bad[0], good[1] + bad[1])
    alone = found.resampling("utterances", [None] * 400)
    speakers = [f"speaker {n // 20}" for n in range(400)]
    together = found.resampling("utterances", speakers)
    width, wider = (np.ptp(each.intervals["word_error_rate"]) for each in (alone, together))
    assert wider > 3 * width
    assert together.note.endswith("1,000 draws of 20 speakers")
    assert alone.note.endswith("400 utterances; speakers are not known: other voices vary more")
    partly = found.resampling("utterances", [None, *speakers[1:]])
    assert partly.note.endswith("20 speakers and 1 of 400 utterances without one")
    one = found.resampling("utterances", ["ann"] * 400)
    assert one.intervals == alone.intervals
    assert one.note.endswith("all of one speaker: other voices vary more")


def test_fewer_than_ten_speakers_are_noted() -> None:
    references, hypotheses = noisy(40, 0.2, seed=1)
    found = speech("auto", references, hypotheses)
    notes = [found.resampling("utterances", [f"{n % count}" for n in range(40)]).note for count in (9, 10)]
    assert [note.endswith("; few speakers: rough") for note in notes] == [True, False]


def test_one_block_cannot_be_resampled() -> None:
    (part,) = speech("auto", ["a b", "c d"], ["a c", "c d"]).parts
    assert part.resampled(np.zeros(2, np.intp)) == {}
    assert part.resampled(np.arange(2)).keys() == {"word_error_rate", "character_error_rate"}


@pytest.mark.parametrize(
    ("low", "high", "is_real"), [(-2, -1, True), (-1, 0, False), (-1, 1, False), (0, 1, False), (1, 2, True)]
)
def test_an_interval_with_0_is_no_real_difference(low: float, high: float, is_real: bool) -> None:
    assert metrics.Difference((low + high) / 2, low, high).is_real == is_real


def test_one_example_has_no_interval() -> None:
    found = speech("auto", ["a b"], ["a c"]).resampling("utterances", ["ann"])
    assert found.intervals == {}
    assert found.note == "no 95 % intervals: they need two utterances or more"


def test_equal_draws_have_no_interval() -> None:
    """A perfect score on a few examples claims no certainty."""
    found = speech("auto", ["a b", "c d"], ["a b", "c d"]).resampling("utterances")
    assert found.intervals == {}
    assert found.note.endswith("2 utterances; every draw has the same scores, so there are none")


def test_speakers_have_their_own_scores_worst_first() -> None:
    found = speech("auto", ["a b", "a b", "a b", "c"], ["a b", "a x", "x y", "c"])
    scores = found.by_speaker(["ann", "bob", "bob", None])
    assert {name: each["word_error_rate"] for name, each in scores.items()} == {"bob": 0.75, "(unknown)": 0, "ann": 0}
    assert next(iter(scores)) == "bob"
    assert (scores["bob"]["utterances"], scores["bob"]["words"]) == (2, 4)
    assert found.by_speaker([None] * 4) == {}


def test_the_worst_speaker_has_the_lowest_bleu() -> None:
    right, said = [["a b c d"], ["a b c d"]], ["a b c d", "a b c x"]
    assert list(texts("bleu", "13a", right, said, [None, None]).by_speaker(["ann", "bob"])) == ["bob", "ann"]


def test_differences_are_resampled_in_pairs() -> None:
    references, hypotheses = noisy(400, 0.2, seed=1)
    draw = np.random.default_rng(2)
    mended = [right if draw.random() < 0.1 else said for right, said in zip(references, hypotheses, strict=True)]
    one, other = (speech("auto", references, said) for said in (hypotheses, mended))
    found = one.difference(other)["word_error_rate"]
    assert found.value == other.overall()["word_error_rate"] - one.overall()["word_error_rate"] < 0
    assert found.is_real
    intervals = [each.resampling("utterances").intervals["word_error_rate"] for each in (one, other)]
    assert intervals[0][0] < intervals[1][1]  # they overlap: alone, they would not have told
    errors = np.array(
        [
            [a != b for a, b in zip(right.split(), said.split(), strict=True)]
            for right, said in [*zip(references, hypotheses, strict=True), *zip(references, mended, strict=True)]
        ]
    ).sum(axis=1)
    gains = errors[400:] - errors[:400]
    spread = gains.std() / gains.size**0.5 / 10  # words of a text
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_a_model_does_not_differ_from_itself() -> None:
    found = speech("auto", *noisy(50, 0.2, seed=1))
    assert set(found.difference(found).values()) == {(0.0, 0.0, 0.0)}


def test_speakers_are_resampled_in_pairs() -> None:
    good, bad = noisy(200, 0.02, seed=1), noisy(200, 0.6, seed=2)
    one, other = speech("auto", bad[0] + good[0], bad[1] + good[1]), speech("auto", bad[0] + good[0], bad[0] + good[1])
    alone, by_speaker = one.difference(other), one.difference(other, [f"{n // 100}" for n in range(400)])
    widths = [np.ptp(each["word_error_rate"][1:]) for each in (alone, by_speaker)]
    assert widths[1] > 3 * widths[0]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("word error rate", ("min", "share")),
        ("bleu_de", ("max", "points")),
        ("alone_word_error_rate", ("min", "share")),
        ("frame rate", (None, "")),
        ("losses", (None, "")),
    ],
)
def test_directions_and_units_are_by_metric_name(name: str, known: tuple[str | None, str]) -> None:
    found = metrics.describe(name)
    assert (found.direction, found.unit) == known
