"""`ddetr data shapes`."""

from pathlib import Path


def run(out: Path = Path("data/shapes"), train: int = 4000, val: int = 200, seed: int = 0) -> None:
    """Write generated scenes of six shapes to a folder, in COCO's layout.

    Args:
        out: The folder to write; it must not have these splits already.
        train: Images to train on.
        val: Images to evaluate on.
        seed: The same seed generates the same images.
    """
    from ddetr_edu.data.shapes import write_shapes_set

    write_shapes_set(out, train=train, val=val, seed=seed)
    print(f"wrote {train} + {val} images; try: ddetr train --data {out} --minutes 3")
