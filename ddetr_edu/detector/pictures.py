"""From pictures of any size to one padded batch, and from the model's boxes back to pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert, clip_boxes_to_image
from torchvision.transforms.v2 import functional as transforms

from ddetr_edu.detector.model import Predictions

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, in RGB
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PictureSize:
    """How large pictures are shown to the model: the short side, unless the long one gets too long.

    Officially 800 and 1333, and in training a short side from 480 to 800, in steps of 32.

    multiple_of=32 stretches both sides to multiples of 32, so that on each level of strides 8, 16
    and 32 the picture ends where a token ends. Otherwise, in a batch with larger ones, it ends
    somewhere inside a token, and the model, which counts whole tokens to know where the picture
    ends, is off by as much: a hundredth of an 800 px picture, but up to 7 of 192 px, which is a
    small object's size. Boxes are fractions of the picture, so stretching does not move them.
    """

    short_side: int = 800
    long_side: int = 1333
    short_sides_in_training: tuple[int, ...] = ()  # one is drawn for each picture; () is short_side
    multiple_of: int = 1  # stretch each side to the next multiple, up or down; 1: leave it

    def __post_init__(self):
        if not 1 <= self.short_side <= self.long_side:
            raise ValueError(
                f"a picture size needs 1 <= short_side <= long_side, but it is "
                f"{self.short_side} and {self.long_side}"
            )
        if not 1 <= self.multiple_of <= self.long_side:
            raise ValueError(
                f"multiple_of is {self.multiple_of}; it must lie in 1 to the long side, "
                f"{self.long_side}"
            )
        for side in self.short_sides_in_training:
            if not 1 <= side <= self.long_side:
                raise ValueError(
                    f"short_sides_in_training holds {side}; each must lie in 1 to the long side, "
                    f"{self.long_side}"
                )

    def fit(self, height: int, width: int, training: bool = False) -> tuple[int, int]:
        """The (height, width) that a picture of this size is resized to; its shape is kept.

        In training the short side is drawn from torch's global generator if there is a choice.

        The long side is rounded down, as officially: 375 x 500 at 800 becomes 800 x 1066. It never
        exceeds long_side, which the official code overshoots by a pixel now and then.
        """
        short, long = min(height, width), max(height, width)
        side = self.short_side
        if training and self.short_sides_in_training:
            choices = self.short_sides_in_training
            side = choices[int(torch.randint(len(choices), ()))]
        if side * long > self.long_side * short:
            side = max(1, round(self.long_side * short / long))
        longer = min(self.long_side, side * long // short)
        if self.multiple_of > 1:
            side, longer = self._rounded(side), self._rounded(longer)
        return (side, longer) if height <= width else (longer, side)

    def _rounded(self, side: int) -> int:
        most = self.long_side // self.multiple_of
        return self.multiple_of * min(max(round(side / self.multiple_of), 1), most)


def to_floats(picture: Tensor) -> Tensor:
    """A picture of bytes, (3, H, W) uint8, as the detector takes it: floats in [0, 1]."""
    return transforms.to_dtype(picture.as_subclass(Tensor), torch.float32, scale=True)


def make_batch(
    pictures: list[Tensor], size: PictureSize, training: bool = False
) -> tuple[Tensor, Tensor]:
    """Resize, normalise and pad pictures into one batch.

    pictures: list of (3, H, W) in [0, 1], of any sizes
    training: draw the size of each, if `size` gives a choice
    Returns: images (N, 3, H, W) normalised, zeros where padded; padding_mask (N, H, W), True there
    """
    resized = [
        transforms.normalize(
            transforms.resize(
                picture, list(size.fit(*picture.shape[1:], training)), antialias=True
            ),
            MEAN,
            STD,
        )
        for picture in pictures
    ]
    height = max(picture.shape[1] for picture in resized)
    width = max(picture.shape[2] for picture in resized)
    images = resized[0].new_zeros(len(resized), 3, height, width)
    padding_mask = torch.ones(len(resized), height, width, dtype=torch.bool, device=images.device)
    for n, picture in enumerate(resized):
        _, h, w = picture.shape
        images[n, :, :h, :w] = picture
        padding_mask[n, :h, :w] = False
    return images, padding_mask


def best_detections(
    predictions: Predictions, sizes: list[tuple[int, int]], count: int = 100
) -> list[dict[str, Tensor]]:
    """The best (query, class) pairs of each picture, as boxes in its pixels.

    A query may appear more than once, with different classes, where each class has a sigmoid of
    its own. Under a softmax with "no object" it answers once, with its best class.

    sizes: (H, W) of each original picture
    Returns: per picture "boxes" (k, 4) xyxy in pixels, inside the picture, "scores" (k,) from high
        to low, "classes" (k,) indices of the class output, "queries" (k,) the query of each.
    Source: PostProcess of the official deformable_detr.py and of DETR's detr.py; neither clips.
    """
    scores = predictions.scores()  # (N, Lq, K)
    _, n_queries, n_classes = scores.shape
    if predictions.no_object:
        scores = scores.where(scores == scores.amax(-1, keepdim=True), 0)
        count = min(count, n_queries)
    scores, best = scores.flatten(1).topk(min(count, n_queries * n_classes), dim=1)
    queries, classes = best // n_classes, best % n_classes  # (N, k)
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
