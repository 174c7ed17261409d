import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from segue.recipe import RecipeError, Section, differences, dump, find, loads, read, schema, validate


class NovoGrad(Section):
    kind: Literal["novograd"]
    """NovoGrad, Ginsburg et al. 2019."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate, above 0.

    Reached after warm-up."""
    betas: tuple[float, float] = (0.95, 0.25)
    """Decay of the moments."""


class AdamW(Section):
    kind: Literal["adamw"] = "adamw"
    """AdamW."""
    learning_rate: float = 1e-3
    """Peak learning rate."""


Optimizer = Annotated[NovoGrad | AdamW, Field(discriminator="kind")]


class Convolution(Section):
    kind: Literal["convolution"]
    """Convolution over time."""
    width: int
    """Channels."""
    dropout: float = 0.0
    """0 to 1."""


class Pool(Section):
    kind: Literal["pool"]
    """Maximum over time."""
    by: tuple[int, ...] = ()
    """Frames."""


class Model(Section):
    kind: Literal["jasper"]
    """One block, repeated."""
    blocks: tuple[Annotated[Convolution | Pool, Field(discriminator="kind")], ...] = ()
    """From the input to the output."""


class Engine(Section):
    steps: int = 100
    """Optimizer steps."""
    clip: float | None = None
    """Largest gradient norm; none by default."""
    every: int | Literal["epoch"] = "epoch"
    """Steps between evaluations."""


class Augmentation(Section):
    speed: tuple[float, float] = (0.9, 1.1)
    """Range of factors."""


class Data(Section):
    root: Path = Path("data")
    """Where the manifests lie."""


class Recipe(Section):
    task: Literal["test"]
    """The task."""
    name: str = ""
    """For people."""
    is_quick: bool = False
    """Whether to hurry."""
    optimizer: Optimizer
    """How weights change."""
    model: Model = Model(kind="jasper")
    """What is trained."""
    engine: Engine = Engine()
    """The loop."""
    data: Data = Data()
    """The corpus."""
    augmentation: Augmentation | None = None
    """What is done to the audio."""


