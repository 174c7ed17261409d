"""Recipes: typed, frozen and strict Sections, read from and written to TOML, with `extends` and key=value overrides."""

import datetime
import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from segue import key_hints
from segue.errors import UserError

Key = tuple[str, ...]
Table = dict[str, Any]

_COMMENT_WIDTH = 100
_SHOWN_CHARACTERS = 80  # of a wrong value, in a message
_DATE = "TOML date"
_DEEPEST, _TOO_DEEP = 50, "tables or arrays are nested too deeply"

AUTO = "auto"
"""Value of a key that is chosen from the data; the recipe in the run directory has the chosen value."""


class RecipeError(UserError):
    """One or more mistakes in a recipe; the text has one line per mistake."""


class Section(BaseModel):
    """A table of a recipe. Each field has a docstring below it, with unit and range.

    Members of a union have a field `kind: Literal["name"]`. A field that may be None has the default None, because TOML
    has no null. Fields cannot be dicts.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Rejects fields that `dump` could not write so that reading them gives the same value."""
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if NoneType in get_args(field.annotation) and _default(field) is not None:
                raise TypeError(f"{cls.__name__}.{name} may be None, so its default has to be None: TOML has no null")


@dataclass(frozen=True)
class Draft:
    """A recipe before validation: merged values, and the origin of each dotted key."""

    values: Table
    origins: dict[str, str]
    """"file:line" or "command line" by dotted key; items of an array count from 0."""
    source: str
    """The recipe file itself: the origin of keys that are not in `origins`."""

    def origin(self, key: str) -> str:
        """The origin of the key, or of the innermost table around it that has one."""
        while key and key not in self.origins:
            key = key.rpartition(".")[0]
        return self.origins.get(key, self.source)


R = TypeVar("R", bound=Section)


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    package = Path(__file__).parent
    folder = package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"
    return {path.stem: path for path in sorted(folder.rglob("*.toml"))}


def find(name: str) -> Path:
    """The path of the recipe `name`: a path, or the name of a recipe that comes with the package.

    Raises a RecipeError if there is none.
    """
    path, known = Path(name), shipped()
    if path.is_file() or name not in known:
        if path.suffix != ".toml" and not path.exists():
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"recipes: {', '.join(known)}"
            raise RecipeError(f"{name}: no such file, and no such recipe ({hint})")
        if path.is_dir():
            own = path / "recipe.toml"
            hint = f"; its recipe is {own}, and --from {path} starts from its model" if own.is_file() else ""
            raise RecipeError(f"{path}: a folder, and no recipe{hint}")
        return path
    return known[name]


def read(path: Path, overrides: Sequence[str] = ()) -> Draft:
    """Reads a recipe and those that it extends, and applies `key.path=value` overrides.

    A recipe's tables are merged into those of the recipe that it extends; its arrays, and its tables of another `kind`,
    replace them. A table in place of an array changes single items, by their indices. Raises a RecipeError.
    """
    try:
        return _merge_drafts(_read_chain(path, ()), _parse_overrides(overrides), path)
    except RecursionError:
        raise RecipeError(f"{path}: {_TOO_DEEP}") from None


def from_overrides(overrides: Sequence[str]) -> Draft:
    """A draft of `key.path=value` overrides without a recipe file."""
    return _parse_overrides(overrides)


def validate(draft: Draft, recipe_type: type[R]) -> R:
    """The draft as a typed recipe. Raises a RecipeError with all mistakes in it."""
    for key, value in _leaves((), draft.values):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise RecipeError(f"{draft.origin(key)}: {key}: whole numbers have 64 bits, not {_shown(value)}")
    # JSON, since strict validation of Python values accepts no list as a tuple. JSON has no dates: they become a table,
    # which `_explain` rejects.
    text = json.dumps(draft.values, default=lambda date: {_DATE: str(date)})
    try:
        return recipe_type.model_validate_json(text)
    except ValidationError as error:
        keys = list(keys_of(recipe_type, draft.values))
        explained = [_explain(recipe_type, detail, keys) for detail in error.errors(include_url=False)]
        mistakes = [": ".join(filter(None, (draft.origin(key), key, message))) for key, message in explained]
        # A union of plain types reports the same mistake once per member.
        raise RecipeError("\n".join(dict.fromkeys(mistakes))) from error


