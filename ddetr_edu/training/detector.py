"""`Detector`: pictures in, losses or boxes out, by the contract of torchvision.models.detection.

It stands here and not beside the model because in training mode it needs the losses.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert
from torchvision.transforms.v2.functional import pil_to_tensor

from ddetr_edu.data import to_rgb
from ddetr_edu.detector import (
    DETR,
    DeformableDETR,
    PictureSize,
    best_detections,
    make_batch,
    to_floats,
)
from ddetr_edu.detector.backbone import fold_norms
from ddetr_edu.training.denoising import Denoising, denoising_losses
from ddetr_edu.training.losses import detection_losses
from ddetr_edu.training.matching import LossWeights

Picture = str | Path | PIL.Image.Image | np.ndarray | Tensor


class Detector(nn.Module):
    """A model together with the names of its classes and the size it likes pictures in.

    categories: {label: name} in the order of the model's class outputs (COCO's ids may have
        gaps), or a list of names, labelled 0, 1, 2, ...
    denoising: adds noised objects as queries in training; nothing of it is used or kept after
    Raises: ValueError if there are not as many categories as the model has class outputs.
    """

    def __init__(
        self,
        model: DeformableDETR | DETR,
        categories: Mapping[int, str] | Sequence[str],
        size: PictureSize | None = None,
        loss_weights: LossWeights | None = None,
        denoising: Denoising | None = None,
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
        self.loss_weights = loss_weights  # None: the official ones of the model
        self.denoising = denoising
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
        if not self.training:
            return self._detect(images, 100)
        if targets is None or len(targets) != len(images):
            raise ValueError(
                f"in training mode {len(images)} images need as many targets, but there are "
                f"{'none' if targets is None else len(targets)}; call .eval() to detect"
            )
        sizes = [tuple(image.shape[-2:]) for image in images]
        inside = [self.inside(t, s, n) for n, (t, s) in enumerate(zip(targets, sizes, strict=True))]
        batch = make_batch(images, self.size, training=True)
        noised = self.denoising(inside) if self.denoising else None
        predictions = self.model(*batch, noised.extra) if noised else self.model(*batch)
        with torch.autocast(device.type, enabled=False):  # losses and matching in 32 bits
            losses = detection_losses(predictions, inside, self.loss_weights)
            if noised:
                losses |= denoising_losses(predictions.extra, noised, self.loss_weights)
        return losses

    def for_inference(self) -> "Detector":
        """A copy that detects the same, faster, and can do nothing else.

        Norms of the backbone become part of its convolutions, and feature maps keep the channels
        of a pixel together. The copy can neither be trained nor saved.
        """
        faster = copy.deepcopy(self).eval().requires_grad_(False)
        fold_norms(faster.model.backbone)
        return faster.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def predict(
        self, pictures: Picture | list[Picture], threshold: float = 0.5, top_k: int = 100
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Detect the objects of one picture or of a list of pictures, given as `load_picture` says.

        The detector is put into evaluation mode. Each picture is seen alone, so what is found in it
        does not depend on the others.

        threshold: leave out detections that score less
        top_k: of each picture no more than the so many best
        Returns: "boxes" (k, 4) xyxy in pixels, "scores" (k,), "labels" (k,), "queries" (k,), best
            first and on the CPU; of a list, a list of these.
        Raises: ValueError or TypeError for what is missing, is no picture, or has a wrong shape.
        """
        if isinstance(pictures, list):
            return [self.predict(picture, threshold, top_k) for picture in pictures]
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; at least 1 is needed")
        image = load_picture(pictures).to(next(self.model.parameters()).device)
        self.eval()
        (found,) = self._detect([image], top_k)
        keep = found["scores"] >= threshold
        return {name: values[keep].cpu() for name, values in found.items()}

    def _detect(self, images: list[Tensor], count: int) -> list[dict[str, Tensor]]:
        """The best detections of each image (3, H, W), with labels in place of class outputs."""
        sizes = [tuple(image.shape[-2:]) for image in images]
        detections = best_detections(self.model(*make_batch(images, self.size)), sizes, count)
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

    def inside(self, target: dict[str, Tensor], size: tuple[int, int], n: int = 0) -> dict:
        """A target as the losses want it: class indices, and boxes (cx, cy, w, h) in [0, 1].

        size: (H, W) of its picture;  n: its number, for the message of an error
        """
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


def load_picture(picture: Picture) -> Tensor:
    """A picture as RGB floats in [0, 1], (3, H, W).

    picture: a file that Pillow reads, or a PIL image: turned upright as its EXIF orientation says;
        an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or a tensor with the channels first.
        Arrays and tensors hold unsigned whole numbers (8 or 16 bits) or floats in [0, 1]. Grey
        becomes RGB, and transparency is passed over.
    Raises: ValueError naming what is missing, not a picture, or of a wrong shape or range,
        TypeError for another kind of object or number.
    """
    if isinstance(picture, np.ndarray):
        if picture.ndim not in (2, 3):
            raise ValueError(f"an array of shape {picture.shape} is no picture; give (H, W, 3)")
        channels_last = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(picture)))
        return _rgb_floats(channels_last.permute(2, 0, 1))
    if isinstance(picture, Tensor):
        return _rgb_floats(picture)
    if isinstance(picture, (str, Path)):
        picture = _open(Path(picture))
    if not isinstance(picture, PIL.Image.Image):
        raise TypeError(
            f"a picture is given as a path, a PIL image, an array or a tensor, and not as "
            f"{type(picture).__name__}"
        )
    return to_floats(pil_to_tensor(to_rgb(PIL.ImageOps.exif_transpose(picture))))


def _open(path: Path) -> PIL.Image.Image:
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
    return picture


def _rgb_floats(image: Tensor) -> Tensor:
    """Numbers (1, 3 or 4, H, W) of any usual type -> floats in [0, 1], (3, H, W)."""
    if image.dim() != 3 or image.shape[0] not in (1, 3, 4) or image.numel() == 0:
        raise ValueError(
            f"an image of shape {tuple(image.shape)}, channels first, is no picture; it takes 1, 3 "
            "or 4 channels and at least one pixel"
        )
    if not image.is_floating_point() and image.dtype not in (torch.uint8, torch.uint16):
        raise TypeError(f"an image of {image.dtype} is no picture; give uint8 or floats in [0, 1]")
    image = to_floats(image)
    if not (image.min() >= 0 and image.max() <= 1):  # NaN is neither
        raise ValueError(
            f"the image's numbers run from {image.min():g} to {image.max():g}, but floats must lie "
            "in [0, 1]; divide by 255, or undo a normalisation"
        )
    return image[:3].expand(3, -1, -1)
