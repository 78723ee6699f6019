"""What the tests of the figures share."""

import matplotlib.pyplot as plt
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def no_open_figures():
    """Figures belong to their caller: none may be left in pyplot."""
    plt.close("all")
    yield
    assert plt.get_fignums() == []


@pytest.fixture
def image():
    """13 x 31 pixels, not square, as (H, W, 3) floats."""
    return np.random.default_rng(0).random((13, 31, 3))