BASE = """\
task = "test"

[optimizer]
kind = "novograd"
learning_rate = 0.01

[engine]
steps = 200
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "x.toml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(text: str, *overrides: str) -> Recipe:
    return validate(read(write(text), overrides), Recipe)


def refusal(text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides)
    return str(caught.value).split("\n")


@pytest.mark.usefixtures("folder")
class TestMistakes:
    def test_a_mistyped_key_gets_a_suggestion(self) -> None:
        assert refusal(BASE + "stpes = 10\n") == ["x.toml:9: engine.stpes: no such key (did you mean 'steps'?)"]

    def test_an_unknown_key_lists_the_keys(self) -> None:
        assert refusal(BASE + "zzz = 1\n") == ["x.toml:9: engine.zzz: no such key (keys: steps, clip, every)"]

    def test_all_mistakes_come_at_once(self) -> None:
        assert refusal(
            'task = "test"\nis_quick = 1\n[optimizer]\nkind = "novograd"\n[engine]\nsteps = "3"\nx = 1\n'
        ) == [
            "x.toml:2: is_quick: should be bool, not 1",
            "x.toml:3: optimizer.learning_rate: missing (float: Peak learning rate, above 0.)",
            'x.toml:6: engine.steps: should be int, not "3"',
            "x.toml:7: engine.x: no such key (keys: steps, clip, every)",
        ]

    def test_a_missing_table_names_the_file(self) -> None:
        assert refusal('task = "test"') == ["x.toml: optimizer: missing (table: How weights change.)"]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("steps = true", "x.toml:8: engine.steps: should be int, not true"),
            ("steps = 3.0", "x.toml:8: engine.steps: should be int, not 3.0"),
            ("clip = [1]", "x.toml:8: engine.clip: should be float, not [1]"),
            ("every = 'x'", "x.toml:8: engine.every: should be int or 'epoch', not \"x\""),
            ("clip = inf", "x.toml:8: engine.clip: should be a finite number, not Infinity"),
            ("clip = 1e999", "x.toml:8: engine.clip: should be a finite number, not Infinity"),
            ("clip = nan", "x.toml:8: engine.clip: should be a finite number, not NaN"),
        ],
    )
    def test_a_wrong_value_says_what_was_wanted(self, line: str, message: str) -> None:
        assert refusal(BASE.replace("steps = 200", line)) == [message]

    def test_a_broken_bound_names_the_value(self) -> None:
        """The key does not have the union's tag."""
        assert refusal(BASE.replace("0.01", "-1")) == [
            "x.toml:5: optimizer.learning_rate: should be greater than 0, not -1"
        ]

    @pytest.mark.parametrize("date", ["2024-01-02", "07:30:00", "2024-01-02T07:30:00Z"])
    def test_dates_are_refused_with_advice(self, date: str) -> None:
        (line,) = refusal(f"name = {date}\n" + BASE)
        assert line.startswith("x.toml:1: name: dates and times are not used in recipes; strings are quoted: ")

    @pytest.mark.parametrize("kind", ["novograd", "adamw"])
    def test_a_union_without_kind_lists_the_kinds(self, kind: str) -> None:
        """Whether or not a member has a default."""
        assert refusal(BASE.replace('kind = "novograd"\n', "")) == [
            "x.toml:3: optimizer.kind: missing (kinds: novograd, adamw)"
        ]

    def test_a_wrong_kind_lists_the_kinds(self) -> None:
        assert refusal(BASE.replace("novograd", "adam")) == [
            "x.toml:4: optimizer.kind: no such kind: \"adam\" (kinds: novograd, adamw; did you mean 'adamw'?)"
        ]
        assert refusal(BASE + '[model]\nkind = "bert"') == [
            'x.toml:10: model.kind: no such kind: "bert" (kinds: jasper)'
        ]
        assert refusal(BASE.replace('"novograd"', "3")) == [
            "x.toml:4: optimizer.kind: no such kind: 3 (kinds: novograd, adamw)"
        ]

    def test_a_value_instead_of_a_table_is_refused(self) -> None:
        assert refusal('task = "test"\noptimizer = 3') == ["x.toml:2: optimizer: should be table, not 3"]

    def test_an_item_of_an_array_has_its_own_line(self) -> None:
        blocks = """[model]
kind = "jasper"
blocks = [
  # the first
  { kind = "convolution", width = 8 },
  { kind = "convolution", widht = 8 },
  { kind = "pool", by = [1, "2"] },
  { kind = "rest" },
]
"""
        assert refusal(BASE + blocks) == [
            "x.toml:14: model.blocks.1.width: missing (int: Channels.)",
            "x.toml:14: model.blocks.1.widht: no such key (did you mean 'width'?)",
            'x.toml:15: model.blocks.2.by.1: should be int, not "2"',
            'x.toml:16: model.blocks.3.kind: no such kind: "rest" (kinds: convolution, pool)',
        ]

    def test_keys_of_any_form_have_their_lines(self) -> None:
        """In arrays of tables, quoted and dotted."""
        text = """task = "test"
optimizer.kind = "adamw"
"optimizer" . learning_rate = "x"
name = '''
[engine]
steps = 0
'''
[model]
kind = "jasper"
[[ model.blocks ]]
kind = "pool"
[[model.blocks]] # two
kind = "pool"
by = 1
"""
        assert refusal(text) == [
            'x.toml:3: optimizer.learning_rate: should be float, not "x"',
            "x.toml:14: model.blocks.1.by: should be array of int, not 1",
        ]

    def test_a_syntax_error_names_file_and_line(self) -> None:
        assert refusal('task = "test"\nname = \n') == ["x.toml:2: Invalid value (at line 2, column 8)"]
        (line,) = refusal("a = [1,\n2")
        assert line.startswith("x.toml:2: ")
        Path("x.toml").write_bytes(b'a = 1\nb = "\xff"\n')
        with pytest.raises(RecipeError, match=r"^x.toml:2: not UTF-8"):
            read(Path("x.toml"))

    def test_a_missing_recipe_is_the_users_mistake(self) -> None:
        with pytest.raises(RecipeError, match=r"^nowhere.toml: No such file"):
            read(Path("nowhere.toml"))

    def test_validators_keep_their_own_message(self) -> None:
        class Range(Section):
            low: int = 0
            """Low."""
            high: int = 1
            """High."""

            @model_validator(mode="after")
            def _ordered(self) -> "Range":
                if self.low > self.high:
                    raise ValueError("low is above high")
                return self

        class Outer(Section):
            range: Range = Range()
            """Range."""

        with pytest.raises(RecipeError, match=r"^recipe:2: range: low is above high$"):
            loads("\n[range]\nlow = 3", Outer)
        with pytest.raises(RecipeError, match=r"^recipe: low is above high$"):
            loads("low = 3", Range)

    def test_crlf_and_a_byte_order_mark_are_read(self) -> None:
        Path("x.toml").write_bytes(b"\xef\xbb\xbf" + (BASE + "stpes = 1\n").replace("\n", "\r\n").encode())
        with pytest.raises(RecipeError, match=r"^x.toml:9: engine.stpes"):
            validate(read(Path("x.toml")), Recipe)


