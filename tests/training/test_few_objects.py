"""The advice at the start of a run of which a step sees only a few objects."""

import numpy as np
import pytest

from ddetr_edu.training.logging import describe_few_objects
from ddetr_edu.training.loop import train


def test_the_advice_counts_objects_and_images_without_any():
    counts = np.array([4, 0, 3, 0, 2, 0, 0, 9, 0, 2] * 9)
    (line,) = describe_few_objects(counts, images_per_step=4)
    assert "2 in an image, 8 in a step, and 45 of the images have none" in line
    assert "--batch-size" in line
    assert "none" not in describe_few_objects(np.ones(90, int), 4)[0]


@pytest.mark.parametrize(
    ("counts", "images_per_step"),
    [
        ([2] * 90, 8),  # enough in a step, although few in an image
        ([2] * 7, 4),  # a larger batch would be the whole set
        ([0] * 45 + [9] * 45, 4),
    ],
)
def test_no_advice_where_it_does_not_help(counts, images_per_step):
    assert describe_few_objects(np.array(counts), images_per_step) == []


@pytest.mark.parametrize(("overfit", "advised"), [(None, True), (4, False)])
def test_a_run_gives_the_advice(config, capsys, overfit, advised):
    train(config(steps=1, overfit=overfit))
    assert ("larger --batch-size" in capsys.readouterr().out) is advised
