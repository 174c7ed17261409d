"""Tests of the curves read values back from the drawing: points against the numbers that stand at its grid lines."""

import json
import math
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

import numpy as np
import pytest

from segue.cli import main
from segue.errors import UserError
from segue.metrics import describe
from segue.report import runs
from segue.report.chart import COLUMNS, HEIGHT, smoothed, thinned
from segue.report.logs import Series, read

RECIPE = 'task = "translation"\nmetric = "bleu"\n[engine]\nsteps = 400\n[optimizer]\nlearning_rate = 0.002\n'
Records = Sequence[dict[str, Any]]


class Reader(HTMLParser):
    """Builds a tree of what a browser sees."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = TreeBuilder()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tree.start(tag, {key: value or "" for key, value in attrs})
        if tag == "meta":
            self.tree.end(tag)

    def handle_endtag(self, tag: str) -> None:
        self.tree.end(tag)

    def handle_data(self, data: str) -> None:
        self.tree.data(data)


def run(path: Path, records: Records, recipe: str = RECIPE, end: str = "") -> Path:
    """A run directory with this log."""
    path.mkdir(parents=True)
    (path / "recipe.toml").write_text(recipe, encoding="utf-8")
    (path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records) + end, encoding="utf-8")
    return path


def record(step: int, loss: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": loss, "time": 1e9 + step, "rate": 1000.0, "unit": "tokens", **more}


def draw(*paths: Path) -> Element:
    target = paths[0].parent / "report.html"
    runs.write(paths, target)
    reader = Reader()
    reader.feed(target.read_text(encoding="utf-8").removeprefix("<!doctype html>\n"))
    return reader.tree.close()


def text(element: Element) -> str:
    return "".join(element.itertext())


def figures(page: Element) -> dict[str, Element]:
    """Charts by title."""
    return {text(next(each.iter("b"))): each for each in page.iter("figure")}


def titles(page: Element) -> list[str]:
    """Of all charts, those twice there twice."""
    return [text(next(each.iter("b"))) for each in page.iter("figure")]


def rows(page: Element, heading: str) -> list[list[str]]:
    """The table of a section."""
    section = next(each for each in page.iter("section") if text(each).startswith(heading))
    return [[text(cell) for cell in row] for row in section.iter("tr")]


def points(figure: Element, number: int = 0) -> list[tuple[float, float]]:
    """Steps and values of a chart's line, as a person reads them: off the grid."""
    line = list(figure.iter("polyline"))[number]
    places = [tuple(map(float, each.split(","))) for each in line.attrib["points"].split()]
    return [(step_at(figure, x / 10), value_at(figure, y)) for x, y in places]


def grid(figure: Element, axis: str) -> list[tuple[float, float]]:
    """Where the lines of a grid are, and the numbers at them."""
    anchor, place, other = ("middle", "x1", "x2") if axis == "x" else ("end", "y1", "y2")
    labels = [text(each) for each in figure.iter("text") if each.attrib["text-anchor"] == anchor]
    drawn = [each.attrib for each in figure.iter("line") if each.attrib.get("class") == "line"]  # legends have none
    lines = [each[place] for each in drawn if each.get(place) == each.get(other)]
    numbers = [float(each.replace(",", "")) for each in labels if each != "step"]
    return list(zip((float(each.rstrip("%")) for each in lines), numbers, strict=True))


def step_at(figure: Element, per_cent: float) -> float:
    (left, low), *_, (right, high) = grid(figure, "x")
    return low + (per_cent - left) * (high - low) / (right - left)


def value_at(figure: Element, y: float) -> float:
    (low_y, low), (high_y, high), *rest = grid(figure, "y")
    share = (y - low_y) / (high_y - low_y)
    is_linear = all(
        math.isclose(low + (at - low_y) / (high_y - low_y) * (high - low), value, rel_tol=0.02, abs_tol=1e-9)
        for at, value in rest
    )
    return low + share * (high - low) if is_linear else low * (high / low) ** share


# --- what is drawn ---


