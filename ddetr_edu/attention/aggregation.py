"""Step 5 of 5, A: the weighted sum of what was read.

Lesson 06 is about this module and the two implementations that bring the five steps together.
"""

import torch
from torch import Tensor


def aggregate(samples: Tensor, weights: Tensor) -> Tensor:
    """Sum the samples of each head, weighted; put the heads side by side.

    Only levels and points are summed. Heads stay apart: they are concatenated here and mixed
    afterwards by the output projection.

    samples: (N, Lq, M, L, P, D), what was read at each point
    weights: (N, Lq, M, L, P)
    Returns: (N, Lq, M*D)
    Source: paper, equation 3.
    """
    per_head = torch.einsum("nqmlpd,nqmlp->nqmd", samples, weights)
    return per_head.flatten(2)  # (N, Lq, M*D)
