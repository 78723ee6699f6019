"""The precision of a forward pass: features may have 16 bits, while coordinates stay in fp32.

Parameters stay in fp32 as well: autocast rounds them where they are used.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import get_args

import torch
from torch import nn

from ddetr_edu.models.config import Precision

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# The names of a CPU's instructions for them in torch.cpu.get_capabilities, on x86 and on ARM.
INSTRUCTIONS = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}


def choose_precision(precision: str, device: torch.device) -> str:
    """The precision of a forward pass, once it is known that the device has it.

    Args:
        precision: "fp32", "bf16" or "fp16"; or "auto", which is bf16 where the device has
            instructions for it, and fp32 elsewhere.
        device: Where to compute.

    Returns:
        "fp32", "bf16" or "fp16".

    Raises:
        ValueError: For another precision, or one that the device lacks.
    """
    if precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise ValueError(f'precision "{precision}" is not known; choose one of {known}')
    if precision == "auto":
        return "bf16" if is_fast("bf16", device) else "fp32"
    if precision == "fp32":
        return precision
    if not torch.amp.is_autocast_available(device.type):
        raise ValueError(
            f'precision "{precision}" is not possible on the device "{device}", for which torch '
            "has no autocast; choose fp32"
        )
    if precision == "bf16" and device.type == "cuda" and not is_fast("bf16", device):
        raise ValueError(
            f'precision "bf16" is not possible on {device}, a '
            f"{torch.cuda.get_device_name(device)}, which lacks it; choose fp16 or fp32"
        )
    return precision


def is_fast(precision: str, device: torch.device) -> bool | None:
    """Whether a device is known to compute convolutions and linear layers faster in 16 bits.

    Args:
        precision: "bf16" or "fp16".
        device: A CPU or a GPU; any other device counts as one without.

    Returns:
        Of a CPU, whether it has the instructions and torch has the library that uses them; None for
        versions of torch that do not tell.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    tell: Callable[[], Mapping[str, object]] | None = getattr(torch.cpu, "get_capabilities", None)
    if tell is None:
        return None
    capabilities = tell()
    return any(capabilities.get(name) for name in INSTRUCTIONS[precision])


def describe_slow_precision(precision: str, device: torch.device) -> str | None:
    """Where 16 bits cost time instead of saving it: a CPU without instructions for them.

    Every CPU can compute with them, rounding after each operation in fp32. On one with AVX2 alone,
    a training step took about ten times as long.

    Args:
        precision: From `choose_precision`.
        device: Where to compute.

    Returns:
        A sentence, or None; None, too, for versions of torch that do not tell.
    """
    if precision == "fp32" or device.type != "cpu" or is_fast(precision, device) is not False:
        return None
    return (
        f"torch has no fast {precision} for this processor, and may be several times slower in it "
        "than in fp32; --precision auto chooses the faster"
    )


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """A context in which modules compute in a precision.

    Args:
        precision: From `choose_precision`.
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
