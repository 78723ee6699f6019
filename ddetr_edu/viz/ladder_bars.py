"""How long each step of a ladder takes, as bars, and what it gained."""

from collections.abc import Sequence

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, as_array, text_colour


def plot_ladder(
    names: Sequence[str], milliseconds, marked: Sequence[str] = ()
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the times of steps from top to bottom, on a logarithmic axis.

    A bar is a step. Beside it stand its time and how many times faster it is than the step above.
    One unit of the grid to the left is a factor of ten.

    Args:
        names: Of the steps, the first on top.
        milliseconds: (steps,), positive.
        marked: Names of steps with another colour.

    Returns:
        The figure; "milliseconds" (steps,) and "gains" (steps - 1,), each time divided by the next.

    Raises:
        ValueError: If there are not as many times as names, or a time is not positive.
    """
    times = as_array(milliseconds).astype(float)
    if times.shape != (len(names),) or not (times > 0).all():
        raise ValueError(
            f"{len(names)} steps came with the times {times}; each needs a positive one"
        )
    gains = times[:-1] / times[1:]
    figure = NotebookFigure(8.5, 0.38 * len(names) + 1.0)
    axis = figure.subplots()
    rows = np.arange(len(names))
    axis.barh(
        rows,
        times,
        color=[COLOURS[1 if name in marked else 0] for name in names],
        left=0,
        height=0.65,
    )
    labels = [_in_words(times[0])]
    for time, gain in zip(times[1:], gains, strict=True):
        factor, word = (gain, "faster") if gain >= 1 else (1 / gain, "slower")
        change = (
            f"{factor:,.{int(factor < 10)}f} times {word}" if factor >= 1.05 else "about as fast"
        )
        labels.append(f"{_in_words(time)},  {change}")
    for row, time, label in zip(rows, times, labels, strict=True):
        axis.annotate(
            label,
            (time, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=text_colour(),
        )
    low, high = np.floor(np.log10(times.min())) - 0.3, np.log10(times.max())
    axis.set(
        xscale="log", xlim=(10**low, 10 ** (high + 0.35 * (high - low))), ylim=(len(names), -1)
    )
    axis.set_yticks(rows, names)
    axis.set_xlabel("time, milliseconds")
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, {"milliseconds": times, "gains": gains}


def _in_words(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:,.3g} s"
    return f"{milliseconds:.3g} ms"