def test_values_land_where_the_grid_says(tmp_path: Path) -> None:
    losses = [4.0, 3.1, 2.7, 2.6, 1.9]
    page = draw(run(tmp_path / "a", [record(100 * at, loss) for at, loss in enumerate(losses, 1)]))
    found = points(figures(page)["training loss"])
    assert [step for step, _ in found] == pytest.approx([100, 200, 300, 400, 500], abs=0.5)
    assert [value for _, value in found] == pytest.approx(losses, abs=0.01)


def test_wide_ranges_have_a_logarithmic_axis(tmp_path: Path) -> None:
    losses = [20.0, 2.0, 0.3, 0.02, 0.001]
    page = draw(run(tmp_path / "a", [record(at, loss) for at, loss in enumerate(losses, 1)]))
    found = [value for _, value in points(figures(page)["training loss"])]
    assert found == pytest.approx(losses, rel=0.03)


def test_shares_are_in_percent_from_0(tmp_path: Path) -> None:
    waits = [0.02, 0.03, 0.025]
    page = draw(run(tmp_path / "a", [record(at, data_wait=wait) for at, wait in enumerate(waits, 1)]))
    figure = figures(page)["waiting for data"]
    assert [value for _, value in points(figure)] == pytest.approx([2, 3, 2.5], abs=0.02)
    assert grid(figure, "y")[0] == (HEIGHT, 0)


def test_a_huge_first_loss_is_cut_off_and_said(tmp_path: Path) -> None:
    losses = [1e6, *np.linspace(4, 2, 199).tolist()]
    figure = figures(draw(run(tmp_path / "a", [record(at, loss) for at, loss in enumerate(losses, 1)])))[
        "training loss"
    ]
    numbers = [value for _, value in grid(figure, "y")]
    assert 1 < min(numbers) < max(numbers) < 6
    assert "Cut off: 1 above, up to 1,000,000, of 200 values." in text(figure)
    kept = figures(draw(run(tmp_path / "b", [record(at, loss) for at, loss in enumerate(losses[1:], 1)])))
    assert "Cut off" not in text(kept["training loss"])


def test_nonfinite_numbers_leave_a_gap(tmp_path: Path) -> None:
    norms = [1.0, math.inf, math.nan, 1.2, 1.1]
    page = draw(run(tmp_path / "a", [record(10 * at, gradient_norm=norm) for at, norm in enumerate(norms, 1)]))
    assert [step for step, _ in points(figures(page)["gradient norm"])] == pytest.approx([10, 40, 50], abs=0.1)


@pytest.mark.parametrize(
    ("name", "values", "best"), [("bleu", [20.0, 34.5, 30.0], 1), ("loss", [3.0, 2.0, 2.0], 2), ("ter", [9.0, 7.0], 1)]
)
def test_the_best_evaluation_is_marked(tmp_path: Path, name: str, values: list[float], best: int) -> None:
    """Its step and value are said."""
    page = draw(run(tmp_path / "a", [record(100 * at, dev={name: value}) for at, value in enumerate(values, 1)]))
    figure = figures(page)[name]
    ring = next(each for each in figure.iter("svg") if "%" in each.attrib.get("x", ""))
    assert step_at(figure, float(ring.attrib["x"].rstrip("%"))) == pytest.approx(100 * (best + 1), abs=0.1)
    assert value_at(figure, float(ring.attrib["y"])) == pytest.approx(values[best], rel=0.01)
    assert f"at step {100 * (best + 1)}" in text(figure)


def test_train_and_dev_losses_share_a_chart(tmp_path: Path) -> None:
    title = "training and development loss"
    records = [record(10 * at, loss=4.0 - at, dev={"loss": 3.5 - at}, likelihood_loss=3.0 - at) for at in (1, 2)]
    figure = figures(draw(run(tmp_path / "a", records)))[title]
    training, development = figure.iter("polyline")
    assert [value for _, value in points(figure, 0)] == pytest.approx([2.0, 1.0], rel=0.02)
    assert [value for _, value in points(figure, 1)] == pytest.approx([2.5, 1.5], rel=0.02)
    assert training.attrib["class"] != development.attrib["class"]
    assert "training" in text(figure)
    assert title not in figures(draw(run(tmp_path / "b", [record(10), record(20)])))
    assert title in titles(draw(run(tmp_path / "c", records), run(tmp_path / "d", records)))


