"""Step 5 of 5, A: the weighted sum of the samples.

Lesson 06 is about this module and the two implementations that put the five steps together.
"""

import torch
from torch import Tensor


def aggregate(samples: Tensor, weights: Tensor) -> Tensor:
    """Sum the samples of each head with their weights, and concatenate the heads.

    Only levels and points are summed. Heads are concatenated here and mixed afterwards by the
    output projection.

    Source: paper, equation 3.

    Args:
        samples: (N, Lq, M, L, P, D), the values that were read at the points.
        weights: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M*D).
    """
    per_head = torch.einsum("nqmlpd,nqmlp->nqmd", samples, weights)
    return per_head.flatten(2)  # (N, Lq, M*D)
