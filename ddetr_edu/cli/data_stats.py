"""`ddetr data stats`."""

from pathlib import Path

from tyro.conf import Positional

from ddetr_edu.cli.common import preset_queries, write_figure


def run(data: Positional[Path], out: Path | None = None, queries: int | None = None) -> None:
    """Count the images and objects of a data set, by category and size; print and plot them.

    Args:
        data: A folder in COCO's layout.
        out: The PNG to write; runs/stats/NAME.png if not given.
        queries: The number of queries of your detector, to find images with more objects; that of
            each preset if not given.
    """
    from ddetr_edu.data.annotations import split_names
    from ddetr_edu.data.coco import CocoDetection
    from ddetr_edu.data.statistics import (
        by_frequency,
        compute_statistics,
        describe_excess_objects,
        table,
    )
    from ddetr_edu.viz.dataset import plot_dataset

    datasets = {name: CocoDetection(data, name) for name in split_names(data)}
    splits = {name: compute_statistics(dataset) for name, dataset in datasets.items()}
    print(table(splits))
    for name, dataset in datasets.items():
        counts = dict(zip(dataset.image_ids, dataset.object_counts().tolist(), strict=True))
        if excess := describe_excess_objects(counts, preset_queries(queries)):
            print(f"{name}: {excess}")
    figure, _ = plot_dataset(
        {n: {"labels": s.labels, "areas": s.areas, "counts": s.counts} for n, s in splits.items()},
        dict(by_frequency(splits)),
        title=f"{data}: objects by category, by size, and per image",
    )
    write_figure(figure, out or Path("runs/stats") / f"{data.resolve().name}.png")
