"""`ddetr export`."""

from pathlib import Path

from tyro.conf import Positional

from ddetr_edu.cli.common import CHECKPOINT


def run(checkpoint: Positional[Path] = CHECKPOINT, *, out: Path) -> None:
    """Export a checkpoint's model to ONNX, for one image of any size at a time.

    Where onnxruntime is installed, the export is compared with torch on an image.

    Args:
        checkpoint: A checkpoint of any kind that `ddetr convert` takes.
        out: The file to write.
    """
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give the name of a file in it, such as model.onnx")

    from ddetr_edu.checkpoints.io import load
    from ddetr_edu.checkpoints.onnx import export_onnx

    check = export_onnx(out, load(checkpoint))
    print(f"wrote {out}: images (1, 3, H, W), padding_mask (1, H, W) -> logits, boxes")
    print(check)
