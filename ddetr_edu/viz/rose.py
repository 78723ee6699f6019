"""Where each head looks: a wind rose of its offsets, against the star it started from."""

import numpy as np
from matplotlib.patches import Patch, Wedge

from ddetr_edu.viz.style import NotebookFigure, as_array, ink, row_of_panels

NEAR_TO_FAR = ("#C9D7E8", "#6FA3CF", "#1F6DAD", "#0B2F5B")  # the darker, the farther


def plot_rose(
    offsets,
    weights,
    star,
    reach: float | None = None,
    unit: str = "px of the level",
    sectors: int = 24,
    title: str | None = None,
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw one wind rose for each head: how much of its weight lies in each direction, how far out.

    A sector's area is its share of the head's weight, over all queries, levels and points given.
    It is filled from the centre with what lies near to what lies far. The line is the head's ray
    of the initial star: an untrained head has all of its weight there. All roses have one scale.

    Convention: (dx, dy), x to the right and y down, as in a picture.

    offsets: (n, M, L, P, 2) of n queries;  weights: (n, M, L, P)
    star:    (M, L, P, 2), the offsets at the start of training
    reach:   what counts as far; the star's reach, P, when not given
    unit:    what an offset of 1 is, for the legend
    Returns: the figure, and "shares" (M, sectors, 4), from near to far, which sum to 1 for each
        head; "edges" (5,), the distances between which they lie; "directions" (sectors,), radians
        from the x axis towards y; "star" (M,), the direction of each ray.
    Raises: ValueError for shapes that do not fit together.
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
    # A float's hair below an edge still belongs to it: the star's last points lie on one.
    ring = np.searchsorted(edges[1:-1], distance - 1e-5)
    shares = np.zeros((n_heads, sectors, 4))
    for head in range(n_heads):
        place = (sector[:, head].ravel(), ring[:, head].ravel())
        np.add.at(shares[head], place, weights[:, head].ravel())
    shares /= np.maximum(shares.sum((1, 2), keepdims=True), 1e-12)
    mean_star = star.mean((1, 2))
    rays = np.arctan2(mean_star[:, 1], mean_star[:, 0])

    figure, panels = row_of_panels(n_heads, 1.0, width=2.4, header=0.25, beside=0, around=1.0)
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
                        Wedge((0, 0), outer, middle - 180 / sectors, middle + 180 / sectors,
                              width=outer - inner, fc=colour, ec="black", lw=0.4)
                    )  # fmt: skip
                inner = outer
        ray = np.array([np.cos(rays[head]), np.sin(rays[head])])
        axis.plot(*np.stack([ray * 0, ray * 1.12], 1), color="#D55E00", lw=2, zorder=5)
        axis.plot(*(ray * 1.12), "o", color="#D55E00", mec="black", mew=0.5, ms=6, zorder=6)
        axis.set(xlim=(-1.2, 1.2), ylim=(1.2, -1.2), aspect="equal", xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_title(f"head {head}", fontsize=10)
    words = [f"up to {edges[1]:g}", f"to {edges[2]:g}", f"to {edges[3]:g}", "farther"]
    handles = [
        Patch(fc=colour, ec="black", lw=0.4, label=word)
        for colour, word in zip(NEAR_TO_FAR, words, strict=True)
    ]
    handles.append(*panels[0].plot([], [], "o-", color="#D55E00", mec="black", label="the start"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9,
        title=f"distance in {unit}; area is weight; the outer ring is {longest**2:.0%} of a head",
        title_fontsize=9, labelcolor=ink(),
    )  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=11)
    directions = np.arange(sectors) * width
    return figure, {"shares": shares, "edges": edges, "directions": directions, "star": rays}
