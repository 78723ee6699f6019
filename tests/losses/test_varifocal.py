"""The varifocal loss, against slow loops and against what it is for."""

import math

import pytest
import torch
from torchvision.ops import box_convert, box_iou

from ddetr_edu.losses.criterion import layer_losses
from ddetr_edu.losses.matcher import LossWeights
from ddetr_edu.losses.varifocal import ALPHA, GAMMA, paired_iou, varifocal_loss

VARIFOCAL = LossWeights(class_loss="varifocal")
N, LQ, K = 2, 5, 3


def random_boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return torch.cat([centre, 0.1 + 0.4 * torch.rand(count, 2, generator=generator)], dim=-1)


def test_paired_iou_is_the_diagonal_of_torchvisions_table():
    boxes, others = random_boxes(13, 1), random_boxes(13, 2)
    table = box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(others, "cxcywh", "xyxy"))
    assert 0 < (table.diagonal() > 0).sum() < 13  # some pairs overlap, and some do not
    torch.testing.assert_close(paired_iou(boxes, others), table.diagonal())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_paired_iou_stays_within_0_and_1(dtype):
    boxes = random_boxes(1000).to(dtype)
    same = paired_iou(boxes, boxes)
    assert same.max() <= 1 and same.min() > 1 - 1e-5
    empty = torch.zeros(1, 4, dtype=dtype)
    assert paired_iou(empty, empty).item() == 0


def slow(logits, overlaps, matched):
    """The paper's equation 2, pair by pair."""
    loss = 0.0
    for p, q, positive in zip(
        logits.sigmoid().flatten().tolist(),
        overlaps.flatten().tolist(),
        matched.flatten().tolist(),
        strict=True,
    ):
        if positive:
            loss -= q * (q * math.log(p) + (1 - q) * math.log(1 - p))
        else:
            loss -= ALPHA * p**GAMMA * math.log(1 - p)
    return loss


@pytest.fixture
def scene():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(N, LQ, K, generator=generator, dtype=torch.float64)
    boxes = random_boxes(N * LQ, 4).reshape(N, LQ, 4)
    targets = [
        {"labels": torch.tensor([2, 0]), "boxes": boxes[0, :2] + 0.03},
        {"labels": torch.tensor([1]), "boxes": boxes[1, 4:] * 1.1},
    ]
    indices = [(torch.tensor([0, 1]), torch.tensor([0, 1])), (torch.tensor([4]), torch.tensor([0]))]
    return logits, boxes, targets, indices


def test_agrees_with_slow_loops(scene):
    logits, boxes, targets, indices = scene
    matched = torch.zeros(N, LQ, K, dtype=torch.bool)
    overlaps = torch.zeros(N, LQ, K, dtype=torch.float64)
    for n, query, obj in ((0, 0, 0), (0, 1, 1), (1, 4, 0)):
        label = targets[n]["labels"][obj]
        matched[n, query, label] = True
        overlaps[n, query, label] = paired_iou(
            boxes[n, query : query + 1], targets[n]["boxes"][obj : obj + 1]
        )
    expected = slow(logits, overlaps, matched)
    assert varifocal_loss(logits, overlaps, matched).item() == pytest.approx(expected)
    found = layer_losses(*scene, VARIFOCAL, 7, N)
    assert found["label"].item() == pytest.approx(VARIFOCAL.label * expected / 7)
    focal = layer_losses(*scene, LossWeights(), 7, N)
    assert found["l1"] == focal["l1"] and found["giou"] == focal["giou"]


def test_a_matched_score_rests_at_its_overlap_and_all_others_fall(scene):
    logits, boxes, targets, indices = scene
    target = targets[0]["labels"][0]
    iou = paired_iou(boxes[0, :1], targets[0]["boxes"][:1])
    assert 0.3 < iou < 0.95
    for factor, sign in ((0.5, -1), (1.0, 0), (1.05, 1)):
        moved = logits.clone()
        moved[0, 0, target] = torch.logit(factor * iou)
        moved.requires_grad_()
        layer_losses(moved, boxes, targets, indices, VARIFOCAL, 7, N)["label"].backward()
        assert torch.sign(moved.grad[0, 0, target].round(decimals=12)) == sign
        assert (moved.grad[1, :4] > 0).all()  # of queries without an object


def test_scores_do_not_move_boxes(scene):
    logits, boxes, targets, indices = scene
    boxes = boxes.clone().requires_grad_()
    loss = layer_losses(logits.requires_grad_(), boxes, targets, indices, VARIFOCAL, 7, N)
    assert torch.autograd.grad(loss["label"], boxes, allow_unused=True)[0] is None


def test_images_without_objects(scene):
    logits, boxes, _, _ = scene
    targets = [{"labels": torch.zeros(0).long(), "boxes": torch.zeros(0, 4).double()}] * N
    indices = [(torch.zeros(0).long(), torch.zeros(0).long())] * N
    none = torch.zeros(N, LQ, K)
    found = layer_losses(logits, boxes, targets, indices, VARIFOCAL, 1, N)
    expected = VARIFOCAL.label * slow(logits, none, none.bool())
    assert found["label"].item() == pytest.approx(expected)


def test_an_unknown_loss_and_that_of_a_detr_are_refused():
    with pytest.raises(ValueError, match='class_loss "quality" is not known.* focal, varifocal'):
        LossWeights(class_loss="quality")
    with pytest.raises(ValueError, match="share a softmax"):
        LossWeights(no_object=0.1, class_loss="varifocal")
