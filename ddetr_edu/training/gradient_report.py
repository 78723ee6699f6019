"""What a backward pass has left in each parameter: nothing, zeros, numbers, NaN, or an explosion.

Call `report_gradients` after the backward pass and before clipping: clipping shortens all gradients
together, and makes all of them NaN if one is.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

State = Literal["learns", "frozen", "no gradient", "zero", "explodes", "not finite"]
STATES: tuple[State, ...] = ("learns", "frozen", "no gradient", "zero", "explodes", "not finite")


@dataclass(frozen=True)
class ParameterGradient:
    """The gradient of one parameter."""

    name: str
    norm: float  # NaN if there is no gradient
    state: State


@dataclass(frozen=True)
class GradientReport:
    """The gradients of all parameters of a model. Printed, it is a table of its parts."""

    gradients: list[ParameterGradient]

    def names(self, state: State) -> list[str]:
        """The parameters in some state.

        Args:
            state: One of `STATES`.

        Returns:
            Their names, in the order of the model.
        """
        return [gradient.name for gradient in self.gradients if gradient.state == state]

    def by_part(self, depth: int = 2) -> dict[str, Counter[State]]:
        """How many parameters of each part of the model are in each state.

        Args:
            depth: How many components of a name are the part's: with 2, that of
                "model.backbone.stem.0.weight" is "model.backbone".

        Returns:
            {part: {state: number of parameters}}, in the order of the model.
        """
        parts: dict[str, Counter[State]] = {}
        for gradient in self.gradients:
            part = ".".join(gradient.name.split(".")[:depth])
            parts.setdefault(part, Counter())[gradient.state] += 1
        return parts

    def __str__(self) -> str:
        parts = self.by_part()
        total: Counter[State] = sum(parts.values(), Counter())
        shown = [state for state in STATES if total[state]]
        width = max(len("all"), *map(len, parts))
        lines = [" " * width + "".join(f"{state:>13}" for state in shown)]
        for part, counts in {**parts, "all": total}.items():
            cells = (str(counts[state] or "-") for state in shown)
            lines.append(f"{part:{width}}" + "".join(f"{cell:>13}" for cell in cells))
        return "\n".join(lines)


def report_gradients(
    model: nn.Module, usual: GradientReport | None = None, factor: float = 100
) -> GradientReport:
    """Say which parameters of a model get no gradient, and whose gradient is out of bounds.

    "frozen" are those that are not trained. "no gradient" means that nothing connects a parameter
    with the loss: it is unused, or cut off by `detach` or `no_grad`. "zero" means that it is
    connected and that every number of its gradient is 0, as behind a layer that is initialised to
    zero.

    Args:
        model: After a backward pass.
        usual: A report of the same model on another batch, or at an earlier step. A gradient that
            is `factor` times as long as in it "explodes"; without it, none does.
        factor: More than 1.

    Returns:
        The report.
    """
    before = {g.name: g.norm for g in usual.gradients} if usual is not None else {}
    gradients = []
    for name, parameter in model.named_parameters():
        norm = math.nan if parameter.grad is None else parameter.grad.norm().item()
        state: State = "learns"
        if not parameter.requires_grad:
            state = "frozen"
        elif parameter.grad is None:
            state = "no gradient"
        elif not torch.isfinite(parameter.grad).all():
            state = "not finite"
        elif not parameter.grad.any():
            state = "zero"
        elif before.get(name, 0.0) > 0 and norm > factor * before[name]:
            state = "explodes"
        gradients.append(ParameterGradient(name, norm, state))
    return GradientReport(gradients)
