"""Makes a random model in NeMo and saves it, for test_import_nemo.py: run by the python of NeMo's own environment.

In the folder of the first argument: config.json and sounds.npz become model.nemo, log_probs.npz and texts.json.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from nemo.collections.asr.models import EncDecCTCModel
from omegaconf import OmegaConf


def main(folder: Path) -> None:
    """One model; every sound alone."""
    torch.manual_seed(0)
    config = OmegaConf.create(json.loads((folder / "config.json").read_text()))
    model = EncDecCTCModel(cfg=config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):  # fresh ones compute nothing
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                if name in ("weight", "running_var"):
                    torch.nn.init.uniform_(tensor, 0.5, 1.5)
                elif name in ("bias", "running_mean"):
                    torch.nn.init.normal_(tensor, std=0.2)
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter)
    model.save_to(str(folder / "model.nemo"))
    with np.load(folder / "sounds.npz") as sounds:
        waveforms = [torch.from_numpy(sounds[name]) for name in sounds.files]
    log_probs, texts = [], []
    with torch.inference_mode():
        for waveform in waveforms:
            lengths = torch.tensor([len(waveform)])
            scores, frames, _ = model(input_signal=waveform.unsqueeze(0), input_signal_length=lengths)
            log_probs.append(scores[0, : int(frames)].numpy())
            [text] = model.decoding.ctc_decoder_predictions_tensor(scores, frames, return_hypotheses=False)
            texts.append(getattr(text, "text", text))
    np.savez(folder / "log_probs.npz", *log_probs)
    (folder / "texts.json").write_text(json.dumps(texts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
