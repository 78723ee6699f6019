"""Generated scenes as a data set: drawn on access, or written to disk in COCO's layout."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from pycocotools.coco import COCO
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import to_image

from ddetr_edu.data.coco import coco_ground_truth, to_target
from ddetr_edu.data.faults import DataError
from ddetr_edu.data.scenes import (
    CATEGORIES,
    TEST_SEED,
    VAL_SEED_OFFSET,
    Scene,
    draw_scene,
    scene_size,
)


class Shapes(Dataset):
    """The first scenes of a series, drawn on access; nothing is stored.

    Items, `image_ids`, `categories`, `ground_truth()` and `first(k)` are those of `CocoDetection`
    on the files that `write_shapes` writes; scene i has image id i + 1. To train without ever
    repeating a scene, give a large length and read in order: shuffling lists every index first.

    Args:
        length: The number of scenes.
        seed: Of the series, see `draw_scene`.
        transforms: Called with the image and the target of each item; returns both.

    Attributes:
        image_ids: 1 to length.
        categories: {id: name}.
    """

    categories = CATEGORIES

    def __init__(self, length: int, seed: int, transforms: Callable | None = None):
        self.image_ids = range(1, length + 1)
        self.seed = seed
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, i: int):
        image_id = self.image_ids[i]
        scene = draw_scene(self.seed, image_id - 1)
        size = (scene.image.height, scene.image.width)
        image, target = to_image(scene.image), to_target(_annotate(scene, image_id), image_id, size)
        return self.transforms(image, target) if self.transforms else (image, target)

    def size(self, i: int) -> tuple[int, int]:
        """The size of a scene, without drawing it.

        Args:
            i: Its index.

        Returns:
            (height, width) in px.
        """
        return scene_size(self.seed, self.image_ids[i] - 1)

    def ground_truth(self) -> COCO:
        """The boxes of all scenes, for pycocotools. Draws every scene once."""
        images, annotations = [], []
        for image_id in self.image_ids:
            scene = draw_scene(self.seed, image_id - 1)
            images.append(_image_entry(scene, image_id))
            annotations += _annotate(scene, image_id)
        return coco_ground_truth(images, annotations, self.categories)

    def first(self, k: int) -> "Shapes":
        """The first k scenes, as a data set.

        Args:
            k: The number of scenes.

        Returns:
            The data set.

        Raises:
            DataError: If there are fewer than k.
        """
        if not 1 <= k <= len(self):
            raise DataError(
                f"these are {len(self)} scenes, so the first {k} cannot be taken; "
                f"ask for 1 to {len(self)}"
            )
        return Shapes(k, self.seed, self.transforms)


def held_out_scenes(split: str = "val") -> Shapes:
    """Scenes to evaluate on, which no training run on generated scenes has seen.

    Args:
        split: "val", 200 scenes for choosing recipes, or "test", 500 scenes for reported results.

    Returns:
        The data set.

    Raises:
        DataError: For any other split.
    """
    if split == "val":
        return Shapes(200, VAL_SEED_OFFSET)
    if split == "test":
        return Shapes(500, TEST_SEED)
    raise DataError(f'generated scenes have no split "{split}"; choose val or test')


def write_shapes(folder: str | Path, split: str, count: int, seed: int) -> None:
    """Write the first scenes of a series to disk in COCO's layout.

    Writes `folder/{split}/000001.png` ... and `folder/annotations/instances_{split}.json`. They are
    moved there when all scenes are drawn, the annotations last, so that an interrupted call leaves
    nothing that looks complete.

    Args:
        folder: The folder of the data set.
        split: The name of the split.
        count: The number of scenes.
        seed: Of the series, see `draw_scene`.

    Raises:
        FileExistsError: If the folder has this split already.
        ValueError: If count is below 1.
    """
    folder = Path(folder)
    if count < 1:
        raise ValueError(f"{count} images were asked for in {split}; ask for at least 1")
    _check_new(folder, split)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    with tempfile.TemporaryDirectory(prefix=f".{split}-", dir=folder) as temporary:
        files, annotation_file = Path(temporary, "images"), Path(temporary, "annotations")
        files.mkdir()
        for image_id in range(1, count + 1):
            scene = draw_scene(seed, image_id - 1)
            entry = _image_entry(scene, image_id)
            scene.image.save(files / entry["file_name"], optimize=True)
            images.append({**entry, "license": 1})
            for annotation in _annotate(scene, image_id):
                annotations.append({"id": len(annotations) + 1, **annotation})
        data = {
            "info": {"description": f"Drawn shapes: {count} scenes of seed {seed}"},
            "licenses": [
                {
                    "id": 1,
                    "name": "Apache-2.0",
                    "url": "https://www.apache.org/licenses/LICENSE-2.0",
                }
            ],
            "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
            "images": images,
            "annotations": annotations,
        }
        annotation_file.write_text(json.dumps(data, separators=(",", ":")) + "\n")
        if (folder / split).exists():
            (folder / split).rmdir()  # it is empty, see above
        os.replace(files, folder / split)
        os.replace(annotation_file, _annotation_file(folder, split))


def write_shapes_set(folder: str | Path, train: int = 96, val: int = 32, seed: int = 0) -> None:
    """Write a train and a val split of different scenes; the defaults are those of shapes-mini.

    Args:
        folder: The folder of the data set.
        train: The number of scenes to train on.
        val: The number of scenes to evaluate on.
        seed: Of the training scenes, 0 to VAL_SEED_OFFSET - 1; validation scenes have another.

    Raises:
        FileExistsError: If the folder has either split already; nothing is written then.
        ValueError: If train or val is below 1 or the seed is out of range.
    """
    if train < 1 or val < 1:
        raise ValueError(f"{train} + {val} images were asked for; each split needs at least 1")
    if not 0 <= seed < VAL_SEED_OFFSET:
        raise ValueError(f"the seed is {seed}; it must lie in 0 to {VAL_SEED_OFFSET - 1}")
    for split in ("train", "val"):
        _check_new(Path(folder), split)
    write_shapes(folder, "train", train, seed)
    write_shapes(folder, "val", val, seed + VAL_SEED_OFFSET)


def _image_entry(scene: Scene, image_id: int) -> dict:
    return {
        "id": image_id,
        "file_name": f"{image_id:06d}.png",
        "width": scene.image.width,
        "height": scene.image.height,
    }


def _annotate(scene: Scene, image_id: int) -> list[dict]:
    """The COCO annotations of a scene, without ids; the area is that of the box."""
    annotations = []
    boxes = scene.boxes.astype(int).tolist()
    for (x1, y1, x2, y2), label in zip(boxes, scene.labels.tolist(), strict=True):
        w, h = x2 - x1, y2 - y1
        annotations.append(
            {
                "image_id": image_id,
                "category_id": label,
                "bbox": [x1, y1, w, h],
                "area": w * h,
                "iscrowd": 0,
            }
        )
    return annotations


def _annotation_file(folder: Path, split: str) -> Path:
    return folder / "annotations" / f"instances_{split}.json"


def _check_new(folder: Path, split: str) -> None:
    """Raise FileExistsError if the folder has images or annotations of this split already."""
    images, annotation_file = folder / split, _annotation_file(folder, split)
    if annotation_file.exists() or (images.exists() and any(images.iterdir())):
        raise FileExistsError(
            f"{folder} already has a split {split!r}; choose another folder, "
            f"or first delete {images} and {annotation_file}"
        )
