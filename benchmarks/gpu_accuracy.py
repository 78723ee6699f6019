"""How accurate an implementation of the attention is on the GPU, compared with fp64."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.attention import benchmark as bench
from ddetr_edu.attention import ms_deform_attn
from ddetr_edu.attention.locations import SpatialShapes

TOLERANCE = {"fp64": 1e-12, "fp32": 1e-5, "fp16": 1e-3, "bf16": 8e-3}  # of `check`
# Of the timed inputs, whose levels are larger: a coordinate of 150 pixels has fewer digits left
# for the fraction, and more is added up.
LARGEST_ERROR = {"fp32": 1e-4, "fp16": 2e-3, "bf16": 1.6e-2}
TENSORS = ("output", "value", "locations", "weights")  # the output, and what has a gradient

Attention = Callable[[Tensor, SpatialShapes, Tensor, Tensor], Tensor]


def check(attention: Attention, dtype: torch.dtype, device: str) -> dict[str, float]:
    """The errors of one dtype, compared with the definition in fp64 on the CPU.

    One level is a single pixel, a third of the locations lie outside, and none lies next to the row
    or the column of a pixel centre, where the gradient is discontinuous.

    Args:
        attention: Takes value, levels, locations and weights.
        dtype: Of value and output.
        device: Where to run it.

    Returns:
        The largest errors of output and gradients, each relative to the largest magnitude.
    """
    generator = torch.Generator().manual_seed(0)
    levels = [(7, 9), (3, 2), (1, 1)]
    n_tokens = sum(height * width for height, width in levels)
    errors = dict.fromkeys(TENSORS, 0.0)
    for channels, n_queries in ((32, 13), (64, 3), (16, 3), (7, 3), (8, n_tokens)):
        points = (1, n_queries, 2, len(levels), 3)
        sizes = torch.tensor([(w, h) for h, w in levels], dtype=torch.float64)[:, None]
        pixels = torch.rand(*points, 2, generator=generator, dtype=torch.float64)
        pixels = (pixels * 1.6 - 0.3) * sizes - 0.5
        pixels = pixels.floor() + 0.05 + 0.9 * (pixels - pixels.floor())
        coord_dtype = dtype if dtype == torch.float64 else torch.float32
        value = torch.randn(1, n_tokens, 2, channels, generator=generator, dtype=torch.float64)
        value, locations = value.to(dtype), ((pixels + 0.5) / sizes).to(coord_dtype)
        weights = torch.rand(points, generator=generator).to(coord_dtype)
        grad = torch.randn(1, n_queries, 2 * channels, generator=generator).to(dtype)

        def run(attention, move, value=value, locations=locations, weights=weights, grad=grad):
            inputs = [move(t.detach()).requires_grad_() for t in (value, locations, weights)]
            output = attention(inputs[0], levels, inputs[1], inputs[2])
            return [output.detach(), *torch.autograd.grad(output, inputs, move(grad))]

        got = run(attention, lambda t: t.to(device))
        expected = run(lambda *inputs: ms_deform_attn(*inputs, "naive"), lambda t: t.double())
        for name, result, reference in zip(TENSORS, got, expected, strict=True):
            errors[name] = max(errors[name], relative_error(result.cpu(), reference))
    return errors


class Reference:
    """Output and gradients in fp64 for one input, on its device; for every type it is given in."""

    def __init__(self, levels: SpatialShapes):
        self.levels = levels
        self.exact: dict[tuple[torch.dtype, ...], list[Tensor]] = {}

    def errors(self, attention: Attention, leaves: list[Tensor]) -> dict[str, float]:
        """The errors of an implementation for exactly the numbers that it was given.

        Gradients of locations close to a row or column of pixel centres are left out, as in
        `ddetr_edu.attention.benchmark.max_errors`.

        Args:
            attention: Takes value, levels, locations and weights.
            leaves: value, locations and weights.

        Returns:
            The largest errors of output and gradients, each relative to the largest magnitude.
        """
        types = tuple(leaf.dtype for leaf in leaves)
        if types not in self.exact:
            self.exact[types] = self._run(_grid_sample, [leaf.double() for leaf in leaves], types)
        sizes = [(width, height) for height, width in self.levels]
        pixels = leaves[1].detach().double()
        pixels = pixels * pixels.new_tensor(sizes)[:, None] - 0.5
        smooth = ((pixels - pixels.round()).abs() > 1e-3).all(-1, keepdim=True)
        results = self._run(attention, leaves, types)
        errors = {}
        for name, result, exact in zip(TENSORS, results, self.exact[types], strict=True):
            if name == "locations":
                result, exact = result * smooth, exact * smooth
            errors[name] = relative_error(result, exact)
        return errors

    def _run(self, attention: Attention, inputs: list[Tensor], types) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        output = attention(leaves[0], self.levels, leaves[1], leaves[2])
        numbers = torch.arange(output.numel(), dtype=torch.float64, device=output.device)
        grad = numbers.cos().view_as(output).to(types[0]).to(output.dtype)
        return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def _grid_sample(*inputs):
    return ms_deform_attn(*inputs, backend="grid_sample")


def relative_error(result: Tensor, exact: Tensor) -> float:
    """The largest error, relative to the largest number of `exact`; infinity instead of NaN."""
    error = bench.relative_error(result.double(), exact)
    return error if error == error else float("inf")
