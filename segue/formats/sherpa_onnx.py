"""What does sherpa-onnx want of a recogniser? `model.onnx` and `tokens.txt`, for `OfflineRecognizer.from_nemo_ctc`.

<https://k2-fsa.github.io/sherpa/onnx/>. It computes our features itself (`data/features.py`); the graph normalises.
"""

from pathlib import Path

from segue.data.tokenizer import WORD_MARK, Tokenizer
from segue.errors import UserError
from segue.formats import onnx
from segue.models.jasper import Block, Jasper

BLANK = "<blk>"


def write(model: Jasper, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes both files into `folder`. A UserError says which tokens sherpa-onnx cannot write."""
    lines = token_lines(tokenizer)
    subsampling = 1
    for block in model.blocks:
        assert isinstance(block, Block)
        subsampling *= block.stride
    metadata = {
        "vocab_size": str(len(lines)),
        "subsampling_factor": str(subsampling),
        # Empty: the graph normalises. sherpa-onnx 2.0.1's "per_feature" is half a sigma off in silent low bins.
        "normalize_type": "",
        "model_type": "EncDecCTCModelBPE",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokens.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    onnx.write_acoustic_model(model, folder / "model.onnx", metadata)


def token_lines(tokenizer: Tokenizer) -> list[str]:
    """The lines of tokens.txt: symbol and number of each token, then the blank."""
    symbols = []
    for number, piece in enumerate(tokenizer.pieces):
        try:
            text = piece.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(
                f"token {number} is a part of a character: sherpa-onnx needs a tokenizer of characters, bpe or unigram"
            ) from None
        symbols.append(text.replace(" ", WORD_MARK))
    taken = {BLANK}
    for number, symbol in enumerate(symbols):
        # sherpa-onnx reads symbol and number apart at any white space; an empty symbol is a space to it.
        if not symbol or symbol.split() != [symbol]:
            raise UserError(f"token {number}, {symbol!r}, cannot stand in sherpa-onnx's tokens.txt: remove it")
        if symbol in taken:
            raise UserError(f"token {number}, {symbol!r}, has another meaning in sherpa-onnx's tokens.txt as well")
        taken.add(symbol)
    return [f"{symbol} {number}" for number, symbol in enumerate([*symbols, BLANK])]
