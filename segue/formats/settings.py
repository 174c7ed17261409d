"""What does a configuration say that another toolkit wrote? Values by dotted keys, with errors that name the key."""

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from segue.errors import UserError, missing_extra

T = TypeVar("T")
_MISSING: Any = object()
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_MOST_REFERENCES = 10  # one after the other
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a table"}


class Settings:
    """Nested tables and lists. A key like `encoder.jasper.0.filters` counts items from 0."""

    def __init__(self, values: Any, origin: str) -> None:
        """`origin` is the beginning of errors: the file. Raises a UserError if `values` is not a table."""
        if not isinstance(values, Mapping):
            raise UserError(f"{origin}: a table of keys and values is wanted")
        self._values, self.origin = values, origin

    def has(self, key: str) -> bool:
        """Whether the key is there, and not null."""
        return self._find(key, 0) is not None

    def get(self, key: str, kind: type[T], default: T = _MISSING) -> T:
        """The value of a key, of type `kind`. Raises a UserError if it is another type, or missing without default."""
        value = self._find(key, 0)
        if value is None:
            if default is _MISSING:
                raise self.error(key, "missing")
            return default
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            try:  # YAML 1.1 reads 1e-5 as text
                value = float(value)
            except ValueError:
                raise self.error(key, f"{_NAMES[float]} is wanted, not {shown(value)}") from None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, f"{_NAMES[kind]} is wanted, not {shown(value)}")
        return value

    def require(self, permitted: Mapping[str, Sequence[Any]]) -> None:
        """Raises a UserError for the first key whose value is none of those permitted; the first is the default."""
        for key, values in permitted.items():
            value = self._find(key, 0)
            if value is not None and not any(_is_same(value, each) for each in values):
                wanted = " or ".join(map(shown, values))
                raise self.error(key, f"{shown(value)} cannot be imported, only {wanted}")

    def error(self, key: str, message: str) -> UserError:
        """An error about a key."""
        return UserError(f"{self.origin}: {key}: {message}")

    def _find(self, key: str, references: int) -> Any:
        """The value of a key, references followed; None if it is missing."""
        value: Any = self._values
        for part in key.split("."):
            if isinstance(value, Mapping):
                value = value.get(part)
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                return None
            if isinstance(value, str) and "${" in value:
                value = self._followed(key, value, references)
        return value

    def _followed(self, key: str, value: str, references: int) -> Any:
        """The value that a reference, `${name}`, stands for."""
        reference = _REFERENCE.fullmatch(value)
        if reference is None or references == _MOST_REFERENCES:
            raise self.error(key, f"{shown(value)}: an expression that Segue does not evaluate; write its value")
        # They are relative to the configuration around this one, which is its part `model`.
        found = self._find(reference[1].removeprefix("model."), references + 1)
        if found is None:
            raise self.error(key, f"refers to {reference[1]}, which is missing; write its value")
        return found


def _is_same(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def shown(value: Any) -> str:
    """A value for a message: short, however large or nested it is."""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else reprlib.repr(value)


def read_yaml(content: bytes, origin: str) -> Settings:
    """The settings in a YAML file, of plain values only. Raises a UserError."""
    try:
        import yaml
    except ModuleNotFoundError:
        raise missing_extra("pyyaml", "train") from None
    try:
        return Settings(yaml.safe_load(content), origin)
    except yaml.MarkedYAMLError as problem:
        line = f"line {problem.problem_mark.line + 1}: " if problem.problem_mark else ""
        is_tag = isinstance(problem, yaml.constructor.ConstructorError)
        why = ": only plain values are read, since objects could run code" if is_tag else ""
        raise UserError(f"{origin}: {line}{problem.problem}{why}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"{origin}: not YAML: {(str(problem).splitlines() or ['nested too deeply'])[0]}") from None


def read_json(path: Path) -> Settings:
    """The settings in a JSON file. Raises a UserError if it is missing or no table."""
    return Settings(load_json(path), str(path))


def load_json(path: Path) -> Any:
    """The value in a JSON file. Raises a UserError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UserError(f"{path}: {problem.strerror or problem}") from None
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{path}: not JSON: {problem}") from None