def loads(text: str, recipe_type: type[R], source: str = "recipe") -> R:
    """The typed recipe in a TOML text without `extends`, such as `dump` writes; `source` is its name in messages."""
    return validate(_parse(text, source), recipe_type)


def dump(recipe: Section) -> str:
    """The complete recipe as TOML, with the docstring of each field as a comment above it."""
    return "\n".join(_dump_table(recipe, ())).strip() + "\n"


def schema(recipe_type: type[Section]) -> dict[str, Any]:
    """JSON Schema of a recipe file, for editors."""
    described = recipe_type.model_json_schema()
    extends = {"type": "string", "description": "The recipe that this one changes, relative to this file."}
    described["properties"] = {"extends": extends, **described.get("properties", {})}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}


class Difference(NamedTuple):
    """A key that differs between two recipes, and its values in TOML; an absent one is "(none)"."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after}"


def differences(a: Section, b: Section) -> list[Difference]:
    """The differences between two recipes, which print as `engine.steps: 100 -> 200`."""
    return list(_differences((), a, b))


def settled(section: R, before: R, left_open: Sequence[str] = ()) -> R:
    """The recipe with each "auto" replaced by its value in `before`, except for the keys `left_open`."""
    return _settled((), section, before, tuple(left_open))


def _settled(table: Key, section: R, before: R, left_open: tuple[str, ...]) -> R:
    changes: dict[str, Any] = {}
    for name in type(section).model_fields:
        key, value, old = (*table, name), getattr(section, name), getattr(before, name)
        if isinstance(value, Section) and type(value) is type(old):
            changes[name] = _settled(key, value, old, left_open)
        elif value == AUTO and ".".join(key) not in left_open:
            changes[name] = old
    return section.model_copy(update=changes)


def _differences(key: Key, a: Any, b: Any) -> Iterator[Difference]:
    if isinstance(a, Section) and type(a) is type(b):
        for name in type(a).model_fields:
            yield from _differences((*key, name), getattr(a, name), getattr(b, name))
    elif isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        for index, (item_a, item_b) in enumerate(zip(a, b, strict=True)):
            yield from _differences((*key, str(index)), item_a, item_b)
    elif not _is_same(a, b):
        before, after = ("(none)" if value is None else _toml(value) for value in (a, b))
        yield Difference(".".join(key), before, after)


def _leaves(key: Key, value: Any) -> Iterator[tuple[str, Any]]:
    """The dotted key and value of everything that is not a table or an array."""
    if len(key) > _DEEPEST:
        raise RecipeError(f"{'.'.join(key[:3])}: {_TOO_DEEP}")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield ".".join(key), value
    else:
        for name, item in items:
            yield from _leaves((*key, str(name)), item)


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def _is_same(a: Any, b: Any) -> bool:
    return bool(a == b) and repr(a) == repr(b)  # -0.0 == 0.0 and True == 1, but they are written differently


def read_alone(path: Path) -> Table:
    """The values in this file alone, including `extends`."""
    return _parse(_read_text(path), str(path)).values


# --- Reading: files, `extends`, overrides ---


def _read_chain(path: Path, children: tuple[Path, ...]) -> Draft:
    """The file merged over the one that it extends; `children` are the files that extend this one."""
    child = _parse(_read_text(path), str(path))
    if "extends" not in child.values:
        return child
    where = f"{child.origin('extends')}: extends"
    parent_name = child.values.pop("extends")
    if not isinstance(parent_name, str):
        raise RecipeError(f"{where}: should be the path of one recipe, not {_shown(parent_name)}")
    parent, chain = path.parent / parent_name, (*children, path)
    if parent.resolve() in [each.resolve() for each in chain]:
        raise RecipeError(f"{where}: circular: {' -> '.join(map(str, (*chain, parent)))}")
    if not parent.is_file():
        raise RecipeError(f"{where}: no such file: {parent}")
    return _merge_drafts(_read_chain(parent, chain), child, path)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # some editors write a byte order mark, which TOML forbids
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: not UTF-8: {error.reason}") from error


def _parse(text: str, source: str) -> Draft:
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise RecipeError(f"{source}: brackets are nested too deeply") from None
    except ValueError as error:
        found = re.search(r"\(at line (\d+)", str(error))
        line = found[1] if found else text.count("\n") + 1
        raise RecipeError(f"{source}:{line}: {error}") from error
    return Draft(values, {key: f"{source}:{line}" for key, line in _key_lines(text).items()}, source)


def _parse_overrides(overrides: Sequence[str]) -> Draft:
    """The overrides as one child recipe, so that a `kind` may come after the keys of its table."""
    draft = Draft({}, {}, "command line")
    for override in overrides:
        dotted, equals, text = override.partition("=")
        names = dotted.strip().split(".")
        if not equals or not all(names):
            raise RecipeError(f"command line: {override}: should be key=value, like optimizer.learning_rate=3e-4")
        value = _parse_value(text)
        for name in reversed(names):
            value = {name: value}
        draft = Draft(_merge(draft.values, value, {}, draft), {}, draft.source)
    return draft


def _parse_value(text: str) -> Any:
    """`text` parsed as a TOML value; the text itself if it is not one."""
    try:
        # Inside an inline table, so that a text with a comment or a second key is a string, not a TOML value.
        parsed = tomllib.loads(f"table = {{value = {text}}}")
    except (ValueError, RecursionError):
        return text
    value = parsed["table"].get("value")
    is_value = len(parsed) == len(parsed["table"]) == 1 and not isinstance(value, datetime.date | datetime.time)
    return value if is_value else text


def _merge_drafts(parent: Draft, child: Draft, path: Path) -> Draft:
    origins = dict(parent.origins)
    values = _merge(parent.values, child.values, origins, child)
    return Draft(values, origins | child.origins, str(path))


def _merge(old: Table, new: Table, origins: dict[str, str], child: Draft, table: Key = ()) -> Table:
    """The table `new` of `child` merged over `old`; updates `origins`."""
    merged = dict(old)
    for name, value in new.items():
        key, before = (*table, name), old.get(name)
        dotted = ".".join(key)
        if isinstance(before, dict) and isinstance(value, dict) and not _changes_kind(before, value):
            merged[name] = _merge(before, value, origins, child, key)
        elif isinstance(before, list) and isinstance(value, dict):  # model.blocks.0.dropout: an item by its index
            items = {str(index): item for index, item in enumerate(before)}
            for missing in value.keys() - items.keys():
                where = f"{child.origin(dotted)}: {dotted}.{missing}"
                raise RecipeError(f"{where}: no such item (the array has {len(items)}, counted from 0)")
            merged[name] = list(_merge(items, value, origins, child, key).values())
        else:
            merged[name] = value
            for replaced in [each for each in origins if each.startswith(dotted + ".")]:
                del origins[replaced]
            origins[dotted] = child.origin(dotted)
    return merged


def _changes_kind(old: Table, new: Table) -> bool:
    return "kind" in old and "kind" in new and old["kind"] != new["kind"]


def _key_lines(text: str) -> dict[str, int]:
    """The line of each dotted key in a valid TOML text; tomllib does not provide it."""
    lines: dict[str, int] = {}
    table: Key = ()
    last_item: dict[Key, int] = {}  # of each [[array of tables]], up to here
    statement: list[str] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        statement.append(line)
        # Lines are collected until they parse. Only these characters can end a value of several lines; to parse after
        # every line would be slow.
        if len(statement) > 1 and not any(end in line for end in ("]", "}", '"""', "'''")):
            continue
        try:
            inner: Any = tomllib.loads("\n".join(statement))
        except ValueError:
            continue
        first, is_header = number - len(statement) + 1, line.lstrip().startswith("[") and len(statement) == 1
        key = () if is_header else table
        while isinstance(inner, dict) and len(inner) == 1:
            [(name, inner)] = inner.items()
            key = (*key, name)
            lines.setdefault(".".join(key), first)
            if is_header and inner == [{}]:
                last_item[key] = last_item.get(key, -1) + 1
            if is_header and key in last_item:
                key = (*key, str(last_item[key]))
                lines.setdefault(".".join(key), first)
        table = key if is_header else table
        filled = [at for at, each in enumerate(statement) if each.strip() and not each.lstrip().startswith("#")]
        if isinstance(inner, list) and len(inner) == len(filled) - 2:  # an item a line, as `dump` writes them
            lines.update({".".join((*key, str(item))): first + at for item, at in enumerate(filled[1:-1])})
        statement = []
    return lines


