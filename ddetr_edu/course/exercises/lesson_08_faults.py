"""The exercise of lesson 08 about detectors that forget the padding: name the fault.

Whoever is about to do it should not read on: the versions and their faults are named below.
"""

from dataclasses import dataclass

from torch import Tensor

from ddetr_edu.course.choice import Choice, objections
from ddetr_edu.course.padding_symptoms import Symptoms, observe
from ddetr_edu.detector import Detector


@dataclass(frozen=True)
class Fault:
    """A way in which the padding is forgotten."""

    means: str  # what is wrong in the code
    shows: str  # what figure and table would show


FAULTS = {  # those of `forgetting`
    "nothing": Fault(
        "nothing is forgotten", "then no experiment could tell this version from the right one"
    ),
    "no mask": Fault(
        "the values of padded tokens are not masked",
        "the decoder would hold vectors of many different lengths at padded tokens",
    ),
    "mask too early": Fault(
        "tokens are masked before the value projection instead of after it",
        "the decoder would hold the bias of a layer's value projection at every padded token",
    ),
    "encoder ratios": Fault(
        "the reference points of the encoder are not scaled by valid ratios",
        "scores would differ from the right ones only in a batch whose levels have different"
        " ratios, and padded tokens would hold zeros",
    ),
    "decoder ratios": Fault(
        "no decoder layer scales its reference points by valid ratios",
        "in all layers the points would be too far to the right, and at the right height",
    ),
    "later layers": Fault(
        "the first decoder layer scales its reference points, the later ones do not",
        "only the points of the first layer would be where they belong",
    ),
    "ratios swapped": Fault(
        "the decoder multiplies x by the ratio of the heights and y by that of the widths",
        "in all layers the points would be too far to the right and too far up; those of the wide"
        " image, too far to the left and too far down",
    ),
    "first image": Fault(
        "the decoder scales the reference points of every image by the ratios of image 0",
        "all that belongs to the wide image would be right, but not the points of the tall one",
    ),
    "proposals": Fault(
        "the encoder takes fractions of the batch for fractions of the image in its proposals",
        "the proposal would lie too far to the left, and the points and the score would suffer",
    ),
    "boxes": Fault(
        "predicted boxes are multiplied by the size of the batch instead of the image's",
        "points and scores would be right, and only the last box too wide and too far right",
    ),
    "whole batch": Fault(
        "proposals, the decoder's reference points and predicted boxes are all fractions of the"
        " batch",
        "the proposal would seem to lie somewhere else; the last box and score would be almost"
        " right, and so would the points, and the scores in between differ a little",
    ),
}
VERSIONS = {
    "A": "first image",
    "B": "encoder ratios",
    "C": "whole batch",
    "D": "later layers",
    "E": "mask too early",
}
INVISIBLE = "here everything in figure and table is right, so neither can decide"
SEEN = {
    "A": "here the proposal is right, but the points of both layers are not: compare x and y, and"
    " do so for both images",
    "B": f"{INVISIBLE}; in what kind of batch would a difference show?",
    "C": "here the proposal is not where it should be, and yet the points, the last score and the"
    " box are almost right: how can that be?",
    "D": "here the score is right after one layer; compare the two sets of points",
    "E": f"{INVISIBLE}; what else is there to observe?",
}


def observe_version(
    version: str, detector: Detector, images: list[Tensor], n: int, point: tuple[float, float]
) -> Symptoms:
    """Follow a query through a detector that forgets the padding somewhere; you find out where.

    Args:
        version: "A" to "E".
        detector: As of `observe`.
        images: (3, H, W) in [0, 1] each.
        n: The image to look at.
        point: (x, y) on an object, a fraction of that image.

    Returns:
        What became of the query.
    """
    return observe(detector, images, n, point, VERSIONS[version])


padding_faults = Choice(
    "padding_faults",
    VERSIONS,
    {word: fault.means for word, fault in FAULTS.items()},
    objections(VERSIONS, {word: each.shows for word, each in FAULTS.items()}, SEEN),
)
