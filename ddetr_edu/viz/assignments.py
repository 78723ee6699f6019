"""Assignments of queries to objects side by side, as lines: on an image, and on a line."""

from collections.abc import Mapping

import numpy as np
from matplotlib.patches import Arc

from ddetr_edu.viz.matching_lines import centre, draw_outline
from ddetr_edu.viz.style import (
    COLOURS,
    NotebookFigure,
    as_array,
    as_image_array,
    draw_box,
    faded,
    panel_grid,
    show_image,
    text_colour,
)


def plot_assignments(
    image, boxes, target_boxes, cost, assignments: Mapping[str, object]
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw objects and the queries that each of several assignments gives them.

    Objects are solid and numbered, the boxes of their queries dashed in the same colour, with a
    line from centre to centre. Where the assignments differ, lines are thick. The title of a panel
    says what its assignment costs.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array.
        boxes: (Lq, 4) of the queries, xyxy in pixels.
        target_boxes: (T, 4) of the objects, xyxy in pixels.
        cost: (Lq, T).
        assignments: The title of each panel -> (T,), the query of each object.

    Returns:
        The figure, and "total" (panels,) and "lines" (panels, T, 2, 2), from the centre of the
        query's box to that of the object, in pixels.
    """
    pixels = as_image_array(image)
    boxes, target_boxes, cost = as_array(boxes), as_array(target_boxes), as_array(cost)
    queries = np.stack([as_array(assigned) for assigned in assignments.values()])  # (panels, T)
    differs = (queries != queries[0]).any(0)
    total = cost[queries, np.arange(len(target_boxes))].sum(1)
    figure, panels = panel_grid(
        len(queries),
        pixels.shape[0] / pixels.shape[1],
        width=4.2,
        columns=2,
        colour_bar=0,
        margin=0.1,
    )
    lines = np.stack(
        [centre(boxes[queries]), np.broadcast_to(centre(target_boxes), (*queries.shape, 2))], 2
    )
    for k, (axis, title) in enumerate(zip(panels, assignments, strict=True)):
        show_image(axis, faded(pixels))
        for t, target in enumerate(target_boxes):
            colour = COLOURS[t % len(COLOURS)]
            draw_box(axis, target, colour, lw=2.2)
            draw_outline(axis, boxes[queries[k, t]], color=colour, lw=1.5, ls="--")
            width = 3.2 if differs[t] else 1.2
            axis.plot(*lines[k, t].T, "-", color=colour, lw=width, zorder=5)
            # Above boxes and numbers: the ends tell which query and object belong together.
            axis.plot(*lines[k, t].T, "o", color=colour, ms=4, mec="black", mew=0.5, zorder=7)
            axis.annotate(
                f"{t}",
                target[:2],
                fontsize=8,
                ha="center",
                va="center",
                bbox={"facecolor": "white", "edgecolor": colour, "pad": 0.8},
                zorder=6,
            )
        axis.set_title(f"{title}: {total[k]:.2f}", fontsize=11)
    return figure, {"total": total, "lines": lines}


def plot_line_assignments(
    queries, objects, assignments: Mapping[str, object]
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw queries and objects on a line, and the pairs of several assignments as arcs.

    Args:
        queries: (n,) positions.
        objects: (n,) positions.
        assignments: The title of each panel -> (n,), the query of each object.

    Returns:
        The figure, and "distances" (panels, n) of the pairs of each assignment.
    """
    queries, objects = as_array(queries).astype(float), as_array(objects).astype(float)
    figure = NotebookFigure(9.6, 2.4 * len(assignments))
    panels = figure.subplots(len(assignments), 1, sharex=True, squeeze=False)[:, 0]
    distances = []
    for axis, (title, assigned) in zip(panels, assignments.items(), strict=True):
        starts = queries[as_array(assigned)]
        distances.append(np.abs(starts - objects))
        for start, end in zip(starts, objects, strict=True):
            width = abs(end - start)
            axis.add_patch(
                Arc(((start + end) / 2, 0), width, width, theta1=0, theta2=180, lw=2, ec=COLOURS[2])
            )
        axis.axhline(0, color="0.5", lw=0.8, zorder=1)
        for positions, mark, colour, name in (
            (queries, "o", COLOURS[0], "query"),
            (objects, "s", COLOURS[1], "object"),
        ):
            axis.plot(positions, 0 * positions, mark, color=colour, ms=9, label=name, zorder=3)
        span = np.ptp([*queries, *objects])
        axis.set(ylim=(-0.05 * span, 0.52 * span), yticks=[])
        axis.spines[["left", "top", "right"]].set_visible(False)
        axis.set_title(f"{title}: {distances[-1].sum():.4g}", fontsize=11, color=text_colour())
    panels[0].legend(frameon=False, fontsize=9, loc="upper right")
    return figure, {"distances": np.stack(distances)}
