"""How is dropout computed fast on a CPU? (Srivastava et al. 2014)."""

import torch
from torch import Tensor, nn

LEVELS = 2**16  # number of values of a random number


class Dropout(nn.Dropout):
    """torch's dropout in less than half the time on a CPU: 16 random bits per element, with rounded probability."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...): in training, elements are 0 with probability p, the others multiplied by 1 / (1 - p)."""
        dropped = int(self.p * LEVELS)
        if not self.training or not dropped or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = drawn[: x.numel()].view(x.shape) >= dropped - LEVELS // 2
        return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
