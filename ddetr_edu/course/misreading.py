"""What a trained detector finds if its feature maps are read elsewhere than in training."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ddetr_edu.attention.op import run_backend
from ddetr_edu.data.scenes import Scene
from ddetr_edu.detector import Detector


@contextmanager
def read_elsewhere(move: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Inside the block, every deformable attention reads its maps at other locations.

    Args:
        move: A function (locations (N, Lq, M, L, P, 2), sizes (L, 1, 2)) -> other locations; the
            sizes are the (W, H) of each level.
    """

    def run(value, spatial_shapes, locations, weights, backend):
        sizes = locations.new_tensor([(width, height) for height, width in spatial_shapes])
        return run_backend(value, spatial_shapes, move(locations, sizes[:, None]), weights, backend)

    with patch("ddetr_edu.attention.module.run_backend", run):
        yield


def share_found(
    detector: Detector, scenes: Iterable[Scene], iou: float = 0.75, score: float = 0.3
) -> float:
    """The share of the objects that are found: a detection of the right category lies on them.

    Args:
        detector: One of shapes.
        scenes: Images with their objects.
        iou: The least intersection over union of the two boxes.
        score: The least score of a detection.

    Returns:
        0 to 1.
    """
    found: list[Tensor] = []
    for scene in scenes:
        detections = detector.predict(scene.image, threshold=score)
        overlaps = box_iou(torch.as_tensor(scene.boxes), detections["boxes"])  # (objects, found)
        same = torch.as_tensor(scene.labels)[:, None] == detections["labels"]
        found.append(((overlaps >= iou) & same).any(dim=1))
    return torch.cat(found).float().mean().item()
