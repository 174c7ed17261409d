"""What the data decide where a recipe says "auto": once, exactly, and for good."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import segue
from segue import recipe, tasks
from segue.cli import main
from segue.data import automatic, manifests
from segue.data import tokenizer as tokenizers
from segue.data.examples import Pair, Utterance
from segue.data.manifest import ManifestsSection
from segue.data.tokenizer import BPESection, CharactersSection
from segue.engine.settings import EngineSection
from segue.engine.state.checkpoint import saved
from segue.errors import UserError

ALL_OPEN = (
    *("data.dev=auto", "tokenizer.alphabet=auto", "model.width_multiplier=auto", "engine.steps=auto"),
    *("engine.evaluate_every=auto", "engine.save_every=auto", "engine.average_count=0"),
)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of steps instead of a thousand."""
    monkeypatch.setattr(automatic, "FEWEST_STEPS", 6)
    monkeypatch.setattr(automatic, "MOST_EPOCHS", 0.01)
    monkeypatch.setattr(automatic, "NUM_EVALUATIONS", 3)


def kept(run: Path) -> Any:
    draft = recipe.read(run / "recipe.toml")
    return recipe.validate(draft, tasks.module_of(draft).Recipe)


@pytest.mark.parametrize(
    ("hours", "epochs", "multiplier"), [(1 / 60, 100, 1), (1, 100, 1), (10, 46, 2), (100, 22, 4), (960, 10, 4)]
)
def test_more_speech_gives_fewer_epochs_more_width(hours: float, epochs: int, multiplier: int) -> None:
    assert round(automatic.epochs(hours, 1)) == epochs
    assert automatic.width_multiplier(hours, 5) == multiplier


@pytest.mark.parametrize(("pairs", "epochs", "merges"), [(1000, 100, 2466), (29_000, 33, 7575), (5_000_000, 6, 32_000)])
def test_more_pairs_give_fewer_epochs_more_merges(pairs: int, epochs: int, merges: int) -> None:
    assert round(automatic.epochs(pairs, 1000)) == epochs
    assert automatic.num_merges(120 * pairs) == pytest.approx(merges, rel=0.001)


def test_few_recordings_get_1000_steps() -> None:
    """They get twenty evaluations."""
    assert automatic.num_steps(100, 5) == 1000
    assert automatic.num_steps(100, 50.5) == 5050
    assert [automatic.evaluate_every(steps) for steps in (1, 1000, 5050)] == [1, 50, 253]
    assert [automatic.save_every(steps) for steps in (1000, 100_000)] == [50, 1000]


def test_auto_alphabet_is_the_texts_characters() -> None:
    """It has the space too."""
    section = CharactersSection(kind="characters", alphabet="auto")
    assert tokenizers.resolved(section, ["bé", "a"]).alphabet == " abé"
    assert tokenizers.resolved(section, ["auto"]).alphabet == " aotu"  # never the word itself
    assert tokenizers.resolved(section, []).alphabet == " "
    own = CharactersSection(kind="characters", alphabet="xyz")
    assert tokenizers.resolved(own, ["abc"]) is own


@pytest.mark.parametrize("text", ["日本語の文章", "a man rides a bicycle", "x"])
def test_auto_size_holds_every_character(text: str) -> None:
    texts = [text, "".join(map(chr, range(0x4E00, 0x5200)))]
    section = tokenizers.resolved(BPESection(kind="bpe", size="auto"), texts, num_special=4)
    built = tokenizers.build(section, texts, ["<pad>", "<s>", "</s>", "<unk>"])
    assert built.decode(built.encode(text)) == text
    assert not built.unknown_characters(texts[1])


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("task", ["speech", pytest.param("translation", marks=pytest.mark.slow)])
def test_auto_is_settled_once_and_resumes_exactly(
    tiny_recipe: Path, reversal_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    path, run = tiny_recipe if task == "speech" else reversal_recipe, tmp_path / "run"
    words: tuple[str, ...] = (*ALL_OPEN, "engine.log_every=1")
    if task == "translation":
        words = (*words, "tokenizer.kind=characters", "search.longest_factor=0.1", "search.longest_extra=1")

    def learned() -> tuple[list[Any], bytes, bytes]:
        segue.train(path, run, *words)
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        model = run / "model"
        return (
            [[record["step"], record["loss"]] for record in records],
            (model / "model.safetensors").read_bytes(),
            (model / "recipe.toml").read_bytes(),
        )

    first = learned()
    said = capsys.readouterr().err
    assert 'engine.steps: "auto" -> 6\n' in said
    section = kept(run)
    assert f'tokenizer.alphabet: "auto" -> {json.dumps(section.tokenizer.alphabet)}\n' in said
    open_keys = [line for line in recipe.dump(section).splitlines() if line.endswith('= "auto"')]
    assert set(open_keys) <= {
        'device = "auto"',
        'bleu_tokenizer = "auto"',
        'metric = "auto"',
    }  # said at every evaluation
    assert (section.engine.steps, section.engine.evaluate_every, section.engine.save_every) == (6, 2, 2)
    assert section.data.dev == ("dev.jsonl",)
    assert section.model.width_multiplier == 1
    assert first[2].decode() == recipe.dump(section)

    for _, checkpoint in saved(run / "checkpoints")[:1]:
        shutil.rmtree(checkpoint)
    shutil.rmtree(run / "model")
    assert learned() == first
    assert '"auto" ->' not in capsys.readouterr().err
    assert kept(run) == section


@pytest.mark.usefixtures("brief")
def test_data_changed_since_auto_are_refused(tiny_recipe: Path, corpus: Path, tmp_path: Path) -> None:
    folder, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(corpus, folder)
    words = (f"data.root={folder}", *ALL_OPEN)
    segue.train(tiny_recipe, run, *words)
    lines = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(lines[:-4]))
    with pytest.raises(UserError, match="the data changed since step 6; give another --out"):
        segue.train(tiny_recipe, run, *words)


