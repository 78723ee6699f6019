"""Whether an exported model predicts what it predicts in torch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddetr_edu.models.deformable_detr import Predictions

MAX_DIFFERENCE = 1e-3  # of scores and of boxes as fractions; rounding stays far below


@dataclass(frozen=True)
class OnnxCheck:
    """What is known of an exported file."""

    opset: int  # of ONNX's operators that the file needs
    program: str  # what it was run with, or why it was not
    difference: float | None  # the largest of scores and boxes from torch's; None: not compared

    def __str__(self) -> str:
        if self.difference is None:
            return f"opset {self.opset}; not compared with torch, because {self.program}"
        return (
            f"opset {self.opset}; {self.program} gives the same on an image as torch: scores and "
            f"boxes differ by at most {self.difference:.1e}"
        )


def check_exported(
    content: bytes, opset: int, images: Tensor, padding_mask: Tensor, expected: Predictions
) -> OnnxCheck:
    """Run an exported model in onnxruntime, if it is installed, and compare it with torch.

    Args:
        content: The file.
        opset: Its opset.
        images: (1, 3, H, W), normalised.
        padding_mask: (1, H, W) bool.
        expected: What the model predicts in torch.

    Returns:
        The comparison.

    Raises:
        ValueError: If the predictions differ by more than rounding.
    """
    try:
        import onnxruntime
    except ImportError:
        return OnnxCheck(opset, "onnxruntime is not installed: pip install onnxruntime", None)
    program = f"onnxruntime {onnxruntime.__version__}"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        logits, boxes = session.run(
            ["logits", "boxes"], {"images": images.numpy(), "padding_mask": padding_mask.numpy()}
        )
    except Exception as error:  # of classes of its own: an older one does not know the opset
        reason = " ".join(str(error).split())[:160]
        return OnnxCheck(opset, f"{program} cannot run it ({reason})", None)
    found = Predictions(
        torch.from_numpy(logits), torch.from_numpy(boxes), no_object=expected.no_object
    )
    difference = largest_difference(found, expected)
    if difference > MAX_DIFFERENCE:
        raise ValueError(
            f"{program} and torch {torch.__version__} disagree on the exported model: scores or "
            f"boxes differ by {difference:.1e}, so no file was written; try other versions of "
            "torch and onnxscript"
        )
    return OnnxCheck(opset, program, difference)


def largest_difference(found: Predictions, expected: Predictions) -> float:
    """How far each query is from the nearest one of the other predictions, at most.

    Queries of two stages are sorted by a score, so rounding may exchange two of them.

    Args:
        found: Predictions of one image.
        expected: Others of the same image.

    Returns:
        The largest difference of scores and of boxes as fractions; infinite for another number of
        queries, and for predictions that are not finite.
    """
    one, other = (
        torch.cat([each.scores(), each.boxes], dim=-1)[0].double() for each in (found, expected)
    )
    # cdist would leave out what is NaN.
    if one.shape != other.shape or not (one.isfinite().all() and other.isfinite().all()):
        return float("inf")
    distances = torch.cdist(one, other, p=float("inf"))  # (Lq, Lq)
    return float(torch.stack([distances.amin(0).amax(), distances.amin(1).amax()]).amax())
