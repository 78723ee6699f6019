"""`ddetr data stats`."""

from pathlib import Path

from tyro.conf import Positional

from ddetr_edu.cli.common import write_figure


def run(data: Positional[Path], out: Path | None = None) -> None:
    """Count the images and objects of a data set, by category and size; print and plot them.

    Args:
        data: A folder in COCO's layout.
        out: The PNG to write; runs/stats/NAME.png if not given.
    """
    from ddetr_edu.data.annotations import split_names
    from ddetr_edu.data.coco import CocoDetection
    from ddetr_edu.data.statistics import by_frequency, compute_statistics, table
    from ddetr_edu.viz.dataset import plot_dataset

    splits = {name: compute_statistics(CocoDetection(data, name)) for name in split_names(data)}
    print(table(splits))
    figure, _ = plot_dataset(
        {n: {"labels": s.labels, "areas": s.areas, "counts": s.counts} for n, s in splits.items()},
        dict(by_frequency(splits)),
        title=f"{data}: objects by category, by size, and per image",
    )
    write_figure(figure, out or Path("runs/stats") / f"{data.resolve().name}.png")
