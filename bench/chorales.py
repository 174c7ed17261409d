"""Other measures of a model of chorales in steps, beside `segue evaluate`: python bench/chorales.py MODEL TEST.jsonl

Without the first step of each piece, as published for factorized models; with the end of each piece; and without words
that cannot be next: pitches that are not lower than the one before in the step, and the end within a step.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from segue import tasks
from segue.data.music import STEP


def main(model: Path, manifest: Path) -> None:
    trained = tasks.restore(model)
    tokenizer, end = trained.tokenizer, trained.tokenizer.special["<|endoftext|>"]
    pitches = np.array([int(token) if token.isdecimal() else -1 for token in tokenizer.tokens])
    bar = tokenizer.tokens.index(STEP)
    totals = dict.fromkeys(("all", "first", "end", "legal"), 0.0)
    num_steps = num_pieces = 0
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = [end, *tokenizer.encode(json.loads(line)["text"]), end]
        with torch.inference_mode():
            scores = trained.model.scores(torch.tensor([row[:-1]]))[0].double()
        targets = torch.tensor(row[1:])
        losses = -scores.log_softmax(1).gather(1, targets[:, None])[:, 0]
        is_legal = np.ones(scores.shape, bool)
        for place, token in enumerate(row[:-1]):
            is_within = pitches[token] >= 0
            is_legal[place] = ~((pitches >= pitches[token]) & (pitches >= 0)) if is_within else True
            is_legal[place, end] = not is_within
        masked = scores.masked_fill(~torch.from_numpy(is_legal), -torch.inf)
        totals["all"] += float(losses[:-1].sum())
        totals["end"] += float(losses[-1])
        totals["first"] += float(losses[: row.index(bar)].sum())
        totals["legal"] += float(-masked.log_softmax(1).gather(1, targets[:, None])[:-1].sum())
        num_steps += row.count(bar)
        num_pieces += 1
    print(f"{num_pieces} pieces, {num_steps} steps")
    print(f"as segue evaluate       {totals['all'] / num_steps:.4f} nats a step")
    print(f"without first steps     {(totals['all'] - totals['first']) / (num_steps - num_pieces):.4f}")
    print(f"with the ends           {(totals['all'] + totals['end']) / num_steps:.4f}")
    print(f"only words that can be  {totals['legal'] / num_steps:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