def test_epochs_become_steps(tiny_recipe: Path, tmp_path: Path) -> None:
    """Another number of epochs is another recipe."""
    run = tmp_path / "run"
    words = ("engine.evaluate_every=1 epoch", "engine.save_every=1epoch", "engine.average_count=0")
    segue.train(tiny_recipe, run, "engine.steps=2epochs", *words)
    engine = kept(run).engine
    assert engine.steps == 2 * engine.evaluate_every == 2 * engine.save_every
    assert segue.train(tiny_recipe, run, "engine.steps=2 epochs", *words).step == engine.steps
    with pytest.raises(
        UserError, match=rf"engine\.steps: {engine.steps} -> {2 * engine.steps}\nIt is finished"
    ) as raised:
        segue.train(tiny_recipe, run, "engine.steps=4epochs", *words)
    assert f"--out {run}_2 begins a new one" in str(raised.value)
    assert kept(run).engine == engine


@pytest.mark.parametrize(
    "value", ["many", "0 epochs", "-1 epochs", "1e9 epochs", "20 epoches", "", "3", 0, -1, 2.5, True]
)
def test_invalid_numbers_of_steps_are_refused(value: Any) -> None:
    with pytest.raises(recipe.RecipeError, match=r"recipe:1: steps: should be"):
        recipe.loads(f"steps = {json.dumps(value)}", EngineSection)


@pytest.mark.parametrize("kind", ["speech", "pairs"])
def test_without_dev_data_a_tenth_is_held_out(corpus: Path, pairs: Path, tmp_path: Path, kind: str) -> None:
    of, source = (Utterance, corpus) if kind == "speech" else (Pair, pairs)
    name = "train.jsonl"
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    (tmp_path / "dev.jsonl").unlink()
    data = manifests.resolved(ManifestsSection(root=str(tmp_path), dev="auto"))
    assert data.dev == "held_out"
    train, dev = manifests.splits(of, data)
    found = [[each.origin for each in manifest] for manifest in (train, dev)]
    assert set(found[0]).isdisjoint(found[1])
    assert len(found[0]) + len(found[1]) == len((tmp_path / name).read_text().splitlines())
    assert 0 < len(dev) <= 0.2 * len(train)
    again = manifests.dev(of, data, skip_bad=False)
    assert again is not None
    assert [each.origin for each in again] == found[1]
    assert [train.num_skipped, dev.num_skipped] == [0, 0]


def test_held_out_data_are_for_scores_and_exports(tiny_recipe: Path, corpus: Path, tmp_path: Path) -> None:
    """They are never learned."""
    shutil.copytree(corpus, tmp_path / "data")
    for name in ("dev.jsonl", "test.jsonl"):
        (tmp_path / "data" / name).unlink()
    words = (f"data.root={tmp_path / 'data'}", "data.dev=auto", "engine.steps=2", "engine.average_count=0")
    segue.train(tiny_recipe, tmp_path / "run", *words)
    section = kept(tmp_path / "run")
    assert section.data.dev == "held_out"
    assert "Word error rate on a part of train.jsonl, held out" in (tmp_path / "run/model/README.md").read_text()
    assert manifests.dev(Utterance, section.data, skip_bad=False) is not None


