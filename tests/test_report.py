"""Tests of the report read it as a browser does: through a parser, never by cutting strings."""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue import report
from segue.evaluation import AttentionMap, Evaluation, Example, chosen
from segue.report import table
from segue.report.compare import WORD, signs, spaced

VOID = {"meta", "input", "br", "img", "link"}
MINUS = "\N{MINUS SIGN}"
SCRIPT = "<script>alert(1)</script>"


class Node(NamedTuple):
    """An element as a browser sees it."""

    tag: str
    attributes: dict[str, str]
    children: list["Node | str"]

    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)

    def all(self, tag: str = "", class_: str = "") -> list["Node"]:
        """Elements below, in order."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                if tag in ("", child.tag) and (not class_ or class_ in child.attributes.get("class", "").split()):
                    found.append(child)
                found += child.all(tag, class_)
        return found


class Reader(HTMLParser):
    """Builds the tree."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Node("", {}, [])
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {key: value or "" for key, value in attrs}, [])
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "report.html"


def evaluation(
    examples: Sequence[Example],
    direction: Literal["min", "max"] = "min",
    score_name: str = "word error rate",
    scores: dict[str, float | str] | None = None,
    attention: Sequence[AttentionMap] = (),
) -> Evaluation:
    facts = {"model": "runs/digits"}
    return Evaluation("A title", scores or {}, examples, score_name, direction, "seconds", facts, attention)


def read(shown: Evaluation, path: Path) -> Node:
    report.write(shown, path)
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == [reader.root]
    return reader.root


def examples(count: int) -> list[Example]:
    """Scores from bad to good and back, no two alike."""
    return [
        Example(f"example {number}", "one two", "one too", score=(number * 7 % count) / count, length=number / 4)
        for number in range(count)
    ]


def shown_ids(page: Node) -> list[str]:
    return [article.all("header")[0].all("span")[0].text() for article in page.all("article")]


def words(page: Node) -> list[tuple[str, str]]:
    """The first example's words: reference and hypothesis, with their signs."""
    cells = page.all("article")[0].all(class_="words")[0].children
    pairs = []
    for cell in cells:
        assert isinstance(cell, Node)
        above, below = (child for child in cell.children if isinstance(child, Node))
        pairs.append((above.text(), below.text()))
    return pairs


def differences(path: Path, reference: str, hypothesis: str, *alternatives: str) -> list[tuple[str, str]]:
    return words(read(evaluation([Example("a", reference, hypothesis, 0.5, alternatives=alternatives)]), path))


def test_no_text_becomes_markup(path: Path) -> None:
    text = f"{SCRIPT}\"'&amp;"
    scored = [
        Example(text, text, text, 1.0, source=text, length=1.0, extra=text),
        Example("b", f"a {text}", "b b", 1.0, length=2.0),
    ]
    attention = AttentionMap(text, [text], [text], np.ones((1, 1), np.float32))
    page = read(Evaluation(text, {text: text}, scored, text, "min", text, {text: text}, [attention]), path)
    rows, script = page.all("script")
    assert script.text() == table.SCRIPT
    assert [row[-5:-1] for row in json.loads(rows.text())["rows"]] == [
        [text, text, text, text],
        ["b", None, f"a {text}", "b b"],
    ]
    (article,) = (each for each in page.all("article") if each.all("p"))
    assert article.text().count(text) == 6  # id, length's name, note, source, reference, hypothesis
    for place in ("title", "h1", "h3", "dt", "dd", "td"):
        assert text in [node.text() for node in page.all(place)], place
    assert [svg.attributes["aria-label"] for svg in page.all("svg")] == [
        f"Mean {text} by {text}",
        f"Attention of {text}",
    ]


def test_every_score_and_fact_is_shown_in_order(path: Path) -> None:
    scores: dict[str, float | str] = {
        "word_error_rate": 0.0873,
        "loss": 0.28341,
        "signature": "nrefs:1|tok:13a",
        "words": 15321,
        "bleu": 27.3123,
    }
    page = read(evaluation([], scores=scores), path)
    scores_list = page.all(class_="scores")[0]
    assert [name.text() for name in scores_list.all("dt")] == ["word error rate", "loss", "signature", "words", "bleu"]
    assert [value.text() for value in scores_list.all("dd")] == [
        "8.73%",
        "0.2834",
        "nrefs:1|tok:13a",
        "15,321",
        "27.31",
    ]
    assert page.all(class_="facts")[0].text() == "model: runs/digits"