# --- Messages: pydantic's errors in terms of the recipe ---


def keys_of(section_type: type[Section], values: Any = None, table: Key = ()) -> Iterator[str]:
    """The dotted keys of a recipe; in a union, those of the `kind` in `values`, or of all members."""
    for name, field in section_type.model_fields.items():
        key, inner = (*table, name), values.get(name) if isinstance(values, dict) else None
        members = [each for each in _members(field.annotation) if _fields(each)]
        chosen = [each for each in members if isinstance(inner, dict) and inner.get("kind") in _kinds(each)]
        if not members:
            yield ".".join(key)
        for member in chosen or members:
            yield from keys_of(member, inner, key)


def _explain(recipe_type: type[Section], detail: Any, keys: Sequence[str]) -> tuple[str, str]:
    """The dotted key, as the user writes it, and the message."""
    names, fields, annotation = _locate(recipe_type, detail["loc"])
    given, code, key, name = detail["input"], detail["type"], ".".join(names), (names or ("",))[-1]
    if code == "extra_forbidden":
        own = [".".join((*names[:-1], field)) for field in fields]  # keys of an array's items are not among `keys`
        question = key_hints.hint(key, [*own, *keys])
        return key, f"no such key ({question or 'keys: ' + ', '.join(fields)})"
    if isinstance(given, dict) and _DATE in given:
        return key, f'dates and times are not used in recipes; strings are quoted: "{given[_DATE]}"'
    if code in ("union_tag_invalid", "union_tag_not_found"):
        kinds = [kind for member in _members(annotation) for kind in _kinds(member)]
        return f"{key}.kind", _wrong_kind(kinds, given.get("kind"))
    if code == "literal_error" and name == "kind":
        return key, _wrong_kind(list(get_args(annotation)), given)
    if code == "missing":
        about = ((fields[name].description if name in fields else None) or "").strip().partition("\n")[0]
        return key, f"missing ({': '.join(filter(None, (_wanted(annotation), about)))})"
    if code.endswith("_type") or code in ("int_from_float", "literal_error"):
        return key, f"should be {_wanted(annotation)}, not {_shown(given)}"
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return key, f"{message.removeprefix('Input ')}, not {_shown(given)}" if message.startswith("Input ") else message


