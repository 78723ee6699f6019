"""Trials of the claims about sizes and counts: tokens, pairs, operations."""

import functools
from collections.abc import Callable

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ddetr_edu.attention import MSDeformAttn
from ddetr_edu.course.claim import Claim, Verdict, agrees, decide
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR, flatten_levels

Shapes = list[tuple[int, int]]
TOLERANCE = 0.1  # by which a stated number of operations may be off


@functools.cache
def run_parts(height: int, width: int) -> tuple[Shapes, dict[str, float]]:
    """Send an image through the paper's multi-scale model, and count what each part computes.

    The tensors are fake: they have a shape and no numbers, so that nothing is really computed. The
    counter knows matrix products and convolutions, which are nearly everything.

    Args:
        height: Of the image, in pixels.
        width: The same.

    Returns:
        (H, W) of each level, and for each part its billions of multiply-adds.
    """
    with FakeTensorMode(), torch.no_grad():
        model = DeformableDETR(DeformableDETRConfig.preset("r50")).eval().requires_grad_(False)
        counts: dict[str, float] = {}

        def counted(part: str, module: nn.Module, *inputs):
            with FlopCounterMode(display=False) as counter:
                outputs = module(*inputs)
            counts[part] = counter.get_total_flops() / 2e9  # torch counts a multiply-add as two
            return outputs

        maps = counted("backbone", model.backbone, torch.zeros(1, 3, height, width))
        levels = counted("input projection", model.input_projection, maps)
        shapes = [(level.shape[2], level.shape[3]) for level in levels]
        tokens, ratios = flatten_levels(levels), torch.ones(1, len(levels), 2)
        mask = torch.zeros(tokens.shape[:2], dtype=torch.bool)
        memory = counted("encoder", model.encoder, tokens, tokens, shapes, ratios, mask)
        queries = model.queries(1)
        counted("decoder and heads", model.decoder, queries, memory, shapes, ratios, mask)
    return shapes, counts


def measured_shapes(height: int, width: int) -> Shapes:
    """The sizes of the four levels that the model makes of an image.

    Args:
        height: Of the image, in pixels.
        width: The same.

    Returns:
        [(H, W), ...], finest first.
    """
    return run_parts(height, width)[0]


def try_tokens(shapes_of: Callable = measured_shapes) -> Verdict:
    """How many tokens an image of 800 x 1200 pixels has.

    Args:
        shapes_of: A function (height, width) -> [(H, W), ...].

    Returns:
        The verdict.
    """
    shapes = shapes_of(800, 1200)
    n_tokens = sum(height * width for height, width in shapes)
    sizes = ", ".join(f"{height} x {width}" for height, width in shapes)
    return decide(
        agrees("19,891", n_tokens),
        f"The levels are {sizes}, together {n_tokens:,} tokens. Strided convolutions round up: 25 "
        "rows and 37.5 columns become 25 and 38.",
    )


def weights_of_a_query(n_tokens: int) -> tuple[int, int]:
    """Count the attention weights that torch's dense attention and the library's compute.

    Args:
        n_tokens: How many tokens there are.

    Returns:
        For each query and all 8 heads, those of dense and those of deformable attention.
    """
    tokens = torch.zeros(1, n_tokens, 256)
    query = tokens[:, :1]
    with torch.no_grad():
        _, dense = nn.MultiheadAttention(256, 8, batch_first=True)(
            query, tokens, tokens, average_attn_weights=False
        )
        reference = torch.full((1, 1, 4, 2), 0.5)
        shapes = [(2, 3)] * 4
        *_, deformable = MSDeformAttn().sampling_locations_and_weights(query, reference, shapes)
    return dense.numel(), deformable.numel()


def try_155_times(count: Callable = weights_of_a_query) -> Verdict:
    """How many times fewer pairs deformable attention has.

    Args:
        count: As `weights_of_a_query`.

    Returns:
        The verdict.
    """
    n_tokens = sum(height * width for height, width in measured_shapes(800, 1200))
    dense, deformable = count(n_tokens)
    like_with_like = dense / deformable
    return decide(
        agrees("155", like_with_like),
        f"A query has {dense:,} weights in dense attention and {deformable} in deformable, both "
        f"for 8 heads: {like_with_like:,.0f} times as many. 19,891 / 128 = {19_891 / 128:.0f} has "
        "a single head on one side and all eight on the other.",
    )


def try_80_times(count: Callable = weights_of_a_query) -> Verdict:
    """The same for 20,000 tokens, and what the quotient is that the claim names.

    Args:
        count: As `weights_of_a_query`.

    Returns:
        The verdict.
    """
    dense, deformable = count(20_000)
    named, like_with_like = 20_000**2 / (300 * 16), dense / deformable
    return decide(
        agrees("80", like_with_like) or agrees("80", named),
        f"20,000² / (300 · 16) is {named:,.0f}, and it sets the encoder's self-attention against "
        "the decoder's cross-attention. With 20,000 queries on both sides it is "
        f"{like_with_like:,.0f}.",
    )


def try_operations(parts_of: Callable = run_parts) -> Verdict:
    """How many operations a forward pass of the whole model takes, and in which parts.

    Args:
        parts_of: As `run_parts`.

    Returns:
        The verdict.
    """
    _, counts = parts_of(800, 1200)
    parts, total = sorted(counts.values(), reverse=True), sum(counts.values())
    smaller, larger = (sum(parts_of(800, width)[1].values()) for width in (1066, 1333))

    def fits(operations: int) -> bool:  # of a multiply-add
        pairs = zip((100, 40, 30, 3, 173), (*parts, total), strict=True)
        return all(abs(operations * m / stated - 1) <= TOLERANCE for stated, m in pairs)

    listed = ", ".join(f"{part} {count:.0f}" for part, count in counts.items())
    return decide(
        fits(2),
        f"In billions of multiply-adds, an image of 800 x 1200 takes {total:.0f}: {listed}. Those "
        f"of 800 x 1066 and 800 x 1333 take {smaller:.0f} and {larger:.0f}, so 173 can be an "
        "average; counted as two operations each, all numbers double. No four parts are 100, 40, "
        "30 and 3.",
        fits(1),
    )


CLAIMS = (
    Claim(8, "An image of 800 x 1200 pixels has 19,891 tokens.", try_tokens),
    Claim(
        9,
        "Deformable attention takes 155 times fewer operations than dense attention: 19,891² "
        "against 19,891 · 128.",
        try_155_times,
    ),
    Claim(
        10, "It is about 80 times cheaper: 20,000 · 20,000 pairs against 300 · 16.", try_80_times
    ),
    Claim(20, "The model takes about 173 GFLOPs = 100 + 30 + 40 + 3.", try_operations),
)