def test_the_page_is_self_contained(path: Path) -> None:
    """It loads nothing, and no script but its own may run."""
    spoken = [each._replace(audio=b"RIFF....", source="see https://example.org") for each in examples(60)]
    attention = AttentionMap("a", ["x"], ["y"], np.ones((1, 1), np.float32))
    page = read(evaluation(spoken, attention=[attention]), path)
    for node in page.all():
        assert node.tag not in {"link", "iframe", "object", "embed", "img"}
        for name, value in node.attributes.items():
            assert not name.startswith("on")
            assert name not in {"src", "href"} or value.startswith(("data:", "#"))
    style = page.all("style")[0].text()
    assert "url(" not in style
    assert "@import" not in style
    policy = next(node for node in page.all("meta") if "http-equiv" in node.attributes)
    digest = b64encode(sha256(page.all("script")[-1].text().encode()).digest()).decode()
    assert policy.attributes["content"].startswith("default-src 'none';")
    assert policy.attributes["content"].endswith(f"script-src 'sha256-{digest}'")
    assert [node.attributes for node in page.all("script")] == [{"type": "application/json"}, {}]


def test_links_lead_to_sections(path: Path) -> None:
    page = read(evaluation(examples(60)), path)
    targets = {f"#{section.attributes['id']}" for section in page.all("section")}
    assert {link.attributes["href"] for link in page.all("a")} == targets


@pytest.mark.parametrize("direction", ["min", "max"])
def test_worst_examples_come_first(direction: Literal["min", "max"]) -> None:
    """Then the middle, then the best."""
    scored = examples(201)
    indices = chosen(scored, direction)
    ordered = sorted((example.score for example in scored), reverse=direction == "min")
    assert [scored[index].score for index in indices[:20]] == ordered[:20]
    assert {scored[index].score for index in indices[20:30]} == set(ordered[95:105])
    assert [scored[index].score for index in indices[30:]] == ordered[::-1][:5]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 12, 34, 35, 36, 1000])
def test_the_chosen_examples_are_shown(count: int, path: Path) -> None:
    scored = examples(count)
    indices = chosen(scored, "min")
    assert len(set(indices)) == len(indices) == min(count, 35)
    assert shown_ids(read(evaluation(scored), path)) == [f"example {index}" for index in indices]


def test_right_outputs_are_not_among_the_worst(path: Path) -> None:
    right = Example("right", "one two", "one  two", 0.0, length=1.0)
    scored = [right] * 30 + [Example("wrong", "one two", "one", 0.5, length=2.0)] + [right] * 30
    page = read(evaluation(scored), path)
    headings = [heading.text() for heading in page.all("h2")]
    assert "The 1 worst of 61" in headings
    assert shown_ids(page).count("wrong") == 1
    assert shown_ids(page)[0] == "wrong"
    assert chosen([right], "min") == [0]


def test_word_errors_are_marked_by_kind(path: Path) -> None:
    """Left out, added or taken for others: each kind has a sign and a class."""
    page = read(evaluation([Example("a", "the cat sat on big mats", "the dog sat big mats today", 0.5)]), path)
    assert words(page) == [
        ("the", "the"),
        ("cat", "~dog"),
        ("sat", "sat"),
        (f"{MINUS}on", ""),
        ("big", "big"),
        ("mats", "mats"),
        ("", "+today"),
    ]
    article = page.all("article")[0]
    assert [node.text() for node in article.all(class_="left-out")] == [f"{MINUS}on"]
    assert [node.text() for node in article.all(class_="added")] == ["+today"]
    assert [node.text() for node in article.all(class_="other")] == ["cat", "~dog"]


def test_no_words_are_shown_as_an_empty_set(path: Path) -> None:
    assert differences(path, "one two", "") == [(f"{MINUS}one", "∅"), (f"{MINUS}two", "")]
    assert differences(path, "", "one two") == [("∅", "+one"), ("", "+two")]
    assert differences(path, "", "  ") == [("∅", "∅")]


def test_the_nearest_reference_is_compared(path: Path) -> None:
    near = "a dog runs there"
    assert differences(path, "it is a cat", "a dog runs here", "nothing", near)[-1] == ("there", "~here")
    assert differences(path, near, "a dog runs here", "it is a cat")[-1] == ("there", "~here")
    assert differences(path, "a b", "a c", "a d") == [("a", "a"), ("b", "~c")]  # the first of equals


