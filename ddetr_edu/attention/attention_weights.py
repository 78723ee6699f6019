"""Step 2 of 5, W: how much each point counts.

The weights come from the query alone, by a linear layer and a softmax. There are no keys: the query
is not compared with the values at the points. Lesson 05 is about this module.
"""

from torch import Tensor, nn


def attention_weights(scores: Tensor) -> Tensor:
    """Softmax over all points of one head: the L*P weights of a head sum to 1.

    Levels compete with one another, so the softmax runs over levels and points together. Heads do
    not, so each head has its own softmax.

    Source: paper, equation 3 (the A_mlqk sum to 1 over l and k).

    Args:
        scores: (N, Lq, M, L, P), any real numbers.

    Returns:
        (N, Lq, M, L, P), positive, summing to 1 over the last two axes.
    """
    levels_and_points = scores.shape[-2:]
    return scores.flatten(-2).softmax(-1).unflatten(-1, levels_and_points)


def reset_attention_weights(linear: nn.Linear) -> None:
    """Initialise the score layer with zeros, so that each point begins with weight 1 / (L*P).

    Args:
        linear: C -> M*L*P.
    """
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
