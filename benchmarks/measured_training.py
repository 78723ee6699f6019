"""A training whose results say how much of the machine it had."""

from collections.abc import Callable

from ddetr_edu.attention.benchmark import machine
from ddetr_edu.processor import measure_use, read_times


def train_measured(train: Callable[[], object]) -> dict:
    """Train, and tell how many cores other programs used meanwhile.

    Args:
        train: Runs the training, such as `parse` of `ddetr_edu.cli.main` returns it.

    Returns:
        The machine, with "cores_used_by_others"; None on systems that do not tell.
    """
    about, start = machine(), read_times()
    train()
    use = measure_use(start)
    about["cores_used_by_others"] = None if use is None else round(use.others, 2)
    return about
