"""Lesson 02: what its text relies on, its exercises in other styles, and its planted faults."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_convert, box_iou

import ddetr_edu as dd
from ddetr_edu.attention import bilinear_sample, encoder_reference_points, module
from ddetr_edu.attention.op import run_backend
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course import checks, solutions
from ddetr_edu.course.broken_boxes import FAULTS, PLANTED, drawn_wrong, right_boxes
from ddetr_edu.course.misreading import read_elsewhere, share_found
from ddetr_edu.data.scenes import TEST_SEED, draw_scene
from ddetr_edu.models.backbone import TinyBackbone
from ddetr_edu.viz.pixel_conventions import pixel_position


def flipped(size):
    """(H, W) as (W, H)."""
    return torch.tensor(size[::-1])


# Positions.


def test_positions_are_those_of_the_library():
    for points, shape in checks.to_pixels.cases().values():
        expected = pixel_position(points, flipped(shape))
        torch.testing.assert_close(solutions.to_pixels(points, shape), expected)


@pytest.mark.parametrize("shape", [(3, 4), (7, 2)])
def test_a_ruler_reads_positions_in_pixels(shape):
    """Between the outer pixel centres, the library and grid_sample read where to_pixels says."""
    height, width = shape
    columns, rows = torch.meshgrid(
        torch.arange(width).double(), torch.arange(height).double(), indexing="xy"
    )
    ruler = torch.stack([columns, rows], dim=-1)
    points = 0.5 + (torch.rand(9, 2, generator=torch.Generator().manual_seed(0)).double() - 0.5) / 2
    positions = solutions.to_pixels(points, shape)
    read = torch.stack([bilinear_sample(ruler, *point) for point in points])
    torch.testing.assert_close(read, positions)
    maps = ruler.permute(2, 0, 1)[None]
    for align_corners in (False, True):
        read = F.grid_sample(maps, 2 * points[None, None] - 1, align_corners=align_corners)
        expected = pixel_position(points, flipped(shape), align_corners)
        torch.testing.assert_close(read[0, :, 0].T, expected)


def test_whole_numbers_become_the_references_of_the_encoder():
    shapes = [(5, 7), (3, 2)]
    references = encoder_reference_points(shapes, torch.ones(1, 2, 2))[0, :, 0]
    centres = [
        solutions.from_pixels(torch.tensor([(c, r) for r in range(h) for c in range(w)]), (h, w))
        for h, w in shapes
    ]
    torch.testing.assert_close(torch.cat(centres).float(), references)


def test_a_token_is_the_one_whose_centre_is_nearest():
    for row, column, image_size, shapes, level in checks.covering_token.cases().values():
        centres = encoder_reference_points(shapes, torch.ones(1, len(shapes), 2))[0, :, 0]
        pixel = solutions.from_pixels(torch.tensor([[column, row]]), image_size)
        before = sum(h * w for h, w in shapes[:level])
        height, width = shapes[level]
        here = centres[before : before + height * width]
        distance = ((here - pixel) * torch.tensor([width, height])).abs().amax(-1)
        token = solutions.covering_token(row, column, image_size, shapes, level)
        assert token == before + distance.argmin().item()


def test_boxes_are_those_of_torchvision():
    for boxes, source, target, old, new in checks.convert_boxes.cases().values():
        scale_in = 1 if source == "cxcywh" else flipped(old).repeat(2)
        scale_out = 1 if target == "cxcywh" else flipped(new).repeat(2)
        expected = box_convert(boxes / scale_in, source, target) * scale_out
        torch.testing.assert_close(
            solutions.convert_boxes(boxes, source, target, old, new), expected
        )


def test_boxes_are_those_of_the_detector():
    config = dd.DeformableDETRConfig.preset("tiny", num_classes=1)
    detector = dd.Detector(dd.DeformableDETR(config), {1: "box"})
    boxes = torch.tensor([[40.0, 20, 120, 80], [3, 5, 198, 99]])
    target = detector.prepare_target(
        {"boxes": boxes, "labels": torch.ones(2, dtype=torch.int64)}, (100, 200)
    )
    converted = solutions.convert_boxes(boxes, "xyxy", "cxcywh", (100, 200), (7, 9))
    torch.testing.assert_close(target["boxes"], converted)
    assert target["boxes"][0].tolist() == pytest.approx([0.4, 0.5, 0.4, 0.6])


def test_other_styles_pass():
    def to_pixels_by_arrays(points, shape):
        return np.array(points) * np.array([shape[1], shape[0]]) - 0.5

    def to_pixels_by_lists(points, shape):
        return [[x * shape[1] - 0.5, (y - 0.5 / shape[0]) * shape[0]] for x, y in points.tolist()]

    def from_pixels_by_arrays(positions, shape):
        return (positions.numpy() + 0.5) / np.array(shape[::-1])

    def from_pixels_by_lists(positions, shape):
        return [((2 * x + 1) / (2 * shape[1]), (2 * y + 1) / (2 * shape[0])) for x, y in positions]

    def boxes_by_torchvision(boxes, source, target, old, new):
        if source != "cxcywh":
            boxes = boxes.float() / torch.tensor([old[1], old[0]] * 2)
        if target != "cxcywh":
            return box_convert(boxes, source, target) * torch.tensor([new[1], new[0]] * 2)
        return box_convert(boxes, source, target)

    def boxes_by_lists(boxes, source, target, old, new):
        converted = []
        for a, b, c, d in boxes.tolist():
            if source == "cxcywh":
                a, b, c, d = a * new[1], b * new[0], c * new[1], d * new[0]
                corner, size = (a - c / 2, b - d / 2), (c, d)
            else:
                fx, fy = new[1] / old[1], new[0] / old[0]
                corner = (a * fx, b * fy)
                size = (c * fx, d * fy) if source == "xywh" else ((c - a) * fx, (d - b) * fy)
            (x, y), (w, h) = corner, size
            if target == "xyxy":
                converted.append([x, y, x + w, y + h])
            elif target == "xywh":
                converted.append([x, y, w, h])
            else:
                centre = (x + w / 2) / new[1], (y + h / 2) / new[0]
                converted.append([*centre, w / new[1], h / new[0]])
        return converted

    def token_by_whole_numbers(row, column, size, shapes, level):
        h, w = shapes[level]
        found = (2 * row + 1) * h // (2 * size[0]), (2 * column + 1) * w // (2 * size[1])
        return np.int64(sum(a * b for a, b in shapes[:level]) + found[0] * w + found[1])

    def token_by_search(row, column, size, shapes, level):
        tokens = [
            (l, r, c) for l, (h, w) in enumerate(shapes) for r, c in np.ndindex(int(h), int(w))
        ]
        h, w = shapes[level]
        for number, (l, r, c) in enumerate(tokens):
            inside = r * size[0] / h <= row + 0.5 < (r + 1) * size[0] / h
            if l == level and inside and c * size[1] / w <= column + 0.5 < (c + 1) * size[1] / w:
                return torch.tensor(number)
        raise AssertionError("no token covers the pixel")

    def mend_by_slices(boxes, figure, size, original):
        if figure == "A":
            return boxes + ((boxes[:, 2:] - boxes[:, :2]) / 2).repeat(1, 2)
        if figure == "B":
            return boxes[:, [1, 0, 3, 2]]
        return boxes.view(-1, 2, 2) * flipped(size) / flipped(original)

    def mend_by_lists(boxes, figure, size, original):
        mended = []
        for x1, y1, x2, y2 in boxes.numpy().astype(np.float32):
            if figure == "A":
                x, y = (x1 + x2) / 2, (y1 + y2) / 2
                mended.append([x, y, x + x2 - x1, y + y2 - y1])
            elif figure == "B":
                mended.append([y1, x1, y2, x2])
            else:
                fx, fy = size[1] / original[1], size[0] / original[0]
                mended.append([x1 * fx, y1 * fy, x2 * fx, y2 * fy])
        return np.array(mended)

    for exercise, answer in [
        (checks.to_pixels, to_pixels_by_arrays),
        (checks.to_pixels, to_pixels_by_lists),
        (checks.from_pixels, from_pixels_by_arrays),
        (checks.from_pixels, from_pixels_by_lists),
        (checks.convert_boxes, boxes_by_torchvision),
        (checks.convert_boxes, boxes_by_lists),
        (checks.covering_token, token_by_whole_numbers),
        (checks.covering_token, token_by_search),
        (checks.mend_boxes, lambda *a: mend_by_slices(*a).reshape(-1, 4)),
        (checks.mend_boxes, mend_by_lists),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


# Planted faults.


@pytest.mark.parametrize("name", PLANTED)
def test_a_figure_shows_one_fault_and_no_other(name):
    image, drawn, original = drawn_wrong(name)
    right = right_boxes(name).boxes
    size = (image.height, image.width)
    assert size[0] != size[1]
    assert set(FAULTS) == set(checks.broken_convention.words)
    for word, fault in FAULTS.items():
        like_drawn = torch.diag(box_iou(fault(right, size, original), drawn)).min().item()
        if word == checks.broken_convention.solution[name]:
            assert like_drawn == pytest.approx(1)
        else:
            assert like_drawn < 0.4, word
    # No box is drawn where it belongs, and none where another object is.
    assert box_iou(right, drawn).max() < 0.4


@pytest.mark.parametrize("name", PLANTED)
def test_mended_boxes_enclose_their_objects(name):
    image, drawn, original = drawn_wrong(name)
    size = (image.height, image.width)
    mended = solutions.mend_boxes(drawn, name, size, original)
    torch.testing.assert_close(mended, right_boxes(name).boxes)
    seed, index, *_ = PLANTED[name]
    scene = draw_scene(seed, index)
    assert original == (scene.image.height, scene.image.width)
    factor = flipped(size) / flipped(original)
    torch.testing.assert_close(mended.float(), torch.tensor(scene.boxes) * factor.repeat(2))


def test_the_boxes_of_the_figures_are_tried():
    cases = checks.mend_boxes.cases()
    for name in PLANTED:
        image, drawn, original = drawn_wrong(name)
        boxes, *others = cases[f"figure {name}"]
        torch.testing.assert_close(boxes, drawn)
        assert others == [name, (image.height, image.width), original]


def test_every_wrong_word_is_answered_without_the_right_one():
    choice = checks.broken_convention
    wrong = [
        (name, word)
        for name, word in itertools.product(choice.solution, choice.words)
        if word != choice.solution[name]
    ]
    assert sorted(choice.against) == sorted(wrong)
    for (name, word), text in choice.against.items():
        message = choice.check({**choice.solution, name: word}).message
        assert f'{name}: "{word}" is not it: {text}' in message
        assert choice.solution[name] not in message
        assert choice.words[choice.solution[name]] not in text
    assert choice.check(choice.solution).passed


def test_the_answers_to_wrong_words_say_what_is_so():
    """Some of the statements about the figures, in numbers."""
    boxes = {name: drawn_wrong(name).boxes for name in PLANTED}
    right = {name: right_boxes(name).boxes for name in PLANTED}
    for name in PLANTED:  # "each box would have a corner at that of its object; none has"
        assert (boxes[name][:, :2] - right[name][:, :2]).abs().amax(1).min() > 5
    # A: boxes and objects have the same size, and the ring is the largest of them.
    torch.testing.assert_close(boxes["A"][:, 2:] - boxes["A"][:, :2], sizes_of(right["A"]))
    assert right["A"][2, 3] > 185 > right["A"][2, 1] > drawn_wrong("A").image.width
    # B: box 1 ends below the lowest object, and box 2 spans the columns of none.
    assert boxes["B"][1, 3] > right["B"][:, 3].max()
    assert not ((right["B"][:, 0] <= 31) & (right["B"][:, 2] >= 68)).any()
    ratio = sizes_of(boxes["B"])
    assert (ratio[:, 0] / ratio[:, 1] - 1).abs().max() < 0.06
    # C: all are too small, by about two thirds, and the star is the lowest object.
    shrunk = sizes_of(boxes["C"]) / sizes_of(right["C"])
    assert 0.6 < shrunk.min() <= shrunk.max() < 0.7
    assert right["C"][:, 3].argmax() == 1


def sizes_of(boxes):
    return boxes[:, 2:] - boxes[:, :2]


# What half a pixel costs.


def test_maps_are_read_elsewhere_inside_the_block_only():
    torch.manual_seed(0)
    layer = dd.MSDeformAttn(8, n_heads=2, n_levels=2, n_points=1, backend="naive")
    torch.nn.init.zeros_(layer.sampling_offsets.bias)
    shapes = [(3, 5), (2, 4)]
    references = torch.tensor([[[[0.4, 0.6]] * 2, [[0.7, 0.3]] * 2]])  # (1, 2, 2, 2)
    value, query = torch.randn(1, 23, 8), torch.randn(1, 2, 8)
    half = torch.tensor([[0.5 / 5, 0.5 / 3], [0.5 / 4, 0.5 / 2]])
    with torch.no_grad():
        expected = layer(query, references + half, value, shapes)
        with read_elsewhere(lambda locations, sizes: locations + 0.5 / sizes):
            moved = layer(query, references, value, shapes)
        torch.testing.assert_close(moved, expected)
        assert not torch.allclose(layer(query, references, value, shapes), expected)
    assert module.run_backend is run_backend


def test_the_share_of_objects_found():
    class Finds:
        def __init__(self, shift=0.0, label=0, score=0.9):
            self.shift, self.label, self.score = shift, label, score

        def predict(self, image, threshold):
            (scene,) = [s for s in scenes if s.image is image]
            keep = self.score >= threshold
            labels = torch.as_tensor(scene.labels) + self.label
            return {
                "boxes": torch.as_tensor(scene.boxes)[: len(labels) * keep] + self.shift,
                "labels": labels[: len(labels) * keep],
            }

    scenes = [draw_scene(TEST_SEED, index) for index in range(3)]
    assert share_found(Finds(), scenes) == 1
    assert share_found(Finds(shift=1000), scenes) == 0
    assert share_found(Finds(label=1), scenes) == 0
    assert share_found(Finds(score=0.2), scenes) == 0


def test_half_a_pixel_makes_the_shipped_detector_useless():
    detector = dd.load(shipped_checkpoint())
    scenes = [draw_scene(TEST_SEED, index) for index in range(4)]
    as_trained = share_found(detector, scenes)
    with read_elsewhere(lambda locations, sizes: locations + 0.5 / sizes):
        half_a_pixel_off = share_found(detector, scenes)
    assert as_trained >= 0.8
    assert half_a_pixel_off <= 0.1
    assert share_found(detector, scenes) == as_trained


def test_the_errors_of_the_layers_add_up():
    detector = dd.load(shipped_checkpoint())
    scenes = [draw_scene(TEST_SEED, index) for index in range(4)]
    model = detector.model
    readings = len(model.encoder.layers) + len(model.decoder.layers)
    assert readings == 5  # as many as the lesson's table takes turns
    turn = itertools.cycle([0.5, 0, 0, 0, 0])
    with read_elsewhere(lambda locations, sizes: locations + next(turn) / sizes):
        first_layer_off = share_found(detector, scenes)
    assert next(turn) == 0.5  # the images ended with a whole round
    assert first_layer_off >= 0.5  # in all layers: at most 0.1, above


def test_a_token_has_seen_the_left_part_of_what_it_covers():
    images = torch.randn(
        1, 3, 320, 384, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    torch.manual_seed(0)
    backbone = TinyBackbone().eval()
    for name, parameter in backbone.named_parameters():  # a fresh one skips its residual branches
        if name.endswith("norm2.weight"):
            torch.nn.init.ones_(parameter)
    for stride, feature_map in zip((8, 16, 32), backbone(images), strict=True):
        feature = feature_map[:, :, 160 // stride, 192 // stride].sum()
        (gradient,) = torch.autograd.grad(feature, images, retain_graph=True)
        seen = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
        assert (seen[0] + seen[-1] + 1).item() / 2 == 192.5
