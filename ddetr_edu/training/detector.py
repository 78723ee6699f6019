"""`Detector`: pictures in, losses or boxes out, by the contract of torchvision.models.detection.

It stands here and not beside the model because in training mode it needs the losses.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert
from torchvision.transforms.v2.functional import pil_to_tensor

from ddetr_edu.data import to_rgb
from ddetr_edu.detector import (
    DeformableDETR,
    PictureSize,
    best_detections,
    make_batch,
    to_floats,
)
from ddetr_edu.training.losses import detection_losses
from ddetr_edu.training.matching import LossWeights


class Detector(nn.Module):
    """A model together with the names of its classes and the size it likes pictures in.

    categories: {label: name} in the order of the model's class outputs (COCO's ids may have
        gaps), or a list of names, labelled 0, 1, 2, ...
    Raises: ValueError if there are not as many categories as the model has class outputs.
    """

    def __init__(
        self,
        model: DeformableDETR,
        categories: Mapping[int, str] | Sequence[str],
        size: PictureSize | None = None,
        loss_weights: LossWeights | None = None,
    ):
        super().__init__()
        if not isinstance(categories, Mapping):
            categories = dict(enumerate(categories))
        if len(categories) != model.config.num_classes:
            raise ValueError(
                f"{len(categories)} categories for a model with {model.config.num_classes} class "
                f"outputs; build the model with num_classes={len(categories)}"
            )
        self.model = model
        self.categories = dict(categories)
        self.size = size or PictureSize()
        self.loss_weights = loss_weights or LossWeights()
        self.labels = list(self.categories)  # class output -> label

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, detections in evaluation mode.

        images:  list of (3, H, W) in [0, 1], of any sizes
        targets: in training, per picture "boxes" (T, 4) xyxy in pixels and "labels" (T,)
        Returns: in training, a dict of losses to be summed; in evaluation, per picture the 100
            best "boxes" (k, 4) xyxy in pixels, "scores" (k,) and "labels" (k,), best first, and
            "queries" (k,), the decoder query of each.
        Raises: ValueError, naming the picture, for images or targets that cannot be used.
        """
        if isinstance(images, Tensor):
            raise ValueError("images is one tensor; the detector takes a list of (3, H, W) images")
        if not images:
            raise ValueError("the list of images is empty; the detector takes one or more")
        device = next(self.model.parameters()).device
        for n, image in enumerate(images):
            check_image(image, n, device)
        sizes = [tuple(image.shape[-2:]) for image in images]
        if not self.training:
            detections = best_detections(self.model(*make_batch(images, self.size)), sizes)
            labels = torch.tensor(self.labels, device=images[0].device)
            return [
                {
                    "boxes": found["boxes"],
                    "scores": found["scores"],
                    "labels": labels[found["classes"]],
                    "queries": found["queries"],
                }
                for found in detections
            ]
        if targets is None or len(targets) != len(images):
            raise ValueError(
                f"in training mode {len(images)} images need as many targets, but there are "
                f"{'none' if targets is None else len(targets)}; call .eval() to detect"
            )
        inside = [
            self._inside(t, s, n) for n, (t, s) in enumerate(zip(targets, sizes, strict=True))
        ]
        predictions = self.model(*make_batch(images, self.size, training=True))
        with torch.autocast(device.type, enabled=False):  # losses and matching in 32 bits
            return detection_losses(predictions, inside, self.loss_weights)

    @torch.no_grad()
    def predict(
        self, picture: str | Path | PIL.Image.Image, threshold: float = 0.5
    ) -> dict[str, Tensor]:
        """Detect the objects of one picture, given as a file or as a PIL image.

        The detector is put into evaluation mode. EXIF orientation is honoured.

        threshold: leave out detections that score less
        Returns: "boxes" (k, 4) xyxy in pixels, "scores" (k,), "labels" (k,), "queries" (k,).
        Raises: ValueError naming a file that is missing or not a picture.
        """
        image = load_picture(picture)
        device = next(self.model.parameters()).device
        self.eval()
        (found,) = self([image.to(device)])
        keep = found["scores"] >= threshold
        return {name: values[keep].cpu() for name, values in found.items()}

    def _inside(self, target: dict[str, Tensor], size: tuple[int, int], n: int) -> dict:
        """A target as the losses want it: class indices, and boxes (cx, cy, w, h) in [0, 1]."""
        for name in ("boxes", "labels"):
            if name not in target:
                raise ValueError(f'target {n} has no "{name}"; it needs "boxes" and "labels"')
        boxes, labels = torch.as_tensor(target["boxes"]), torch.as_tensor(target["labels"])
        if boxes.numel() == 0:
            boxes = boxes.reshape(0, 4)
        if boxes.dim() != 2 or boxes.shape[-1] != 4 or len(boxes) != len(labels):
            raise ValueError(
                f"target {n} has boxes of shape {tuple(boxes.shape)} and {len(labels)} labels; "
                "it needs boxes (T, 4), xyxy in pixels, and as many labels"
            )
        if not torch.isfinite(boxes).all() or (boxes[:, 2:] <= boxes[:, :2]).any():
            raise ValueError(
                f"target {n} has a box that is not finite or has no width or height; boxes are "
                "(x1, y1, x2, y2) in pixels with x1 < x2 and y1 < y2"
            )
        unknown = set(labels.tolist()) - set(self.labels)
        if unknown:
            raise ValueError(
                f"target {n} has label {min(unknown)}, which is none of the detector's labels "
                f"{self.labels}"
            )
        classes = [self.labels.index(label) for label in labels.tolist()]
        height, width = size
        scale = boxes.new_tensor([width, height, width, height])
        return {
            "labels": torch.tensor(classes, dtype=torch.int64, device=boxes.device),
            "boxes": box_convert(boxes / scale, "xyxy", "cxcywh").to(torch.float32),
        }


def check_image(image: Tensor, n: int, device: torch.device) -> None:
    """Raise ValueError, in one sentence, unless image is (3, H, W) of floats on this device."""
    if image.device != device:
        raise ValueError(
            f"image {n} is on {image.device}, but the detector on {device}; move one to the other"
        )
    if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise ValueError(
            f"image {n} has shape {tuple(image.shape)}; the detector takes (3, H, W), RGB"
        )
    if not image.is_floating_point():
        raise ValueError(
            f"image {n} is {image.dtype}; the detector takes floats in [0, 1]: divide by 255"
        )


def load_picture(picture: str | Path | PIL.Image.Image) -> Tensor:
    """A picture as (3, H, W) floats in [0, 1], turned upright as its EXIF orientation says.

    Raises: ValueError naming a file that is missing or not a picture.
    """
    if not isinstance(picture, PIL.Image.Image):
        path = Path(picture)
        if not path.is_file():
            raise ValueError(f"there is no picture at {path}; check the path")
        try:
            picture = PIL.Image.open(path)
            picture.load()
        except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise ValueError(
                f"{path} cannot be read as a picture ({type(error).__name__}); give a JPEG, a PNG "
                "or another format that Pillow reads"
            ) from None
    picture = to_rgb(PIL.ImageOps.exif_transpose(picture))
    return to_floats(pil_to_tensor(picture))
