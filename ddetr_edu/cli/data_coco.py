"""`ddetr data coco`."""

from typing import Annotated

from tyro.conf import arg

from ddetr_edu.data.subset import SubsetConfig, fetch_subset


def run(config: Annotated[SubsetConfig, arg(name="")]) -> None:
    """Download a subset of COCO: its annotations, and only the images that it needs.

    Try it:  ddetr data coco --categories person,dog --images 500 --out data/coco-person-dog
    """
    fetched = fetch_subset(config)
    parts = ", ".join(f"{len(rows)} images of {split}" for split, rows in fetched.items())
    use = "train --minutes 30" if config.split == "train2017" else "eval"
    print(f"{config.out} has {parts}; try: ddetr {use} --data {config.out}")
