"""What a query reads: its weights, laid back onto the picture by the same bilinear shares."""

import numpy as np
import PIL.Image

from ddetr_edu.viz.style import (
    WEIGHT_MAP,
    NotebookFigure,
    as_array,
    as_picture,
    corners_of,
    draw_box,
    frame_around,
    in_pixels,
    row_of_panels,
    show_picture,
)


def splat(
    locations, weights, spatial_shapes: list[tuple[int, int]]
) -> tuple[list[np.ndarray], np.ndarray]:
    """How much each pixel of each level counted: every weight, shared out over four pixels.

    Bilinear sampling reads each of the four pixels around a place with a share; here each pixel
    is handed weight times share. What falls on pixels that do not exist, where zeros are read, is
    counted as outside.

    Convention: (x, y) as fractions of the level, x to the right and y down; half-pixel centres.

    locations: (..., L, P, 2);  weights: (..., L, P);  spatial_shapes: [(H, W), ...] of L levels
    Returns: L maps (H, W), and "outside" (L,); together they add up to the weights.
    Raises: ValueError for shapes that do not fit together.
    """
    locations, weights = as_array(locations), as_array(weights)
    if locations.shape != (*weights.shape, 2) or weights.shape[-2] != len(spatial_shapes):
        raise ValueError(
            f"locations has shape {locations.shape}, weights {weights.shape} and spatial_shapes "
            f"{len(spatial_shapes)} levels; they are (..., L, P, 2), (..., L, P) and L levels"
        )
    maps, outside = [], np.zeros(len(spatial_shapes))
    for level, (height, width) in enumerate(spatial_shapes):
        x, y = (locations[..., level, :, :].reshape(-1, 2) * (width, height) - 0.5).T
        weight = weights[..., level, :].ravel().astype(np.float64)
        left, top = np.floor(x), np.floor(y)
        counted = np.zeros((height, width))
        for column, x_share in ((left, 1 - (x - left)), (left + 1, x - left)):
            for row, y_share in ((top, 1 - (y - top)), (top + 1, y - top)):
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                share = weight * x_share * y_share
                place = row[inside].astype(int), column[inside].astype(int)
                np.add.at(counted, place, share[inside])
                outside[level] += share[~inside].sum()
        maps.append(counted)
    return maps, outside


def plot_reading(
    picture,
    locations,
    weights,
    spatial_shapes: list[tuple[int, int]],
    boxes=None,
    names: list[str] | None = None,
    title: str | None = None,
) -> tuple[NotebookFigure, list[dict[str, np.ndarray]]]:
    """Draw what one query reads, as a light on the dark picture: each layer, then all together.

    A pixel of a coarse level covers much of the picture, so its weight is spread thinly over it.
    Brightness is the square root of weight per area; each panel is as bright as it can be.

    picture:   PIL image, (3, H, W) tensor or (H, W, 3) array; padded if its batch was
    locations: (layers, M, L, P, 2), fractions of the picture;  weights: (layers, M, L, P)
    spatial_shapes: [(H, W), ...] of each level
    boxes:     for each layer (4,) (cx, cy, w, h) in [0, 1] to be drawn, if given
    Returns: the figure, and for each panel "maps", how much each pixel of each level counted,
        L arrays (H, W); "inside" (L,), their sums; "outside" (L,), the weight that read zeros.
    Raises: ValueError for shapes that do not fit together.
    """
    pixels = as_picture(picture)
    height, width = pixels.shape[:2]
    each = [splat(l, w, spatial_shapes) for l, w in zip(locations, weights, strict=True)]
    names = names or [f"layer {i}" for i in range(len(each))]
    boxes = [None] * len(each) if boxes is None else [in_pixels(box, pixels) for box in boxes]
    if len(each) > 1:
        maps = [sum(level) for level in zip(*(maps for maps, _ in each), strict=True)]
        each = [*each, (maps, sum(outside for _, outside in each))]
        names, boxes = [*names, "all layers"], [*boxes, boxes[-1]]
    points = [as_array(l).reshape(-1, 2) * (width, height) for l in locations]
    low, high = frame_around([*np.concatenate(points), *corners_of(boxes)], pixels)
    frame = high - low
    figure, panels = row_of_panels(len(each), frame[1] / frame[0], header=0.45, around=0.4)
    drawn = []
    for axis, (maps, outside), name, box in zip(panels, each, names, boxes, strict=True):
        density = sum(
            np.asarray(
                PIL.Image.fromarray((counted * counted.size).astype(np.float32)).resize(
                    (width, height), PIL.Image.Resampling.BILINEAR
                )
            )
            for counted in maps
        )
        light = np.sqrt(density / max(density.max(), 1e-9))
        show_picture(axis, lit(pixels, light))
        image = axis.imshow(
            light, extent=(0, width, height, 0), cmap=WEIGHT_MAP, vmin=0, vmax=1, alpha=0.55 * light
        )
        if box is not None:
            draw_box(axis, box, colour="white", lw=1.3)
        axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))
        inside = np.array([counted.sum() for counted in maps])
        total = inside.sum() + outside.sum()
        levels = ", ".join(f"{share:.0%}" for share in inside / total)
        axis.set_title(f"{name}\nby level {levels}; outside {outside.sum() / total:.0%}",
                       fontsize=9)  # fmt: skip
        drawn.append({"maps": maps, "inside": inside, "outside": outside})
    bar = figure.colorbar(image, ax=panels, aspect=28, pad=0.01, ticks=[0, 0.5, 1])
    bar.set_label("weight per area, of its panel's most", fontsize=9)
    bar.set_ticklabels(["0", "1/4", "all"])
    bar.solids.set_alpha(1)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, drawn


def lit(pixels: np.ndarray, light: np.ndarray) -> np.ndarray:
    """A grey, dim picture that regains its colours and brightness where light (H, W) falls."""
    grey = 0.45 * pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    return grey + (pixels - grey) * light[..., None]
