"""The attention weights of a query, spread over the image as bilinear sampling shares them out."""

import numpy as np
import PIL.Image

from ddetr_edu.viz.style import (
    WEIGHT_MAP,
    NotebookFigure,
    as_array,
    as_image_array,
    corners_of,
    draw_box,
    frame_around,
    in_pixels,
    panel_grid,
    show_image,
)


def splat(
    locations, weights, spatial_shapes: list[tuple[int, int]]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Add up the attention weight that each pixel of each level receives.

    Bilinear sampling reads each of the four pixels around a location with a share; here each pixel
    receives weight times share. What falls on pixels that do not exist, where zeros are read,
    counts as outside.

    Convention: (x, y) as fractions of the level, x to the right and y down; half-pixel centres.

    Args:
        locations: (..., L, P, 2).
        weights: (..., L, P).
        spatial_shapes: (H, W) of each of the L levels.

    Returns:
        L maps (H, W), and the weight outside (L,); together they add up to the weights.

    Raises:
        ValueError: For shapes that do not fit together.
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
        received = np.zeros((height, width))
        for column, x_share in ((left, 1 - (x - left)), (left + 1, x - left)):
            for row, y_share in ((top, 1 - (y - top)), (top + 1, y - top)):
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                share = weight * x_share * y_share
                index = row[inside].astype(int), column[inside].astype(int)
                np.add.at(received, index, share[inside])
                outside[level] += share[~inside].sum()
        maps.append(received)
    return maps, outside


def plot_attention_heatmap(
    image,
    locations,
    weights,
    spatial_shapes: list[tuple[int, int]],
    boxes=None,
    names: list[str] | None = None,
    title: str | None = None,
) -> tuple[NotebookFigure, list[dict[str, list[np.ndarray] | np.ndarray]]]:
    """Draw what one query reads, as a light on the dark image: in each layer, then in all.

    A pixel of a coarse level covers much of the image, so its weight is spread thinly over it.
    Brightness is the square root of weight per area, relative to the maximum of the panel.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array; padded if its batch was.
        locations: (layers, M, L, P, 2), fractions of the image.
        weights: (layers, M, L, P).
        spatial_shapes: (H, W) of each level.
        boxes: For each layer a box to draw, (4,) (cx, cy, w, h) in [0, 1], if given.
        names: Of the panels; "layer 0", "layer 1", ... if None.
        title: Of the figure.

    Returns:
        The figure, and for each panel "maps", the weight that each pixel of each level receives,
        L arrays (H, W); "inside" (L,), their sums; and "outside" (L,), the weight that read zeros.

    Raises:
        ValueError: For shapes that do not fit together.
    """
    pixels = as_image_array(image)
    height, width = pixels.shape[:2]
    each = [splat(l, w, spatial_shapes) for l, w in zip(locations, weights, strict=True)]
    names = names or [f"layer {i}" for i in range(len(each))]
    boxes = [None] * len(each) if boxes is None else [in_pixels(box, pixels) for box in boxes]
    if len(each) > 1:
        by_level = zip(*(maps for maps, _ in each), strict=True)  # L x layers x (H, W)
        total_maps = [np.sum(level, axis=0) for level in by_level]
        each = [*each, (total_maps, np.sum([outside for _, outside in each], axis=0))]
        names, boxes = [*names, "all layers"], [*boxes, boxes[-1]]
    points = [as_array(l).reshape(-1, 2) * (width, height) for l in locations]
    low, high = frame_around([*np.concatenate(points), *corners_of(boxes)], pixels)
    frame = high - low
    figure, panels = panel_grid(len(each), frame[1] / frame[0], title_height=0.45, margin=0.4)
    drawn: list[dict[str, list[np.ndarray] | np.ndarray]] = []
    for axis, (maps, outside), name, box in zip(panels, each, names, boxes, strict=True):
        density = np.zeros((height, width))
        for received in maps:
            per_area = PIL.Image.fromarray((received * received.size).astype(np.float32))
            density += np.asarray(per_area.resize((width, height), PIL.Image.Resampling.BILINEAR))
        light = np.sqrt(density / max(density.max(), 1e-9))
        show_image(axis, illuminate(pixels, light))
        heatmap = axis.imshow(
            light, extent=(0, width, height, 0), cmap=WEIGHT_MAP, vmin=0, vmax=1, alpha=0.55 * light
        )
        if box is not None:
            draw_box(axis, box, colour="white", lw=1.3)
        axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))
        inside = np.array([received.sum() for received in maps])
        total = inside.sum() + outside.sum()
        levels = ", ".join(f"{share:.0%}" for share in inside / total)
        axis.set_title(
            f"{name}\nby level {levels}; outside {outside.sum() / total:.0%}", fontsize=9
        )
        drawn.append({"maps": maps, "inside": inside, "outside": outside})
    bar = figure.colorbar(heatmap, ax=panels, aspect=28, pad=0.01, ticks=[0, 0.5, 1])
    bar.set_label("attention weight per area", fontsize=9)
    bar.set_ticklabels(["0", "¼ max", "max"])
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, drawn


def illuminate(pixels: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Turn an image grey and dim, except where light falls on it.

    Args:
        pixels: (H, W, 3) in [0, 1].
        light: (H, W) in [0, 1]; 1 leaves colour and brightness as they are.

    Returns:
        (H, W, 3) in [0, 1].
    """
    grey = 0.45 * pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    return grey + (pixels - grey) * light[..., None]
