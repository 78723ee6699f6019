"""Trials of the claims about published figures, which are looked up and not measured.

Sources: the table of results in the README of the official code (ResNet-50, COCO val2017), and
table 1 of the paper (arXiv 2010.04159). Speeds are in images per second with a batch size of 4.
"""

from typing import NamedTuple

from ddetr_edu.course.claim import Claim, Verdict, decide


class Reported(NamedTuple):
    """A row of the official code's table, as far as the claims are about it."""

    epochs: int
    ap: float
    fps: float


OFFICIAL_TABLE = {"DETR": Reported(500, 42.0, 38.3), "Deformable DETR": Reported(50, 44.5, 19.4)}
AP_IN_PAPER = 43.8  # of the multi-scale model without refinement


def try_reported_ap(
    table: dict[str, Reported] = OFFICIAL_TABLE, ap_in_paper: float = AP_IN_PAPER
) -> Verdict:
    """Whether both sources have the same AP.

    Args:
        table: The official code's.
        ap_in_paper: The paper's, of Deformable DETR.

    Returns:
        The verdict.
    """
    ours, theirs = table["Deformable DETR"], table["DETR"]
    in_table = (ours.ap, theirs.ap) == (44.5, 42.0)
    return decide(
        in_table and ap_in_paper == ours.ap,
        f"Looked up, not measured: the official repository's table has {ours.ap} after "
        f"{ours.epochs} epochs and {theirs.ap} after {theirs.epochs}; the paper's table 1 has "
        f"{ap_in_paper} for the same model, {ours.ap - ap_in_paper:.1f} less.",
        in_table,
    )


def try_reported_speed(table: dict[str, Reported] = OFFICIAL_TABLE) -> Verdict:
    """Which of the two numbers of images per second is larger.

    Args:
        table: The official code's.

    Returns:
        The verdict.
    """
    ours, theirs = table["Deformable DETR"], table["DETR"]
    return decide(
        ours.fps > theirs.fps,
        f"Looked up, not measured: {ours.fps} / {theirs.fps} = {ours.fps / theirs.fps:.2f} of "
        f"DETR's images per second. What is {theirs.epochs / ours.epochs:.0f} times better is the "
        f"number of epochs, {ours.epochs} instead of {theirs.epochs}.",
    )


CLAIMS = (
    Claim(18, "AP is 44.5, against 42.0 of DETR.", try_reported_ap),
    Claim(
        19, "Inference is faster: 19.4 images per second against 38.3 of DETR.", try_reported_speed
    ),
)
