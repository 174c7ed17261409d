"""Does a search with knowledge find what it should, per request, with and without settings beside the model?"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segue.data.audio import Samples
from segue.data.text import TextSection
from segue.decoding.ctc import greedy
from segue.decoding.ngram import NGram
from segue.decoding.prefix_beam import Candidate
from segue.decoding.word_knowledge import WordKnowledge
from segue.errors import UserError
from segue.runtime import speech_search
from segue.runtime.recognizer import Recognized, Recognizer, SpeechMetadata
from segue.runtime.speech_search import Rescoring, SpeechSearch, SpeechSearchSection

LETTERS = "abcdefghijklmnopqrstuvwxyz '"
PIECES = [letter.encode() for letter in LETTERS]
BLANK = len(LETTERS)
WORDS = {"the": 0.3, "cat": 0.2, "cut": 0.05, "sat": 0.2, "mat": 0.05}
Scores = NDArray[np.float32]


def arpa(path: Path, words: dict[str, float] = WORDS, bigrams: dict[str, float] | None = None) -> Path:
    """A model with these probabilities."""
    one = [f"{np.log10(value):.6f}\t{word}\t0" for word, value in {"<s>": 1e-9, "</s>": 0.1, **words}.items()]
    two = [f"{np.log10(value):.6f}\t{pair}" for pair, value in (bigrams or {}).items()]
    counts = f"ngram 1={len(one)}\n" + (f"ngram 2={len(two)}\n" if two else "")
    sections = "\\1-grams:\n" + "\n".join(one) + ("\n\n\\2-grams:\n" + "\n".join(two) if two else "")
    path.write_text(f"\\data\\\n{counts}\n{sections}\n\n\\end\\\n")
    return path


def spoken(text: str, doubts: dict[int, tuple[str, float]] | None = None) -> Scores:
    """Scores of a text, with another letter at some places: its share of the probability."""
    found = np.full((2 * len(text) + 1, BLANK + 1), 1e-6)
    found[::2, BLANK] = 1
    for place, letter in enumerate(text):
        other, share = (doubts or {}).get(place, (letter, 0.0))
        found[2 * place + 1, LETTERS.index(other)] += share
        found[2 * place + 1, LETTERS.index(letter)] += 1 - share
    scores: Scores = np.log(found / found.sum(axis=1, keepdims=True)).astype(np.float32)
    return scores


def searching(**settings: object) -> SpeechSearch:
    return SpeechSearch(SpeechSearchSection.model_validate(settings), PIECES, TextSection())


def best(search: SpeechSearch, scores: Scores) -> str:
    return "".join(LETTERS[each.token] for each in search.emissions(scores))


def test_language_model_decides_in_doubt(tmp_path: Path) -> None:
    scores = spoken("the cot sat", {5: ("a", 0.45)})
    assert best(searching(kind="greedy"), scores) == "the cot sat"
    assert best(searching(), scores) == "the cot sat"
    known = searching().with_language_model(arpa(tmp_path / "words.arpa"))
    assert best(known, scores) == "the cat sat"


def test_language_model_is_heard_by_its_weight(tmp_path: Path) -> None:
    path = arpa(tmp_path / "words.arpa", bigrams={"the cat": 0.001, "the cut": 0.9})
    scores = spoken("the cat sat", {5: ("u", 0.3)})
    assert best(searching(weight=0.0).with_language_model(path), scores) == "the cat sat"
    assert best(searching(weight=1.0).with_language_model(path), scores) == "the cut sat"


def test_clear_unknown_words_remain(tmp_path: Path) -> None:
    known = searching().with_language_model(arpa(tmp_path / "words.arpa"))
    assert best(known, spoken("the zebra sat")) == "the zebra sat"


def test_score_is_that_of_the_whole_text(tmp_path: Path) -> None:
    path = arpa(tmp_path / "words.arpa", bigrams={"the cat": 0.4, "<s> the": 0.5})
    search = searching(weight=0.7, word_bonus=1.25, unknown_word_score=-6.0).with_language_model(path)
    search = search.with_phrases(["sat on"])
    model = NGram(path)
    found = search.candidates(spoken("the cat sax on", {10: ("t", 0.4), 4: ("x", 0.2)}))
    assert len(found) == 16
    for each in found:
        text = search.text_of(each)
        known = [word for word in text.split() if word in WORDS]
        num_words = len(text.split())
        # The model's own score counts unknown words as 0; they interrupt the context there, too.
        of_words = 0.7 * model.log_probabilities([text], unknown=0.0)[0] - 6.0 * (num_words - len(known))
        of_phrase = (0.25 + 0.5 + 0.75 + 1 + 1 + 1) * ("sat on" in text)
        expected = each.log_probability + of_words + 1.25 * num_words + of_phrase
        assert each.score == pytest.approx(expected, abs=1e-5)


def test_words_of_pieces_are_the_same_words(tmp_path: Path) -> None:
    model = NGram(arpa(tmp_path / "words.arpa"))
    pieces = [b" the", b" c", b"at", b" ", b"the", b"c", b"a", b"t"]
    knowledge = WordKnowledge(model, pieces, weight=1.0, word_bonus=0.5, unknown_score=-9.0)
    for tokens in ([0, 1, 2], [4, 1, 6, 7], [3, 4, 3, 5, 2, 3]):
        state, total = knowledge.start, 0.0
        for token in tokens:
            state, gain = knowledge.extend(state, token)
            total += gain
        assert total + knowledge.finish(state) == pytest.approx(log(0.3) + log(0.2) + log(0.1) + 1.0, abs=1e-5)


def test_beginnings_count_as_the_likeliest_word(tmp_path: Path) -> None:
    """After the words before them, by brute force."""
    model = NGram(arpa(tmp_path / "words.arpa", bigrams={"the cat": 0.5, "cat sat": 0.4, "<s> the": 0.6}))
    pieces = [bytes([letter]) for letter in b" abcdefghijklmnopqrstuvwxyz"]
    knowledge = WordKnowledge(model, pieces, weight=1.0, word_bonus=0.5, unknown_score=-9.0)
    for before in ("", "the ", "cat ", "the cat ", "dog the "):
        for beginning in ("t", "c", "ca", "s", "sa", "o", "x"):
            state = knowledge.start
            for letter in before:
                state, _ = knowledge.extend(state, pieces.index(letter.encode()))
            context, total = state[0], 0.0
            for letter in beginning:
                state, gain = knowledge.extend(state, pieces.index(letter.encode()))
                total += gain
            found = [model.score(context, word)[0] for word in model.words if word.startswith(beginning)]
            likeliest = max([-9.0, *(each for each in found if each is not None)])
            assert total == pytest.approx(0.5 + likeliest), (before, beginning)


def test_no_token_gains_more_than_its_bound(tmp_path: Path) -> None:
    """Nor where nearly all words were seen after a context, so that its back-off weight is above 0."""
    path = tmp_path / "backoff.arpa"
    path.write_text(
        "\\data\\\nngram 1=4\nngram 2=1\n\n\\1-grams:\n-99 <s> 1\n-1.3 </s>\n-0.05 a 0\n-1.3 b 0\n\n"
        "\\2-grams:\n-1.3 <s> a\n\n\\end\\\n"
    )
    knowledge = WordKnowledge(NGram(path), [b" ", b"a", b"b"], weight=1.0, word_bonus=0.5, unknown_score=-9.0)
    gains = [knowledge.extend(knowledge.start, token)[1] for token in (1, 2)]
    assert all(gain <= most for gain, most in zip(gains, knowledge.most[1:], strict=True))


def test_phrases_are_preferred_but_not_elsewhere() -> None:
    scores = spoken("ask lotty or lotta", {7: ("i", 0.05), 8: ("e", 0.04)})
    search = searching().with_phrases(["Lottie"])
    assert best(searching(), scores) == "ask lotty or lotta"
    assert best(search, spoken("the cat sat")) == "the cat sat"
    assert best(search, spoken("ask lotti", {8: ("e", 0.1)})) == "ask lotti"
    assert best(search, spoken("ask lottye", {8: ("i", 0.1)})) == "ask lottie"


def test_phrases_change_no_confidence() -> None:
    scores = spoken("ask lottye", {8: ("i", 0.1)})
    found = searching().with_phrases(["Lottie"]).emissions(scores)
    plain = greedy(scores, BLANK)
    # The letter that only the phrase chose has a ninth of the probability of the likeliest one.
    expected = [each.confidence / (9 if number == 8 else 1) for number, each in enumerate(plain)]
    assert [each.confidence for each in found] == pytest.approx(expected, rel=1e-4)
    assert [(each.start, each.end) for each in found] == [(2 * n + 1, 2 * n + 2) for n in range(10)]


def test_certain_scores_give_what_greedy_gives() -> None:
    scores = spoken("the cat sat")
    assert searching().emissions(scores) == greedy(scores, BLANK)


def test_rescoring_orders_the_texts(tmp_path: Path) -> None:
    class Backwards:
        def log_probabilities(self, texts: Sequence[str]) -> list[float]:
            return [-1.0 if "cut" in text else -9.0 for text in texts]

    scores = spoken("the cat sat", {5: ("u", 0.3)})
    search = replace(searching(), rescoring=Rescoring(Backwards(), weight=1.0, word_bonus=0.25))
    found = search.candidates(scores)
    plain = {each.tokens: each.score for each in searching().candidates(scores)}
    assert best(search, scores) == "the cut sat"
    assert found[0].score == pytest.approx(plain[found[0].tokens] - 1.0 + 0.75)
    ngram = Rescoring(NGram(arpa(tmp_path / "words.arpa")), weight=1.0)
    assert best(replace(searching(), rescoring=ngram), scores) == "the cat sat"
    assert ngram([Candidate((0,), -1.0, -1.0)], ["the"])[0].score == pytest.approx(-1 + log(0.3) + log(0.1), abs=1e-5)


class FakeBackend:
    """Hears the same in every sound, and counts the batches."""

    def __init__(self, scores: Scores) -> None:
        self.scores, self.num_batches = scores, 0

    def recognize(self, waveforms: Sequence[Samples]) -> list[Recognized]:
        self.num_batches += 1
        return [Recognized(greedy(self.scores, BLANK), self.scores) for _ in waveforms]


def recognizer(scores: Scores, search: SpeechSearch | None = None) -> Recognizer:
    metadata = SpeechMetadata(
        sample_rate_hz=8000,
        feature_dim=1,
        tokens=tuple(LETTERS),
        samples_per_frame=160,
        text=TextSection(),
        parameters=1,
    )
    return Recognizer(metadata, FakeBackend(scores), search)


def test_requests_have_their_own_phrases() -> None:
    model = recognizer(spoken("ask lottye", {8: ("i", 0.1)}))
    sound = np.ones(8000, np.float32)
    with ThreadPoolExecutor(4) as pool:
        asked: list[list[str]] = [[], ["lottie"], ["other"], ["Lottie", "ask"]] * 5
        texts = list(pool.map(lambda phrases: model.transcribe(sound, 8000, phrases=phrases).text, asked))
    assert texts == ["ask lottye", "ask lottie", "ask lottye", "ask lottie"] * 5
    with pytest.raises(UserError, match="phrase 2: 'Škoda': the model has no 'š'"):
        model.transcribe(sound, 8000, phrases=["a", "Škoda"])


def test_settings_lie_beside_the_model(tmp_path: Path) -> None:
    model, exported = tmp_path / "model", tmp_path / "exported"
    model.mkdir()
    exported.mkdir()
    assert speech_search.load(model, PIECES, TextSection()).is_greedy
    saved = searching(beams=7, weight=0.9, word_bonus=0.0).with_language_model(arpa(tmp_path / "words.arpa"))
    saved.save(model)
    saved.save(model)
    speech_search.copy(model, exported)
    found = speech_search.load(exported, PIECES, TextSection())
    assert (found.section.beams, found.section.weight) == (7, 0.9)
    assert found.words is not None
    scores = spoken("the cot sat", {5: ("a", 0.45)})
    assert best(found, scores) == best(saved, scores) == "the cat sat"
    assert recognizer(scores, found).transcribe(np.ones(8000, np.float32), 8000).text == "the cat sat"


def test_a_language_model_of_any_name_is_copied(tmp_path: Path) -> None:
    model, exported = tmp_path / "model", tmp_path / "exported"
    model.mkdir()
    exported.mkdir()
    (model / speech_search.NAME).write_text('{"language_model": "own.arpa"}')
    with pytest.raises(UserError, match=r"search\.json: language_model: there is no file 'own\.arpa' beside it"):
        speech_search.copy(model, exported)
    arpa(model / "own.arpa")
    arpa(model / speech_search.LANGUAGE_MODEL)  # of an earlier search
    speech_search.copy(model, exported)
    assert sorted(path.name for path in exported.iterdir()) == ["own.arpa", "search.json"]
    assert speech_search.load(exported, PIECES, TextSection()).words is not None


def test_a_search_without_its_language_model_is_saved_without(tmp_path: Path) -> None:
    searching().with_language_model(arpa(tmp_path / "words.arpa")).save(tmp_path)
    before = speech_search.load(tmp_path, PIECES, TextSection())
    before.without_language_model().save(tmp_path)
    assert speech_search.load(tmp_path, PIECES, TextSection()).words is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"beams": 0}', "beams: Input should be greater than 0"),
        ('{"beam": 3}', "beam: Extra inputs"),
        ("{", "Invalid JSON"),
        ('{"language_model": "../x.arpa"}', "the name of a file in the same directory"),
        ('{"language_model": "x.arpa"}', "No such file"),
    ],
)
def test_strange_settings_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "search.json").write_text(content)
    with pytest.raises(UserError, match=message):
        speech_search.load(tmp_path, PIECES, TextSection())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"AH0": 0.4, "N0": 0.3, "a": 0.1}, "of other tokens: the speech model can spell 1 of its 3"),
        (
            {"\u2581the": 0.4, "\u2581c": 0.3, "at": 0.1},
            "of other tokens, pieces of words such as '\u2581the', '\u2581c'; one",
        ),
        ({"ca@@": 0.4, "t": 0.3}, "pieces of words such as 'ca@@'"),
        ({"a": 0.4, "b": 0.3}, "single letters"),
        ({}, "without words"),
    ],
)
def test_other_language_models_are_refused(tmp_path: Path, words: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        searching().with_language_model(arpa(tmp_path / "words.arpa", words))


def test_upper_case_models_serve_lower_case(tmp_path: Path) -> None:
    path = arpa(tmp_path / "words.arpa", {word.upper(): value for word, value in WORDS.items()})
    assert best(searching().with_language_model(path), spoken("the cot sat", {5: ("a", 0.45)})) == "the cat sat"


def test_saved_settings_are_plain_json(tmp_path: Path) -> None:
    searching(beams=4).save(tmp_path)
    values = json.loads((tmp_path / "search.json").read_text())
    assert values["kind"] == "beam"
    assert values["beams"] == 4
    assert "language_model" not in values
