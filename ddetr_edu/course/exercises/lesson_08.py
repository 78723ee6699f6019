"""The exercises of lesson 08 about padding: masks, valid ratios, reference points on the levels.

That about a detector that forgets the padding at some place is in `lesson_08_faults`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.attention import valid_ratios
from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.models.decoder import scale_to_levels as scale_to_levels_of_the_library
from ddetr_edu.models.norms import resize_mask


def my_padding_mask(sizes):
    """[(H, W), ...] of the images -> mask (N, H, W) of their batch, True = padding"""
    height = max(h for h, w in sizes)
    width = max(w for h, w in sizes)
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for n, (h, w) in enumerate(sizes):
        mask[n, :h, :w] = False
    return mask


def my_valid_ratio(padding_mask, shape):
    """(padding_mask (N, H, W), (H_l, W_l) of a level) -> valid ratios (N, 2), x before y"""
    height, width = shape
    rows = torch.arange(height) * padding_mask.shape[1] // height  # the pixel that each row reads
    columns = torch.arange(width) * padding_mask.shape[2] // width
    x = (~padding_mask[:, 0, columns]).sum(dim=1) / width
    y = (~padding_mask[:, rows, 0]).sum(dim=1) / height
    return torch.stack([x, y], dim=1)


def my_scale_to_levels(references, ratios):
    """(references (N, Lq, 2 or 4) of the image, ratios (N, L, 2)) -> (N, Lq, L, 2 or 4)"""
    if references.shape[-1] == 4:
        ratios = torch.cat([ratios, ratios], dim=-1)
    return references[:, :, None] * ratios[:, None]


def mask_by(is_padding: Callable, batch_size: Callable | None = None) -> Callable:
    """Padding masks by rules of one's own.

    Args:
        is_padding: A function (rows (H, 1), columns (1, W), (h, w) of the image, (H, W)) -> (H, W).
        batch_size: A function (sizes) -> (H, W) of the batch; the largest of any image if None.

    Returns:
        A function (sizes) -> mask.
    """

    def mask(sizes):
        height, width = batch_size(sizes) if batch_size else _largest(sizes)
        rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
        return torch.stack([is_padding(rows, columns, size, (height, width)) for size in sizes])

    return mask


def _largest(sizes) -> tuple[int, int]:
    return max(h for h, _ in sizes), max(w for _, w in sizes)


def _outside(rows: Tensor, columns: Tensor, size: tuple[int, int], batch: tuple) -> Tensor:
    return (rows >= size[0]) | (columns >= size[1])


def _outside_centred(rows: Tensor, columns: Tensor, size: tuple[int, int], batch: tuple) -> Tensor:
    top, left = (batch[0] - size[0]) // 2, (batch[1] - size[1]) // 2
    return _outside((rows - top) % batch[0], (columns - left) % batch[1], size, batch)


def _sizes_of_images() -> Cases:
    return {
        "a wide image and a tall one": ([(3, 7), (5, 2)],),
        "the largest image comes last": ([(2, 3), (4, 5), (6, 9)],),
        "one image: no padding": ([(4, 11)],),
        "images of one size: no padding": ([(2, 8)] * 4,),
        "no image is as large as the batch": ([(1, 10), (12, 3), (5, 5), (7, 2), (2, 9)],),
        "an image of one pixel": ([(1, 1), (9, 4)],),
        "the widest image has the smallest area": (
            [(1, 6), (8, 2), (3, 4), (2, 5), (4, 4), (7, 3)],
        ),
    }


padding_mask = Exercise(
    my_padding_mask,
    _sizes_of_images,
    {
        "True and False are the wrong way round: True is padding": (
            lambda sizes: ~my_padding_mask(sizes)
        ),
        "height and width are swapped: a size is (H, W), and the mask is (N, H, W)": (
            lambda sizes: my_padding_mask([(w, h) for h, w in sizes])
        ),
        "only columns were masked; the rows below an image are padding, too": mask_by(
            lambda rows, columns, size, batch: (columns >= size[1]).expand(batch)
        ),
        "only rows were masked; the columns to the right of an image are padding, too": mask_by(
            lambda rows, columns, size, batch: (rows >= size[0]).expand(batch)
        ),
        "only what lies both to the right of an image and below it was masked; one is enough": (
            mask_by(lambda rows, columns, size, batch: (rows >= size[0]) & (columns >= size[1]))
        ),
        "one row and one column too few were masked: row h and column w are padding already": (
            mask_by(lambda rows, columns, size, batch: (rows > size[0]) | (columns > size[1]))
        ),
        "the last row and the last column of each image were masked": mask_by(
            lambda rows, columns, size, batch: (rows >= size[0] - 1) | (columns >= size[1] - 1)
        ),
        "the images are in the lower right corner; they belong into the upper left one": mask_by(
            lambda rows, columns, size, batch: _outside(
                batch[0] - 1 - rows, batch[1] - 1 - columns, size, batch
            )
        ),
        "the images are in the middle; they belong into the upper left corner": mask_by(
            _outside_centred
        ),
        "the batch was made square; height and width have a maximum each": mask_by(
            _outside, lambda sizes: (max(_largest(sizes)),) * 2
        ),
        "the batch has the size of the first image": mask_by(_outside, lambda sizes: sizes[0]),
        "the batch has the size of the image with the largest area": mask_by(
            _outside, lambda sizes: max(sizes, key=lambda size: size[0] * size[1])
        ),
        "the batch has the size of the tallest image; the widest may be another": mask_by(
            _outside, max
        ),
    },
)


def ratio_by(x: Callable, y: Callable) -> Callable:
    """Valid ratios by rules of one's own.

    Args:
        x: A function (valid columns of the image (N,), W, W_l) -> (N,).
        y: Likewise of rows.

    Returns:
        A function (padding mask, shape) -> (N, 2).
    """

    def ratios(mask, shape):
        valid = ~mask
        columns = valid[:, 0].sum(1, dtype=torch.float64)
        rows = valid[:, :, 0].sum(1, dtype=torch.float64)
        return torch.stack(
            [x(columns, mask.shape[2], shape[1]), y(rows, mask.shape[1], shape[0])], dim=1
        )

    return ratios


def ratio_with(rule: Callable) -> Callable:
    """As `ratio_by`, with the same rule for columns and rows."""
    return ratio_by(rule, rule)


def area_ratio(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """The share of all tokens that are image, for x and for y alike.

    Args:
        mask: (N, H, W).
        shape: (H_l, W_l).

    Returns:
        (N, 2).
    """
    return (~resize_mask(mask, shape)).double().mean((1, 2))[:, None].expand(-1, 2)


def _masks() -> Cases:
    levels = {  # (H, W) of each image, and of the level
        "the second image is half as wide": ([(6, 16), (6, 8)], (3, 8)),
        "half as tall, level of stride 4": ([(8, 12), (4, 12), (8, 4)], (2, 3)),
        "images that end inside a token": ([(12, 20), (5, 7), (9, 13), (2, 20)], (3, 5)),
        "sides that are not multiples of the stride": ([(13, 22), (9, 10), (4, 17)], (4, 6)),
        "one image: no padding": ([(10, 14)], (5, 7)),
        "a level of one row": ([(4, 30), (3, 11), (4, 1), (2, 25), (1, 16)], (1, 8)),
        "a level of one token": ([(16, 9), (7, 3)], (1, 1)),
        "a level as large as the batch": ([(7, 11), (3, 5), (6, 2)], (7, 11)),
        "no image is as large as the batch": (
            [(1, 24), (28, 3), (11, 9), (20, 2), (6, 17), (15, 23)],
            (7, 6),
        ),
    }
    return {name: (my_padding_mask(sizes), shape) for name, (sizes, shape) in levels.items()}


valid_ratio = Exercise(
    my_valid_ratio,
    _masks,
    {
        "the order is (y, x); return (x, y), the ratio of the widths first": (
            lambda mask, shape: my_valid_ratio(mask, shape).flip(-1)
        ),
        "this is the fraction that is padding; the valid one is the image's": (
            lambda mask, shape: 1 - my_valid_ratio(mask, shape)
        ),
        "these are the ratios of the image in pixels; count tokens of the level": ratio_with(
            lambda valid, side, tokens: valid / side
        ),
        "a token was left out where a part of it is padding; one that begins in the image counts": (
            ratio_with(lambda valid, side, tokens: (valid * tokens / side).floor() / tokens)
        ),
        "a token was counted if its centre is in the image; one that begins in the image counts": (
            ratio_with(lambda valid, side, tokens: (valid * tokens / side).round() / tokens)
        ),
        "these are numbers of tokens; divide them by the width and the height of the level": (
            ratio_with(lambda valid, side, tokens: (valid * tokens / side).ceil())
        ),
        "tokens of the level were divided by the size of the batch in pixels": ratio_with(
            lambda valid, side, tokens: (valid * tokens / side).ceil() / side
        ),
        "columns were divided by the height of the level, and rows by its width": (
            lambda mask, shape: (
                my_valid_ratio(mask, shape)
                * torch.tensor([shape[1] / shape[0], shape[0] / shape[1]])
            )
        ),
        "width and height of the level are swapped: a shape is (H, W)": (
            lambda mask, shape: my_valid_ratio(mask, shape[::-1])
        ),
        "this is the share of all tokens; width and height have a ratio each": area_ratio,
        "the mask was read at a fixed step; column j reads column ⌊j · W / W_l⌋": ratio_with(
            lambda valid, side, tokens: (valid / -(-side // tokens)).ceil() / tokens
        ),
        "all images got the ratio of the first": (
            lambda mask, shape: my_valid_ratio(mask[:1], shape).expand(len(mask), 2)
        ),
    },
    library=(valid_ratios, resize_mask),
)


def _references_and_ratios() -> Cases:
    sizes = {  # (N, Lq, L), and the numbers of a reference
        "points, two images": ((2, 3, 4), 2),
        "boxes, two images": ((2, 5, 3), 4),
        "one image, one query": ((1, 1, 2), 2),
        "more images than queries": ((5, 2, 6), 4),
        "one level": ((3, 7, 1), 2),
        "one level, boxes": ((6, 4, 1), 4),
        "as many queries as levels": ((3, 5, 5), 2),
        "ratios of 1: no padding": ((4, 6, 2), 4),
    }
    generator = torch.Generator().manual_seed(0)
    cases: Cases = {}
    for name, ((n, lq, l), numbers) in sizes.items():
        references = torch.rand(n, lq, numbers, generator=generator, dtype=torch.float64)
        ratios = 0.3 + 0.7 * torch.rand(n, l, 2, generator=generator, dtype=torch.float64)
        cases[name] = references, ratios.ceil() if name.startswith("ratios of 1") else ratios
    return cases


def scaled_by(change: Callable) -> Callable:
    """References on levels whose ratios are changed first.

    Args:
        change: A function (ratios (N, L, 2)) -> other ratios.

    Returns:
        A function (references, ratios) -> references on the levels.
    """
    return lambda references, ratios: my_scale_to_levels(references, change(ratios))


def _partly(references: Tensor, ratios: Tensor, centre: bool) -> Tensor:
    """Only the centre of a box, or only its width and height, are scaled."""
    scaled = my_scale_to_levels(references, ratios)
    if references.shape[-1] == 2:
        return scaled
    plain = references[:, :, None].expand_as(scaled)
    first, second = (scaled, plain) if centre else (plain, scaled)
    return torch.cat([first[..., :2], second[..., 2:]], dim=-1)


def _ratios_interleaved(references: Tensor, ratios: Tensor) -> Tensor:
    """The four numbers of a box are multiplied by the ratios of x, x, y and y."""
    repeats = references.shape[-1] // 2
    return references[:, :, None] * ratios.repeat_interleave(repeats, dim=-1)[:, None]


scale_to_levels = Exercise(
    my_scale_to_levels,
    _references_and_ratios,
    {
        "the references were not scaled; they are fractions of the image, not of the level": (
            scaled_by(torch.ones_like)
        ),
        "the references were divided; the image is a part of the level, so multiply": scaled_by(
            lambda ratios: 1 / ratios
        ),
        "x and y of the ratios are swapped": scaled_by(lambda ratios: ratios.flip(-1)),
        "width and height of a box were not scaled; they are fractions of the image, too": (
            lambda references, ratios: _partly(references, ratios, centre=True)
        ),
        "only width and height of a box were scaled; its centre is a fraction, too": (
            lambda references, ratios: _partly(references, ratios, centre=False)
        ),
        "a box was multiplied by the ratios of x, x, y, y; its numbers are x, y, x, y": (
            _ratios_interleaved
        ),
        "all levels got the ratios of level 0": scaled_by(
            lambda ratios: ratios[:, :1].expand_as(ratios)
        ),
        "all images got the ratios of the first": scaled_by(
            lambda ratios: ratios[:1].expand_as(ratios)
        ),
        "all levels got the mean of the ratios": scaled_by(
            lambda ratios: ratios.mean(1, keepdim=True).expand_as(ratios)
        ),
        "x and y got the same ratio; each has its own": scaled_by(
            lambda ratios: ratios[..., :1].expand_as(ratios)
        ),
    },
    library=(scale_to_levels_of_the_library,),
)
