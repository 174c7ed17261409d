"""Which parts of a trained language model can a fine-tuning start from?"""

from collections.abc import Mapping

from segue.data.tokenizer import Tokenizer, origins
from segue.engine.state.start import Inheritance, Rows, Side


def _rows(before: Side, now: Side) -> Mapping[str, Rows]:
    old, new = (Tokenizer.load(side.folder / "tokenizer.json") for side in (before, now))
    # Rows that pad the vocabulary begin as others do whose token is new.
    multiple = now.recipe.model.padded_vocabulary
    rows = [*origins(new, old), *([()] * (-len(new) % multiple))]
    return {"embedding.weight": rows, "head.weight": rows}


START = Inheritance(tokenizers={"tokenizer": "tokenizer.json"}, same=(), rows=_rows)