@pytest.mark.usefixtures("folder")
class TestExtends:
    def test_tables_merge_and_arrays_are_replaced(self) -> None:
        write(
            'extends = "base/b.toml"\nname = "child"\n[augmentation]\nspeed = [1, 2]\n[engine]\nclip = 2', "child.toml"
        )
        write('extends = "a.toml"\n[augmentation]\nspeed = [3, 4]', "base/b.toml")
        write(BASE, "base/a.toml")
        recipe = validate(read(Path("child.toml")), Recipe)
        assert recipe.engine == Engine(steps=200, clip=2.0)
        assert recipe.augmentation == Augmentation(speed=(1.0, 2.0))
        assert recipe.name == "child"

    def test_another_kind_replaces_the_whole_table(self) -> None:
        """It replaces the origins of its keys too."""
        write(BASE, "base.toml")
        assert load('extends = "base.toml"\n[optimizer]\nkind = "adamw"\n').optimizer == AdamW()
        write(BASE.replace("novograd", "adamw"), "base.toml")
        (line,) = refusal('extends = "base.toml"\n[optimizer]\nkind = "novograd"\n')
        assert line.startswith("x.toml:2: optimizer.learning_rate: missing")

    def test_a_mistake_names_where_it_stands(self) -> None:
        write(BASE + "stpes = 1", "base.toml")
        assert refusal('extends = "base.toml"\n[engine]\nclip = "x"') == [
            'x.toml:3: engine.clip: should be float, not "x"',
            "base.toml:9: engine.stpes: no such key (did you mean 'steps'?)",
        ]

    def test_a_missing_parent_says_which_file_asked(self) -> None:
        assert refusal('\nextends = "b/none.toml"') == ["x.toml:2: extends: no such file: b/none.toml"]
        assert refusal('extends = ["a", "b"]') == [
            'x.toml:1: extends: should be the path of one recipe, not ["a", "b"]'
        ]

    def test_a_circle_is_refused(self) -> None:
        write('extends = "x.toml"', "b.toml")
        assert refusal('extends = "b.toml"') == ["b.toml:1: extends: circular: x.toml -> b.toml -> x.toml"]

    def test_the_draft_is_plain_and_knows_origins(self) -> None:
        draft = read(write(BASE), ["engine.clip=1"])
        assert draft.values["task"] == "test"
        assert draft.origins["engine.steps"] == "x.toml:8"
        assert draft.origins["engine.clip"] == "command line"
        write('extends = "x.toml"', "y.toml")
        assert "extends" not in read(Path("y.toml")).values


