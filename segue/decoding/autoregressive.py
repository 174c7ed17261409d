"""Which sequence does an autoregressive model output? Beam search, greedy search and sampling over any step function.

The score of a hypothesis is its sum of log-probabilities / length ** alpha, where the length includes the end token.
Greedy search is beam search with one beam. Models are accessed only through `Steps`.

Shape letters: B sentences, K beams, N rows = sentences x beams, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from segue.decoding.search import Hypothesis


class Steps(Protocol):
    """An autoregressive model: scores of the next token of every row, and a state whose rows can be rearranged."""

    def step(self, tokens: Tensor) -> Tensor:
        """(N) last tokens -> (N, V) unnormalized log-probabilities of the next tokens."""
        ...

    def select(self, rows: Tensor, sentences: Tensor | None) -> None:
        """Keeps these rows, in this order, and only these sentences (None: all)."""
        ...


@torch.inference_mode()
def beam_search(
    steps: Steps,
    longest: Sequence[int],
    *,
    begin: int,
    end: int,
    beams: int,
    alpha: float,
    num_best: int = 1,
    forbidden: Sequence[int] = (),
    prefixes: Sequence[Sequence[int]] | None = None,
    no_repeat_ngram: int = 0,
    is_exhaustive: bool = False,
    device: torch.device | None = None,
) -> list[list[Hypothesis]]:
    """The `num_best` (at most `beams`) best hypotheses of each sentence, best first.

    `longest[b]` limits the tokens of sentence b, without the end token. `steps` has B x K rows, sentence by sentence. A
    sentence is done, and dropped from the batch, when it has K finished hypotheses and no live one scores better than
    the worst of them at its current length; with `is_exhaustive`, when none could at any permitted length. Tokens of
    `prefixes` are forced, even forbidden ones, and scored with the model's log-probabilities.
    """
    assert 1 <= num_best <= beams
    num_sentences = len(longest)
    finished: list[list[Hypothesis]] = [[] for _ in range(num_sentences)]
    alive = list(range(num_sentences))  # sentences that are not done, in the order of their rows
    written: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in alive]  # tokens of each row
    totals = torch.full((num_sentences, beams), -torch.inf, device=device)
    totals[:, 0] = 0.0  # initially all beams are equal: only one may continue
    last = torch.full((num_sentences * beams,), begin, dtype=torch.int64, device=device)
    banned = torch.tensor(list(forbidden), dtype=torch.int64, device=device)
    length = 0  # number of tokens of every live hypothesis
    while alive:
        scores = steps.step(last).float().view(len(alive), beams, -1)
        given = {} if prefixes is None else _given(prefixes, alive, length)
        permitted = {place: scores[place, :, token].clone() for place, token in given.items()}
        scores[:, :, banned] = -torch.inf
        for place, token in given.items():
            scores[place, :, token] = permitted[place]
        scores = scores.log_softmax(dim=2)
        for place, token in given.items():
            _only(scores[place], token)
        if no_repeat_ngram:
            for place, of_sentence in enumerate(written):
                for row, tokens in zip(scores[place], of_sentence, strict=True):
                    if place not in given:
                        row[_repeating(tokens, no_repeat_ngram)] = -torch.inf
        vocabulary = scores.shape[2]
        candidates = (scores + totals.unsqueeze(2)).flatten(1)  # (B, K V)
        # Twice the number of beams, so that enough hypotheses continue even if every beam ends.
        best, places = candidates.topk(min(2 * beams, candidates.shape[1]), dim=1)
        length += 1
        kept_sentences: list[int] = []
        rows_kept: list[int] = []
        tokens_kept: list[int] = []
        totals_kept: list[list[float]] = []
        written_kept: list[list[list[int]]] = []
        for place, (values, choices) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
            sentence, of_sentence = alive[place], written[place]
            done, limit = finished[sentence], longest[sentence]
            live: list[tuple[int, int, float]] = []  # row, token, total
            ended: set[int] = set()
            for rank, (total, choice) in enumerate(zip(values, choices, strict=True)):
                if not total > -torch.inf or len(live) == beams:  # also stops at NaN
                    break
                row, token = divmod(choice, vocabulary)
                if token == end:
                    if rank < beams:
                        ended.add(row)
                        done.append(Hypothesis(of_sentence[row], total / length**alpha, total, True))
                elif length <= limit:
                    live.append((row, token, total))
            if length > limit:  # limit reached: hypotheses that did not end are kept as incomplete
                for row, total in enumerate(totals[place].tolist()):
                    if row not in ended and total > -torch.inf:
                        done.append(Hypothesis(of_sentence[row], total / max(1, limit) ** alpha, total, False))
            done.sort(key=lambda each: (each.is_complete, each.score), reverse=True)
            del done[beams:]
            if not live:
                continue
            if len(done) == beams:
                reach = (limit + 1 if is_exhaustive else length) ** alpha
                if live[0][2] / reach <= done[-1].score:
                    continue
            live += [(live[0][0], live[0][1], -torch.inf)] * (beams - len(live))  # fill unused rows (small vocabulary)
            kept_sentences.append(place)
            rows_kept += [place * beams + row for row, _, _ in live]
            tokens_kept += [token for _, token, _ in live]
            totals_kept.append([total for _, _, total in live])
            written_kept.append([[*of_sentence[row], token] for row, token, _ in live])
        has_fewer = len(kept_sentences) < len(alive)
        alive, written = [alive[place] for place in kept_sentences], written_kept
        if alive:
            sentences = torch.tensor(kept_sentences, device=device) if has_fewer else None
            steps.select(torch.tensor(rows_kept, device=device), sentences)
            totals = torch.tensor(totals_kept, device=device)
            last = torch.tensor(tokens_kept, device=device)
    nothing = Hypothesis([], -torch.inf, -torch.inf, False)
    return [each[:num_best] or [nothing] for each in finished]


@torch.inference_mode()
def sample(
    steps: Steps,
    longest: Sequence[int],
    *,
    begin: int,
    end: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    forbidden: Sequence[int] = (),
    device: torch.device | None = None,
) -> list[Hypothesis]:
    """One random hypothesis per sentence; `steps` has one row for each.

    Scores are divided by `temperature`; then the `top_k` most likely tokens are kept (0: all), and of these the
    smallest set with probability `top_p` (Holtzman et al. 2020, arXiv:1904.09751). The scores of hypotheses are
    log-probabilities of the unmodified model.
    """
    assert temperature > 0
    assert 0 < top_p <= 1
    results: list[Hypothesis | None] = [None] * len(longest)
    alive = list(range(len(longest)))
    written: list[list[int]] = [[] for _ in alive]
    totals = [0.0 for _ in alive]
    last = torch.full((len(longest),), begin, dtype=torch.int64, device=device)
    banned = torch.tensor(list(forbidden), dtype=torch.int64, device=device)
    while alive:
        scores = steps.step(last).float()
        scores[:, banned] = -torch.inf
        log_probs = scores.log_softmax(dim=1)
        chances = _cut(scores / temperature, top_k, top_p).softmax(dim=1)
        chosen = torch.multinomial(chances, 1, generator=generator)  # (N, 1)
        gained = log_probs.gather(1, chosen).squeeze(1).tolist()
        kept: list[int] = []
        for place, (token, gain) in enumerate(zip(chosen.squeeze(1).tolist(), gained, strict=True)):
            sentence, tokens = alive[place], written[place]
            if token == end or len(tokens) == longest[sentence]:
                total = totals[place] + (gain if token == end else 0.0)
                results[sentence] = Hypothesis(tokens, total, total, token == end)
                continue
            tokens.append(token)
            totals[place] += gain
            kept.append(place)
        rows = torch.tensor(kept, dtype=torch.int64, device=device)
        if kept:
            steps.select(rows, rows if len(kept) < len(alive) else None)
        last = chosen.squeeze(1).index_select(0, rows)
        alive = [alive[place] for place in kept]
        written = [written[place] for place in kept]
        totals = [totals[place] for place in kept]
    return [each for each in results if each is not None]


def _cut(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """(N, V) -> (N, V): minus infinity for tokens outside of `top_k` and `top_p`."""
    if top_k:
        weakest = scores.topk(min(top_k, scores.shape[1]), dim=1).values[:, -1:]
        scores = scores.masked_fill(scores < weakest, -torch.inf)
    if top_p < 1:
        ordered, places = scores.sort(dim=1, descending=True)
        chances = ordered.softmax(dim=1)
        before = chances.cumsum(dim=1) - chances  # probability of all more likely tokens
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
        scores = scores.scatter(1, places, ordered)
    return scores


def _given(prefixes: Sequence[Sequence[int]], alive: Sequence[int], length: int) -> dict[int, int]:
    """Position among the live sentences -> the next token, for sentences whose prefix is longer than `length`."""
    return {place: prefixes[n][length] for place, n in enumerate(alive) if length < len(prefixes[n])}


def _only(scores: Tensor, token: int) -> None:
    """(K, V): sets all other tokens to minus infinity, in place."""
    kept = scores[:, token].clone()
    scores.fill_(-torch.inf)
    scores[:, token] = kept


def _repeating(tokens: Sequence[int], size: int) -> list[int]:
    """The tokens that would repeat an n-gram of length `size`."""
    if len(tokens) < size:
        return []
    tail = tuple(tokens[len(tokens) - size + 1 :])
    starts = range(len(tokens) - size + 1)
    return [tokens[at + size - 1] for at in starts if tuple(tokens[at : at + size - 1]) == tail]