def _wrong_kind(kinds: list[str], given: Any) -> str:
    known = f"kinds: {', '.join(map(str, kinds))}"
    if given is None:
        return f"missing ({known})"
    near = difflib.get_close_matches(str(given), kinds, n=1)
    return f"no such kind: {_shown(given)} ({known}{f'; did you mean {near[0]!r}?' if near else ''})"


def _locate(recipe_type: type[Section], loc: Sequence[str | int]) -> tuple[Key, dict[str, FieldInfo], Any]:
    """The key at pydantic's `loc`, without the tags of unions; the fields of its table; the expected type."""
    key: Key = ()
    fields: dict[str, FieldInfo] = {}
    annotation: Any = recipe_type
    for depth, step in enumerate(loc):
        members = _members(annotation)
        if len(members) > 1:
            if depth < len(loc) - 1:  # at the end, the expected type is the whole union
                found = (each for each in members if step in _kinds(each) or get_origin(each) is tuple)
                annotation = next(found, Any)
            continue
        key, fields, items = (*key, str(step)), _fields(members[0]), get_args(members[0])
        if isinstance(step, int) and items:
            annotation = items[0] if items[-1] is ... or step >= len(items) else items[step]
        else:
            annotation = fields[str(step)].annotation if step in fields else Any
    return key, fields, annotation


