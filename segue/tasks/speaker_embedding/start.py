"""Which parts of a trained model of voices, or of a recognizer with the same encoder, can a fine-tuning start from?"""

from collections.abc import Mapping

from segue.engine.state.start import Inheritance, Rows, Side


def _rows(before: Side, now: Side) -> Mapping[str, Rows]:
    """The centers of speakers, at each speed, that both recipes have."""
    old, new = (
        [(speaker, speed) for speaker in side.recipe.speakers for speed in side.recipe.speaker_speeds]
        for side in (before, now)
    )
    number_of = {each: number for number, each in enumerate(old)}
    return {"centers.weight": [(number_of[each],) if each in number_of else () for each in new]}


START = Inheritance(
    tokenizers={},
    same=("features",),
    rows=_rows,
    of_others={"speech_recognition": "encoder.", "classification": "encoder."},
)
