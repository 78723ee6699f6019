"""A detector as an ONNX file, for programs without Python or torch."""

import copy
import json
import logging
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ddetr_edu.attention import MSDeformAttn
from ddetr_edu.checkpoints.onnx_check import OnnxCheck, check_exported
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.detector import NOT_SAVABLE, Detector
from ddetr_edu.files import atomic_write
from ddetr_edu.models.backbone import normalization
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR
from ddetr_edu.models.non_finite import check_finite
from ddetr_edu.models.preprocessing import make_batch, to_floats
from ddetr_edu.models.timm_backbone import TimmBackbone, exportable_padding


class TupleOutputs(nn.Module):
    """The predictions of the last decoder layer as a tuple, which a graph can return.

    Args:
        model: The model to wrap.
    """

    def __init__(self, model: DeformableDETR | DETR):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        """images (1, 3, H, W), padding_mask (1, H, W) -> logits (1, Lq, K), boxes (1, Lq, 4)."""
        for side in images.shape[2:]:
            torch._check(side >= 2)  # else the exporter asks what an empty image would lead to
        predictions = self.model(images, padding_mask)
        return predictions.logits, predictions.boxes


def export_onnx(path: str | Path, detector: Detector) -> OnnxCheck:
    """Write the detector's model as an ONNX file, with GridSample in place of our attention kernel.

    Its inputs are one normalised image, images (1, 3, H, W) of any height and width, and its
    padding_mask (1, H, W) bool, True = padding. Its outputs are logits (1, Lq, K) and boxes
    (1, Lq, 4), (cx, cy, w, h) as fractions of the image. The file's metadata hold, as JSON, what
    pre- and postprocessing need: "categories", "resize", "mean" and "std".

    Where onnxruntime is installed, the file is written only if it predicts what torch predicts, on
    an image of another size than that it was exported with.

    Args:
        path: The file to write.
        detector: The detector to export.

    Returns:
        The opset that the file needs, and how much its predictions differ from torch's.

    Raises:
        ValueError: If the packages that torch's exporter needs are missing, for a detector that
            is not finite or a copy by `for_inference`, or if onnxruntime predicts something else.
        OSError: If the file cannot be written.
    """
    if detector.only_for_inference:
        raise ValueError(NOT_SAVABLE)
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ValueError(
            "torch exports to ONNX by means of onnxscript, which is not installed; "
            "pip install onnx onnxscript"
        ) from None
    # It would warn of every constant that it leaves unfolded.
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    model = copy.deepcopy(detector.model).float().cpu().eval()
    for module in model.modules():
        if isinstance(module, MSDeformAttn):
            module.backend = "grid_sample"
    # Any size will do if no level is one pixel wide: the exporter would take that 1 for a constant.
    side = 16 * 2 ** getattr(model.config, "n_levels", 1)  # a DETR has one
    images, padding_mask = torch.zeros(1, 3, 2 * side, 3 * side), torch.zeros(1, 2 * side, 3 * side)
    scene = to_floats(held_out_scenes().first(1)[0][0])
    mean, std = normalization(model.backbone)
    seen = make_batch([scene], ResizeConfig(3 * side, 4 * side), mean=mean, std=std)
    with torch.no_grad():
        expected = model(*seen)
    check_finite(model, *seen, expected)
    dynamic = torch.export.Dim.DYNAMIC
    timm = isinstance(model.backbone, TimmBackbone)
    with exportable_padding() if timm else nullcontext():
        program = torch.onnx.export(
            TupleOutputs(model).eval(),
            (images, padding_mask.bool()),
            dynamo=True,
            verbose=False,
            input_names=["images", "padding_mask"],
            output_names=["logits", "boxes"],
            dynamic_shapes={
                "images": {2: dynamic, 3: dynamic},
                "padding_mask": {1: dynamic, 2: dynamic},
            },
        )
    assert program is not None  # it is None only without dynamo
    metadata = {
        "categories": detector.categories,
        "resize": asdict(detector.resize),
        "mean": [round(float(x), 6) for x in mean],
        "std": [round(float(x), 6) for x in std],
    }
    program.model.metadata_props.update({k: json.dumps(v) for k, v in metadata.items()})
    content = program.model_proto.SerializeToString()
    check = check_exported(content, program.model.opset_imports[""], *seen, expected)
    atomic_write(Path(path), content)
    return check
