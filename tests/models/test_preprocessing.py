"""From images to a batch, and from the model's predictions back to pixels."""

import math

import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from ddetr_edu.attention import valid_ratios
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.models.deformable_detr import Predictions, resize_mask
from ddetr_edu.models.preprocessing import best_detections, make_batch, to_floats


@pytest.mark.parametrize(
    "size, image, expected",
    [
        ((800, 1333), (480, 640), (800, 1066)),
        ((800, 1333), (640, 480), (1066, 800)),
        ((800, 1333), (400, 1000), (533, 1332)),  # the long side decides
        ((800, 1333), (1000, 400), (1332, 533)),
        ((192, 224), (160, 160), (192, 192)),
        ((192, 224), (101, 211), (107, 223)),
        ((7, 11), (1, 3000), (1, 11)),  # never less than one pixel
    ],
)
def test_an_image_is_resized_by_its_short_side_unless_the_long_one_gets_too_long(
    size, image, expected
):
    assert ResizeConfig(*size).fit(*image) == expected


@pytest.mark.parametrize(
    "image, expected",
    [
        ((181, 203), (192, 224)),
        ((203, 190), (192, 192)),
        ((160, 224), (160, 224)),
        ((10, 300), (32, 224)),
        ((224, 160), (224, 160)),
    ],
)
def test_sides_can_be_rounded_to_whole_tokens(image, expected):
    assert ResizeConfig(192, 224, multiple_of=32).fit(*image) == expected


def test_an_image_of_whole_tokens_ends_where_the_model_counts_it_to_end():
    """On every level: 192 of 224 px are 6/7 of the columns, which 190 px are on none."""
    for multiple, exact in ((32, True), (1, False)):
        resize = ResizeConfig(190, 224, multiple_of=multiple)
        images, mask = make_batch([torch.rand(3, 190, 190), torch.rand(3, 190, 224)], resize)
        masks = [
            resize_mask(mask, (images.shape[2] // s, images.shape[3] // s)) for s in (8, 16, 32)
        ]
        fraction = (~mask[0, 0]).sum() / mask.shape[2]
        ratios = valid_ratios(masks)[0, :, 0]
        assert torch.allclose(ratios, fraction, rtol=0, atol=1e-6) == exact, ratios


def test_a_multiple_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="multiple_of is 225; .* 1 to the long side, 224"):
        ResizeConfig(192, 224, multiple_of=225)


def test_the_long_side_is_never_exceeded():
    resize = ResizeConfig(53, 89)
    for height in range(1, 130, 7):
        for width in range(1, 130, 5):
            h, w = resize.fit(height, width)
            assert min(h, w) <= 53 and max(h, w) <= 89
            assert min(h, w) == 53 or 89 - max(h, w) <= 0.5 * max(h, w) / min(h, w) + 1


@pytest.mark.parametrize("short, long", [(0, 5), (7, 5), (-3, 5)])
def test_an_impossible_size_is_refused(short, long):
    with pytest.raises(ValueError, match=f"{short} and {long}"):
        ResizeConfig(short, long)


def test_in_training_each_image_gets_one_of_the_short_sides():
    resize = ResizeConfig(53, 89, short_sides_in_training=(37, 41, 61))
    images = [torch.rand(3, 30, 30)] * 12
    torch.manual_seed(0)
    batch, mask = make_batch(images, resize, training=True)
    assert batch.shape == (12, 3, 61, 61)
    assert {61 - row.sum().item() for row in mask[:, 0]} == {37, 41, 61}
    torch.manual_seed(0)
    assert torch.equal(make_batch(images, resize, training=True)[0], batch)
    torch.manual_seed(1)
    assert not torch.equal(make_batch(images, resize, training=True)[1], mask)
    drawn = set()
    for _ in range(40):
        drawn.add(tuple(make_batch(images[:1], resize, training=True)[0].shape[2:]))
    assert drawn == {(37, 37), (41, 41), (61, 61)}
    without_choice = ResizeConfig(53, 89)
    assert make_batch(images, resize)[0].shape == (12, 3, 53, 53)
    assert make_batch(images, without_choice, training=True)[0].shape == (12, 3, 53, 53)
    wide, _ = make_batch([torch.rand(3, 20, 80)], resize, training=True)
    assert wide.shape[2:] == (22, 88)  # the long side decides
    with pytest.raises(ValueError, match="short_sides_in_training holds 90; .* 1 to .* 89"):
        ResizeConfig(53, 89, (41, 90))


def test_another_short_side_can_be_given():
    resize = ResizeConfig(53, 89, short_sides_in_training=(37, 41, 61))
    assert {resize.fit(30, 30, side) for side in (37, 41, 61)} == {(37, 37), (41, 41), (61, 61)}
    assert resize.fit(30, 30) == (53, 53)
    assert all(resize.fit(20, 80, side) == (22, 88) for side in (37, 41, 61))


def test_uint8_becomes_floats():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1)
    torch.testing.assert_close(to_floats(image).flatten(), torch.tensor([0.0, 0.2, 1.0]))


