"""The prediction heads: from a decoder state to a class and a box."""

import math

import torch
from torch import Tensor, nn


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """The number whose sigmoid is x.

    Source: util/misc.py of the official code.

    Args:
        x: (...) in [0, 1].
        eps: x and 1 - x are first clamped to at least this, as in the official code.

    Returns:
        (...), finite.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def refine_boxes(reference: Tensor, delta: Tensor) -> Tensor:
    """Boxes moved and resized by a predicted delta, which is added before the sigmoid.

    Source: paper, appendix A.4 (iterative bounding box refinement).

    Args:
        reference: (..., 2) (x, y) or (..., 4) (cx, cy, w, h), in [0, 1].
        delta: (..., 4), added to the inverse sigmoid of the reference; where the reference is a
            point, the last two numbers are the size itself, before the sigmoid.

    Returns:
        (..., 4) (cx, cy, w, h) in [0, 1], of the wider dtype of the two: a bf16 delta does not make
        an fp32 reference coarser.
    """
    logit = inverse_sigmoid(reference)
    logit = nn.functional.pad(logit, (0, 4 - logit.shape[-1]))  # a point has no size: zeros
    return (delta + logit).sigmoid()


def box_mlp(d_model: int) -> nn.Sequential:
    """The box head: an MLP of three linear layers.

    Args:
        d_model: C, the input channels and the hidden ones.

    Returns:
        A module (..., C) -> (..., 4).
    """
    return nn.Sequential(
        nn.Linear(d_model, d_model),
        nn.ReLU(),
        nn.Linear(d_model, d_model),
        nn.ReLU(),
        nn.Linear(d_model, 4),
    )


class PredictionHeads(nn.Module):
    """A linear layer for the classes, and an MLP for the delta of the box.

    The class bias starts so that every class has probability 0.01: most queries are background,
    and focal loss would otherwise spend its first steps learning that. The box head starts
    constant: a reference box stays as it is, and around a reference point the box has about 0.12 of
    the size of the image.

    Source: deformable_detr.py of the official code.

    Args:
        d_model: C.
        num_classes: K.
        init_box_size: Whether references are points, so that the box needs an initial size.
    """

    def __init__(self, d_model: int, num_classes: int, init_box_size: bool = True):
        super().__init__()
        self.class_head = nn.Linear(d_model, num_classes)
        nn.init.constant_(self.class_head.bias, -math.log((1 - 0.01) / 0.01))
        self.bbox_head = box_mlp(d_model)
        self.reset_boxes(-2.0 if init_box_size else 0.0)

    def reset_boxes(self, size: float = 0.0) -> None:
        """Make the box head constant.

        Args:
            size: Its output for width and height, before the sigmoid; for the centre it is 0.
        """
        output = self.bbox_head[-1]
        assert isinstance(output, nn.Linear)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        nn.init.constant_(output.bias[2:], size)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Predict logits and box deltas, to be added to the reference boxes.

        Args:
            state: (..., C), of queries or of encoder tokens.

        Returns:
            The logits (..., K) and the deltas (..., 4) for `refine_boxes`.
        """
        return self.class_head(state), self.bbox_head(state)
