"""The exercises of lesson 12 about labels and categories: read a file, number classes, fine-tune.

That about trainings whose AP is 0 is in `lesson_12_clinic`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.checkpoints.transfer import adopt_parameters
from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.data.yolo_labels import LabelFiles
from ddetr_edu.detector import Detector


def my_class_indices(category_ids, known_ids):
    """(category ids (n,), the K ids of the data set, in any order) -> class indices (n,)"""
    is_lower = known_ids[None] < category_ids[:, None]  # (n, K)
    return is_lower.sum(dim=1)


def my_read_yolo(text, size):
    """(text of a label file, (H, W) of its image) -> (n, 5): category id, x, y, w, h in pixels"""
    height, width = size
    rows = []
    for line in text.splitlines():
        if line.strip():
            number, *values = [float(value) for value in line.split()]
            if len(values) == 4:
                cx, cy, w, h = values
                x, y = cx - w / 2, cy - h / 2
            else:  # the corners of a polygon: x1 y1 x2 y2 x3 y3 ...
                xs, ys = values[::2], values[1::2]
                x, y = min(xs), min(ys)
                w, h = max(xs) - x, max(ys) - y
            rows.append([number + 1, x * width, y * height, w * width, h * height])
    return torch.tensor(rows, dtype=torch.float64)


def my_adopt_classes(weight, names, trained_weight, trained_names):
    """(weight (K, C), K names, those of the trained detector: (K_t, C), K_t names) -> (K, C)"""
    adopted = weight.clone()
    for k, name in enumerate(names):
        if name in trained_names:
            adopted[k] = trained_weight[trained_names.index(name)]
    return adopted


def _ids() -> Cases:
    ids = {  # the category ids of some objects, and all ids of the data set
        "two objects, ids with gaps": ([7, 3], [3, 7, 90]),
        "one object": ([18], [17, 18]),
        "ids without gaps": ([2, 5, 1, 3], [1, 2, 3, 4, 5]),
        "ids that begin at 0": ([3, 0, 1], [0, 1, 2, 3]),
        "an unordered list of categories": ([12, 5, 40, 12, 31], [40, 5, 31, 12, 20, 8]),
        "ids of one, two and three digits": ([100, 9, 20, 100, 3, 9], [9, 100, 20, 3, 11, 150, 4]),
        "the last of COCO's ids": ([90, 1, 89, 13, 62, 90, 1], [90, 1, 13, 62, 25, 70, 89, 44]),
        "one category": ([6, 6, 6, 6, 6, 6, 6, 6], [6]),
    }
    return {name: tuple(map(torch.tensor, pair)) for name, pair in ids.items()}


def indexed_in(order: Callable[[list, list], list]) -> Callable:
    """Class indices in an order of one's own.

    Args:
        order: A function (category ids of the objects, ids of the data set) -> ids in order.

    Returns:
        A function (category ids, known ids) -> indices.
    """

    def indices(category_ids, known_ids):
        objects, known = category_ids.tolist(), known_ids.tolist()
        return torch.tensor([order(objects, known).index(i) for i in objects])

    return indices


class_indices = Exercise(
    my_class_indices,
    _ids,
    {
        "the ids were returned as they are; a model has no output number 90 if K is 3": (
            lambda category_ids, known_ids: category_ids
        ),
        "1 was subtracted from each id; ids may have gaps, and need not begin at 1": (
            lambda category_ids, known_ids: category_ids - 1
        ),
        "the lowest id was subtracted from each id; ids may have gaps": (
            lambda category_ids, known_ids: category_ids - known_ids.min()
        ),
        "the classes were counted from 1; the lowest id has the index 0": (
            lambda category_ids, known_ids: my_class_indices(category_ids, known_ids) + 1
        ),
        "the classes are in the order of the list; a file may list them in any order, so sort": (
            indexed_in(lambda objects, known: known)
        ),
        "only the ids of these objects were counted; the classes are those of the data set": (
            indexed_in(lambda objects, known: sorted(set(objects)))
        ),
        "the ids were sorted as text, in which 100 comes before 9": (
            indexed_in(lambda objects, known: sorted(known, key=str))
        ),
        "the ids are in descending order; the lowest one has the index 0": (
            indexed_in(lambda objects, known: sorted(known, reverse=True))
        ),
    },
    library=(Detector.prepare_target,),
)


def _label_files() -> Cases:
    files = {  # the rows of a file, and the size of the image
        "one box in a tiny image": (["1 0.5 0.5 0.25 0.5"], (4, 6)),
        "two boxes": (["0 0.5 0.25 0.5 0.25", "2 0.125 0.75 0.25 0.125"], (80, 40)),
        "a polygon": (
            ["3 0.5 0.25 0.75 0.625 0.375 0.875", "0 0.5 0.5 1 1", "1 0.1 0.2 0.2 0.1"],
            (60, 100),
        ),
        "a polygon that begins at its right end": (
            ["4 0.9 0.5 0.4 0.3 0.2 0.7 0.6 0.8", "2 0.3 0.6 0.2 0.4"] * 2,
            (120, 90),
        ),
        "many categories": ([f"{n} 0.4 0.3 0.{n} 0.{n + 2}" for n in (5, 1, 3, 2, 4)], (200, 320)),
        "a box at each edge": (
            [
                "0 0.1 0.5 0.2 0.3",
                "1 0.9 0.5 0.2 0.3",
                "2 0.5 0.1 0.3 0.2",
                "3 0.5 0.9 0.3 0.2",
                "4 0.05 0.05 0.1 0.1",
                "5 0.95 0.95 0.1 0.1",
            ],
            (36, 28),
        ),
        "many polygons": (
            [f"{n} 0.2 0.1 0.{n + 3} 0.3 0.3 0.{n + 2} 0.25 0.9" for n in range(7)],
            (52, 76),
        ),
    }
    texts = {name: ("\n".join(rows) + "\n", size) for name, (rows, size) in files.items()}
    rows = "\n0 0.3 0.2 0.1 0.3\n   \n1   0.6 0.7 0.2 0.2  \n2 0.4 0.4 0.1 0.1\n"
    texts["blank lines, and more than one space"] = (rows * 3, (44, 66))
    return texts


def read_by(
    box: Callable[..., list] | None = None,
    polygon: Callable[[list, list], list] | None = None,
    size: Callable = lambda size: size,
    first: int = 1,
) -> Callable:
    """Read label files by rules of one's own.

    Args:
        box: A function (cx, cy, w, h) -> four fractions; the right ones if None.
        polygon: A function (all x, all y) -> four fractions; the right ones if None.
        size: A function ((H, W)) -> the size that the fractions are multiplied by.
        first: The id of category 0.

    Returns:
        A function (text, (H, W)) -> (n, 5).
    """
    box = box or (lambda cx, cy, w, h: [cx - w / 2, cy - h / 2, w, h])
    polygon = polygon or (lambda xs, ys: [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)])

    def read(text, image_size):
        height, width = size(image_size)
        scale = torch.tensor([1, width, height, width, height], dtype=torch.float64)
        rows = []
        for line in filter(str.strip, text.splitlines()):
            number, *values = map(float, line.split())
            four = box(*values) if len(values) == 4 else polygon(values[::2], values[1::2])
            rows.append([number + first, *four])
        return torch.tensor(rows, dtype=torch.float64) * scale

    return read


def _halves(xs: list, ys: list) -> list:
    """The box of a polygon whose numbers are taken for all x and then all y."""
    values = [value for corner in zip(xs, ys, strict=True) for value in corner]
    xs, ys = values[: len(xs)], values[len(xs) :]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


read_yolo = Exercise(
    my_read_yolo,
    _label_files,
    {
        "the number of a category was taken for its id; number 0 has the id 1": read_by(first=0),
        "the centre was taken for the upper left corner; subtract half the width and height": (
            read_by(box=lambda *values: list(values))
        ),
        "the whole width and height were subtracted from the centre instead of their halves": (
            read_by(box=lambda cx, cy, w, h: [cx - w, cy - h, w, h])
        ),
        "two corners were returned; COCO's box ends with width and height": read_by(
            box=lambda cx, cy, w, h: [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2],
            polygon=lambda xs, ys: [min(xs), min(ys), max(xs), max(ys)],
        ),
        "the box of a polygon has two corners; COCO's box ends with width and height": read_by(
            polygon=lambda xs, ys: [min(xs), min(ys), max(xs), max(ys)]
        ),
        "height and width of the image are swapped: a size is (H, W)": (
            read_by(size=lambda size: size[::-1])
        ),
        "the fractions were not multiplied by the size of the image": (
            read_by(size=lambda size: (1, 1))
        ),
        "x and y of each row are swapped; x comes first": read_by(
            box=lambda cy, cx, h, w: [cx - w / 2, cy - h / 2, w, h],
            polygon=lambda ys, xs: [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
        ),
        "all x of a polygon were taken to come first; x and y alternate": read_by(polygon=_halves),
        "the first four numbers of a polygon were taken for a box": read_by(
            polygon=lambda xs, ys: [xs[0] - xs[1] / 2, ys[0] - ys[1] / 2, xs[1], ys[1]]
        ),
        "a polygon was taken to begin at its upper left corner; it may begin anywhere": read_by(
            polygon=lambda xs, ys: [xs[0], ys[0], max(xs) - xs[0], max(ys) - ys[0]]
        ),
    },
    library=(LabelFiles,),
)


def _class_heads() -> Cases:
    names = {  # of the new data set, of the trained detector
        "one of two is known": (["cat", "dog"], ["dog", "bird", "fish"]),
        "all are known, in another order": (["star", "ring", "cross"], ["cross", "star", "ring"]),
        "none is known": (["leaf", "bud", "root", "seed"], ["car", "bus"]),
        "the same names": (["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "e"]),
        "one new category": (["tram"], ["bus", "car", "bicycle", "truck"]),
        "more categories than before": (
            ["oak", "elm", "ash", "fir", "yew", "fig", "lime"],
            ["fir", "oak", "pine", "lime", "elm", "box"],
        ),
        "fewer categories than before": (
            ["wolf", "bear", "lynx", "fox", "deer", "hare"],
            ["deer", "boar", "fox", "wolf", "otter", "mouse", "owl", "crane"],
        ),
    }
    generator = torch.Generator().manual_seed(0)
    return {
        case: (
            torch.randn(len(new), channels, generator=generator, dtype=torch.float64),
            new,
            torch.randn(len(old), channels, generator=generator, dtype=torch.float64),
            old,
        )
        for channels, (case, (new, old)) in enumerate(names.items(), start=3)
    }


def rows_from(choose: Callable[[list, list], dict[int, int]]) -> Callable:
    """The matrix of a new class head, some rows of which are copied.

    Args:
        choose: A function (new names, old names) -> {row of the new: row of the old}.

    Returns:
        A function like `my_adopt_classes`.
    """

    def adopt(weight: Tensor, names, trained_weight: Tensor, trained_names):
        adopted = weight.clone()
        for new, old in choose(names, trained_names).items():
            adopted[new] = trained_weight[old]
        return adopted

    return adopt


def _by_name(new: list, old: list) -> dict[int, int]:
    return {k: old.index(name) for k, name in enumerate(new) if name in old}


def _filled(fill: Callable, weight, names, trained_weight, trained_names) -> Tensor:
    """The right rows, and something else in those of new categories."""
    adopted = my_adopt_classes(weight, names, trained_weight, trained_names)
    for k, name in enumerate(names):
        if name not in trained_names:
            adopted[k] = fill(trained_weight)
    return adopted


adopt_classes = Exercise(
    my_adopt_classes,
    _class_heads,
    {
        "nothing was copied": lambda weight, *_: weight.clone(),
        "rows were copied by their position; row 0 of both is not the same category": rows_from(
            lambda new, old: {k: k for k in range(min(len(new), len(old)))}
        ),
        "a row was copied to the position that it has in the trained detector": rows_from(
            lambda new, old: {
                old.index(name): old.index(name)
                for name in new
                if name in old and old.index(name) < len(new)
            }
        ),
        "a known category got the row that has its new position; look the name up": rows_from(
            lambda new, old: {k: k for k in _by_name(new, old) if k < len(old)}
        ),
        "the copied rows were put at the beginning; each belongs to the position of its name": (
            rows_from(lambda new, old: dict(enumerate(_by_name(new, old).values())))
        ),
        "both lists of names were sorted first; a row has the position of its name in the list": (
            rows_from(lambda new, old: _by_name(sorted(new), sorted(old)))
        ),
        "new categories got zeros; they keep their initial row": (
            lambda *a: _filled(lambda trained: 0.0, *a)
        ),
        "new categories got the mean of the trained rows; they keep their initial row": (
            lambda *a: _filled(lambda trained: trained.mean(0), *a)
        ),
        "new and old rows were averaged; a known category is copied as it is": lambda *a: (
            (a[0] + my_adopt_classes(*a)) / 2
        ),
    },
    library=(adopt_parameters,),
)