def test_held_out_data_are_announced_once(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When training starts, by its first rank."""
    lines = [json.loads(line) for line in (corpus / "train.jsonl").read_text().splitlines()]
    for line in lines:
        line["audio_filepath"] = str(corpus / line["audio_filepath"])
    data = ManifestsSection(root=str(tmp_path), dev="held_out")

    def said(num_speakers: int) -> list[str]:
        for number, line in enumerate(lines):
            line["speaker"] = f"speaker {number % num_speakers}"
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        capsys.readouterr()
        manifests.splits(Utterance, data)
        return [line for line in capsys.readouterr().err.splitlines() if "by luck" not in line]

    [warning] = said(2)
    assert "2 speakers: too few to keep apart, so those of dev are in train too; data.dev='[\"FILE.jsonl\"]'" in warning
    assert "dev_share" not in warning
    [warning] = said(5)
    assert "5 speakers: too few to keep apart" in warning, "a fifth of all voices"
    assert said(12) == ["divided by speaker: 11 in train, 1 in dev"]
    assert manifests.dev(Utterance, data, skip_bad=False) is not None  # as an export does
    assert capsys.readouterr().err == ""
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:8]))
    manifests.splits(Utterance, data)
    assert "; so few choose the best model by luck; more data help, and" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert said(2) == []


def test_one_example_alone_cannot_be_held_out(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"source": "a", "target": "b"}\n')
    with pytest.raises(UserError, match=r"train\.jsonl: too few examples to hold some out"):
        manifests.splits(Pair, ManifestsSection(root=str(tmp_path), dev="held_out"))


@pytest.mark.parametrize("recipe_name", ["your_speech", "your_translation"])
def test_estimates_without_data_say_assumptions(
    recipe_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", recipe_name, "--memory", "8", f"data.root={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "train.jsonl does not exist" in said
    assert "model.width_multiplier of 1, since " in said


def test_estimates_use_the_data_that_are_there(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for words in ((), ("tokenizer.alphabet=auto", "model.width_multiplier=auto")):
        assert main(["estimate", str(tiny_recipe), "--memory", "8", "--json", *words]) == 0
        sizes.append(json.loads(capsys.readouterr().out)["parameters"])
    assert sizes[0] == sizes[1]


def num_parameters(run: Path) -> int:
    with safe_open(run / "model" / "model.safetensors", "numpy") as file:
        return sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118  # not a dict


@pytest.mark.parametrize("task", ["speech", "translation"])
def test_a_wider_model_is_restored_as_wide(tiny_recipe: Path, reversal_recipe: Path, tmp_path: Path, task: str) -> None:
    path = tiny_recipe if task == "speech" else reversal_recipe
    words = ["engine.steps=1", "engine.average_count=0", "model.width_multiplier=2"]
    if task == "translation":
        words += ["search.longest_factor=0.1", "search.longest_extra=1"]
    segue.train(path, tmp_path / "run", *words)
    trained = tasks.restore(tmp_path / "run")
    model = trained.recipe.model
    assert model.width_multiplier == 1
    if task == "speech":
        assert [block.channels for block in model.blocks] == [32, 32, 48]
    else:
        assert (model.width, model.feed_forward, model.heads) == (64, 128, 8)
    assert kept(tmp_path / "run").model.width_multiplier == 2
    floats = sum(each.numel() for each in trained.model.state_dict().values())
    assert floats == num_parameters(tmp_path / "run")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "data: no such folder; data.root={root} should name what `segue prepare` wrote"),
        (
            ("all.jsonl", "notes.txt"),
            "data/train.jsonl: no such manifest (the folder has all.jsonl: data.train names manifests; segue ",
        ),
        (
            ("train.jsonl",),
            "data/dev.jsonl: no such manifest (the folder has train.jsonl: data.dev names manifests; data.dev=held_",
        ),
        (("notes.txt",), "data/train.jsonl: no such manifest (the folder has no manifest; segue prepare writes them)"),
    ],
)
def test_missing_data_are_named(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    """With what is there."""
    root = tmp_path / "data"
    for name in files:
        root.mkdir(exist_ok=True)
        (root / name).touch()
    with pytest.raises(UserError) as raised:
        manifests.check(ManifestsSection(root=str(root)))
    assert message.format(root=root) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("your_speech", ("tokenizer.alphabet", "model.width_multiplier", "engine.steps", "data.dev")),
        ("your_translation", ("tokenizer.size", "model.width_multiplier", "engine.steps", "data.dev")),
    ],
)
def test_recipes_for_own_data_use_auto(name: str, keys: tuple[str, ...]) -> None:
    draft = recipe.read(recipe.find(name))
    for key in (*keys, "engine.evaluate_every", "engine.save_every"):
        table, _, last = key.partition(".")
        assert draft.values[table][last] == "auto"
