"""`ddetr data validate`."""

from pathlib import Path

from tyro.conf import Positional

from ddetr_edu.cli.common import preset_queries


def run(data: Positional[Path], queries: int | None = None, all_errors: bool = False) -> None:
    """Check every annotation and every image of a data set, and report all errors.

    Training and evaluation leave out what cannot be used and say how much it is.

    Args:
        data: A folder in COCO's layout.
        queries: The number of queries of your detector, to find images with more objects; that of
            each preset if not given.
        all_errors: Name all errors, not only the first hundred of each kind.
    """
    from ddetr_edu.data.validate import validate_dataset

    reports = validate_dataset(data, preset_queries(queries))
    for report in reports:
        print(report.text(all_errors))
    n = sum(report.n_errors for report in reports)
    if n:
        raise ValueError(
            f"{data} has {n} error{'s' * (n != 1)}; the report says where, and what to do"
        )
