"""The exercises of lesson 11 about average precision: which detections are true, and the area."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.course.exercise import Cases, Exercise


def my_true_positives(ious, threshold):
    """(ious (detections, objects), best score first; threshold) -> (detections,) bool"""
    free = [True] * ious.shape[1]
    is_true = []
    for row in ious.tolist():
        enough = [o for o in range(len(row)) if free[o] and row[o] >= threshold]
        is_true.append(len(enough) > 0)
        if enough:
            best = max(enough, key=lambda o: row[o])
            free[best] = False
    return torch.tensor(is_true)


def my_average_precision(is_true, n_objects):
    """(is_true (detections,) bool, best score first; number of objects) -> average precision"""
    n_found = 0
    precisions, recalls = [], []
    for rank, true in enumerate(is_true.tolist(), start=1):
        n_found += true
        precisions.append(n_found / rank)
        recalls.append(n_found / n_objects)
    total = 0.0
    for k in range(101):
        reached = [p for p, r in zip(precisions, recalls, strict=True) if r >= k / 100]
        total += max(reached, default=0.0)
    return total / 101


def _each_row(ious: Tensor, threshold: float, choose: Callable) -> Tensor:
    """True positives where `choose` picks an object for a row, among all that are good enough.

    Args:
        ious: (detections, objects).
        threshold: Of the IoU.
        choose: A function (row, objects that are good enough, those still free) -> an object or
            None.

    Returns:
        (detections,) bool.
    """
    free = set(range(ious.shape[1]))
    is_true = []
    for row in ious.tolist():
        enough = [o for o, iou in enumerate(row) if iou >= threshold]
        chosen = choose(row, enough, free) if enough else None
        is_true.append(chosen is not None)
        if chosen is not None:
            free.discard(chosen)
    return torch.tensor(is_true)


def _best_or_nothing(row, enough, free):
    """As in Pascal VOC: the object of the largest IoU, whether it is free or not."""
    best = max(enough, key=lambda o: row[o])
    return best if best in free else None


def _by_objects(ious: Tensor, threshold: float) -> Tensor:
    """Each object takes the detection of the largest IoU that is left."""
    is_true = torch.zeros(len(ious), dtype=torch.bool)
    for column in ious.T:
        left = column.masked_fill(is_true, -1.0)
        if left.max() >= threshold:
            is_true[left.argmax()] = True
    return is_true


def _best_of_each_object(ious: Tensor, threshold: float) -> Tensor:
    """Each object takes its best detection, even one that another object has taken."""
    is_true = torch.zeros(len(ious), dtype=torch.bool)
    for column in ious.T:
        if column.max() >= threshold:
            is_true[column.argmax()] = True
    return is_true


def _taken_by_a_bad_box(ious: Tensor, threshold: float) -> Tensor:
    """A detection takes the best free object, even if it does not reach the threshold."""
    left, is_true = ious.clone(), torch.zeros(len(ious), dtype=torch.bool)
    for row in range(len(ious) if ious.numel() else 0):
        is_true[row] = left[row].max() >= threshold
        left[:, left[row].argmax()] = -1.0
    return is_true


def _by_largest_iou(ious: Tensor, threshold: float) -> Tensor:
    """Pairs are made in the order of their IoU, whatever the scores."""
    is_true, left = torch.zeros(len(ious), dtype=torch.bool), ious.clone()
    while left.numel() and left.max() >= threshold:
        row, column = divmod(int(left.argmax()), left.shape[1])
        is_true[row] = True
        left[row], left[:, column] = -1.0, -1.0
    return is_true


def _tables_of_ious() -> Cases:
    def table(*rows) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64)

    generator = torch.Generator().manual_seed(4)
    crowded = torch.rand(11, 5, generator=generator, dtype=torch.float64)
    return {
        "each object is found once": (table([0.9, 0.1], [0.0, 0.8], [0.2, 0.3]), 0.5),
        "one object is found twice": (table([0.7], [0.95]), 0.5),
        "an IoU of exactly the threshold is enough": (table([0.5, 0.0, 0.25, 0.0]), 0.5),
        "the best object is taken, another one is good enough": (
            table([0.9, 0.2, 0.0], [0.8, 0.6, 0.1], [0.0, 0.0, 0.4], [0.7, 0.7, 0.3]),
            0.5,
        ),
        "an object that fits less comes first in the table": (
            table([0.6, 0.9, 0.1], [0.1, 0.9, 0.2], [0.7, 0.55, 0.0], [0.3, 0.1, 0.8], [0.9] * 3),
            0.5,
        ),
        "the better box has the lower score, and the threshold lies between": (
            table([0.62, 0.1], [0.93, 0.1], [0.94, 0.3], [0.1, 0.76], [0.0, 0.97], [0.4, 0.74]),
            0.75,
        ),
        "the first detection fits two objects, the second one fits one of them": (
            table([0.6, 0.9], [0.55, 0.1]),
            0.5,
        ),
        "both detections fit the same object best": (table([0.9, 0.6, 0.0], [0.8, 0.3, 0.1]), 0.5),
        "an image without objects": (torch.zeros(7, 0, dtype=torch.float64), 0.5),
        "nothing is good enough": (table(*[[0.3, 0.45, 0.1, 0.49, 0.2, 0.0]] * 3), 0.5),
        "many detections of few objects": (crowded, 0.6),
        "many detections, a high threshold": (crowded[:8, :4], 0.85),
    }


true_positives = Exercise(
    my_true_positives,
    _tables_of_ious,
    {
        "an object was found more than once; a second detection of it is a false positive": (
            lambda ious, threshold: (ious >= threshold).any(1)
        ),
        "an IoU of exactly the threshold was not enough; it is": lambda ious, threshold: (
            my_true_positives(ious, threshold + 1e-9)
        ),
        "a detection whose best object is taken was given up; it may find another free one": (
            lambda ious, threshold: _each_row(ious, threshold, _best_or_nothing)
        ),
        "a detection took the first object that is good enough; take the one of the largest IoU": (
            lambda ious, threshold: _each_row(
                ious,
                threshold,
                lambda row, enough, free: next((o for o in enough if o in free), None),
            )
        ),
        "a detection took the object of the smallest IoU that is good enough; take the largest": (
            lambda ious, threshold: _each_row(
                ious,
                threshold,
                lambda row, enough, free: min(free & {*enough}, key=lambda o: row[o], default=None),
            )
        ),
        "each object chose its detection; detections choose, the one of the best score first": (
            _by_objects
        ),
        "each object took its best detection; detections choose, the one of the best score first": (
            _best_of_each_object
        ),
        "an object was taken by a detection that is not good enough; it is still free": (
            _taken_by_a_bad_box
        ),
        "pairs were made in the order of their IoU; go by the scores, row after row": (
            _by_largest_iou
        ),
        "the rows were taken from the last to the first; the best score comes first": (
            lambda ious, threshold: my_true_positives(ious.flip(0), threshold).flip(0)
        ),
        "the threshold was always 0.5; it is an argument": lambda ious, threshold: (
            my_true_positives(ious, 0.5)
        ),
        "true and false are the wrong way round": lambda ious, threshold: (
            ~my_true_positives(ious, threshold)
        ),
        "rows and columns are swapped, and objects were judged instead of detections": (
            lambda ious, threshold: my_true_positives(ious.T, threshold)
        ),
    },
)


def area_with(value: Callable, hundredths: range = range(101)) -> Callable:
    """Average precision that reads the curve in another way.

    Args:
        value: A function (precisions (n,), recalls (n,), a recall) -> precision there.
        hundredths: At which recalls the curve is read.

    Returns:
        A function as `my_average_precision`.
    """

    def average(is_true, n_objects):
        precisions, recalls = _curve(is_true, n_objects)
        read = [float(value(precisions, recalls, k / 100)) for k in hundredths]
        return sum(read) / len(read)

    return average


def _curve(is_true: Tensor, n_objects: float) -> tuple[Tensor, Tensor]:
    """(precisions, recalls) after each detection."""
    found = is_true.double().cumsum(0)
    return found / torch.arange(1, len(is_true) + 1), found / n_objects


def _best_from(precisions: Tensor, recalls: Tensor, recall: float) -> float:
    """What is right: the best precision of those that reach the recall."""
    reached = precisions[recalls >= recall]
    return float(reached.max()) if len(reached) else 0.0


def _best_beyond(precisions: Tensor, recalls: Tensor, recall: float) -> float:
    """The best precision of those that exceed the recall."""
    beyond = precisions[recalls > recall]
    return float(beyond.max()) if len(beyond) else 0.0


def _first_that_reaches(precisions: Tensor, recalls: Tensor, recall: float) -> float:
    reached = precisions[recalls >= recall]
    return float(reached[0]) if len(reached) else 0.0


def _best_before(precisions: Tensor, recalls: Tensor, recall: float) -> float:
    """The largest precision on the way to the recall."""
    n = int((recalls < recall).sum())
    return float(precisions[: n + 1].max()) if n < len(recalls) else 0.0


def _area(is_true: Tensor, n_objects: int) -> float:
    """The exact area: each object found counts 1 / n_objects."""
    precisions, _ = _curve(is_true, n_objects)
    best = precisions.flip(0).cummax(0).values.flip(0) if len(is_true) else precisions
    return float(best[is_true].sum()) / n_objects


def _sum_where_found(is_true: Tensor, n_objects: int) -> float:
    """The area under precision as it is: that of each detection that finds an object."""
    precisions, _ = _curve(is_true, n_objects)
    return float(precisions[is_true].sum()) / n_objects


def _trapezoids(is_true: Tensor, n_objects: int) -> float:
    precisions, recalls = _curve(is_true, n_objects)
    return float(torch.trapezoid(precisions, recalls))


def _reached_only(is_true: Tensor, n_objects: int) -> float:
    """The mean over the recalls that are reached."""
    precisions, recalls = _curve(is_true, n_objects)
    at = [k / 100 for k in range(101) if len(recalls) and k / 100 <= recalls[-1]]
    values = [_best_from(precisions, recalls, recall) for recall in at]
    return sum(values) / len(values) if values else 0.0


def _ranked_detections() -> Cases:
    def ranked(marks: str) -> Tensor:
        return torch.tensor([mark == "T" for mark in marks], dtype=torch.bool)

    return {
        "two of three objects are found": (ranked("TFT"), 3),
        "everything is right": (ranked("TTTTTTT"), 7),
        "nothing is right": (ranked("FFFF"), 2),
        "no detection at all": (ranked(""), 11),
        "the ten detections of the lesson, at an IoU of 0.5": (ranked("TTFFTFFTFF"), 5),
        "the ten detections and a false one, at an IoU of 0.75": (ranked("TFFFTFTTFFF"), 6),
        "false ones first": (ranked("FFFTTTTTT"), 6),
        "one of 1,009 objects is found": (ranked("TFFFF"), 1009),
        "one of 100 objects is found": (ranked("FT"), 100),
        "the only object is found late": (ranked("FFFFFFFT"), 1),
        "false ones after the last object": (ranked("TFTFTFFFFFFF"), 3),
        "many of many": (ranked("TTFTTFFTTTFTFTFFTFTFFFTF"), 13),
    }


average_precision = Exercise(
    my_average_precision,
    _ranked_detections,
    {
        "precision was read as it is; at each recall it is the best from there on": area_with(
            _first_that_reaches
        ),
        "the best precision was sought on the way to a recall; seek from that recall on": (
            area_with(_best_before)
        ),
        "recall was counted against what was found; divide by the number of objects": (
            lambda is_true, n_objects: my_average_precision(is_true, max(int(is_true.sum()), 1))
        ),
        "recall was counted against the number of detections; divide by that of objects": (
            lambda is_true, n_objects: my_average_precision(is_true, max(len(is_true), 1))
        ),
        "recalls that are never reached were left out; their precision is 0": _reached_only,
        "the curve was read at 11 recalls, as in Pascal VOC of 2007; COCO reads it at 101": (
            area_with(_best_from, range(0, 101, 10))
        ),
        "the curve was read at 100 recalls, without 0; there are 101": (
            area_with(_best_from, range(1, 101))
        ),
        "a rank whose recall is exactly the one asked for was left out; it counts": (
            area_with(_best_beyond)
        ),
        "this is the exact area; COCO reads the curve at 101 recalls, 0 among them": _area,
        "the precision of each true positive was added; COCO reads the best at 101 recalls": (
            _sum_where_found
        ),
        "trapezoids were added up; COCO adds what it reads at 101 recalls": _trapezoids,
        "this is the precision of all detections together": lambda is_true, n_objects: (
            float(is_true.sum()) / max(len(is_true), 1)
        ),
        "this is the recall, the share of objects that were found": lambda is_true, n_objects: (
            float(is_true.sum()) / n_objects
        ),
        "precision was averaged over the detections instead of over recalls": (
            lambda is_true, n_objects: (
                float(_curve(is_true, n_objects)[0].mean()) if len(is_true) else 0.0
            )
        ),
        "the detections were taken from the last to the first; the best score comes first": (
            lambda is_true, n_objects: my_average_precision(is_true.flip(0), n_objects)
        ),
    },
)
