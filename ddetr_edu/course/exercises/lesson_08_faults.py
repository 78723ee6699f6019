"""The exercise of lesson 08 about detectors that forget the padding: name the place.

Whoever is about to do it should not read on: the versions and their faults are named below.
"""

from dataclasses import dataclass

from torch import Tensor

from ddetr_edu.course.choice import Choice
from ddetr_edu.course.padding_symptoms import Symptoms, observe
from ddetr_edu.detector import Detector


@dataclass(frozen=True)
class Fault:
    """A place where the padding is forgotten."""

    means: str  # what is wrong in the code
    shows: str  # what figure and table would show


FAULTS = {  # the places of `forgetting`
    "no mask": Fault(
        "the values of padded tokens are not masked",
        "padded tokens would hold vectors of many different lengths",
    ),
    "mask too early": Fault(
        "tokens are masked before the value projection instead of after it",
        "padded tokens would all hold the same short vector",
    ),
    "encoder ratios": Fault(
        "the reference points of the encoder are not scaled by valid ratios",
        "there would be nothing to see here: all sides are multiples of 32, so the ratios cancel",
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
        "in all layers the points would be too far to the right, and too far up",
    ),
    "proposals": Fault(
        "the encoder takes fractions of the batch for fractions of the image in its proposals",
        "the proposal itself would lie too far to the left",
    ),
    "boxes": Fault(
        "predicted boxes are multiplied by the size of the batch instead of the image's",
        "points and scores would be right, and only the last box too wide and too far right",
    ),
}
VERSIONS = {
    "A": "ratios swapped",
    "B": "mask too early",
    "C": "boxes",
    "D": "later layers",
    "E": "proposals",
}
SEEN = {
    "A": "here the proposal is right, but the points of both layers are not: compare x and y",
    "B": "here all points and boxes are right; the last column of the table is not",
    "C": "here the scores are right to the last digit; look at what else is right in the figure",
    "D": "here the score is right after one layer; compare the two sets of points",
    "E": "here the score falls at once; what is the first thing that is wrong in the figure?",
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
    {
        (version, word): f"{fault.shows}; {SEEN[version]}"
        for version, right in VERSIONS.items()
        for word, fault in FAULTS.items()
        if word != right
    },
)
