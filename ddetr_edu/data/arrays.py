"""The annotations of a split as arrays, which worker processes share.

A forked process shares the memory of its parent until one of them writes to it. Merely looking at a
Python object writes to it, because Python counts its references, so that each worker would end up
with a copy of all annotations. Arrays are written to by nobody.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AnnotationArrays:
    """I images in a chosen order, and the A objects of all images of the file, image by image."""

    image_ids: np.ndarray  # (I,) int64
    sizes: np.ndarray  # (I, 2) int64, height and width in px
    upright: np.ndarray  # (I,) bool, whether to rotate the image as EXIF says
    names: np.ndarray  # uint8, the file names one after the other, in UTF-8
    name_spans: np.ndarray  # (I, 2) int64, where each name begins and ends
    object_spans: np.ndarray  # (I, 2) int64, where the objects of each image begin and end
    boxes: np.ndarray  # (A, 4) float64, [x, y, width, height] in px
    areas: np.ndarray  # (A,) float64, in px^2
    labels: np.ndarray  # (A,) int64, category ids
    crowds: np.ndarray  # (A,) bool

    def __len__(self) -> int:
        return len(self.image_ids)

    def image(self, i: int) -> dict:
        """One image.

        Args:
            i: Its index.

        Returns:
            Its entry in COCO's format, with id, file_name, height and width.
        """
        first, last = self.name_spans[i]
        height, width = self.sizes[i].tolist()
        name = self.names[first:last].tobytes().decode("utf-8", "surrogatepass")
        return {"id": int(self.image_ids[i]), "file_name": name, "height": height, "width": width}

    def annotations(self, i: int) -> list[dict]:
        """The objects of one image, crowds included.

        Args:
            i: Its index.

        Returns:
            Their entries in COCO's format, without ids.
        """
        part = slice(*self.object_spans[i])
        image_id = int(self.image_ids[i])
        columns = (self.labels, self.boxes, self.areas, self.crowds.astype(int))
        return [
            {
                "image_id": image_id,
                "category_id": label,
                "bbox": box,
                "area": area,
                "iscrowd": crowd,
            }
            for label, box, area, crowd in zip(
                *(column[part].tolist() for column in columns), strict=True
            )
        ]

    def object_counts(self) -> np.ndarray:
        """The number of objects in each image, (I,) int64; crowds do not count."""
        before = np.concatenate([[0], np.cumsum(~self.crowds)])
        first, last = self.object_spans.T
        return before[last] - before[first]

    def select(self, indices: np.ndarray) -> "AnnotationArrays":
        """Some of the images.

        Args:
            indices: Of the images, in the new order.

        Returns:
            Arrays of these images, which share their objects with these ones.
        """
        return AnnotationArrays(
            self.image_ids[indices],
            self.sizes[indices],
            self.upright[indices],
            self.names,
            self.name_spans[indices],
            self.object_spans[indices],
            self.boxes,
            self.areas,
            self.labels,
            self.crowds,
        )


def pack(images: list[dict], annotations: list[dict], upright: dict[int, bool]) -> AnnotationArrays:
    """Turn entries in COCO's format into arrays, ordered by the ids of the images.

    Args:
        images: Entries with id, file_name, height and width.
        annotations: Entries with image_id, category_id, bbox, area and iscrowd, which keep their
            order within an image.
        upright: {id: whether to rotate the image as EXIF says}. Other images are left out, and
            their objects with them.

    Returns:
        The arrays.
    """
    images = sorted((i for i in images if i["id"] in upright), key=lambda image: image["id"])
    annotations = [a for a in annotations if a["image_id"] in upright]
    image_ids = np.array([image["id"] for image in images], np.int64)
    of_image = np.array([a["image_id"] for a in annotations], np.int64)
    order = np.argsort(of_image, kind="stable")
    names = [image["file_name"].encode("utf-8", "surrogatepass") for image in images]
    name_ends = np.cumsum([len(name) for name in names], dtype=np.int64)

    def column(key: str, dtype: type, shape: tuple[int, ...] = (-1,)) -> np.ndarray:
        return np.array([a[key] for a in annotations], dtype).reshape(shape)[order]

    return AnnotationArrays(
        image_ids=image_ids,
        sizes=np.array([(i["height"], i["width"]) for i in images], np.int64).reshape(-1, 2),
        upright=np.array([upright[i["id"]] for i in images], bool),
        names=np.frombuffer(b"".join(names), np.uint8),
        name_spans=np.stack([name_ends - [len(name) for name in names], name_ends], 1),
        object_spans=np.stack(
            [np.searchsorted(of_image[order], image_ids, side) for side in ("left", "right")], 1
        ),
        boxes=column("bbox", np.float64, (-1, 4)),
        areas=column("area", np.float64),
        labels=column("category_id", np.int64),
        crowds=column("iscrowd", bool),
    )
