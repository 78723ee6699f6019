"""Which parameters learn how fast, and how the rate changes over a run."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

from torch import nn
from torch.optim import AdamW


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser's settings. What is left out (None) is taken from the recipe.

    A tiny model that does not learn has, more often than not, too low a rate; but detr_tiny wants
    5e-4. That of the official DETR is 1e-4.
    """

    lr: float | None = None  # learning rate at its highest; fast 2e-3, official 2e-4
    backbone: float | None = None  # the backbone's share of that rate; fast 1, official 0.1
    beta2: float | None = None  # how long AdamW remembers squares; fast 0.99, official 0.999
    weight_decay: float | None = None  # how fast weights shrink; 1e-4
    decay_all: bool | None = None  # also biases and norms; fast no, official yes
    warmup_steps: int | None = None  # rise from 0, at most 1/20 of the run; fast 100, official 0
    schedule: Literal["cosine", "step"] | None = None  # fast cosine, official x 0.1 after 4/5
    clip: float | None = None  # largest norm of the gradient; 0.1

    def __post_init__(self):
        for name in ("lr", "backbone", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--optim.{name} is {value}; it must be above 0")
        if self.beta2 is not None and not 0 <= self.beta2 < 1:
            raise ValueError(f"--optim.beta2 is {self.beta2}; it must lie in [0, 1)")
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise ValueError(f"--optim.weight-decay is {self.weight_decay}; it must be 0 or more")

    def filled(self, recipe: str) -> "OptimConfig":
        """The same with every None taken from the recipe."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(RECIPES[recipe], **given)


RECIPES = {
    # for the tiny model, from nothing, in minutes
    "fast": OptimConfig(
        lr=2e-3, backbone=1.0, beta2=0.99, weight_decay=1e-4, decay_all=False,
        warmup_steps=100, schedule="cosine", clip=0.1,
    ),
    # for a ResNet that knows ImageNet, at 32 pictures a step; main.py of the official code
    "official": OptimConfig(
        lr=2e-4, backbone=0.1, beta2=0.999, weight_decay=1e-4, decay_all=True,
        warmup_steps=0, schedule="step", clip=0.1,
    ),
}  # fmt: skip

SLOW = ("sampling_offsets", "queries.reference_points")  # learn at a tenth of the rate


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over the trainable parameters, in groups by rate and by weight decay.

    Offsets and learned reference points get a tenth of the rate: they steer where features are
    read, and a step too far leaves the object. Each group carries its own "base_lr".

    config: filled, no None in it
    Source: main.py of the official code.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = config.lr * (config.backbone if "backbone." in name else 1.0)
        if any(slow in name for slow in SLOW):
            rate *= 0.1
        decays = config.decay_all or parameter.dim() > 1
        groups.setdefault((rate, config.weight_decay if decays else 0.0), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        betas=(0.9, config.beta2),
        fused=True,  # all weights in one pass over them
    )


def set_rate(optimizer: AdamW, step: int, progress: float, config: OptimConfig) -> float:
    """Set each group's rate: a linear warm-up, then down by a cosine or by one step.

    The warm-up takes config.warmup_steps, but no more than a twentieth of the run: on a slow
    machine a short run would otherwise be over before it is warm. The cosine goes from 1 to 1/100;
    the step, officially after 40 of 50 epochs, to 1/10.

    step:     the step about to be made, from 1
    progress: how much of the run is over, from 0 to 1, in time or in steps
    Returns: the factor on every group's base rate.
    """
    progress = min(progress, 1.0)
    if config.schedule == "step":
        factor = 0.1 if progress >= 0.8 else 1.0
    else:
        factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
    factor *= min(1.0, max(step / max(config.warmup_steps, 1), progress / 0.05))
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return factor