def _members(annotation: Any) -> list[Any]:
    """The types that a value may have, except None."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [each for member in get_args(annotation) for each in _members(member) if each is not NoneType]
    return [annotation]


def _fields(annotation: Any) -> dict[str, FieldInfo]:
    return annotation.model_fields if isinstance(annotation, type) and issubclass(annotation, Section) else {}


def _kinds(member: Any) -> tuple[str, ...]:
    """The values of `kind` that select this member of a union."""
    field = _fields(member).get("kind")
    return get_args(field.annotation) if field else ()


def _wanted(annotation: Any) -> str:
    """A type in words: `int`, `'a' or 'b'`, `array of float`, `table`."""
    members = _members(annotation)
    if len(members) > 1:
        return " or ".join(dict.fromkeys(map(_wanted, members)))
    inner = members[0]
    items = get_args(inner)
    if get_origin(inner) is Literal:
        return " or ".join(map(repr, items))
    if get_origin(inner) is tuple:
        return f"array of {', '.join(_wanted(item) for item in items if item is not ...)}"
    return "table" if _fields(inner) else str(getattr(inner, "__name__", inner))


def _shown(value: Any) -> str:
    """A value for a message: one line of at most `_SHOWN_CHARACTERS`."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


# --- Writing: the standard library can only read TOML ---


def _dump_table(section: Section, table: Key) -> Iterator[str]:
    """The lines of a table: its own values first, because in TOML what follows a [header] belongs to that table."""
    fields = type(section).model_fields.items()
    for name, field in sorted(fields, key=lambda each: isinstance(getattr(section, each[0]), Section)):
        value, key = getattr(section, name), (*table, name)
        if isinstance(value, Section):
            yield from ("", *_comment(field), f"[{'.'.join(key)}]", *_dump_table(value, key))
        else:
            yield from _comment(field)
            yield f"# {name} =" if value is None else f"{name} = {_toml(value, is_tall=True)}"


def _comment(field: FieldInfo) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", (field.description or "").strip()):
        for line in textwrap.wrap(paragraph, _COMMENT_WIDTH - 2, break_long_words=False, break_on_hyphens=False):
            yield f"# {line}"


def _toml(value: Any, is_tall: bool = False) -> str:
    """A value on one line; if `is_tall`, an array of tables with one line per table. Such tables omit defaults, except
    `kind`."""
    if isinstance(value, bool | int | float | str | Path):
        # JSON writes these as TOML does, and floats without loss; but TOML requires that DEL is escaped.
        return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")
    if isinstance(value, tuple) and is_tall and any(isinstance(item, Section) for item in value):
        return "[\n" + "".join(f"  {_toml(item)},\n" for item in value) + "]"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Section):
        items = [(name, getattr(value, name), _default(field)) for name, field in type(value).model_fields.items()]
        kept = [(name, item) for name, item, default in items if name == "kind" or not _is_same(item, default)]
        return f"{{ {', '.join(f'{name} = {_toml(item)}' for name, item in kept)} }}"
    raise TypeError(f"a recipe cannot hold {value!r}: TOML has no {type(value).__name__}")
