"""Which parts of a trained translator can a fine-tuning start from?"""

from collections.abc import Mapping

from segue.data.tokenizer import origins
from segue.data.vocabularies import Vocabularies
from segue.engine.state.start import Inheritance, Rows, Side


def _rows(before: Side, now: Side) -> Mapping[str, Rows]:
    old, new = Vocabularies.load(before.folder), Vocabularies.load(now.folder)
    source, target = origins(new.source, old.source), origins(new.target, old.target)
    of_target = ("target_embedding.weight", "head.weight", "output_bias.weight")
    return {"source_embedding.weight": source, **dict.fromkeys(of_target, target)}


START = Inheritance(
    tokenizers={"tokenizer": "tokenizer.json", "source_tokenizer": "source_tokenizer.json"}, same=(), rows=_rows
)