def test_a_batch_is_normalised_padded_with_zeros_and_masked():
    torch.manual_seed(0)
    images = [torch.rand(3, 13, 17), torch.rand(3, 19, 11)]
    batch, mask = make_batch(images, ResizeConfig(13, 23))  # (13, 17) stays as it is
    assert batch.shape == (2, 3, 22, 17) and mask.shape == (2, 22, 17)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(batch[0, :, :13, :17], (images[0] - mean) / std)
    assert mask.dtype == torch.bool
    assert not mask[0, :13, :17].any() and mask[0, 13:].all()
    assert not mask[1, :22, :13].any() and mask[1, :, 13:].all()
    assert not batch[mask[:, None].expand_as(batch)].any()
    resized = transforms.resize(images[1], [22, 13], antialias=True)
    torch.testing.assert_close(batch[1, :, :22, :13], (resized - mean) / std)


def test_boxes_are_returned_in_pixels_of_the_original_image():
    """Whatever the batch was resized and padded to."""
    sizes = [(97, 131), (211, 89)]
    boxes = torch.tensor([[10.0, 20.0, 50.0, 90.0], [3.0, 100.0, 80.0, 200.0]])  # xyxy
    normalised = []
    for (height, width), (x1, y1, x2, y2) in zip(sizes, boxes.tolist(), strict=True):
        normalised.append(
            [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        )
    predictions = Predictions(torch.zeros(2, 1, 1), torch.tensor(normalised)[:, None])
    for n, found in enumerate(best_detections(predictions, sizes)):
        torch.testing.assert_close(found["boxes"], boxes[n : n + 1], rtol=0, atol=1e-3)


def test_boxes_are_clipped_to_their_image():
    predictions = Predictions(torch.zeros(1, 1, 1), torch.tensor([[[0.9, 0.1, 0.6, 0.8]]]))
    (found,) = best_detections(predictions, [(7, 11)])
    expected = torch.tensor([[0.6 * 11, 0.0, 11.0, 0.5 * 7]])
    torch.testing.assert_close(found["boxes"], expected)


def test_the_best_pairs_of_query_and_class_of_each_image():
    """Two images whose best queries differ, against an exhaustive search."""
    generator = torch.Generator().manual_seed(3)
    n_images, n_queries, n_classes, count = 2, 7, 5, 11
    logits = torch.randn(n_images, n_queries, n_classes, generator=generator)
    centres = 0.4 + 0.2 * torch.rand(n_images, n_queries, 2, generator=generator)
    sides = 0.1 + 0.4 * torch.rand(n_images, n_queries, 2, generator=generator)
    boxes = torch.cat([centres, sides], -1)
    sizes = [(37, 53), (61, 29)]
    results = best_detections(Predictions(logits, boxes), sizes, count)
    assert len(results) == 2
    for n, (found, (height, width)) in enumerate(zip(results, sizes, strict=True)):
        pairs = [
            (logits[n, q, k].sigmoid().item(), q, k)
            for q in range(n_queries)
            for k in range(n_classes)
        ]
        best = sorted(pairs, reverse=True)[:count]
        assert found["queries"].tolist() == [q for _, q, _ in best]
        assert found["classes"].tolist() == [k for _, _, k in best]
        torch.testing.assert_close(found["scores"], torch.tensor([s for s, _, _ in best]))
        for row, (_, q, _) in zip(found["boxes"], best, strict=True):
            cx, cy, w, h = boxes[n, q].tolist()
            expected = [
                (cx - w / 2) * width,
                (cy - h / 2) * height,
                (cx + w / 2) * width,
                (cy + h / 2) * height,
            ]
            torch.testing.assert_close(row, torch.tensor(expected), rtol=0, atol=1e-4)
    assert results[0]["queries"].tolist() != results[1]["queries"].tolist()


@pytest.mark.parametrize("count, kept", [(100, 6), (4, 4)])
def test_no_more_detections_than_there_are_pairs(count, kept):
    predictions = Predictions(torch.randn(1, 3, 2), torch.rand(1, 3, 4))
    (found,) = best_detections(predictions, [(5, 7)], count)
    assert all(len(values) == kept for values in found.values())


def test_a_hundred_detections_by_default():
    predictions = Predictions(torch.randn(1, 60, 2), torch.rand(1, 60, 4))
    (found,) = best_detections(predictions, [(5, 7)])
    assert len(found["scores"]) == 100


def test_under_a_softmax_each_query_appears_once_with_its_best_class():
    """As DETR's PostProcess: the best class of every query, without "no object"."""
    logits = 3 * torch.randn(2, 7, 5 + 1, generator=torch.Generator().manual_seed(3))
    predictions = Predictions(logits, torch.rand(2, 7, 4), no_object=True)
    for n, found in enumerate(best_detections(predictions, [(37, 53), (61, 29)], count=100)):
        rows = [[math.exp(x) for x in row] for row in logits[n].tolist()]
        scored = [(max(row[:5]) / sum(row), q) for q, row in enumerate(rows)]
        scored.sort(reverse=True)
        assert found["queries"].tolist() == [q for _, q in scored]
        classes = [max(range(5), key=rows[q].__getitem__) for _, q in scored]
        assert found["classes"].tolist() == classes
        torch.testing.assert_close(found["scores"], torch.tensor([s for s, _ in scored]))
    (found, _) = best_detections(predictions, [(37, 53), (61, 29)], count=3)
    assert len(found["scores"]) == 3
