"""Step 3 of 5, L: from a reference point and offsets to places in the image.

A reference point is where a query stands; an offset is a step from there. Offsets are learned in
pixels of a level, reference points are fractions of the image, so a step must be divided by the
size of the level it is taken on. Lesson 04 is about this module.
"""

import torch
from torch import Tensor

SpatialShapes = list[tuple[int, int]]  # (H, W) of each level, finest first


def sampling_locations(
    reference_points: Tensor, offsets: Tensor, spatial_shapes: SpatialShapes
) -> Tensor:
    """Where each query samples: its reference point plus its offsets, as fractions of the level.

    With a 2-d reference (x, y) an offset counts pixels of its level. With a 4-d reference
    (cx, cy, w, h) it counts half box sides, shared out over the points: offset P reaches the
    border of the box on every level alike.

    Convention: (x, y), x to the right and y down; the division is by (W, H) in that order.
    Results are fractions of the padded level and may lie outside [0, 1]: more than half a pixel
    beyond the border nothing but zeros is read.

    reference_points: (N, Lq, L, 2) or (N, Lq, L, 4)
    offsets:          (N, Lq, M, L, P, 2)
    Returns:          (N, Lq, M, L, P, 2)
    Raises: ValueError if the levels differ in number, or reference_points ends in neither 2 nor 4.
    Source: paper, equation 3 and appendix A.4; ms_deform_attn.py of the official code.
    """
    if not reference_points.shape[2] == offsets.shape[3] == len(spatial_shapes):
        raise ValueError(
            f"reference_points has {reference_points.shape[2]} levels, offsets {offsets.shape[3]} "
            f"and spatial_shapes {len(spatial_shapes)}; they must be the same levels"
        )
    reference = reference_points[:, :, None, :, None, :]  # (N, Lq, 1, L, 1, 2 or 4)
    if reference.shape[-1] == 2:
        sizes = [(w, h) for h, w in spatial_shapes]
        sizes = torch.tensor(sizes, dtype=offsets.dtype, device=offsets.device)  # (L, 2)
        # Written out for each point, they are read without gaps: three times as fast on a CPU.
        sizes = sizes[:, None].expand(offsets.shape[3:]).contiguous()  # (L, P, 2)
        reference = reference.expand(-1, -1, -1, *sizes.shape).contiguous()  # (N, Lq, 1, L, P, 2)
        return torch.addcdiv(reference, offsets, sizes)  # reference + offsets / sizes
    if reference.shape[-1] == 4:
        n_points = offsets.shape[-2]
        centre, sides = reference[..., :2], reference[..., 2:]
        return centre + offsets / n_points * sides * 0.5
    raise ValueError(
        f"reference_points ends in an axis of {reference.shape[-1]}, not 2 for (x, y) "
        "or 4 for (cx, cy, w, h); check how the reference points were made"
    )


def valid_ratios(padding_masks: list[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """The part of each padded level that is picture: its valid (width, height) over the whole.

    padding_masks: one (N, H, W) per level, True = padding; a picture fills the top left corner.
    Returns:       (N, L, 2) of that dtype, last axis (x, y), in (0, 1].
    Source: `get_valid_ratio` of the official deformable_transformer.py.
    """
    ratios = []
    for mask in padding_masks:
        height, width = mask.shape[1:]
        valid_height = (~mask[:, :, 0]).sum(1, dtype=dtype)
        valid_width = (~mask[:, 0, :]).sum(1, dtype=dtype)
        ratios.append(torch.stack([valid_width / width, valid_height / height], dim=-1))
    return torch.stack(ratios, dim=1)


def pixel_centres(spatial_shapes: SpatialShapes, ratios: Tensor) -> Tensor:
    """Reference points of the encoder: every token stands at the centre of its own pixel.

    A token's centre is first expressed as a fraction of the *picture* (so that it names the same
    place on every level), then as a fraction of each padded level, where it will be sampled. On
    the token's own level the two ratios cancel.

    Convention: pixel i covers [i, i + 1), so its centre is i + 0.5; last axis (x, y).

    ratios:  (N, L, 2) from `valid_ratios`
    Returns: (N, S, L, 2)
    Source: `get_reference_points` of the official deformable_transformer.py.
    """
    centres = []
    for level, (height, width) in enumerate(spatial_shapes):
        y = torch.arange(height, dtype=ratios.dtype, device=ratios.device) + 0.5
        x = torch.arange(width, dtype=ratios.dtype, device=ratios.device) + 0.5
        y, x = torch.meshgrid(y / height, x / width, indexing="ij")
        of_level = torch.stack([x, y], dim=-1).flatten(0, 1)  # (H*W, 2)
        centres.append(of_level[None] / ratios[:, level, None])  # (N, H*W, 2) of the picture
    return torch.cat(centres, dim=1)[:, :, None] * ratios[:, None]  # (N, S, L, 2)
