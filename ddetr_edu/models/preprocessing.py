"""Before and after the model: images to one padded batch, and its boxes back to pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor
from torchvision.ops import box_convert, clip_boxes_to_image
from torchvision.transforms.v2 import functional as transforms

from ddetr_edu.data.images import to_rgb
from ddetr_edu.models.backbone import MEAN, STD
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.models.deformable_detr import Predictions

ImageInput = str | Path | PIL.Image.Image | np.ndarray | Tensor


def to_floats(image: Tensor) -> Tensor:
    """Convert an image of integers, such as (3, H, W) uint8, to floats in [0, 1]."""
    return transforms.to_dtype(image.as_subclass(Tensor), torch.float32, scale=True)


def check_image(image: Tensor, n: int, device: torch.device) -> None:
    """Check that the detector can take an image.

    Args:
        image: What should be (3, H, W) of floats.
        n: Its index, for error messages.
        device: The device of the detector.

    Raises:
        ValueError: Naming the image, for a wrong shape, dtype or device.
    """
    if image.device != device:
        raise ValueError(
            f"image {n} is on {image.device}, but the detector is on {device}; move one of them"
        )
    if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise ValueError(
            f"image {n} has shape {tuple(image.shape)}; the detector takes (3, H, W), RGB"
        )
    if not image.is_floating_point():
        raise ValueError(
            f"image {n} is {image.dtype}; the detector takes floats in [0, 1]: divide by 255"
        )


def make_batch(
    images: list[Tensor],
    resize: ResizeConfig,
    training: bool = False,
    mean: Sequence[float] | Tensor = MEAN,
    std: Sequence[float] | Tensor = STD,
) -> tuple[Tensor, Tensor]:
    """Resize, normalise and pad images into one batch.

    Args:
        images: (3, H, W) in [0, 1] each, of any sizes.
        resize: The size that images are resized to.
        training: Draw the short side of each image from torch's global generator, if `resize`
            gives a choice.
        mean: To subtract from the channels, in RGB; see `normalization` of backbone.py.
        std: To divide the channels by.

    Returns:
        The batch (N, 3, H, W), normalised, zeros where padded; and the padding_mask (N, H, W)
        bool, True = padding.
    """
    resized = []
    for image in images:
        _, height, width = image.shape
        size = resize.fit(height, width, _draw_short_side(resize) if training else None)
        image = transforms.resize(image, list(size), antialias=True)
        resized.append(transforms.normalize(image, mean, std))
    height = max(image.shape[1] for image in resized)
    width = max(image.shape[2] for image in resized)
    batch = resized[0].new_zeros(len(resized), 3, height, width)
    padding_mask = torch.ones(len(resized), height, width, dtype=torch.bool, device=batch.device)
    for n, image in enumerate(resized):
        _, h, w = image.shape
        batch[n, :, :h, :w] = image
        padding_mask[n, :h, :w] = False
    return batch, padding_mask


def _draw_short_side(resize: ResizeConfig) -> int | None:
    """One of the short sides for training at random, or None if there is no choice."""
    choices = resize.short_sides_in_training
    return choices[int(torch.randint(len(choices), ()))] if choices else None


def best_detections(
    predictions: Predictions, sizes: list[tuple[int, int]], count: int = 100
) -> list[dict[str, Tensor]]:
    """The (query, class) pairs of the highest score in each image, as boxes in its pixels.

    Where each class has a sigmoid of its own, a query may appear more than once, with different
    classes. Under DETR's softmax it appears at most once, with its best class.

    Source: PostProcess of the official deformable_detr.py and of DETR's detr.py. Unlike these, it
    clips boxes to the image.

    Args:
        predictions: What the model predicted.
        sizes: (H, W) of each original image, in pixels.
        count: The number of pairs to keep, if there are as many.

    Returns:
        For each image "boxes" (k, 4) xyxy in pixels, "scores" (k,) from high to low, "classes"
        (k,), the indices of the class outputs, and "queries" (k,), the query of each.
    """
    scores = predictions.scores()  # (N, Lq, K)
    _, n_queries, n_classes = scores.shape
    if predictions.no_object:
        scores = scores.where(scores == scores.amax(-1, keepdim=True), 0)
        count = min(count, n_queries)
    scores, topk_indices = scores.flatten(1).topk(min(count, n_queries * n_classes), dim=1)
    queries, classes = topk_indices // n_classes, topk_indices % n_classes  # (N, k)
    boxes = predictions.boxes.gather(1, queries[..., None].expand(-1, -1, 4))  # (N, k, 4)
    boxes = box_convert(boxes, "cxcywh", "xyxy")
    results = []
    for n, (height, width) in enumerate(sizes):
        in_pixels = boxes[n] * boxes.new_tensor([width, height, width, height])
        results.append(
            {
                "boxes": clip_boxes_to_image(in_pixels, (height, width)),
                "scores": scores[n],
                "classes": classes[n],
                "queries": queries[n],
            }
        )
    return results


def load_image(image: ImageInput) -> Tensor:
    """Load an image as RGB floats in [0, 1].

    Grey images become RGB, and an alpha channel is dropped.

    Args:
        image: The path of a file that Pillow reads, or a PIL image; these are rotated as their EXIF
            orientation says. Or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a tensor
            with the channels first, of unsigned integers (8 or 16 bits) or of floats in [0, 1].

    Returns:
        (3, H, W)

    Raises:
        ValueError: For a file that is missing or is no image, or a wrong shape or range.
        TypeError: For another kind of object or another dtype.
    """
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3):
            raise ValueError(f"an array of shape {image.shape} is no image; give (H, W, 3)")
        channels_last = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image)))
        return _rgb_floats(channels_last.permute(2, 0, 1))
    if isinstance(image, Tensor):
        return _rgb_floats(image)
    if isinstance(image, (str, Path)):
        image = _open(Path(image))
    if not isinstance(image, PIL.Image.Image):
        raise TypeError(
            f"an image is given as a path, a PIL image, an array or a tensor, and not as "
            f"{type(image).__name__}"
        )
    return to_floats(transforms.pil_to_tensor(to_rgb(PIL.ImageOps.exif_transpose(image))))


def _open(path: Path) -> PIL.Image.Image:
    """The image of a file, fully decoded."""
    if not path.is_file():
        raise ValueError(f"there is no image at {path}; check the path")
    try:
        image = PIL.Image.open(path)
        image.load()
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as an image ({type(error).__name__}); give a JPEG, a PNG "
            "or another format that Pillow reads"
        ) from None
    return image


def _rgb_floats(image: Tensor) -> Tensor:
    """(1, 3 or 4, H, W) of any usual dtype -> floats in [0, 1], (3, H, W)"""
    if image.dim() != 3 or image.shape[0] not in (1, 3, 4) or image.numel() == 0:
        raise ValueError(
            f"an image of shape {tuple(image.shape)}, channels first, is no image; it takes 1, 3 "
            "or 4 channels and at least one pixel"
        )
    if not image.is_floating_point() and image.dtype not in (torch.uint8, torch.uint16):
        raise TypeError(f"an image of {image.dtype} is no image; give uint8 or floats in [0, 1]")
    image = to_floats(image)
    if not (image.min() >= 0 and image.max() <= 1):  # NaN is neither
        raise ValueError(
            f"the image's numbers run from {image.min():g} to {image.max():g}, but floats must lie "
            "in [0, 1]; divide by 255, or undo a normalisation"
        )
    return image[:3].expand(3, -1, -1)
