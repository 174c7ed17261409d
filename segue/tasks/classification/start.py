"""What of a trained classifier can another begin with?"""

from collections.abc import Mapping
from pathlib import Path

from segue.data.tokenizer import Tokenizer, origins
from segue.engine.state.start import Inheritance, Rows


def _rows(before: Path, now: Path) -> Mapping[str, Rows]:
    paths = [folder / "tokenizer.json" for folder in (before, now)]
    if not paths[1].is_file():  # sounds have none
        return {}
    old, new = map(Tokenizer.load, paths)
    return {"encoder.embedding.weight": origins(new, old)}


START = Inheritance(tokenizers={"tokenizer": "tokenizer.json"}, same=("features",), rows=_rows)
