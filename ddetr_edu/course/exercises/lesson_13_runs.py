"""The exercise of lesson 13 about the logs of four training runs: what was each of them?

Whoever is about to do it should not read on: the settings are named below.
"""

from dataclasses import dataclass

from ddetr_edu.course.choice import Choice, objections


@dataclass(frozen=True)
class Setting:
    """What a run may have been trained with."""

    means: str
    shows: str  # what its log would show, beside those of the others


SETTINGS = {
    "plain": Setting(
        "nothing is changed: one stage, 60 queries, three decoder layers, look forward once",
        "every other run that has its seed would begin exactly as it does, except for what the"
        " change of that run touches",
    ),
    "another seed": Setting(
        "only the seed is changed, and with it the initial parameters and the images",
        "already at step 1 its losses of the last layer would be those of no other run, and yet be"
        " of about the same size",
    ),
    "denoising": Setting(
        "up to five groups of denoising queries are added",
        "its total loss would be larger than what three layers have, from the first step on",
    ),
    "look forward twice": Setting(
        "the gradient of a layer's boxes also reaches the delta of the layer before",
        "its predictions before the first step would be those of a run that looks forward once, and"
        " so would all of its losses at step 1; only the gradient would differ",
    ),
    "two stages": Setting(
        "the queries start at boxes that the encoder proposes",
        "its losses of the last layer at step 1 would be those of no other run, since its queries"
        " start elsewhere, and the proposals would add losses of their own to the total",
    ),
    "two layers": Setting(
        "the decoder has two layers instead of three",
        "its total loss would be about twice what the last layer has, not three times",
    ),
    "fewer queries": Setting(
        "the model has 30 queries instead of 60",
        "at step 1 its class loss, a sum over all queries, would be about half as large as that of"
        " others",
    ),
    "lower learning rate": Setting(
        "the learning rate is half as high",
        "its learning rate would be lower at every step, and the log has it",
    ),
}
RUNS = {"A": "look forward twice", "B": "another seed", "C": "denoising", "D": "plain"}
LOOK = {  # where to look instead
    "A": "compare its step 1 with that of D, number by number",
    "B": "compare its step 1 with that of the three others: does any of its losses agree?",
    "C": "compare its step 1 with that of D: which numbers agree, and which one does not?",
    "D": "compare its step 1 with those of A and of C: what do all three have in common?",
}

runs = Choice(
    "runs",
    RUNS,
    {word: setting.means for word, setting in SETTINGS.items()},
    objections(RUNS, {word: each.shows for word, each in SETTINGS.items()}, LOOK),
)
