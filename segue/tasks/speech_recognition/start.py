"""Which parts of a trained recognizer can a fine-tuning start from?"""

from collections.abc import Mapping

from segue.data.tokenizer import Tokenizer, origins
from segue.engine.state.start import Inheritance, Rows, Side
from segue.tasks.speech_recognition.model import renamed


def _rows(before: Side, now: Side) -> Mapping[str, Rows]:
    old, new = (Tokenizer.load(side.folder / "tokenizer.json") for side in (before, now))
    rows = [*origins(new, old), (len(old),)]  # the blank is last
    return {"head.output.weight": rows, "head.output.bias": rows}


START = Inheritance(tokenizers={"tokenizer": "tokenizer.json"}, same=("features",), renamed=renamed, rows=_rows)
