"""`ddetr convert`."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def run(
    source: Positional[Path], to: Literal["official", "huggingface", "ours"], out: Path
) -> None:
    """Convert a checkpoint to the official layout, to Hugging Face's transformers, or to ours.

    Args:
        source: A checkpoint of any of the three; its kind is recognised by its content.
        to: The layout to write.
        out: The file to write, or the folder for Hugging Face; it must not exist.
    """
    from ddetr_edu.checkpoints.huggingface import save_huggingface
    from ddetr_edu.checkpoints.io import load, save
    from ddetr_edu.checkpoints.official import save_official

    detector = load(source)
    if out.exists():
        raise ValueError(f"{out} exists already; choose another --out")
    {"official": save_official, "huggingface": save_huggingface, "ours": save}[to](out, detector)
    config = detector.model.config
    n_parameters = sum(p.numel() for p in detector.model.parameters())
    print(
        f"wrote {out}: {type(detector.model).__name__}, {config.backbone}, {config.n_queries} "
        f"queries, {config.num_classes} classes, {n_parameters / 1e6:.2f} million parameters"
    )
