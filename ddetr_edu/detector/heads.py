"""From a decoder state to a class and a box."""

import math

import torch
from torch import Tensor, nn


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """The number whose sigmoid is x; x is first clamped to [eps, 1 - eps], as officially."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def correct(reference: Tensor, correction: Tensor) -> Tensor:
    """A reference moved by a correction, which is added before the sigmoid.

    reference (..., 2) (x, y) or (..., 4) (cx, cy, w, h), in [0, 1]; correction (..., 4)
    Returns: (..., 4) (cx, cy, w, h) in [0, 1], of the reference's type: 16-bit corrections do not
        make it coarser
    """
    known = inverse_sigmoid(reference)
    known = nn.functional.pad(known, (0, 4 - known.shape[-1]))  # a point knows no size
    return (correction + known).sigmoid()


def box_network(d_model: int) -> nn.Sequential:
    """The three layers that turn a query's state (..., C) into four numbers for its box."""
    return nn.Sequential(
        nn.Linear(d_model, d_model), nn.ReLU(),
        nn.Linear(d_model, d_model), nn.ReLU(),
        nn.Linear(d_model, 4),
    )  # fmt: skip


class PredictionHeads(nn.Module):
    """One linear layer for the classes, a three-layer net for the box.

    The class bias starts so that every class has probability 0.01: most queries are background,
    and focal loss would otherwise spend its first steps saying so. The box net starts at zero: a
    box that is known stays as it is, and around a bare point the first box is a little over a
    tenth of the picture wide.

    guess_size: whether references are bare points, so that the size must be guessed
    Source: deformable_detr.py of the official code.
    """

    def __init__(self, d_model: int, num_classes: int, guess_size: bool = True):
        super().__init__()
        self.classify = nn.Linear(d_model, num_classes)
        nn.init.constant_(self.classify.bias, -math.log((1 - 0.01) / 0.01))
        self.locate = box_network(d_model)
        nn.init.zeros_(self.locate[-1].weight)
        nn.init.zeros_(self.locate[-1].bias)
        if guess_size:
            nn.init.constant_(self.locate[-1].bias[2:], -2.0)

    def forward(self, state: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and boxes of the queries, the boxes as corrections of their references.

        state (N, Lq, C); reference (N, Lq, 2) (x, y) or (N, Lq, 4) (cx, cy, w, h), in [0, 1]
        Returns: logits (N, Lq, K); boxes (N, Lq, 4) (cx, cy, w, h) in [0, 1]
        """
        return self.classify(state), correct(reference, self.locate(state))
