"""The precision of a forward pass: features may have 16 bits, while coordinates stay in fp32.

Parameters stay in fp32 as well: autocast rounds them where they are used.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import get_args

import torch
from torch import nn

from ddetr_edu.models.config import Precision

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Check that a forward pass can have a precision.

    Every CPU can compute in bf16, but only some have instructions for it, which make it faster.

    Args:
        precision: "fp32", "bf16" or "fp16".
        device: Where to compute.

    Raises:
        ValueError: For another precision, or one that the device lacks.
    """
    if precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise ValueError(f'precision "{precision}" is not known; choose one of {known}')
    if precision == "fp32":
        return
    if not torch.amp.is_autocast_available(device.type):
        raise ValueError(
            f'precision "{precision}" is not possible on the device "{device}", for which torch '
            "has no autocast; choose fp32"
        )
    if precision == "bf16" and device.type == "cuda":
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                raise ValueError(
                    f'precision "bf16" is not possible on {device}, a '
                    f"{torch.cuda.get_device_name()}, which lacks it; choose fp16 or fp32"
                )


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """A context in which modules compute in a precision.

    Args:
        precision: As for `check_precision`.
        device: Where the modules compute.

    Returns:
        torch's autocast; for fp32, a context that changes nothing.
    """
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, AUTOCAST[precision])


def check_parameters(model: nn.Module) -> None:
    """Check that coordinates can have the dtype of a model's parameters.

    Args:
        model: The model.

    Raises:
        ValueError: For parameters that are neither all in fp32 nor all in fp64, unless the model is
            called under autocast.
    """
    dtypes = {p.dtype for p in model.parameters()}
    device_type = next(model.parameters()).device.type
    usable = dtypes in ({torch.float32}, {torch.float64})
    if usable or torch.is_autocast_enabled(device_type):
        return
    names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    raise ValueError(
        f"the detector's parameters are {names}, but coordinates need float32; call "
        "detector.float(), and for 16-bit arithmetic call the detector inside `with "
        'torch.autocast("cuda", torch.bfloat16):`'
    )
