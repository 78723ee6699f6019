"""The exercises of lesson 09 about matching: the cost of every pair, the cheapest assignment."""

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, box_iou, generalized_box_iou

from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.course.greedy_matching import assign_cheapest_pair_first, assign_in_order
from ddetr_edu.losses.matcher import class_cost, match
from ddetr_edu.losses.matcher import matching_cost as matching_cost_of_the_library


def my_matching_cost(logits, boxes, labels, target_boxes):
    """(logits (Q, K), boxes (Q, 4), labels (T,), target_boxes (T, 4)) -> cost (Q, T)"""
    prob = logits.sigmoid()[:, labels]
    pos_cost = -0.25 * (1 - prob) ** 2 * prob.log()
    neg_cost = -0.75 * prob**2 * (1 - prob).log()
    l1 = (boxes[:, None] - target_boxes).abs().sum(dim=2)
    corners = box_convert(boxes, "cxcywh", "xyxy")
    giou = generalized_box_iou(corners, box_convert(target_boxes, "cxcywh", "xyxy"))
    return 2 * (pos_cost - neg_cost) + 5 * l1 - 2 * giou


def my_assign(cost):
    """cost (Q, T) -> the query of each object, (T,)"""
    queries, objects = linear_sum_assignment(cost)
    order = objects.argsort()
    return torch.as_tensor(queries[order])


def cost_with(
    of_class: Callable | None = None,
    of_distance: Callable | None = None,
    of_overlap: Callable | None = None,
) -> Callable:
    """A matching cost with terms of one's own.

    Args:
        of_class: A function (logits (Q, K), labels (T,)) -> (Q, T), twice of which is added.
        of_distance: A function (boxes (Q, 4), target boxes (T, 4)) -> (Q, T), five times of which
            is added.
        of_overlap: Likewise, of which twice is added.

    Returns:
        A function (logits, boxes, labels, target_boxes) -> (Q, T).
    """
    of_class = of_class or class_cost
    of_distance = of_distance or (lambda boxes, targets: _differences(boxes, targets).sum(-1))
    of_overlap = of_overlap or (lambda boxes, targets: -_overlap(boxes, targets))

    def cost(logits, boxes, labels, target_boxes):
        distance, overlap = of_distance(boxes, target_boxes), of_overlap(boxes, target_boxes)
        return 2 * of_class(logits, labels) + 5 * distance + 2 * overlap

    return cost


def _differences(boxes: Tensor, targets: Tensor) -> Tensor:
    return (boxes[:, None] - targets).abs()


