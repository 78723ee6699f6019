"""The exercise of lesson 12 about trainings whose AP is 0: name the fault and, with it, the cure.

Whoever is about to do it should not read on: the patients and their faults are named below.
"""

import functools
from dataclasses import dataclass

from ddetr_edu.course.check_result import CheckResult
from ddetr_edu.course.choice import Choice, objections
from ddetr_edu.course.clinic import CURES, FAULTS, Change, training_images
from ddetr_edu.course.clinic_training import fine_tune, read_log
from ddetr_edu.course.unchecked_images import UncheckedImages

CURE_STEPS = 24  # enough for a training without a fault


@dataclass(frozen=True)
class Diagnosis:
    """A word that the learner may choose."""

    means: str  # what is wrong
    shows: str  # what images and curves would show


DIAGNOSES = {  # the names of CURES
    "nothing": Diagnosis(
        "nothing is wrong, it needs more steps", "then the curves would be the grey ones"
    ),
    "corners": Diagnosis(
        "`bbox` is [x1, y1, x2, y2]",
        "each box would begin at the upper left corner of its object and be too large, and the"
        " more so the farther it is from the upper left corner of the image",
    ),
    "centres": Diagnosis(
        "`bbox` is [cx, cy, w, h]",
        "each box would have the size of its object, and its upper left corner would lie at the"
        " object's centre",
    ),
    "image size": Diagnosis(
        "`bbox` belongs to the image at twice its size",
        "each box would be twice as wide and twice as high as its object, and twice as far from"
        " the upper left corner of the image",
    ),
    "x and y swapped": Diagnosis(
        "`bbox` is [y, x, h, w]",
        "objects on the diagonal from the upper left corner would have their box, and others would"
        " have it on the other side of the diagonal",
    ),
    "ids off by one": Diagnosis(
        "`category_id` counts from 0, and `categories` from 1",
        "the boxes would be right and the names wrong, and no image would be an exception",
    ),
    "next image": Diagnosis(
        "each image has the annotations of the image before it",
        "boxes and names would be those of the image above it in the figure",
    ),
    "learning rate too high": Diagnosis(
        "the learning rate is twenty times too high",
        "images and annotations would be right, and all curves would begin where the grey ones do,"
        " before the losses jump up",
    ),
    "learning rate too low": Diagnosis(
        "the learning rate is ten times too low",
        "images and annotations would be right, and the losses would fall as the grey ones do, but"
        " more slowly",
    ),
    "normalisation": Diagnosis(
        "pixel values are divided by 255 twice before they are normalised",
        "images and annotations would be right, as they are drawn from the files, but the loss of"
        " the boxes would be far above the grey one before the first step",
    ),
}
PATIENTS = {
    "A": "x and y swapped",
    "B": "normalisation",
    "C": "ids off by one",
    "D": "next image",
    "E": "corners",
    "F": "learning rate too high",
}
BOTH_RIGHT = (
    "every box and every name of this patient is right; compare the first points of its curves with"
    " those of the grey ones"
)
SEEN = {
    "A": "look at one box whose object is far to the right, and measure where it lies",
    "B": BOTH_RIGHT,
    "C": "compare the boxes with their objects first, and then the names",
    "D": "look in the other images, too, for an object that would fit one of these boxes",
    "E": "compare the upper left corner of each box with its object, and then the size",
    "F": BOTH_RIGHT,
}


def patient_images(patient: str) -> UncheckedImages:
    """The images of a patient, with the annotations that stand in its file.

    Args:
        patient: "A" to "F".

    Returns:
        The data set.
    """
    return training_images(FAULTS[PATIENTS[patient]])


def patient_log(patient: str) -> list[dict]:
    """The log of a patient's training.

    Args:
        patient: "A" to "F", or "right" for the training without a fault.

    Returns:
        Its lines, as of `fine_tune`.
    """
    return read_log()[PATIENTS.get(patient, "nothing")]


def try_cure(patient: str, word: str) -> None:
    """Cure a patient of something, train for a few steps and print the AP; it takes some seconds.

    Args:
        patient: "A" to "F".
        word: One of CURES.

    Raises:
        ValueError: For another patient or word.
    """
    if patient not in PATIENTS or word not in CURES:
        words = ", ".join(f'"{known}"' for known in CURES)
        raise ValueError(f"patients are A to F, and what to cure them of is one of {words}")
    before, after = _train(FAULTS[PATIENTS[patient]].then(CURES[word]))
    print(f"{patient}, cured of {word}: AP {before:.2f}, after {CURE_STEPS} steps {after:.2f}")


def _train(change: Change) -> tuple[float, float]:
    """AP before and after a short training."""
    _, log = fine_tune(change, CURE_STEPS, CURE_STEPS)
    points = [line["AP"] for line in log if "AP" in line]
    return points[0], points[-1]


@functools.cache
def confirm() -> str:
    """Cure the patients and train what comes out, which is one and the same training for all.

    Returns:
        What came of it, in a sentence.
    """
    fault = PATIENTS["A"]
    before, after = _train(FAULTS[fault].then(CURES[fault]))
    return (
        f"cured, {', '.join(PATIENTS)} are one and the same training: AP {before:.2f}, and after"
        f" {CURE_STEPS} steps {after:.2f}"
    )


class ConfirmedChoice(Choice):
    """A choice whose right answer is confirmed by a training."""

    def check(self, answer: object) -> CheckResult:
        """Compare an answer with the solution; if it is right, cure the patients and train.

        Args:
            answer: As of `Choice.check`.

        Returns:
            Whether all words are right, and a message.
        """
        result = super().check(answer)
        if not result.passed:
            return result
        return CheckResult(True, f"{result.message}; {confirm()}")


clinic = ConfirmedChoice(
    "clinic",
    PATIENTS,
    {word: diagnosis.means for word, diagnosis in DIAGNOSES.items()},
    objections(PATIENTS, {word: each.shows for word, each in DIAGNOSES.items()}, SEEN),
)
