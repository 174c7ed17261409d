"""Benchmark: time and memory of a step that trains an adapter, compared with all weights, and with peft's LoRA.

Each side is a process; blocks of steps alternate (turns.py). All train the same Transformer on the same batches of
random tokens, with label smoothing off, clipping and torch's fused AdamW, in a loop without evaluations:

- full: all weights learn.
- segue: LoRA of `layers/lora.py` beside the chosen linear layers.
- peft: `peft.get_peft_model` on the same model, the same layers, rank and scale.
- again: another process of `segue`. Its difference is noise.

segue and peft must have the same number of trained parameters, and the same losses after the first steps.
peft needs an environment of its own with torch, peft and segue:

    python bench/adapters.py --peft peft/bin/python
"""

import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import turns

VOCABULARY = 8000
RATE, CLIP_NORM = 1e-3, 1.0
RANK, ALPHA = 8, 16
LAYERS = ("query", "key", "value", "output", "up", "down")
NUM_BATCHES, SENTENCES, TOKENS = 8, 48, 24
SIDES = ("full", "segue", "peft", "again")
CHECKED_STEPS = 3


def built(side: str, plan: dict[str, Any]) -> Any:
    """The model of a side; the weights are the same on all sides, and of each adapter half of the matrices are 0."""
    import torch

    from segue.layers import lora
    from segue.models.transformer import Transformer, TransformerSection, initialize

    torch.manual_seed(1)
    model: Any = Transformer(TransformerSection.model_validate(plan["model"]), VOCABULARY, VOCABULARY)
    initialize(model)
    if side == "full":
        return model
    if side == "peft":
        import peft

        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(LAYERS), lora_dropout=0.0)
        model = peft.get_peft_model(model, config)
    else:
        names = [name for name, module in model.named_modules() if name.rpartition(".")[2] in LAYERS]
        before = model.state_dict()
        lora.adapt(model, set(names).__contains__, RANK, ALPHA / RANK)
        model.load_state_dict(before, strict=False)  # layers with matrices are new
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(lora.is_of_adapter(name))
    firsts = sorted((name, each) for name, each in model.named_parameters() if "lora_a" in name.casefold())
    for number, (_, matrix) in enumerate(firsts):  # the same on both sides, whose names sort alike
        torch.manual_seed(number)
        torch.nn.init.normal_(matrix, std=0.02)
    return model


def be_side(side: str, plan_file: str) -> None:
    """In a side's process: the training loop."""
    import torch
    from torch.nn import functional as F

    answer = turns.channel()
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    torch.set_num_threads(plan["threads"])
    model = built(side, plan)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)
    torch.manual_seed(2)
    batches = [torch.randint(4, VOCABULARY, (2, SENTENCES, TOKENS)) for _ in range(NUM_BATCHES)]
    lengths = torch.full((SENTENCES,), TOKENS)
    places = torch.arange(SENTENCES * (TOKENS - 1))

    def step(number: int) -> float:
        source, target = batches[number % NUM_BATCHES]
        scores = model(source, lengths, target[:, :-1], places)
        loss = F.cross_entropy(scores, target[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        optimizer.step()
        return float(loss.detach())

    losses = [step(number) for number in range(CHECKED_STEPS)]
    answer({"losses": losses, "trained": sum(each.numel() for each in trained)})
    pace = turns.Pace(answer)
    try:
        pace.wait()
        number = CHECKED_STEPS
        while True:
            step(number)
            number += 1
            pace.after_step(1.0)
    except turns.LoopEnds:
        answer({"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024})


def main() -> None:
    parser = turns.parser(__doc__, block_seconds=0.0)
    parser.add_argument("--peft", default=sys.executable, help="interpreter with torch, peft and segue")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8, help="in a block")
    options = parser.parse_args()
    if options.side:
        be_side(*options.side)
        return
    width = options.width
    model = {"kind": "transformer", "width": width, "feed_forward": 4 * width, "heads": 4, "dropout": 0.0}
    model |= {"encoder_layers": 3, "decoder_layers": 3}
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.json"
        plan.write_text(json.dumps({"model": model, "threads": options.threads}), encoding="utf-8")
        pythons = {side: options.peft if side == "peft" else sys.executable for side in SIDES}
        sides = turns.start(__file__, pythons, plan)
        facts = {name: side.facts for name, side in sides.items()}
        for name in ("peft", "again"):
            assert facts[name]["trained"] == facts["segue"]["trained"], facts
            pairs = zip(facts[name]["losses"], facts["segue"]["losses"], strict=True)
            assert all(abs(a - b) < 1e-4 for a, b in pairs), facts
        print(f"{facts['full']['trained']:,} parameters, {facts['segue']['trained']:,} of an adapter")
        steps = [options.steps] * options.pairs
        blocks = {name: answers[1:] for name, answers in turns.take_turns(sides, [options.steps, *steps]).items()}
        memory = {name: side.ask("end")["memory"] for name, side in sides.items()}
    wall, processor = (
        {name: np.array([each[key] for each in of]) for name, of in blocks.items()} for key in ("wall", "processor")
    )
    print(f"{'side':8}{'ms a step':>10}{'peak MB':>9}   others' time / its time, wall; processor")
    for name in SIDES:
        shown = [
            f"{other} {turns.interval(wall[other] / wall[name])}; {turns.interval(processor[other] / processor[name])}"
            for other in SIDES
            if name == "segue" and other != name
        ]
        milliseconds = 1000 * wall[name].mean() / options.steps
        print(f"{name:8}{milliseconds:10.1f}{memory[name] / 1e6:9.0f}   {'   '.join(shown)}")


if __name__ == "__main__":
    main()