def _corners(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")


def _overlap(boxes: Tensor, targets: Tensor, measure: Callable = generalized_box_iou) -> Tensor:
    return measure(_corners(boxes), _corners(targets))


def positive_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """The focal loss of each class as a positive, without that as a negative.

    Args:
        logits: (Q, K).
        labels: (T,) class indices.

    Returns:
        (Q, T)
    """
    prob = logits.sigmoid()[:, labels]
    return -0.25 * (1 - prob) ** 2 * prob.log()


def _predictions_and_objects() -> Cases:
    sizes = {  # (Q, K, T)
        "four queries, two objects": (4, 3, 2),
        "more objects than classes": (7, 2, 5),
        "one query, one object": (1, 4, 1),
        "as many queries as objects": (6, 5, 6),
        "one class": (9, 1, 3),
        "objects of one class": (5, 7, 4),
        "no objects": (3, 6, 0),
        "many queries": (23, 8, 7),
    }
    generator = torch.Generator().manual_seed(0)

    def boxes(n: int) -> Tensor:
        centre = 0.3 + 0.4 * torch.rand(n, 2, generator=generator, dtype=torch.float64)
        size = 0.2 + 0.3 * torch.rand(n, 2, generator=generator, dtype=torch.float64)
        return torch.cat([centre, size], dim=1)

    cases: Cases = {}
    for name, (n_queries, n_classes, n_objects) in sizes.items():
        # Moderate ones: 1 - prob of a large logit has few digits left in fp32.
        logits = 2 * torch.randn(n_queries, n_classes, generator=generator, dtype=torch.float64)
        labels = torch.randint(n_classes, (n_objects,), generator=generator)
        if name == "objects of one class":
            labels = torch.full_like(labels, 2)
        cases[name] = logits.clamp(-4, 4), boxes(n_queries), labels, boxes(n_objects)
    return cases


matching_cost = Exercise(
    my_matching_cost,
    _predictions_and_objects,
    {
        "GIoU was added; a large overlap must make a pair cheaper": cost_with(
            of_overlap=lambda boxes, targets: _overlap(boxes, targets)
        ),
        "it has 1 - GIoU, the loss; the cost is - GIoU (every entry is 2 too large)": cost_with(
            of_overlap=lambda boxes, targets: 1 - _overlap(boxes, targets)
        ),
        "it has the IoU; GIoU tells near from far even without an overlap": cost_with(
            of_overlap=lambda boxes, targets: -_overlap(boxes, targets, box_iou)
        ),
        "GIoU was computed from (cx, cy, w, h); convert the boxes to corners first": cost_with(
            of_overlap=lambda boxes, targets: -generalized_box_iou(boxes, targets)
        ),
        "the L1 distance was taken between corners; it is between (cx, cy, w, h)": cost_with(
            of_distance=lambda boxes, targets: _differences(_corners(boxes), _corners(targets)).sum(
                -1
            )
        ),
        "the L1 distance is a mean; sum the four differences": cost_with(
            of_distance=lambda boxes, targets: _differences(boxes, targets).mean(-1)
        ),
        "it has the L2 distance; L1 is the sum of the absolute differences": cost_with(
            of_distance=lambda boxes, targets: torch.cdist(boxes, targets)
        ),
        "differences were squared; L1 is the sum of their absolute values": cost_with(
            of_distance=lambda boxes, targets: _differences(boxes, targets).square().sum(-1)
        ),
        "the negative part of the class cost is missing": cost_with(positive_cost),
        "the negative part of the class cost was added; subtract it": cost_with(
            lambda logits, labels: 2 * positive_cost(logits, labels) - class_cost(logits, labels)
        ),
        "the class cost is minus the probability, as in DETR": cost_with(
            lambda logits, labels: -logits.sigmoid()[:, labels]
        ),
        "the class cost is the cross entropy; it is made from the focal loss": cost_with(
            lambda logits, labels: -logits.sigmoid().log()[:, labels]
        ),
        "the classes share a softmax; here each has a sigmoid of its own": cost_with(
            lambda logits, labels: class_cost(logits.softmax(-1).logit(), labels)
        ),
        "the class cost has the wrong sign: a high probability must make a pair cheaper": cost_with(
            lambda logits, labels: -class_cost(logits, labels)
        ),
        "prob is that of the query's most probable class; take the class of the object": cost_with(
            lambda logits, labels: class_cost(
                logits.amax(1, keepdim=True), torch.zeros_like(labels)
            )
        ),
        "the three terms were summed without their weights 2, 5 and 2": cost_with(
            lambda logits, labels: class_cost(logits, labels) / 2,
            lambda boxes, targets: _differences(boxes, targets).sum(-1) / 5,
            lambda boxes, targets: -_overlap(boxes, targets) / 2,
        ),
        "rows and columns are swapped; a query has a row": lambda *arguments: (
            my_matching_cost(*arguments).T
        ),
    },
    library=(matching_cost_of_the_library, class_cost),
)


def _costs() -> Cases:
    # Small enough for an answer that tries all assignments. Each has a single best one.
    generator = torch.Generator().manual_seed(0)

    def random(queries: int, objects: int) -> torch.Tensor:
        return torch.rand(queries, objects, generator=generator, dtype=torch.float64)

    contested, second = random(7, 5), random(6, 4)
    contested[2] -= 0.8  # one query is the cheapest for every object
    second[5] -= 0.8
    blocked = torch.tensor([[0.1, 0.2], [0.3, 0.9], [0.8, 0.95]], dtype=torch.float64)
    return {
        "the cheapest pair blocks the best matching": (blocked,),
        "more queries than objects": (random(9, 3),),
        "several objects compete for one query": (contested,),
        "several objects compete for the last query": (second,),
        "as many objects as queries": (random(5, 5),),
        "one object": (random(6, 1),),
        "many queries, two objects": (random(13, 2),),
        "negative costs, as with GIoU": (random(8, 3) - 2,),
        "large costs": (random(5, 4) * 1000,),
        "one object and one query": (random(1, 1),),
    }


assign = Exercise(
    my_assign,
    _costs,
    {
        "each object took its cheapest query; one query may then serve several objects": (
            lambda cost: cost.argmin(0)
        ),
        "the cheapest pair was taken first each time; a lower total exists": (
            assign_cheapest_pair_first
        ),
        "the objects chose in turn; a lower total exists": assign_in_order,
        "the queries are in scipy's order; that of object 0 comes first": (
            lambda cost: linear_sum_assignment(cost)[0]
        ),
        "these are the objects; return the queries": lambda cost: linear_sum_assignment(cost)[1],
        "the queries were indexed by the objects; scipy's k-th query belongs to its k-th object": (
            lambda cost: (lambda queries, objects: queries[objects])(*linear_sum_assignment(cost))
        ),
        "these are positions in scipy's arrays; return the queries that stand there": (
            lambda cost: linear_sum_assignment(cost)[1].argsort()
        ),
        "the total was maximised; these are costs": lambda cost: my_assign(-cost),
    },
    library=(match,),
)
