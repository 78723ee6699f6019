"""A detector as an ONNX file, for programs without Python or torch."""

import copy
import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ddetr_edu.attention import MSDeformAttn
from ddetr_edu.detector import DeformableDETR
from ddetr_edu.detector.pictures import MEAN, STD
from ddetr_edu.training.detector import Detector
from ddetr_edu.training.files import write_whole


class PlainOutputs(nn.Module):
    """The model's last answer as a tuple, which a graph can return."""

    def __init__(self, model: DeformableDETR):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        """images (1, 3, H, W), padding_mask (1, H, W) -> logits (1, Lq, K), boxes (1, Lq, 4)."""
        predictions = self.model(images, padding_mask)
        return predictions.logits, predictions.boxes


def export_onnx(path: str | Path, detector: Detector) -> None:
    """Write the detector's model as an ONNX file, with GridSample in place of our attention kernel.

    Its inputs are one normalised picture, images (1, 3, H, W) of any height and width, and its
    padding_mask (1, H, W) bool, True = padding; its outputs logits (1, Lq, K) and boxes (1, Lq, 4),
    (cx, cy, w, h) as fractions of the picture. The file's metadata hold, as JSON, what belongs
    around it: "categories", "size", "mean" and "std".

    Raises: ValueError if the packages that torch's exporter needs are missing, OSError if the file
        cannot be written.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ValueError(
            "torch exports to ONNX by means of onnxscript, which is not installed; "
            "pip install onnx onnxscript"
        ) from None
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells of folds it did not make
    model = copy.deepcopy(detector.model).float().cpu().eval()
    for module in model.modules():
        if isinstance(module, MSDeformAttn):
            module.backend = "grid_sample"
    # Any size will do, if no level is one pixel wide: the exporter would take that 1 for granted.
    side = 16 * 2 ** getattr(model.config, "n_levels", 1)  # a DETR has one
    images, padding_mask = torch.zeros(1, 3, 2 * side, 3 * side), torch.zeros(1, 2 * side, 3 * side)
    free = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        PlainOutputs(model).eval(),
        (images, padding_mask.bool()),
        dynamo=True,
        verbose=False,
        input_names=["images", "padding_mask"],
        output_names=["logits", "boxes"],
        dynamic_shapes={"images": {2: free, 3: free}, "padding_mask": {1: free, 2: free}},
    )
    around = {
        "categories": detector.categories,
        "size": asdict(detector.size),
        "mean": MEAN,
        "std": STD,
    }
    program.model.metadata_props.update({name: json.dumps(around[name]) for name in around})
    content = program.model_proto.SerializeToString()
    write_whole(Path(path), lambda file: file.write(content))
