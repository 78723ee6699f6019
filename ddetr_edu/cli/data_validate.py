"""`ddetr data validate`."""

from pathlib import Path

from tyro.conf import Positional


def run(data: Positional[Path]) -> None:
    """Check every annotation and every image of a data set, and report all errors.

    Args:
        data: A folder in COCO's layout.
    """
    from ddetr_edu.data.validate import validate_dataset

    reports = validate_dataset(data)
    for report in reports:
        print(report)
    n = sum(report.n_errors for report in reports)
    if n:
        raise ValueError(
            f"{data} has {n} error{'s' * (n != 1)}; the report says where, and what to do"
        )