def test_a_score_of_unknown_direction_has_no_best(tmp_path: Path) -> None:
    assert describe("wombats").direction is None
    page = draw(run(tmp_path / "a", [record(1, dev={"wombats": 2.0}), record(2, dev={"wombats": 3.0})]))
    assert "best" not in text(figures(page)["wombats"])


def test_sizes_of_dev_data_are_no_scores(tmp_path: Path) -> None:
    """Counts of errors are."""
    scores = {"word_error_rate": 0.25, "insertions": 3, "words": 40}
    page = draw(run(tmp_path / "a", [record(1, dev=scores), record(2, dev=scores, averaged=scores)]))
    assert titles(page)[:2] == ["word error rate", "insertions"]
    assert "words" not in titles(page)
    assert "best 25.00% at step 2" in text(figures(page)["word error rate"])
    assert "averaged 3" in text(figures(page)["insertions"])


def test_skipped_steps_are_marked_and_counted(tmp_path: Path) -> None:
    skipped = {"step": 50, "time": 1e9, "loss_scale": 32768.0, "is_skipped": True}
    page = draw(run(tmp_path / "a", [record(20, loss_scale=65536.0), skipped, record(100, loss_scale=32768.0)]))
    for title in ("training loss", "loss scale"):
        figure = figures(page)[title]
        (mark,) = (each for each in figure.iter("svg") if "%" in each.attrib.get("x", ""))
        assert (mark.attrib["x"], float(mark.attrib["y"])) == ("50.00%", HEIGHT)
        assert "gradients were not finite" in text(figure)
    assert "skipped steps1" in text(page)


def test_unknown_metrics_are_drawn_too(tmp_path: Path) -> None:
    page = draw(run(tmp_path / "a", [record(1, likelihood_loss=0.5, memory_gb=3.0, utilization=0.4)]))
    assert titles(page) == ["training loss", "throughput", "likelihood loss", "peak memory", "model FLOP utilization"]


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-9, 1e9])
def test_one_point_and_equal_points_can_be_drawn(tmp_path: Path, value: float) -> None:
    numbers = dict.fromkeys(("gradient_norm", "learning_rate", "memory_gb", "loss_scale", "other"), value)
    for name, count in (("one", 1), ("two", 2)):
        page = draw(run(tmp_path / name, [record(at + 1, value, **numbers) for at in range(count)]))
        for figure in page.iter("figure"):
            places = [float(dot.attrib["cy"]) for dot in figure.iter("circle")]
            assert len(places) == count
            assert all(0 <= place <= HEIGHT for place in places)
            assert len(grid(figure, "y")) >= 2


# --- thinning ---


