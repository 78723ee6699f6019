"""Drawn scenes as a data set: drawn when asked for, or written to disk in COCO's layout."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from pycocotools.coco import COCO
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import to_image

from ddetr_edu.data.coco import DataError, coco_ground_truth, to_target
from ddetr_edu.data.scenes import CATEGORIES, Scene, draw_scene, scene_size

# The validation pictures are drawn with a seed that nobody types, so that no training run on
# `Shapes(length, seed)` meets them; those of the final test are seen by no validation either.
VAL_SEED_OFFSET = 1_000_000
TEST_SEED = 2 * VAL_SEED_OFFSET


class Shapes(Dataset):
    """`length` scenes of the series `seed`, drawn when asked for; nothing is stored.

    Items, `image_ids`, `categories`, `ground_truth()` and `first(k)` are those of `CocoDetection`
    on the files that `write_shapes` makes; scene i has image id i + 1. For training that never
    meets a scene twice, give a large length and read in order: shuffling lists every index first.
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
        """(height, width) of scene i, without drawing it."""
        return scene_size(self.seed, self.image_ids[i] - 1)

    def ground_truth(self) -> COCO:
        """The boxes of all scenes, as pycocotools wants them. Draws every scene once."""
        images, annotations = [], []
        for image_id in self.image_ids:
            scene = draw_scene(self.seed, image_id - 1)
            images.append(_image_entry(scene, image_id))
            annotations += _annotate(scene, image_id)
        return coco_ground_truth(images, annotations, self.categories)

    def first(self, k: int) -> "Shapes":
        """The first k scenes, as a data set. Raises DataError if there are fewer than k."""
        if not 1 <= k <= len(self):
            raise DataError(
                f"these are {len(self)} scenes, so the first {k} cannot be taken; "
                f"ask for 1 to {len(self)}"
            )
        return Shapes(k, self.seed, self.transforms)


def held_out_scenes(split: str = "val") -> Shapes:
    """Scenes to evaluate on, which no training run on generated scenes has seen.

    split: "val", 200 scenes, by which recipes may be chosen; "test", 500 scenes, for the figures
        that are stated
    Raises DataError for another split.
    """
    if split == "val":
        return Shapes(200, VAL_SEED_OFFSET)
    if split == "test":
        return Shapes(500, TEST_SEED)
    raise DataError(f'generated scenes have no split "{split}"; choose val or test')


def write_shapes(folder: str | Path, split: str, count: int, seed: int) -> None:
    """Write scenes 0 to count - 1 of the series `seed` in COCO's layout.

    Makes `folder/{split}/000001.png` ... and `folder/annotations/instances_{split}.json`. They take
    their places only when all is drawn, the annotations last, so that an interrupted call leaves
    nothing that looks finished.
    Raises FileExistsError if the split is there already, ValueError for a count below 1.
    """
    folder = Path(folder)
    if count < 1:
        raise ValueError(f"{split} was to have {count} pictures; ask for at least 1")
    _refuse_to_overwrite(folder, split)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    with tempfile.TemporaryDirectory(prefix=f".{split}-", dir=folder) as unfinished:
        pictures, annotation_file = Path(unfinished, "pictures"), Path(unfinished, "annotations")
        pictures.mkdir()
        for image_id in range(1, count + 1):
            scene = draw_scene(seed, image_id - 1)
            entry = _image_entry(scene, image_id)
            scene.image.save(pictures / entry["file_name"], optimize=True)
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
            (folder / split).rmdir()  # it is empty, or we had refused
        os.replace(pictures, folder / split)
        os.replace(annotation_file, _annotation_file(folder, split))


def write_shapes_set(folder: str | Path, train: int = 96, val: int = 32, seed: int = 0) -> None:
    """Write a train and a val split of different scenes; the defaults make data/shapes-mini.

    Raises as `write_shapes` does, before anything is written if either split is there already.
    """
    if train < 1 or val < 1:
        raise ValueError(f"{train} + {val} pictures were asked for; each split needs at least 1")
    if not 0 <= seed < VAL_SEED_OFFSET:
        raise ValueError(f"the seed is {seed}; it must lie in 0 to {VAL_SEED_OFFSET - 1}")
    for split in ("train", "val"):
        _refuse_to_overwrite(Path(folder), split)
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
    """COCO's annotations of a scene, without ids; area is that of the box."""
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


def _refuse_to_overwrite(folder: Path, split: str) -> None:
    pictures, annotation_file = folder / split, _annotation_file(folder, split)
    if annotation_file.exists() or (pictures.exists() and any(pictures.iterdir())):
        raise FileExistsError(
            f"{folder} already has a split {split!r}; choose another folder, "
            f"or first delete {pictures} and {annotation_file}"
        )
