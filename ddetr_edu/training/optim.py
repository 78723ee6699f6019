"""Which parameters learn how fast, and how the rate changes over a run."""

import math
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser's settings; the defaults suit the tiny model trained from nothing.

    A tiny model that does not learn has, more often than not, too low a rate; but detr_tiny wants
    5e-4. The official R50 recipe is lr 2e-4, backbone 2e-5, beta2 0.999, at batch 32 from ImageNet
    weights; that of DETR is lr 1e-4, backbone 1e-5.
    """

    lr: float = 2e-3  # learning rate at its highest
    lr_backbone: float | None = None  # that of the backbone; the same as lr when not given
    beta2: float = 0.99  # how long AdamW remembers squared gradients
    weight_decay: float = 1e-4  # not applied to biases and norms
    warmup_steps: int = 100  # the rate rises from 0 over so many steps, or a twentieth of the run
    clip: float = 0.1  # largest norm of the gradient

    def __post_init__(self):
        for name in ("lr", "lr_backbone", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--optim.{name.replace('_', '-')} is {value}; it must be above 0")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"--optim.beta2 is {self.beta2}; it must lie in [0, 1)")
        if not self.weight_decay >= 0:
            raise ValueError(f"--optim.weight-decay is {self.weight_decay}; it must be 0 or more")


SLOW = ("sampling_offsets", "queries.reference_points")  # learn at a tenth of the rate


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over the trainable parameters, in groups by rate and by weight decay.

    Offsets and learned reference points get a tenth of the rate: they steer where features are
    read, and a step too far leaves the object. Each group carries its own "base_lr".

    Source: main.py of the official code, which decays biases and norms as well.
    """
    lr_backbone = config.lr if config.lr_backbone is None else config.lr_backbone
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = lr_backbone if "backbone." in name else config.lr
        if any(slow in name for slow in SLOW):
            rate *= 0.1
        decay = config.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        betas=(0.9, config.beta2),
    )


def set_rate(optimizer: AdamW, step: int, progress: float, warmup_steps: int) -> float:
    """Set each group's rate: a linear warm-up, then a cosine from 1 down to 1/100 of it.

    The warm-up takes warmup_steps, but no more than a twentieth of the run: on a slow machine a
    short run would otherwise be over before it is warm.

    step:     the step about to be made, from 1
    progress: how much of the run is over, from 0 to 1, in time or in steps
    Returns: the factor on every group's base rate. (Officially the rate takes one step down.)
    """
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    warm = max(step / max(warmup_steps, 1), progress / 0.05)
    factor = cosine * min(1.0, warm)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return factor
