"""Parameter groups, and the learning rate over a run."""

import math

from torch import nn
from torch.optim import AdamW

from ddetr_edu.training.config import FilledOptimConfig

# The groups of parameters by their learning rates, and the parts of names that tell them.
BACKBONE, OFFSETS = "backbone", "sampling offsets and reference points"
OTHERS = "transformer and heads"
PARTS = {BACKBONE: ("backbone.",), OFFSETS: ("sampling_offsets", "queries.reference_points")}


def group_of(name: str) -> str:
    """The group of a parameter: BACKBONE, OFFSETS or OTHERS.

    Args:
        name: Of the parameter in its model.

    Returns:
        The group.
    """
    for group, parts in PARTS.items():
        if any(part in name for part in parts):
            return group
    return OTHERS


def build_optimizer(model: nn.Module, config: FilledOptimConfig) -> AdamW:
    """AdamW over the trainable parameters, in groups by learning rate and weight decay.

    Offsets and learned reference points get a tenth of the learning rate: they decide where
    features are sampled, and too large a step leaves the object. Each group carries its "base_lr".

    Source: main.py of the official code.

    Args:
        model: Whose parameters to train.
        config: The optimiser's settings.

    Returns:
        The optimiser, every group at its highest learning rate.
    """
    factors = {BACKBONE: config.backbone_lr_mult, OFFSETS: 0.1, OTHERS: 1.0}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = config.lr * factors[group_of(name)]
        decays = config.decay_bias_and_norm or parameter.dim() > 1
        groups.setdefault((lr, config.weight_decay if decays else 0.0), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay}
            for (lr, decay), parameters in groups.items()
        ],
        betas=(0.9, config.beta2),
        fused=True,  # all parameters in one pass over them
    )


def set_lr(optimizer: AdamW, step: int, progress: float, config: FilledOptimConfig) -> float:
    """Set each group's learning rate: a linear warm-up, then a decay by a cosine or by one step.

    The warm-up takes config.warmup_steps, but no more than a twentieth of the run: on a slow
    machine a short run would otherwise end before its warm-up. The cosine falls from 1 to 1/100 of
    the highest learning rate. The step, after 40 of 50 epochs in the official code, is to 1/10.

    Args:
        optimizer: From `build_optimizer`.
        step: The step about to be made, from 1.
        progress: How much of the run is over, from 0 to 1, in time or in steps.
        config: The optimiser's settings.

    Returns:
        The learning rate of most of the transformer's parameters, config.lr at its highest.
    """
    progress = min(progress, 1.0)
    if config.schedule == "step":
        factor = 0.1 if progress >= 0.8 else 1.0
    else:
        factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
    factor *= min(1.0, max(step / max(config.warmup_steps, 1), progress / 0.05))
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return config.lr * factor
