"""What share each part of a model has in a forward pass: of its time, its operations, its memory.

Whatever is to be shared out is read from a meter, a number that grows while the model runs: the
clock, or a count of operations or of bytes. The meter is read whenever a part begins and whenever
it ends, and what has been added since the last reading belongs to the part that was running.
"""

from collections.abc import Callable, Mapping

from torch import nn

from ddetr_edu.attention import MSDeformAttn
from ddetr_edu.models.deformable_detr import DeformableDETR

REST = "the rest"


def main_parts(model: DeformableDETR) -> dict[nn.Module, str]:
    """The parts of a Deformable DETR that a forward pass goes through.

    Args:
        model: The model.

    Returns:
        {module: the part that it belongs to}. The heads are inside the decoder, and not part of it.
    """
    parts: dict[nn.Module, str] = {
        model.backbone: "backbone",
        model.input_projection: "projection",
        model.encoder: "encoder",
        model.decoder: "decoder",
        **dict.fromkeys(model.decoder.heads, "heads"),
    }
    return {**parts, model.queries: "proposals"} if model.config.two_stage else parts


def with_attention(model: DeformableDETR) -> dict[nn.Module, str]:
    """As `main_parts`, with all deformable attention, of encoder and decoder, as a part of its own.

    Args:
        model: The model.

    Returns:
        {module: part}.
    """
    attention = [module for module in model.modules() if isinstance(module, MSDeformAttn)]
    return {**main_parts(model), **dict.fromkeys(attention, "deformable attention")}


def share_out(
    parts: Mapping[nn.Module, str], run: Callable[[], object], meter: Callable[[], float]
) -> dict[str, float]:
    """Share out what a meter counts while a model runs.

    Args:
        parts: {module: the name of its part}. Inside a module of one part, a module of another
            counts for that other alone.
        run: Takes no arguments, such as `lambda: model(images, padding_mask)`.
        meter: Gives the present reading, in any unit.

    Returns:
        {part: what was added}, with what belongs to none of them as "the rest".
    """
    amounts: dict[str, float] = dict.fromkeys([*parts.values(), REST], 0)
    running, last = [REST], meter()

    def settle() -> None:
        nonlocal last
        now = meter()
        amounts[running[-1]] += now - last
        last = now

    def begin(module: nn.Module, inputs: tuple) -> None:
        settle()
        running.append(parts[module])

    def end(module: nn.Module, inputs: tuple, output: object) -> None:
        settle()
        running.pop()

    hooks = []
    for module in parts:
        hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        run()
        settle()
    finally:
        for hook in hooks:
            hook.remove()
    return amounts


def parameters_by_part(model: nn.Module, parts: Mapping[nn.Module, str]) -> dict[str, int]:
    """Count the parameters of each part of a model.

    Args:
        model: The model.
        parts: {module: the name of its part}, as for `share_out`.

    Returns:
        {part: numbers}, with what belongs to none of them as "the rest".
    """
    amounts = dict.fromkeys([*parts.values(), REST], 0)

    def visit(module: nn.Module, part: str) -> None:
        part = parts.get(module, part)
        amounts[part] += sum(p.numel() for p in module.parameters(recurse=False))
        for child in module.children():
            visit(child, part)

    visit(model, REST)
    return amounts