def test_chinese_and_japanese_are_by_character(path: Path) -> None:
    assert differences(path, "両方 abc。", "両者 abc。") == [("両", "両"), ("方", "~者"), ("abc", "abc"), ("。", "。")]


def test_only_sounds_that_are_shown_are_embedded(path: Path) -> None:
    scored = examples(100)
    first, second = chosen(scored, "min")[:2]
    hidden = next(iter(set(range(100)) - set(chosen(scored, "min"))))
    for index, sound in ((first, b"RIFFone"), (second, b"fLaCtwo"), (hidden, b"RIFFhidden")):
        scored[index] = scored[index]._replace(audio=sound)
    sounds = [node.attributes["src"] for node in read(evaluation(scored), path).all("audio")]
    assert [source.partition(",")[0] for source in sounds] == ["data:audio/wav;base64", "data:audio/flac;base64"]
    assert [b64decode(source.partition(",")[2]) for source in sounds] == [b"RIFFone", b"fLaCtwo"]


def test_attention_is_the_mean_over_heads(path: Path) -> None:
    """Under the names of its tokens."""
    weights = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.0, 1.0]]], np.float32)
    page = read(evaluation([], attention=[AttentionMap("first", ["Ein", "Hund"], ["a", "dog"], weights)]), path)
    svg = page.all("svg")[0]
    assert [label.text() for label in svg.all("text")] == ["Ein", "Hund", "a", "dog"]
    assert [cell.text() for cell in svg.all("title")] == [
        "Ein ← a: 0.50",
        "Ein ← dog: 0.50",
        "Hund ← a: 0.25",
        "Hund ← dog: 0.75",
    ]
    cells = [cell.attributes for cell in svg.all("g")[0].all("rect")]
    assert [(cell["x"], cell["y"], cell["fill-opacity"]) for cell in cells[2:]] == [
        ("0", "1", "0.33"),
        ("1", "1", "1.00"),
    ]


def test_at_most_five_maps_are_drawn(path: Path) -> None:
    """What is cut off of them is said."""
    long = AttentionMap("long", ["t"] * 70, ["s"] * 90, np.eye(70, 90, dtype=np.float32))
    page = read(evaluation([], attention=[long] * 6), path)
    assert len(page.all("svg")) == 5
    assert len(page.all("svg")[0].all("text")) == 2 * 64
    assert "the first 64 of 70 and 90" in page.all("figure")[0].text()


def test_lengths_are_grouped_by_quantiles(path: Path) -> None:
    """With counts and means."""
    scored = [Example(str(n), "a", "b", score=float(n >= 20), length=float(n)) for n in range(40)]
    chart = read(evaluation(scored), path).all("svg")[0]
    texts = [node.text() for node in chart.all("text")]
    assert texts[:3] == ["seconds", "mean word error rate", "examples"]
    groups = [f"{start}\N{EN DASH}{start + 4}" for start in range(0, 40, 5)]
    bars = [each for group in groups[:4] for each in (group, "0.0%", "5")]
    bars += [each for group in groups[4:] for each in (group, "100.0%", "5")]
    assert texts[-24:] == bars
    widths = {node.attributes["width"] for node in chart.all("rect")}
    assert widths == {"0.00%", "52.00%"}


def test_equal_lengths_are_one_group(path: Path) -> None:
    """One length alone is no chart."""
    scored = [Example(str(n), "a", "b", score=20.0, length=float(n % 3)) for n in range(40)]
    chart = read(evaluation(scored, "max", "chrF"), path).all("svg")[0]
    bars = [node.text() for node in chart.all("text")][-9:]
    assert bars == ["0", "20.0", "14", "1", "20.0", "13", "2", "20.0", "13"]
    same = [each._replace(length=3.0) for each in scored]
    assert read(evaluation(same, "max", "chrF"), path).all("svg") == []


def test_confusions_are_counted_over_all_examples(path: Path) -> None:
    scored = [Example(str(n), "two cats", "too cats", 0.5) for n in range(50)] + [Example("x", "a b", "a c", 0.5)]
    rows = read(evaluation(scored), path).all("table")[0].all("tr")
    assert [[cell.text() for cell in row.all("td")] for row in rows[1:]] == [["two", "too", "50"], ["b", "c", "1"]]
    page = read(evaluation([Example("a", "one two", "one", 0.5)]), path)
    assert "Confusions" not in [heading.text() for heading in page.all("h2")]


