"""Trials of the claims about the operation: heads, weights, sums."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.attention import MSDeformAttn, aggregate, attention_weights, ms_deform_attn
from ddetr_edu.course.claim import Claim, Verdict, agrees, decide


def try_sum_over_heads(sum_up: Callable = aggregate) -> Verdict:
    """Whether the output is the sum over the heads, before and after their projection.

    Args:
        sum_up: As `aggregate`.

    Returns:
        The verdict.
    """
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(1, 1, 8, 4, 4, 32, generator=generator, dtype=torch.float64)
    weights = torch.rand(1, 1, 8, 4, 4, generator=generator, dtype=torch.float64)
    matrix = torch.randn(256, 256, generator=generator, dtype=torch.float64)  # of output_proj
    heads = (samples * weights[..., None]).sum((3, 4))[0, 0]  # (M, D)
    found = sum_up(samples, weights)[0, 0]
    plain = found.shape == heads[0].shape and torch.allclose(found, heads.sum(0))
    projected = False
    if found.shape == (256,):
        parts = [matrix[:, 32 * m : 32 * (m + 1)] @ head for m, head in enumerate(heads)]
        projected = torch.allclose(matrix @ found, torch.stack(parts).sum(0))
    return decide(
        plain,
        f"Summing levels, points and heads leaves {heads.sum(0).numel()} numbers; the operation "
        f"gives {found.numel()}, the heads side by side. To sum over the heads is the same "
        f"{'only if' if projected else 'not even if'} each of them is first multiplied by its own "
        "32 columns of the output projection, as in the paper's formula.",
        projected,
    )


def try_softmax_before_the_view(weights_of: Callable = attention_weights) -> Verdict:
    """Over which of the scores the softmax runs.

    Args:
        weights_of: As `attention_weights`.

    Returns:
        The verdict.
    """
    scores = torch.randn(1, 3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    claimed = scores.flatten(2).softmax(-1).view_as(scores)
    found = weights_of(scores)
    of_heads = [each.sum((-1, -2)).mean().item() for each in (claimed, found)]
    return decide(
        torch.allclose(found, claimed),
        "If the softmax ran over all 128 scores of a query, the weights of a head would sum to "
        f"{of_heads[0]:.3f} on average; those of the library sum to {of_heads[1]:.3f}.",
    )


def try_sizes_of_images(attend: Callable = ms_deform_attn) -> Verdict:
    """What has a size: each image or each level.

    Args:
        attend: As `ms_deform_attn`.

    Returns:
        The verdict.
    """
    shapes = [(4, 6), (2, 3)]  # of L = 2 levels, for a batch of N = 3 images
    value = torch.ones(3, 4 * 6 + 2 * 3, 1, 1)
    locations, weights = torch.full((3, 1, 1, 2, 1, 2), 0.5), torch.full((3, 1, 1, 2, 1), 0.5)

    def runs(sizes: list[tuple[int, int]]) -> bool:
        try:
            attend(value, sizes, locations, weights)
        except ValueError:
            return False
        return True

    of_levels, of_images = runs(shapes), runs([(5, 6)] * 3)
    return decide(
        of_images and not of_levels,
        "For 3 images with 2 levels, a list of 2 sizes is "
        f"{'accepted' if of_levels else 'refused'}, and one of 3 sizes is "
        f"{'accepted' if of_images else 'refused'}. All images of a batch have the same levels.",
    )


def dense_attention_output(queries: Tensor, tokens: Tensor) -> Tensor:
    """Attention that has keys: the tokens themselves.

    Args:
        queries: (N, Lq, C).
        tokens: (N, S, C).

    Returns:
        (N, Lq, C).
    """
    return torch.nn.functional.scaled_dot_product_attention(queries, tokens, tokens)


def deformable_attention_output(queries: Tensor, tokens: Tensor) -> Tensor:
    """The library's attention, with scores that depend on the query, on one level of 4 x 6.

    Args:
        queries: (N, Lq, C).
        tokens: (N, 24, C).

    Returns:
        (N, Lq, C).
    """
    attention = MSDeformAttn(queries.shape[-1], 2, 1, 4).to(queries)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in attention.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(parameter + 0.3 * noise if parameter.dim() == 1 else 0.3 * noise)
        reference = torch.full((*queries.shape[:2], 1, 2), 0.4, dtype=queries.dtype)
        return attention(queries, reference, tokens, [(4, 6)])


def try_keys(attend: Callable = deformable_attention_output) -> Verdict:
    """Whether the weights depend on the tokens: then doubling them does not double the output.

    Args:
        attend: A function (queries (N, Lq, C), tokens (N, 24, C)) -> (N, Lq, C).

    Returns:
        The verdict.
    """
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(1, 5, 16, generator=generator, dtype=torch.float64)
    tokens = torch.randn(1, 24, 16, generator=generator, dtype=torch.float64)

    def bend(function: Callable) -> float:  # 0 if the output is linear in the tokens
        nothing, once, twice = (function(queries, tokens * k) for k in (0, 1, 2))
        return ((twice - nothing) - 2 * (once - nothing)).abs().max().item()

    found, dense = bend(attend), bend(dense_attention_output)
    return decide(
        found > 1e-6,
        "If keys are made from the tokens, twice the tokens do not give twice the output. The "
        f"difference is {'more than 0.1' if dense > 0.1 else f'{dense:.1f}'} with dense attention, "
        f"and {'more than 0.1' if found > 0.1 else f'{found:.3f}'} with this one.",
    )


def try_channels_of_a_head(attention: MSDeformAttn | None = None) -> Verdict:
    """How many channels a head has.

    Args:
        attention: One with 256 channels and 8 heads; the library's if None.

    Returns:
        The verdict.
    """
    attention = attention or MSDeformAttn()
    width, n_heads = attention.value_proj.out_features, attention.n_heads
    return decide(
        width == 8 * 64,
        f"The value projection has {width} outputs, which are {width // n_heads} for each of "
        f"{n_heads} heads; 8 heads of 64 channels would need {8 * 64}.",
    )


def try_weighted_sum(sum_up: Callable = aggregate) -> Verdict:
    """An example with four weights and numbers that count upwards.

    Args:
        sum_up: As `aggregate`.

    Returns:
        The verdict.
    """
    weights = torch.tensor([0.2408, 0.2663, 0.2170, 0.2759], dtype=torch.float64)
    values = torch.arange(1, 17, dtype=torch.float64).view(4, 4)  # (P, D): 1 to 4, 5 to 8, ...
    first, second, *_ = sum_up(values.view(1, 1, 1, 1, 4, 4), weights.view(1, 1, 1, 1, 4)).flatten()
    # Each weight is known to half a unit of its fourth decimal.
    allowed = [0.00005 * values[:, d].sum().item() for d in (0, 1)]
    off = [abs(first.item() - 7.1119), abs(second.item() - 8.1120)]
    return decide(
        all(a <= b for a, b in zip(off, allowed, strict=True)),
        f"The first two sums are {first:.4f} and {second:.4f}. As the weights are rounded to four "
        f"decimals, they may be off by {allowed[0]:.4f}.",
    )


def try_two_points(sum_up: Callable = aggregate) -> Verdict:
    """An example with two points of three channels.

    Args:
        sum_up: As `aggregate`.

    Returns:
        The verdict.
    """
    values = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.4, 0.6]], dtype=torch.float64)  # (P, D)
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
    found = sum_up(values.view(1, 1, 1, 1, 2, 3), weights.view(1, 1, 1, 1, 2)).flatten().tolist()
    stated = ("0.38", "0.33", "0.32")
    return decide(
        all(agrees(s, f) for s, f in zip(stated, found, strict=True)),
        f"The library gives {', '.join(f'{value:.4f}' for value in found)}.",
    )


def try_fusion(attention: MSDeformAttn | None = None) -> Verdict:
    """How many numbers go into the output of one query, and how many come out.

    Args:
        attention: The library's if None.

    Returns:
        The verdict.
    """
    attention = attention or MSDeformAttn()
    shapes = [(8, 12), (4, 6), (2, 3), (1, 2)]
    query, reference = torch.zeros(1, 1, 256), torch.full((1, 1, 4, 2), 0.5)
    with torch.no_grad():
        _, locations, _ = attention.sampling_locations_and_weights(query, reference, shapes)
        tokens = torch.zeros(1, sum(h * w for h, w in shapes), 256)
        output = attention(query, reference, tokens, shapes)
    samples, channels = locations.numel() // 2, 256 // attention.n_heads
    return decide(
        (samples, channels, output.numel()) == (128, 32, 256),
        f"{samples} locations, each read in the {channels} channels of its head, are "
        f"{samples * channels:,} numbers, and {output.numel()} come out: into each of them go "
        f"{samples // attention.n_heads} samples, before the output projection mixes them.",
    )


CLAIMS = (
    Claim(
        4,
        "Output = the sum of weight times value over all heads, levels and points.",
        try_sum_over_heads,
    ),
    Claim(
        11,
        "The softmax runs over the last axis of the scores, before they are viewed as heads, "
        "levels and points.",
        try_softmax_before_the_view,
    ),
    Claim(26, "spatial_shapes has the shape (N, 2): a size for each image.", try_sizes_of_images),
    Claim(28, "Deformable attention has keys, of shape (8, 4, 64).", try_keys),
    Claim(29, "With 256 channels, there are 8 heads of 64 channels each.", try_channels_of_a_head),
    Claim(
        30,
        "The weights .2408 .2663 .2170 .2759 on the values (1 5 9 13), (2 6 10 14) and so on give "
        "7.1119, 8.1120 and so on.",
        try_weighted_sum,
    ),
    Claim(
        31, "0.7 · (0.5, 0.3, 0.2) + 0.3 · (0.1, 0.4, 0.6) = (0.38, 0.33, 0.32).", try_two_points
    ),
    Claim(
        33,
        "For each query, 128 samples of 32 channels, 4,096 numbers, are fused into 256.",
        try_fusion,
    ),
)
