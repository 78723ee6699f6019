"""The exercise of lesson 11 about learning curves: four runs, four diagnoses.

Whoever is about to do it should not read on: the faults are named below.
"""

from dataclasses import dataclass

from ddetr_edu.course.choice import Choice


@dataclass(frozen=True)
class Fault:
    """Something that can be wrong with a run."""

    means: str
    shows: str  # what the curves would look like


FAULTS = {
    "nothing": Fault("nothing is wrong", "then its curves would lie on the grey ones"),
    "learning rate too high": Fault(
        "the learning rate is ten times the usual one",
        "after the first steps neither loss would fall much further: each step undoes what the last"
        " one has learned",
    ),
    "learning rate too low": Fault(
        "the learning rate is a hundredth of the usual one",
        "both losses would fall smoothly, and be far above the grey curves all the time",
    ),
    "too few images": Fault(
        "it is trained on 8 images instead of 1,000",
        "both losses of the training images would fall below the grey curves, and the AP of other"
        " images would not follow",
    ),
    "labels shuffled": Fault(
        "the objects of the training images have each other's categories",
        "the loss of the boxes would fall nearly as the grey curve does, and that of the classes"
        " would get stuck above it",
    ),
    "boxes shuffled": Fault(
        "the objects of the training images have each other's boxes",
        "the loss of the classes would come down in the first steps as the grey one does, and then"
        " both losses would stay high: nothing in an image says where its boxes are",
    ),
    "tested on training images": Fault(
        "the AP is that of the training images",
        "with losses as low as the grey ones, or lower, its AP would be at least as high as theirs",
    ),
    "evaluation broken": Fault(
        "training is right, but the evaluation takes boxes of one format for another",
        "both losses would lie on the grey curves, and only the AP would be wrong",
    ),
    "no classes to tell": Fault(
        "all objects of the training images have the same category",
        "the loss of the classes would be lower than the grey curve, since there is nothing to tell"
        " apart",
    ),
    "stopped early": Fault(
        "the learning rate fell to zero after a tenth of the run",
        "all curves would follow the grey ones at first, and then be flat",
    ),
}
RUNS = {
    "A": "labels shuffled",
    "B": "learning rate too low",
    "C": "too few images",
    "D": "learning rate too high",
}
LOOK = {
    "A": "here one of the two losses follows the grey curve and the other does not, in the second"
    " half: what could make only that one hard?",
    "B": "how many steps does each loss need here for what the grey curve does in the first ten?",
    "C": "here one curve is better than the grey one and another one is worse; which images does"
    " each of them come from?",
    "D": "here neither loss follows the grey curve; does it still fall in the second half?",
}

# What speaks against a word in one run only, in the place of what its fault would look like.
IN_ONE_RUN = {
    ("D", "boxes shuffled"): "its curves would look much like these, so the figure does not decide;"
    ' compare the other numbers of the log with those of read_run("right")'
}

run_faults = Choice(
    "run_faults",
    RUNS,
    {word: fault.means for word, fault in FAULTS.items()},
    {
        (run, word): f"{IN_ONE_RUN.get((run, word), fault.shows)}; {LOOK[run]}"
        for run, right in RUNS.items()
        for word, fault in FAULTS.items()
        if word != right
    },
)