@pytest.mark.usefixtures("folder")
class TestOverrides:
    def test_values_are_toml_or_plain_strings(self) -> None:
        recipe = load(
            BASE, "engine.steps=10", "augmentation.speed=[0.5,1]", "data.root=data/fsdd", "name=a = b", "is_quick=true"
        )
        assert recipe.engine.steps == 10
        assert recipe.augmentation == Augmentation(speed=(0.5, 1.0))
        assert recipe.data.root == Path("data/fsdd")
        assert recipe.name == "a = b"
        assert recipe.is_quick

    @pytest.mark.parametrize("text", ["5#a", "1, 2", "2024-01-02", "1\nb = 2", "1}\nb = {value = 1", "[1", "", "{"])
    def test_values_that_are_not_toml_are_strings(self, text: str) -> None:
        assert load(BASE, f"name={text}").name == text

    def test_items_of_an_array_go_by_number(self) -> None:
        text = BASE + '[model]\nkind = "jasper"\nblocks = [{ kind = "convolution", width = 8 }, { kind = "pool" }]\n'
        recipe = load(text, "model.blocks.0.dropout=0.1", "model.blocks.1={kind='convolution', width=3}")
        assert recipe.model.blocks == (
            Convolution(kind="convolution", width=8, dropout=0.1),
            Convolution(kind="convolution", width=3),
        )
        assert refusal(text, "model.blocks.2.width=1") == [
            "command line: model.blocks.2: no such item (the array has 2, counted from 0)"
        ]
        assert refusal(text, "model.blocks.0.widht=1") == [
            "command line: model.blocks.0.widht: no such key (did you mean 'width'?)"
        ]

    def test_a_kind_may_come_before_or_after_its_keys(self) -> None:
        for overrides in ["optimizer.kind=adamw", "optimizer.learning_rate=2"], ["optimizer={learning_rate=2}"]:
            expected = AdamW(learning_rate=2.0) if len(overrides) == 2 else NovoGrad(kind="novograd", learning_rate=2.0)
            assert load(BASE, *overrides).optimizer == expected
            assert load(BASE, *reversed(overrides)).optimizer == expected

    def test_mistakes_name_the_command_line(self) -> None:
        assert refusal(BASE, "engine.stpes=1", "engine.clip=x") == [
            'command line: engine.clip: should be float, not "x"',
            "command line: engine.stpes: no such key (did you mean 'steps'?)",
        ]
        for override in "steps", "a..b=1", "=1":
            assert refusal(BASE, override) == [
                f"command line: {override}: should be key=value, like optimizer.learning_rate=3e-4"
            ]
        assert refusal(BASE, "extends=y.toml")[0].startswith("command line: extends: no such key")
        assert refusal(BASE, "engine.steps.x=1") == ['command line: engine.steps: should be int, not {"x": 1}']


@pytest.mark.usefixtures("folder")
def test_a_dumped_recipe_has_comments() -> None:
    text = BASE + '[model]\nkind = "jasper"\nblocks = [{ kind = "convolution", width = 8, dropout = 0.0 }]\n'
    assert dump(load(text)) == (
        """\
# The task.
task = "test"
# For people.
name = ""
# Whether to hurry.
is_quick = false
# What is done to the audio.
# augmentation =

# How weights change.
[optimizer]
# NovoGrad, Ginsburg et al. 2019.
kind = "novograd"
# Peak learning rate, above 0.
# Reached after warm-up.
learning_rate = 0.01
# Decay of the moments.
betas = [0.95, 0.25]

# What is trained.
[model]
# One block, repeated.
kind = "jasper"
# From the input to the output.
blocks = [
  { kind = "convolution", width = 8 },
]

# The loop.
[engine]
# Optimizer steps.
steps = 200
# Largest gradient norm; none by default.
# clip =
# Steps between evaluations.
every = "epoch"

# The corpus.
[data]
# Where the manifests lie.
root = "data"
"""
    )


