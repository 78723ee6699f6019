"""Where each head samples: a wind rose of its offsets, against the star it was initialised to."""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.patches import Patch, Wedge

from ddetr_edu.viz.style import NotebookFigure, as_array, panel_grid, text_colour

NEAR_TO_FAR = ("#C9D7E8", "#6FA3CF", "#1F6DAD", "#0B2F5B")  # the darker, the farther


def plot_offset_rose(
    offsets,
    weights,
    star,
    reach: float | None = None,
    unit: str = "pixels of the level",
    sectors: int = 24,
    title: str | None = None,
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw one wind rose for each head: how its attention weight spreads by direction and distance.

    The area of a sector is its share of the head's weight, over all given queries, levels and
    points, from near at the centre to far at the rim. The line is the head's ray of the initial
    star, on which an untrained head has all of its weight. All roses have the same scale.

    Convention: (dx, dy), x to the right and y down, as in an image.

    Args:
        offsets: (n, M, L, P, 2) of n queries.
        weights: (n, M, L, P).
        star: (M, L, P, 2), the initial offsets.
        reach: The distance from which an offset counts as far; the star's reach, P, if None.
        unit: What an offset of 1 is, for the legend.
        sectors: The number of directions.
        title: Of the figure.

    Returns:
        The figure, and "shares" (M, sectors, 4), from near to far, which sum to 1 for each head;
        "edges" (5,), the distances between which they lie; "directions" (sectors,), in radians
        from the x axis towards y; and "star" (M,), the direction of each ray.

    Raises:
        ValueError: For shapes that do not fit together.
    """
    offsets, weights, star = as_array(offsets), as_array(weights), as_array(star)
    if weights.ndim != 4 or offsets.shape != (*weights.shape, 2) or star.shape != offsets.shape[1:]:
        raise ValueError(
            f"offsets has shape {offsets.shape}, weights {weights.shape} and star {star.shape}; "
            "they are (n, M, L, P, 2), (n, M, L, P) and (M, L, P, 2)"
        )
    n_heads, n_points = weights.shape[1], weights.shape[3]
    reach = float(n_points) if reach is None else reach
    edges = np.array([0, 0.5 * reach, reach, 2 * reach, np.inf])
    width = 2 * np.pi / sectors
    angle = np.arctan2(offsets[..., 1], offsets[..., 0])  # (n, M, L, P)
    sector = np.round(angle / width).astype(int) % sectors
    distance = np.abs(offsets).max(-1)  # the star ends on a square, so squares count as equally far
    # The star's last points lie on an edge, which rounding must not let them cross.
    ring = np.searchsorted(edges[1:-1], distance - 1e-5)
    shares = np.zeros((n_heads, sectors, 4))
    for head in range(n_heads):
        index = (sector[:, head].ravel(), ring[:, head].ravel())
        np.add.at(shares[head], index, weights[:, head].ravel())
    shares /= np.maximum(shares.sum((1, 2), keepdims=True), 1e-12)
    mean_star = star.mean((1, 2))
    rays = np.arctan2(mean_star[:, 1], mean_star[:, 0])

    figure, panels = panel_grid(
        n_heads, 1.0, width=2.4, title_height=0.25, colour_bar=0, margin=1.0
    )
    longest = np.sqrt(shares.sum(-1).max())
    for head, axis in enumerate(panels):
        for radius in (0.5, 1.0):
            axis.add_patch(Wedge((0, 0), radius, 0, 360, width=0, ec="0.6", lw=0.6, ls=":"))
        for s in range(sectors):
            inner = 0.0
            for amount, colour in zip(np.cumsum(shares[head, s]), NEAR_TO_FAR, strict=True):
                outer = np.sqrt(amount) / longest  # so that areas, not lengths, are shares
                middle = np.degrees(s * width)
                if outer > inner:
                    axis.add_patch(
                        Wedge(
                            (0, 0),
                            outer,
                            middle - 180 / sectors,
                            middle + 180 / sectors,
                            width=outer - inner,
                            fc=colour,
                            ec="black",
                            lw=0.4,
                        )
                    )
                inner = outer
        ray = np.array([np.cos(rays[head]), np.sin(rays[head])])
        axis.plot(*np.stack([ray * 0, ray * 1.12], 1), color="#D55E00", lw=2, zorder=5)
        axis.plot(*(ray * 1.12), "o", color="#D55E00", mec="black", mew=0.5, ms=6, zorder=6)
        axis.set(xlim=(-1.2, 1.2), ylim=(1.2, -1.2), aspect="equal", xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_title(f"head {head}", fontsize=10)
    words = [
        f"up to {edges[1]:g}",
        *(f"{a:g} to {b:g}" for a, b in zip(edges[1:3], edges[2:4], strict=True)),
    ]
    words.append(f"over {edges[3]:g}")
    handles: list[Artist] = [
        Patch(fc=colour, ec="black", lw=0.4, label=word)
        for colour, word in zip(NEAR_TO_FAR, words, strict=True)
    ]
    handles += panels[0].plot([], [], "o-", color="#D55E00", mec="black", label="initial offsets")
    scale = f"distance in {unit}; outer circle: {longest**2:.0%} of the head's weight"
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=9,
        title=scale,
        title_fontsize=9,
        labelcolor=text_colour(),
    )
    if title:
        figure.suptitle(title, fontsize=11)
    directions = np.arange(sectors) * width
    return figure, {"shares": shares, "edges": edges, "directions": directions, "star": rays}