def test_thinning_keeps_extremes_and_ends() -> None:
    values = np.random.default_rng(0).normal(size=50_000)
    values[[12_345, 40_001]] = 1e3, -1e3
    series = Series(np.arange(1, 50_001, dtype=np.float64), values)
    kept = thinned(series, 50_000)
    assert len(kept.steps) <= 2 * (COLUMNS + 1) + 2
    assert (np.diff(kept.steps) > 0).all()
    assert (kept.steps[0], kept.steps[-1]) == (1, 50_000)
    assert kept.values.tolist() == values[kept.steps.astype(int) - 1].tolist()
    for first in range(0, 50_000, 50_000 // COLUMNS):  # of every column of pixels
        drawn, logged = (
            each.values[(each.steps >= first) & (each.steps < first + 50_000 // COLUMNS)] for each in (kept, series)
        )
        assert (drawn.min(), drawn.max()) == (logged.min(), logged.max())


def test_few_points_are_all_kept() -> None:
    series = Series(np.array([1.0, 2.0, 500.0]), np.array([1.0, 3.0, 2.0]))
    assert [each.tolist() for each in thinned(series, 500)] == [each.tolist() for each in series]


def test_smoothing_ignores_a_spike() -> None:
    steps = np.arange(1, 1001, dtype=np.float64)
    spiky = np.where(steps == 500, 1e9, steps)
    smooth = smoothed(Series(steps, spiky))
    assert smooth.values[0] == 1
    assert np.abs(smooth.values - smooth.steps).max() <= 1000 / 25
    assert np.abs(smooth.values - smooth.steps)[: COLUMNS // 2].max() <= 1


def test_a_long_log_adds_little_to_the_page(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in "abcd":
        names = ("gradient_norm", "learning_rate", "data_wait", "loss_scale", "memory_gb", "utilization")
        numbers = np.abs(generator.normal(size=(2000, 6))).tolist()
        run(tmp_path / name, [record(at + 1, **dict(zip(names, row, strict=True))) for at, row in enumerate(numbers)])
    draw(*(tmp_path / name for name in "abcd"))
    assert (tmp_path / "report.html").stat().st_size < 4 * 100_000


# --- several runs ---


def test_runs_are_drawn_over_each_other_on_one_axis(tmp_path: Path) -> None:
    first = run(tmp_path / "first", [record(100, 4.0), record(200, 3.0)])
    second = run(tmp_path / "second", [record(100, 2.0), record(400, 1.0)])
    figure = figures(draw(first, second))["training loss"]
    for number, wanted in enumerate(([(100, 4.0), (200, 3.0)], [(100, 2.0), (400, 1.0)])):
        assert points(figure, number) == [pytest.approx(pair, abs=0.5) for pair in wanted]
    styles = [each.attrib["class"] for each in figure.iter("polyline")]
    assert styles == ["color-0 dash-0", "color-1 dash-0"]


def test_runs_are_compared_in_a_table(tmp_path: Path) -> None:
    first = run(
        tmp_path / "first",
        [
            record(60, dev={"bleu": 20.0}, epoch=1.0),
            record(7260, dev={"bleu": 19.0}, averaged={"bleu": 21.0}, epoch=2.5),
        ],
    )
    second = run(tmp_path / "second", [record(100), record(200)])
    head, *found = rows(draw(first, second), "Runs")
    assert head == ["run", "best bleu", "averaged bleu", "steps", "epochs", "time", "mean rate"]
    assert found == [
        ["first", "20.00 at step 60", "21.00", "7,260 of 400", "2.5", "2 h 0 min", "1,000 tokens/s"],
        ["second", "", "", "200 of 400", "", "100 s", "1,000 tokens/s"],
    ]


def test_the_recipe_table_has_only_differences(tmp_path: Path) -> None:
    other = RECIPE.replace("0.002", "0.001") + "blocks = [{ width = 3 }, { width = 4 }]\n"
    page = draw(run(tmp_path / "a", [record(1)]), run(tmp_path / "b", [record(1)], other))
    assert rows(page, "Recipes") == [
        ["", "a", "b"],
        ["optimizer.learning_rate", "0.002", "0.001"],
        ["optimizer.blocks.0.width", "(none)", "3"],
        ["optimizer.blocks.1.width", "(none)", "4"],
    ]
    same = draw(tmp_path / "a", run(tmp_path / "c", [record(1)]))
    assert "All runs have the same recipe." in text(same)


def test_rates_of_different_units_share_no_axis(tmp_path: Path) -> None:
    speech = run(tmp_path / "speech", [record(1) | {"unit": "seconds"}])
    page = draw(run(tmp_path / "text", [record(1)]), speech)
    assert titles(page).count("throughput") == 2


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [run(tmp_path / name, [record(1)]) for name in ("old/x/run", "new/x/run", "new/x/other")]
    assert [each.label for each in read(paths)] == ["old/x/run", "new/x/run", "new/x/other"]
    assert [each.label for each in read(paths[1:])] == ["run", "other"]


def test_the_environment_is_shown_where_it_is_known(tmp_path: Path) -> None:
    path = run(tmp_path / "a", [record(1)])
    assert "Environment" not in text(draw(path))
    (path / "environment.json").write_text('{"host": "node17", "cuda": null, "packages": {"torch": "2.13.0"}}')
    (path / "git.diff").write_text("+ a change")
    assert rows(draw(path), "Environment")[1:] == [
        ["host", "node17"],
        ["packages.torch", "2.13.0"],
        ["not committed", str(path / "git.diff")],
    ]


# --- safety and bad input ---


def test_no_text_of_a_run_becomes_markup(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>&amp;"
    recipe = f'task = "{bad}"\n'
    logged = [record(1, dev={bad: 1.0}, **{f"{bad}!": 1.0}) | {"unit": bad}]
    path = run(tmp_path / "<b>&amp;", logged, recipe)
    (path / "environment.json").write_text(json.dumps({bad: bad}))
    for page in (draw(path), draw(path, run(tmp_path / "b", [record(1)]))):
        assert not list(page.iter("script"))
        assert bad in titles(page)
        assert "<b>&amp;" in text(page)
        assert {each.tag for each in page.iter()} & {"link", "img", "iframe"} == set()


@pytest.mark.parametrize("end", ['{"step": 3, "lo', '{"step": 3,\n'.strip(), "nonsense"])
def test_an_unfinished_line_is_left_out(tmp_path: Path, end: str) -> None:
    (found,) = read([run(tmp_path / "a", [record(1), record(2)], end=end)])
    assert [each["step"] for each in found.records] == [1, 2]


def test_a_whole_last_line_needs_no_line_end(tmp_path: Path) -> None:
    (found,) = read([run(tmp_path / "a", [record(1)], end=json.dumps(record(2)))])
    assert [each["step"] for each in found.records] == [1, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"step": 2, "lo', "metrics.jsonl:2: damaged"),
        ("[1, 2]", "metrics.jsonl:2: damaged"),
        ('{"loss": 2.0}', "metrics.jsonl:2: damaged"),
        ('{"step": 2, "dev": 3}', "metrics.jsonl:2: damaged"),
        ('{"step": 0}', "metrics.jsonl:2: damaged: step 0 after step 1"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = run(tmp_path / "a", [record(1)], end=f"{line}\n{json.dumps(record(3))}\n")
    with pytest.raises(UserError, match=message):
        read([path])


def test_other_folders_and_empty_runs_are_refused(tmp_path: Path) -> None:
    empty = run(tmp_path / "empty", [])
    model = run(tmp_path / "model", [])
    (model / "model.safetensors").touch()
    broken = run(tmp_path / "broken", [record(1)])
    (broken / "environment.json").write_text("{")
    for path, message in (
        (tmp_path / "none", "none: no such folder; a run directory is wanted"),
        (tmp_path, r"not a run directory \(it has no recipe\.toml\)"),
        (model, "model: a model, not a run directory, which has metrics.jsonl"),
        (empty, "nothing was logged yet"),
        (broken, "environment.json: not JSON"),
    ):
        with pytest.raises(UserError, match=message):
            read([path])
    (empty / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="nothing was logged yet"):
        read([empty])


def test_runs_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    path = run(tmp_path / "a", [record(1)])
    with pytest.raises(UserError, match="given twice"):
        read([path, tmp_path / "." / "a"])
    with pytest.raises(UserError, match="13 runs: more than 12"):
        runs.write([path] * 13, tmp_path / "report.html")


def test_the_command_prints_where_the_page_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        run(tmp_path / name, [record(1)])
    for words, path in (
        (["a"], Path("a/report.html")),
        (["a", "b"], Path("report.html")),
        (["a", "b", "--out", "new/page.html"], Path("new/page.html")),
    ):
        assert main(["report", *words]) == 0
        assert capsys.readouterr().out == f"{path}\n"
        assert path.is_file()
    assert main(["report", "c"]) == 2
    assert capsys.readouterr().err == "segue: c: no such folder; a run directory is wanted\n"
    assert main(["report", "a", "--out", "b"]) == 2
    assert capsys.readouterr().err == "segue: b: a folder; the page needs the name of a file\n"
