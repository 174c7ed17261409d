"""How are given phrases preferred in a search? By a score that grows along a phrase and is taken back if it breaks off.

Phrases are matched letter by letter in the text that tokens spell, so that it does not matter how a model divides a
phrase into tokens. A phrase begins and ends at the edges of words; in scripts without spaces anywhere.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from segue.errors import UserError, some_of

RISING_LETTERS = 4
"""The first letters of a phrase, which many other words share, raise the score less: by 1/4, 2/4, 3/4, then 1."""
MOST_PHRASES = 10_000
LONGEST_PHRASE = 200
"""Letters: memory grows with the square of them."""
_SHOWN = 20


class Phrase(NamedTuple):
    """A phrase, and where it was given."""

    text: str
    origin: str
    """For messages: `file:line`, or a number."""


def read(path: Path) -> list[Phrase]:
    """The phrases in a file, one a line; blank lines and lines that start with # are left out. Raises a UserError."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}: a file with a phrase a line is wanted") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: {error.reason}: a text file with a phrase a line is wanted") from None
    found = [
        Phrase(line.strip(), f"{path}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    ]
    if not found:
        raise UserError(f"{path}: no phrases in it; write one a line")
    return found


def numbered(texts: Iterable[object]) -> list[Phrase]:
    """Phrases without a file. Raises a UserError for what is no text."""
    found = []
    if isinstance(texts, str):
        raise UserError("phrases: a list of texts wanted, not one text")
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise UserError(f"phrases: phrase {number}: a text wanted, got {text!r}")
        found.append(Phrase(text, f"phrase {number}"))
    return found


class _Node:
    """A beginning of phrases: the bytes on the way to it."""

    __slots__ = ("children", "is_end", "parent", "path", "value")

    def __init__(self, parent: "_Node | None", path: bytes, value: float) -> None:
        self.parent, self.path = parent, path
        self.value, self.is_end = value, False
        self.children: dict[int, _Node] = {}


class Phrases:
    """The `Knowledge` of phrases (`decoding/prefix_beam.py`). It is thread-safe.

    A state is the beginning of a phrase that the text ends with. Where a phrase breaks off, its score is taken back,
    but for that of the longest phrase that was completed on the way, and what follows may begin another one.
    """

    def __init__(
        self,
        given: Sequence[Phrase],
        pieces: Sequence[bytes],
        score: float,
        form: Callable[[str], str],
        is_unspaced: Callable[[str], bool],
    ) -> None:
        """`pieces` is the text of each token, `score` the gain for a letter in nats, `form` the model's normalization;
        `is_unspaced` tells the letters of scripts without spaces.

        Raises a UserError that names the phrases that the tokens cannot spell.
        """
        if len(given) > MOST_PHRASES:
            raise UserError(f"phrases: {len(given):,} given; at most {MOST_PHRASES:,} can be preferred at once")
        self._pieces, self._score, self._is_unspaced = pieces, score, is_unspaced
        self._edge, self._inside = _Node(None, b"", 0.0), _Node(None, b"", 0.0)
        spelling, problems = Spelling(pieces), list[str]()
        for phrase in given:
            if len(phrase.text) > LONGEST_PHRASE:
                start = phrase.text[:_SHOWN] + "..."
                problems.append(f"{phrase.origin}: {start!r}: longer than {LONGEST_PHRASE} letters")
                continue
            text = form(phrase.text)
            wrong = spelling.problem(text) if text else "the model writes nothing of it"
            if wrong is not None:
                problems.append(f"{phrase.origin}: {phrase.text!r}: {wrong}")
                continue
            self._insert(self._edge, text)
            if is_unspaced(text[0]):
                self._insert(self._inside, text)
        if problems:
            raise UserError(some_of(problems, _SHOWN))
        self.start = self._edge
        self.most = [score * len(piece) for piece in pieces]
        self._known: dict[tuple[_Node, int], tuple[_Node, float]] = {}

    def extend(self, state: _Node, token: int) -> tuple[_Node, float]:
        """See `Knowledge`."""
        found = self._known.get((state, token))
        if found is None:
            found = self._known[state, token] = self._feed(state, self._pieces[token])
        return found

    def finish(self, state: _Node) -> float:
        """See `Knowledge`."""
        if not state.path or state.is_end:
            return 0.0
        kept, rest = self._broken(state.parent, state.path)
        after, gain = self._feed(self._inside, rest)
        return kept - state.value + gain + self.finish(after)

    def _insert(self, node: _Node, text: str) -> None:
        for number, letter in enumerate(text, 1):
            value = node.value + self._score * min(1.0, number / RISING_LETTERS)
            for byte in letter.encode():
                if byte not in node.children:
                    node.children[byte] = _Node(node, node.path + bytes([byte]), value)
                node = node.children[byte]
        node.is_end = True

    def _feed(self, node: _Node, text: bytes) -> tuple[_Node, float]:
        """The state after further bytes, and the gain."""
        gain = 0.0
        for byte in text:
            child = node.children.get(byte)
            if child is not None:
                gain += child.value - node.value
                node = child
            elif not node.path:
                node = self._edge if _is_edge(byte) else self._inside
            else:
                kept, rest = self._broken(node, node.path + bytes([byte]))
                after, more = self._feed(self._inside, rest)
                gain += kept - node.value + more
                node = after
        return node, gain

    def _broken(self, node: _Node | None, path: bytes) -> tuple[float, bytes]:
        """For a path that begins with that of `node`: the value of the longest phrase that is completed up to there,
        and the bytes after it; without such a phrase 0, and all but the first byte."""
        while node is not None and node.path:
            if node.is_end and self._closes(node.path, path[len(node.path)]):
                return node.value, path[len(node.path) :]
            node = node.parent
        return 0.0, path[1:]

    def _closes(self, path: bytes, following: int) -> bool:
        """Whether a phrase may end before this byte."""
        return _is_edge(following) or (following & 0xC0 != 0x80 and self._is_unspaced(path.decode()[-1]))


def _is_edge(byte: int) -> bool:
    """Whether a word may begin after this byte: it is a space or punctuation."""
    return byte < 0x80 and not chr(byte).isalnum()


class Spelling:
    """What can the tokens of a model spell?"""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = frozenset(piece for piece in pieces if piece)
        self._longest = max(map(len, self._pieces), default=0)
        self._letters = b"".join(pieces).decode(errors="ignore")

    def can(self, text: str) -> bool:
        """Whether the text, or the text after a space, is a sequence of tokens."""
        return any(self._divides(start + text.encode()) for start in (b"", b" "))

    def problem(self, text: str) -> str | None:
        """Why the tokens cannot spell the text; None if they can."""
        if self.can(text):
            return None
        strange = dict.fromkeys(letter for letter in text if letter not in self._letters and not self.can(letter))
        if not strange:
            return "the tokens of the model cannot spell it"
        named = ", ".join(map(repr, strange))
        mend = "write numbers as they are spoken" if any(map(str.isdigit, strange)) else "spell it with others"
        return f"the model has no {named} in its alphabet; {mend}"

    def _divides(self, text: bytes) -> bool:
        ends = [True] + [False] * len(text)
        for start in range(len(text)):
            if ends[start]:
                for stop in range(start + 1, min(len(text), start + self._longest) + 1):
                    ends[stop] = ends[stop] or text[start:stop] in self._pieces
        return ends[-1]
