"""Which parts of a trained classifier, or of a recognizer with the same encoder, can a fine-tuning start from?"""

from collections.abc import Mapping

from segue.data.tokenizer import Tokenizer, origins
from segue.engine.state.start import Inheritance, Rows, Side


def _rows(before: Side, now: Side) -> Mapping[str, Rows]:
    number_of = {label: number for number, label in enumerate(before.recipe.classes)}
    classes = [(number_of[label],) if label in number_of else () for label in now.recipe.classes]
    rows: dict[str, Rows] = {"head.output.weight": classes, "head.output.bias": classes}
    if not now.recipe.is_of_sounds:
        old, new = (Tokenizer.load(side.folder / "tokenizer.json") for side in (before, now))
        rows["encoder.embedding.weight"] = origins(new, old)
    return rows


START = Inheritance(
    tokenizers={"tokenizer": "tokenizer.json"},
    same=("features",),
    rows=_rows,
    of_others={"speech_recognition": "encoder."},
)
