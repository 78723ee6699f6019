"""`Detector`: images in, losses or boxes out, by the contract of torchvision.models.detection."""

import copy
from collections.abc import Mapping, Sequence
from typing import overload

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from ddetr_edu.losses.criterion import detection_losses
from ddetr_edu.losses.denoising import Denoising, denoising_losses
from ddetr_edu.losses.matcher import LossWeights
from ddetr_edu.models.autocast import autocast, check_parameters, choose_precision
from ddetr_edu.models.backbone import normalization
from ddetr_edu.models.config import Precision, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR, Predictions
from ddetr_edu.models.detr import DETR
from ddetr_edu.models.fusing import fuse_conv_bn
from ddetr_edu.models.non_finite import check_finite
from ddetr_edu.models.preprocessing import (
    ImageInput,
    best_detections,
    check_image,
    load_image,
    make_batch,
)

NOT_SAVABLE = (
    "a copy by for_inference() cannot be saved, because its batch norms are gone; save the "
    "detector that it was made from"
)

Detections = dict[str, Tensor]  # "boxes" (k, 4) xyxy in pixels, "scores", "labels", "queries" (k,)


class Detector(nn.Module):
    """A model together with its categories and the size that it takes images in.

    Args:
        model: The model; its class outputs are in the order of the categories.
        categories: {label: name} (COCO's ids may have gaps), or a list of names, labelled 0, 1,
            2, ...
        resize: The size that images are resized to; the official 800 to 1333 if None.
        loss_weights: How much each loss counts; the official ones of the model if None.
        denoising: Adds denoising queries in training; not used otherwise, and left out of
            checkpoints. Only for a DeformableDETR.

    Raises:
        ValueError: If there are not as many categories as the model has class outputs, or for
            denoising of a DETR.
    """

    def __init__(
        self,
        model: DeformableDETR | DETR,
        categories: Mapping[int, str] | Sequence[str],
        resize: ResizeConfig | None = None,
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
        if denoising is not None and isinstance(model, DETR):
            raise ValueError("denoising queries are for a DeformableDETR, and the model is a DETR")
        self.model = model
        self.categories = dict(categories)
        self.resize = resize or ResizeConfig()
        self.loss_weights = loss_weights
        self.denoising = denoising
        self.labels = list(self.categories)  # class output -> label
        self.only_for_inference = False  # True of a copy by `for_inference`
        self.precision = "fp32"  # in evaluation

    def forward(
        self,
        images: list[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        num_boxes: float | None = None,
        num_images: float | None = None,
        top_k: int = 100,
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: (3, H, W) in [0, 1] each, of any sizes.
            targets: In training, for each image "boxes" (T, 4) xyxy in pixels and "labels" (T,).
            num_boxes: In training, the number of objects that the losses are divided by; those of
                these targets if None. See `detection_losses`.
            num_images: The number of images that those objects are in, counted likewise.
            top_k: In evaluation, keep at most this many detections of each image.

        Returns:
            In training, a dict of losses to be summed. In evaluation, for each image the best
            detections, best first: "boxes" (k, 4) xyxy in pixels, "scores" (k,), "labels" (k,) and
            "queries" (k,), the decoder query of each.

        Raises:
            ValueError: Naming the image, for images or targets that cannot be used; for a model
                that is not in fp32; in evaluation, naming the first tensor that is NaN or infinite.
        """
        if isinstance(images, Tensor):
            raise ValueError("images is one tensor; the detector takes a list of (3, H, W) images")
        if not images:
            raise ValueError("the list of images is empty; the detector takes one or more")
        device = next(self.model.parameters()).device
        for n, image in enumerate(images):
            check_image(image, n, device)
        if not self.training:
            return self._detect(images, top_k)
        if targets is None or len(targets) != len(images):
            raise ValueError(
                f"in training mode {len(images)} images need as many targets, but there are "
                f"{'none' if targets is None else len(targets)}; call .eval() to detect"
            )
        prepared = [
            self.prepare_target(target, (image.shape[1], image.shape[2]), n)
            for n, (image, target) in enumerate(zip(images, targets, strict=True))
        ]
        batch, padding_mask = self._make_batch(images, training=True)
        noised = None if self.denoising is None else self.denoising(prepared)
        extra = {} if noised is None else {"extra": noised.extra}
        predictions = self.model(batch, padding_mask, **extra)
        with torch.autocast(device.type, enabled=False):  # losses and matching in fp32
            losses = detection_losses(
                predictions, prepared, self.loss_weights, num_boxes, num_images
            )
            if noised is not None:
                losses |= denoising_losses(predictions.extra, noised, self.loss_weights, num_boxes)
        return losses

    def for_inference(self, precision: Precision = "fp32") -> "Detector":
        """A copy that gives the same detections faster, and can do nothing else.

        Batch norms of the backbone are fused into its convolutions, and feature maps are laid out
        with the channels of a pixel side by side (channels_last).

        Args:
            precision: "bf16" or "fp16" for features of 16 bits. Boxes are computed in fp32 all the
                same, so that detections differ slightly. bf16 is faster on GPUs, and on processors
                that have instructions for it; "auto" is bf16 there and fp32 elsewhere.

        Returns:
            The copy, in evaluation mode. Training or saving it raises a ValueError: its batch norms
            are gone, and no other model could load its parameters.

        Raises:
            ValueError: For another precision, or one that the detector's device lacks.
        """
        chosen = choose_precision(precision, next(self.model.parameters()).device)
        faster = copy.deepcopy(self)
        faster.precision = chosen
        if self.only_for_inference:
            return faster
        faster.eval().requires_grad_(False)
        fuse_conv_bn(faster.model.backbone)
        faster.only_for_inference = True
        # Whatever saves a model asks for its state dict.
        faster.model.register_state_dict_pre_hook(_refuse_to_save)
        return faster.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "Detector":
        """Choose between training mode and evaluation mode, as of any module.

        Args:
            mode: True for training.

        Returns:
            The detector itself.

        Raises:
            ValueError: For training of a copy by `for_inference`.
        """
        if mode and self.only_for_inference:
            raise ValueError(
                "a copy by for_inference() cannot be trained, because its batch norms are gone; "
                "train the detector that it was made from"
            )
        return super().train(mode)

    @overload
    def predict(
        self, images: list[ImageInput], threshold: float = 0.5, top_k: int = 100
    ) -> list[Detections]: ...

    @overload
    def predict(
        self, images: ImageInput, threshold: float = 0.5, top_k: int = 100
    ) -> Detections: ...

    @torch.no_grad()
    def predict(
        self, images: ImageInput | list[ImageInput], threshold: float = 0.5, top_k: int = 100
    ) -> Detections | list[Detections]:
        """Detect the objects of one image, or of each image of a list.

        The detector is put into evaluation mode. Each image is a batch of its own, so its
        detections do not depend on the others.

        Args:
            images: Whatever `load_image` takes: a path, a PIL image, an array or a tensor; or a
                list of these.
            threshold: Leave out detections with a lower score; from 0 to 1.
            top_k: Keep at most this many detections of each image.

        Returns:
            "boxes" (k, 4) xyxy in pixels, "scores" (k,), "labels" (k,) and "queries" (k,), best
            first and on the CPU; for a list, a list of these.

        Raises:
            ValueError: For a file that is missing or is no image, an array of a wrong shape or
                range, a threshold outside 0 to 1, or top_k below 1; and as `forward`.
            TypeError: For another kind of object, or an array of another dtype.
        """
        check_threshold(threshold)
        if isinstance(images, list):
            return [self.predict(image, threshold, top_k) for image in images]
        image = load_image(images).to(next(self.model.parameters()))  # to its device and dtype
        self.eval()
        (detections,) = self._detect([image], top_k)
        keep = detections["scores"] >= threshold
        return {name: values[keep].cpu() for name, values in detections.items()}

    def _detect(self, images: list[Tensor], count: int) -> list[Detections]:
        """The best detections of each image (3, H, W), with labels in place of class outputs."""
        if count < 1:
            raise ValueError(f"top_k is {count}; at least 1 is needed")
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        predictions = self.run_model(images)
        labels = torch.tensor(self.labels, device=images[0].device)
        return [
            {
                "boxes": best["boxes"],
                "scores": best["scores"],
                "labels": labels[best["classes"]],
                "queries": best["queries"],
            }
            for best in best_detections(predictions, sizes, count)
        ]

    def run_model(self, images: list[Tensor]) -> Predictions:
        """What the model itself predicts for images, as in evaluation.

        Args:
            images: (3, H, W) in [0, 1] each, on the device of the detector.

        Returns:
            The predictions, all of them finite.

        Raises:
            ValueError: For a model that is not in fp32, and naming the first tensor that is NaN or
                infinite: a parameter, or else the output of a module.
        """
        batch, padding_mask = self._make_batch(images)
        with autocast(self.precision, batch.device):
            predictions = self.model(batch, padding_mask)
            check_finite(self.model, batch, padding_mask, predictions)
        return predictions

    def _make_batch(self, images: list[Tensor], training: bool = False) -> tuple[Tensor, Tensor]:
        """As `make_batch`, for parameters of a dtype that coordinates can have."""
        check_parameters(self.model)
        return make_batch(images, self.resize, training, *normalization(self.model.backbone))

    def prepare_target(
        self, target: dict[str, Tensor], size: tuple[int, int], n: int = 0
    ) -> dict[str, Tensor]:
        """A target as the losses take it: class indices, and normalised boxes.

        Args:
            target: "boxes" (T, 4) xyxy in pixels and "labels" (T,).
            size: (H, W) of its image, in pixels.
            n: The index of the image, for error messages.

        Returns:
            "labels" (T,) class indices and "boxes" (T, 4) (cx, cy, w, h), normalised to
            the image: in [0, 1] unless the box leaves it.

        Raises:
            ValueError: Naming the target, if boxes or labels cannot be used.
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


def _refuse_to_save(model: nn.Module, prefix: str, keep_vars: bool) -> None:
    """A hook of state_dict()."""
    raise ValueError(NOT_SAVABLE)


def check_threshold(threshold: float) -> None:
    """Check that scores can be compared with a threshold.

    Args:
        threshold: The lowest score to keep.

    Raises:
        ValueError: If it is not a number from 0 to 1.
    """
    if not 0 <= threshold <= 1:  # NaN is not
        raise ValueError(f"the threshold is {threshold:g}; scores are from 0 to 1, so give that")