def test_the_table_has_all_examples(path: Path) -> None:
    """With the signs of their words."""
    scored = [each._replace(details={"speaker": f"speaker {n % 3}"}) for n, each in enumerate(examples(200))]
    scored.append(Example("last", "两方 abc。\u0e01\u0e34\u0e19", "两者 abc x", 0.25, length=1.0, alternatives=("c",)))
    page = read(evaluation(scored), path)
    assert "All 201 examples" in [heading.text() for heading in page.all("h2")]
    data = json.loads(page.all("script")[0].text())
    assert [column["name"] for column in data["columns"]] == ["word error rate", "seconds", "speaker", "id"]
    assert [row[3] for row in data["rows"]] == [each.id for each in scored]
    assert data["rows"][1] == [scored[1].score, 0.25, "speaker 1", "example 1", None, "one two", "one too", "=~"]
    assert data["rows"][-1] == [
        0.25,
        1.0,
        "",
        "last",
        None,
        "两\n方 abc\n。\n\u0e01\u0e34\n\u0e19",
        "两\n者 abc x",
        "=~=~--",
    ]
    assert data["order"] == "descending"


@given(st.text(alphabet="ab 一の\u0e01\u0e34。\n\u3000é"))
def test_the_tables_words_are_the_compared_ones(text: str) -> None:
    assert re.findall(r"[^ \n]+", spaced(text)) == WORD.findall(text)  # what the page's script does
    assert "".join(spaced(text).split()) == "".join(text.split())
    assert signs([(word, word) for word in WORD.findall(text)]) == "=" * len(WORD.findall(text))


def test_groups_and_intervals_are_shown(path: Path) -> None:
    speakers = {
        f"speaker {n}": {"utterances": 1, "word_error_rate": n / 8, "insertions": 3, "words": 2000} for n in (5, 2)
    }
    intervals = {"word_error_rate": (0.05, 0.15)}
    scored = evaluation(examples(3), scores={"word_error_rate": 0.1, "words": 9})._replace(
        groups={"speakers": speakers}, intervals=intervals, interval_note="drawn by speakers"
    )
    page = read(scored, path)
    first, *rows = (
        each.all("tr") for each in page.all(class_="groups")[0].all("thead") + page.all(class_="groups")[0].all("tbody")
    )
    assert [cell.text() for cell in first[0].all("th")] == ["speaker", "utterances", "word error rate", "words"]
    assert [[cell.text() for cell in row.all("td")] for row in rows[0]] == [
        ["speaker 5", "1", "62.50%", "2,000"],
        ["speaker 2", "1", "25.00%", "2,000"],
    ]
    assert [node.text() for node in page.all("dl", "scores")[0].all("dd")] == ["10.00%", "5.00%\N{EN DASH}15.00%", "9"]
    assert "drawn by speakers." in [node.text() for node in page.all("p")]


def test_texts_of_any_script_keep_their_direction(path: Path) -> None:
    hebrew = Example("a", "שני ילדים", "שני נערים", 0.5, source="Zwei größere 👧🏽")
    page = read(evaluation([hebrew]), path)
    article = page.all("article")[0]
    assert words(page) == [("שני", "שני"), ("ילדים", "~נערים")]
    assert article.all("p")[0].text() == "Zwei größere 👧🏽"
    assert {node.attributes["dir"] for node in (*article.all("p"), *article.all(class_="words"))} == {"auto"}


def test_half_a_surrogate_pair_breaks_nothing(path: Path) -> None:
    report.write(evaluation([Example("a", "one \ud83d", "one", 0.5)]), path)
    assert "one" in path.read_text(encoding="utf-8")


def test_a_thousand_examples_stay_under_4_mb(path: Path) -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(f"word{number}" for number in draw.integers(0, 500, size=60)) for _ in range(1000)]
    scored = [Example(str(n), text, texts[n - 1], 0.5, source=text, length=n) for n, text in enumerate(texts)]
    weights = draw.dirichlet(np.full(60, 0.2), size=(8, 60)).astype(np.float32)
    tokens = [f"token{number}" for number in range(60)]
    report.write(evaluation(scored, attention=[AttentionMap("a", tokens, tokens, weights)] * 5), path)
    assert path.stat().st_size < 4_000_000


def test_a_failed_write_leaves_the_old_report(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report.write(evaluation(examples(3)), path)
    before = path.read_bytes()

    def full(self: Path, mode: str) -> None:
        open(self, mode).close()  # cut off, as a full disk does
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(OSError, match="no space left"):
            report.write(evaluation(examples(5)), path)
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]
    assert path.read_bytes() == before
