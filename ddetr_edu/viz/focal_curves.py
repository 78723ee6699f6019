"""The focal loss against the probability, and the probability at which it comes to rest."""

import numpy as np

from ddetr_edu.viz.style import COLOURS, NotebookFigure, text_colour

PROBS = np.linspace(0.002, 0.998, 499)


def plot_focal_curves(
    gammas: tuple[float, ...] = (0, 1, 2), alphas: tuple[float, ...] = (0.25, 0.5, 0.75)
) -> tuple[NotebookFigure, dict[str, np.ndarray]]:
    """Draw the focal loss of a positive for several gammas, and where probabilities settle.

    On the right, an output is trained with positives and negatives that it cannot tell apart. The
    loss is then lowest at one probability, which depends on the fraction of positives. The dotted
    line, of the cross entropy, is where both are equal; the others have the last gamma.

    Args:
        gammas: Those of the left panel, without alpha.
        alphas: Those of the right panel.

    Returns:
        The figure, and for each "gamma ..." the losses (n, 2), (prob, loss), and for each
        "alpha ..." (n, 2), (fraction of positives, prob).
    """
    figure = NotebookFigure(9.6, 3.8)
    left, right = figure.subplots(1, 2)
    drawn: dict[str, np.ndarray] = {}
    for k, gamma in enumerate(gammas):
        loss = positive_loss(PROBS, gamma)
        drawn[f"gamma {gamma:g}"] = np.stack([PROBS, loss], axis=1)
        name = "γ = 0, cross entropy" if gamma == 0 else f"γ = {gamma:g}"
        left.plot(PROBS, loss, color=COLOURS[k], lw=2, label=name)
    left.set(xlim=(0, 1), ylim=(0, 4), xlabel="prob, predicted for the right class")
    left.set_ylabel("loss of a positive, without α")
    right.plot([0, 1], [0, 1], ":", color=text_colour(), lw=1.2, label="cross entropy")
    for k, alpha in enumerate(alphas):
        fraction = settling_fraction(PROBS, alpha, gammas[-1])
        drawn[f"alpha {alpha:g}"] = np.stack([fraction, PROBS], axis=1)
        name = f"γ = {gammas[-1]:g}, α = {alpha:g}"
        right.plot(fraction, PROBS, color=COLOURS[k + len(gammas)], lw=2, label=name)
    right.set(xlim=(0, 1), ylim=(0, 1), xlabel="fraction of positives")
    right.set_ylabel("prob with the lowest loss")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=9)
    return figure, drawn


def positive_loss(prob: np.ndarray, gamma: float) -> np.ndarray:
    """The focal loss of a positive, without alpha; that of a negative has 1 - prob instead.

    Args:
        prob: Predicted probabilities, in (0, 1).
        gamma: The exponent.

    Returns:
        The losses.
    """
    return -((1 - prob) ** gamma) * np.log(prob)


def settling_fraction(prob: np.ndarray, alpha: float, gamma: float) -> np.ndarray:
    """The fraction of positives for which a probability has the lowest focal loss.

    There the slopes of the two losses cancel: fraction * alpha * slope of a positive's loss +
    (1 - fraction) * (1 - alpha) * slope of a negative's loss = 0.

    Args:
        prob: Probabilities, in (0, 1).
        alpha: The weight of positives.
        gamma: The exponent.

    Returns:
        The fractions.
    """

    def slope(p):  # of positive_loss
        steeper = gamma * (1 - p) ** (gamma - 1) * np.log(p) if gamma else 0
        return steeper - (1 - p) ** gamma / p

    down, up = -alpha * slope(prob), -(1 - alpha) * slope(1 - prob)
    return up / (down + up)
