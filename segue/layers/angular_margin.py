"""How are embeddings of speakers learned? As classes on a sphere, each kept at an angular margin from the others.

Additive angular margin softmax: Deng et al. 2019, "ArcFace" (arXiv:1801.07698), equation 3.

Shape letters: B batch, D width, C classes.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def angular_scores(embeddings: Tensor, centers: Tensor, targets: Tensor, margin: float, scale: float) -> Tensor:
    """(B, D) embeddings, (C, D) centers of the classes, (B) targets -> (B, C) logits for a softmax, float32.

    `scale` times the cosine of the angle between embedding and center; for the target, the angle is `margin` radians
    larger, and where that would be more than pi, the cosine decreases linearly instead, as in the paper's code.
    """
    cosines = F.normalize(embeddings.float(), dim=1) @ F.normalize(centers.float(), dim=1).T
    own = cosines.gather(1, targets.unsqueeze(1))  # (B, 1)
    sines = (1 - own.square()).clamp(min=1e-9).sqrt()  # not 0: the gradient of the root would be infinite
    moved = own * math.cos(margin) - sines * math.sin(margin)
    moved = torch.where(own > -math.cos(margin), moved, own - margin * math.sin(margin))
    return scale * cosines.scatter(1, targets.unsqueeze(1), moved)
