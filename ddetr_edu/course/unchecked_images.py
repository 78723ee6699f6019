"""Small images with annotations that nobody has checked, as a careless program reads them.

`CocoDetection` refuses some of the same annotations, and corrects others.
"""

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image
from pycocotools.coco import COCO
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import to_image

from ddetr_edu.course.small_scenes import SIZE, small_scene
from ddetr_edu.data.coco import coco_ground_truth, to_target
from ddetr_edu.data.entries import clip_box

# The ids are those of the generated scenes: circle, square, triangle, star, ring, cross.
NAMES = {1: "disc", 2: "tile", 3: "wedge", 4: "spark", 5: "hoop", 6: "plus"}

Annotations = list[dict]  # COCO's: image_id, category_id, bbox


class UncheckedImages(Dataset):
    """Small scenes as a data set, with annotations that may be wrong in any way.

    Args:
        seed: Of the series of small scenes.
        count: The number of images.
        annotate: Changes the annotations.

    Attributes:
        image_ids: 1 to count.
        images: {image id: the image}.
        annotations: As they stand in a file.
        as_read: The same as a careless program reads them: it takes category_id - 1 for an index,
            where -1 is the last one, and drops whatever is not inside the image.
    """

    categories = NAMES

    def __init__(
        self, seed: int, count: int, annotate: Callable[[Annotations], Annotations] = list
    ):
        scenes = _draw(seed, count)
        self.images = {i: image for i, (image, _) in scenes.items()}
        self.image_ids = list(scenes)
        self.annotations = annotate([a for _, annotations in scenes.values() for a in annotations])
        self.as_read: Annotations = []
        for a in self.annotations:
            x, y, w, h = clip_box(a["bbox"], SIZE)
            if min(w, h) > 0:
                box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
                self.as_read.append({**a, **box, "category_id": _label(a)})

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        image_id = self.image_ids[i]
        own = [a for a in self.as_read if a["image_id"] == image_id]
        return to_image(self.images[image_id]), to_target(own, image_id, SIZE)

    def ground_truth(self) -> COCO:
        """The annotations as read, for pycocotools."""
        return coco_ground_truth(self._entries(), self.as_read, self.categories)

    def annotated(self, image_ids: Iterable[int]) -> list[tuple]:
        """Some images with their annotations, as `viz.plot_annotated_images` takes them.

        Args:
            image_ids: Which images.

        Returns:
            For each the image, its boxes as they stand in the file, and its labels as read.
        """
        rows = []
        for i in image_ids:
            own = [a for a in self.annotations if a["image_id"] == i]
            rows.append((self.images[i], [a["bbox"] for a in own], [_label(a) for a in own]))
        return rows

    def write(self, root: Path, split: str) -> None:
        """Write images and annotations, as they stand, in COCO's layout.

        Args:
            root: The folder of the data set.
            split: The name of the split.
        """
        for folder in (root / "annotations", root / split):
            folder.mkdir(parents=True, exist_ok=True)
        for entry in self._entries():
            self.images[entry["id"]].save(root / split / entry["file_name"])
        content = {
            "images": self._entries(),
            "annotations": [{"id": n, **a} for n, a in enumerate(self.annotations, start=1)],
            "categories": [{"id": i, "name": name} for i, name in self.categories.items()],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))

    def _entries(self) -> list[dict]:
        height, width = SIZE
        return [
            {"id": i, "file_name": f"{i:03}.png", "width": width, "height": height}
            for i in self.images
        ]


def _label(annotation: dict) -> int:
    """The category that a careless program takes an annotation for."""
    return list(NAMES)[(annotation["category_id"] - 1) % len(NAMES)]


@functools.cache
def _draw(seed: int, count: int) -> dict[int, tuple[Image.Image, Annotations]]:
    """{image id: an image and its annotations}, drawn once."""
    scenes = {}
    for image_id in range(1, count + 1):
        scene = small_scene(seed, image_id)
        boxes = scene.boxes.astype(int).tolist()
        annotations = [
            {"image_id": image_id, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for (x1, y1, x2, y2), label in zip(boxes, scene.labels.tolist(), strict=True)
        ]
        scenes[image_id] = scene.image, annotations
    return scenes
