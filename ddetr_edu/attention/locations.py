"""Step 3 of 5, L: from a reference point and offsets to sampling locations in the image.

A reference point is the position that a query starts from; an offset is a step from there. Offsets
are learned in pixels of a level, reference points are fractions of the image, so a step must be
divided by the size of the level it is taken on. Lesson 04 is about this module.
"""

import torch
from torch import Tensor

from ddetr_edu.attention.kernels.checks import check_reference_points

SpatialShapes = list[tuple[int, int]]  # (H, W) of each level, finest first


def sampling_locations(
    reference_points: Tensor, offsets: Tensor, spatial_shapes: SpatialShapes
) -> Tensor:
    """Where each query samples: its reference point plus its offsets, as fractions of the level.

    With a 2-d reference (x, y) an offset counts pixels of its level. With a 4-d reference
    (cx, cy, w, h) it counts half box sides divided by the number of points P: offset P reaches the
    border of the box, and equally on every level.

    Convention: (x, y), x to the right and y down; the division is by (W, H) in that order.
    Results are fractions of the padded level and may lie outside [0, 1]: more than half a pixel
    beyond the border only zeros are read.

    Source: paper, equation 3 and appendix A.4; ms_deform_attn.py of the official code.

    Args:
        reference_points: (N, Lq, L, 2) or (N, Lq, L, 4).
        offsets: (N, Lq, M, L, P, 2).
        spatial_shapes: [(H, W), ...] of each level.

    Returns:
        (N, Lq, M, L, P, 2).

    Raises:
        ValueError: If the levels differ in number, or reference_points ends in neither 2 nor 4.
    """
    check_reference_points(reference_points, offsets, spatial_shapes)
    reference = reference_points[:, :, None, :, None, :]  # (N, Lq, 1, L, 1, 2 or 4)
    if reference.shape[-1] == 4:
        n_points = offsets.shape[-2]
        centre, size = reference[..., :2], reference[..., 2:]
        return centre + offsets / n_points * size * 0.5
    widths_and_heights = [(width, height) for height, width in spatial_shapes]
    sizes = torch.tensor(widths_and_heights, dtype=offsets.dtype, device=offsets.device)  # (L, 2)
    # Repeating them for each point makes every operand contiguous: three times as fast on a CPU.
    sizes = sizes[:, None].expand(offsets.shape[3:]).contiguous()  # (L, P, 2)
    reference = reference.expand(-1, -1, -1, *sizes.shape).contiguous()  # (N, Lq, 1, L, P, 2)
    return torch.addcdiv(reference, offsets, sizes)  # reference + offsets / sizes


def valid_ratios(padding_masks: list[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """The valid fraction of each padded level: unpadded (width, height) over the whole.

    Source: `get_valid_ratio` of the official deformable_transformer.py.

    Args:
        padding_masks: One (N, H, W) bool per level, True = padding; an image fills the top left
            corner.
        dtype: Of the result.

    Returns:
        (N, L, 2), last axis (x, y), in (0, 1].
    """
    ratios = []
    for mask in padding_masks:
        height, width = mask.shape[1:]
        valid_height = (~mask[:, :, 0]).sum(1, dtype=dtype)
        valid_width = (~mask[:, 0, :]).sum(1, dtype=dtype)
        ratios.append(torch.stack([valid_width / width, valid_height / height], dim=-1))
    return torch.stack(ratios, dim=1)


def encoder_reference_points(spatial_shapes: SpatialShapes, ratios: Tensor) -> Tensor:
    """Reference points of the encoder: the reference of every token is the centre of its pixel.

    A token's centre is first expressed as a fraction of the *image* (so that it means the same
    position on every level), then as a fraction of each padded level, where it will be sampled. On
    the token's own level the two ratios cancel.

    Convention: pixel i covers [i, i + 1), so its centre is i + 0.5; last axis (x, y).

    Source: `get_reference_points` of the official deformable_transformer.py.

    Args:
        spatial_shapes: [(H, W), ...] of each level, finest first.
        ratios: (N, L, 2) from `valid_ratios`.

    Returns:
        (N, S, L, 2).
    """
    centres = []
    for level, (height, width) in enumerate(spatial_shapes):
        y = torch.arange(height, dtype=ratios.dtype, device=ratios.device) + 0.5
        x = torch.arange(width, dtype=ratios.dtype, device=ratios.device) + 0.5
        y, x = torch.meshgrid(y / height, x / width, indexing="ij")
        of_level = torch.stack([x, y], dim=-1).flatten(0, 1)  # (H*W, 2)
        centres.append(of_level[None] / ratios[:, level, None])  # (N, H*W, 2) of the image
    return torch.cat(centres, dim=1)[:, :, None] * ratios[:, None]  # (N, S, L, 2)