whole = st.integers(-(2**63), 2**63 - 1)  # as TOML has them
floats = st.floats(allow_nan=False, allow_infinity=False)
optimizers = st.one_of(
    st.builds(
        NovoGrad,
        kind=st.just("novograd"),
        learning_rate=floats.filter(lambda rate: rate > 0),
        betas=st.tuples(floats, floats),
    ),
    st.builds(AdamW, learning_rate=floats),
)
blocks = st.one_of(
    st.builds(Convolution, kind=st.just("convolution"), width=whole, dropout=floats),
    st.builds(Pool, kind=st.just("pool"), by=st.lists(whole, max_size=3).map(tuple)),
)
recipes = st.builds(
    Recipe,
    task=st.just("test"),
    name=st.text(),
    is_quick=st.booleans(),
    optimizer=optimizers,
    model=st.builds(Model, kind=st.just("jasper"), blocks=st.lists(blocks, max_size=3).map(tuple)),
    engine=st.builds(Engine, steps=whole, clip=st.none() | floats, every=whole | st.just("epoch")),
    augmentation=st.none() | st.builds(Augmentation, speed=st.tuples(floats, floats)),
)


@given(recipes)
@settings(deadline=None)
def test_what_is_dumped_loads_back_equal(recipe: Recipe) -> None:
    loaded = loads(dump(recipe), Recipe)
    assert loaded == recipe
    assert repr(loaded) == repr(recipe)  # -0.0 too
    assert differences(loaded, recipe) == []


@given(recipes, recipes)
@settings(deadline=None, max_examples=50)
def test_only_equal_recipes_have_no_differences(a: Recipe, b: Recipe) -> None:
    assert (repr(a) == repr(b)) == (differences(a, b) == [])


@pytest.mark.parametrize("text", ["\x7f", '"""', "'''", "\\", "a\r\nb\tc\x00\x1b", "# no comment", "é\u2028\ud7ff😀"])
def test_awkward_strings_survive(text: str) -> None:
    recipe = Recipe(task="test", name=text, optimizer=AdamW())
    assert loads(dump(recipe), Recipe) == recipe


def test_differences_name_the_key_and_both_values() -> None:
    a = Recipe(task="test", optimizer=AdamW(), model=Model(kind="jasper", blocks=(Pool(kind="pool", by=(1, 2)),)))
    b = Recipe(
        task="test",
        optimizer=NovoGrad(kind="novograd", learning_rate=1.0),
        model=Model(kind="jasper", blocks=(Pool(kind="pool", by=(1, 3)),)),
        engine=Engine(steps=200, clip=1.0),
    )
    assert list(map(str, differences(a, b))) == [
        'optimizer: { kind = "adamw" } -> { kind = "novograd", learning_rate = 1.0 }',
        "model.blocks.0.by.1: 2 -> 3",
        "engine.steps: 100 -> 200",
        "engine.clip: (none) -> 1.0",
    ]


def test_the_schema_accepts_what_we_accept() -> None:
    described = schema(Recipe)
    value: dict[str, Any] = {"task": "test", "optimizer": {"kind": "adamw"}, "extends": "x.toml"}
    jsonschema.Draft202012Validator.check_schema(described)
    validator = jsonschema.Draft202012Validator(described)
    validator.validate(value)
    assert not validator.is_valid(value | {"extends": 1})
    assert not validator.is_valid(value | {"stpes": 1})
    assert described["properties"]["name"]["description"] == "For people."
    assert described["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_sections_in_code_are_checked_and_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Engine().steps = 3  # type: ignore[misc]  # what is tried
    with pytest.raises(ValueError, match="finite"):
        Engine(clip=float("inf"))


def test_a_default_that_toml_cannot_undo_is_refused() -> None:
    with pytest.raises(TypeError, match="default has to be None"):

        class Bad(Section):
            clip: float | None = 1.0
            """Clip."""


def test_recipes_import_no_torch() -> None:
    code = "import sys, segue.recipe; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r": a folder, and no recipe$"):
        find(str(tmp_path))
    (tmp_path / "recipe.toml").touch()
    with pytest.raises(RecipeError, match=r"its recipe is .*recipe\.toml, and --from .* starts from its model"):
        find(str(tmp_path))
