"""Lesson 08: what its text relies on, its exercises in other styles, and its planted faults."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import ddetr_edu as dd
from ddetr_edu.attention import encoder_reference_points, valid_ratios
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course import checks
from ddetr_edu.course.batch_comparison import compare_detections
from ddetr_edu.course.exercises import lesson_08_faults as faults
from ddetr_edu.course.forget_padding import FAULTS, forgetting
from ddetr_edu.course.padding_symptoms import observe
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.models.decoder import scale_to_levels
from ddetr_edu.models.norms import resize_mask
from ddetr_edu.models.preprocessing import make_batch, to_floats

ON_A_CIRCLE = (0.87, 0.56)  # of the tall image


@pytest.fixture(scope="module")
def images():
    """A wide one, a tall one, one as large as the tall one, and a square one."""
    return [to_floats(held_out_scenes()[i][0]) for i in (18, 138, 7, 192)]


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def detector():
    return dd.load(shipped_checkpoint()).eval()


@pytest.fixture(scope="module")
def ignoring(detector):
    config = dataclasses.replace(detector.model.config, ignore_padding=True)
    model = dd.DeformableDETR(config)
    model.load_state_dict(detector.model.state_dict())
    return dd.Detector(model, detector.categories, detector.resize).eval()


@pytest.fixture(scope="module")
def symptoms(ignoring, images):
    return {fault: observe(ignoring, images[:2], 1, ON_A_CIRCLE, fault) for fault in FAULTS}


# The exercises.


def test_the_solutions_agree_with_the_library():
    rule = ResizeConfig(short_side=5, long_side=12)
    for (sizes,) in checks.padding_mask.cases().values():
        _, mask = make_batch([torch.rand(3, h, w) for h, w in sizes], rule)
        resized = [rule.fit(h, w) for h, w in sizes]
        torch.testing.assert_close(checks.padding_mask.solution(resized), mask)
    for mask, shape in checks.valid_ratio.cases().values():
        expected = valid_ratios([resize_mask(mask, shape)])[:, 0]
        torch.testing.assert_close(checks.valid_ratio.solution(mask, shape), expected)
    for arguments in checks.scale_to_levels.cases().values():
        expected = scale_to_levels(*arguments)
        torch.testing.assert_close(checks.scale_to_levels.solution(*arguments), expected)


def test_right_answers_in_other_styles():
    def mask_by_comparison(sizes):
        heights, widths = np.array(sizes).T
        rows, columns = np.arange(heights.max())[:, None], np.arange(widths.max())
        return (rows >= heights[:, None, None]) | (columns >= widths[:, None, None])

    def mask_by_loops(sizes):
        height, width = (max(sides) for sides in zip(*sizes, strict=True))
        return [
            [[int(y >= h or x >= w) for x in range(width)] for y in range(height)] for h, w in sizes
        ]

    def ratio_by_rounding_up(mask, shape):
        sides = np.array(mask.shape[:0:-1])
        tokens = np.array(shape[::-1])
        image = torch.stack([(~mask[:, 0]).sum(1), (~mask[:, :, 0]).sum(1)], dim=1).numpy()
        return -(-image * tokens // sides) / tokens

    def ratio_of_resized(mask, shape):
        valid = ~resize_mask(mask, shape)
        return [[v.any(0).float().mean(), v.any(1).float().mean()] for v in valid]

    def scaled_by_loops(references, ratios):
        n, lq, numbers = references.shape
        result = np.zeros((n, lq, ratios.shape[1], numbers))
        for i, q, l, k in np.ndindex(*result.shape):
            result[i, q, l, k] = references[i, q, k] * ratios[i, l, k % 2]
        return result

    def scaled_by_einsum(references, ratios):
        pairs = references.unflatten(-1, (-1, 2))
        return torch.einsum("nqkc,nlc->nqlkc", pairs, ratios).flatten(-2)

    for exercise, answer in [
        (checks.padding_mask, mask_by_comparison),
        (checks.padding_mask, mask_by_loops),
        (checks.valid_ratio, ratio_by_rounding_up),
        (checks.valid_ratio, ratio_of_resized),
        (checks.scale_to_levels, scaled_by_loops),
        (checks.scale_to_levels, scaled_by_einsum),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


# What the text relies on.


def test_by_hand():
    padding_mask = torch.ones(1, 16, 64, dtype=torch.bool)
    padding_mask[:, :, :24] = False
    shapes = [(2, 8), (1, 4)]
    ratios = valid_ratios([resize_mask(padding_mask, shape) for shape in shapes])
    assert ratios[0, :, 0].tolist() == [3 / 8, 2 / 4]
    token = encoder_reference_points(shapes, ratios)[0, 1, :, 0]
    assert (token * torch.tensor([8, 4]) - 0.5).tolist() == [1, 0.5]
    alone = encoder_reference_points([(2, 3), (1, 2)], torch.ones(1, 2, 2))[0, 1, :, 0]
    assert (alone * torch.tensor([3, 2]) - 0.5).tolist() == [1, 0.5]
    without = encoder_reference_points(shapes, torch.ones(1, 2, 2))[0, 1, :, 0]
    assert (without * torch.tensor([8, 4]) - 0.5).tolist() == [1, 0.25]


def test_what_is_found_again(detector, images):
    wide, tall, *_ = images
    alone = detector([tall])[0]
    found = {}
    for fault in ("nowhere", "no mask", "decoder ratios"):
        with forgetting(detector.model, fault):
            found[fault] = compare_detections(alone, detector([wide, tall])[1])
    assert [each.known for each in found.values()] == [8, 8, 8]
    assert [each.found_again for each in found.values()] == [7, 7, 2]
    beside_wide = detector([wide, tall])[1]
    beside_grey = detector([torch.full_like(wide, 0.5), tall])[1]
    assert compare_detections(beside_wide, beside_grey).score_change < 1e-5


def test_ratios_cancel_in_the_encoder_if_all_sides_are_multiples_of_32(detector, images):
    moved = {}
    for multiple_of in (32, 1):
        rule = ResizeConfig(192, 224, multiple_of=multiple_of)
        batch, mask = make_batch(images[:2], rule)
        shapes = [tuple(level.shape[2:]) for level in detector.model.project(batch, mask)]
        ratios = valid_ratios([resize_mask(mask, shape) for shape in shapes])
        ones = torch.ones_like(ratios)
        difference = encoder_reference_points(shapes, ratios) - encoder_reference_points(
            shapes, ones
        )
        of_levels = difference.abs().amax((0, 3)).split([h * w for h, w in shapes])
        moved[multiple_of] = torch.stack([tokens.amax(0) for tokens in of_levels])  # (L, L)
    assert moved[32].max() < 1e-6
    assert moved[1].diagonal().max() < 1e-6
    assert moved[1][0, 2] * 223 > 10 and moved[1][2, 0] * 223 > 10


def test_group_norms_over_the_padding_change_the_tokens(detector, ignoring, images):
    for model, expected in ((detector.model, 0.16), (ignoring.model, 0.0)):
        alone = model.project(*make_batch(images[1:2], detector.resize))
        batched = model.project(*make_batch(images[:2], detector.resize))
        changes = []
        for one, other in zip(alone, batched, strict=True):
            difference = one[0] - other[1, :, : one.shape[2], : one.shape[3]]
            changes.append((difference.norm(dim=0) / one[0].norm(dim=0)).flatten())
        assert torch.cat(changes).median().item() == pytest.approx(expected, abs=0.005)


def test_rounding_of_sides_keeps_the_promise_of_ignore_padding(ignoring, images):
    changes = []
    for multiple_of in (1, 32):
        rule = ResizeConfig(192, 200, multiple_of=multiple_of)
        there = dd.Detector(ignoring.model, ignoring.categories, rule).eval()
        alone, batched = there(images[1:2])[0], there(images[:2])[1]
        changes.append(compare_detections(alone, batched).score_change)
    assert changes[0] > 0.1 and changes[1] < 1e-5


# The planted faults.


def test_only_the_right_words_pass():
    right = dict(faults.VERSIONS)
    assert checks.padding_faults.check(right).passed
    for version, word in itertools.product(right, faults.FAULTS):
        if word != right[version]:
            passed, message, _ = checks.padding_faults.check({**right, version: word})
            assert not passed
            assert faults.SEEN[version] in message
            assert f'"{right[version]}"' not in message
            assert faults.FAULTS[right[version]].means not in message


def test_every_word_is_a_way_to_forget_and_each_version_has_a_fault():
    assert list(faults.FAULTS) == ["nothing", *list(FAULTS)[1:]]
    assert set(faults.VERSIONS.values()) <= set(faults.FAULTS) - {"nothing"}


def test_each_fault_shows_what_its_description_says(symptoms):
    right = symptoms["nowhere"]

    def differs(fault: str) -> list[str]:
        """What is wrong, in the order of time."""
        seen = symptoms[fault]
        wrong = []
        if (seen.proposal - right.proposal).abs().max() > 5:
            wrong.append("proposal")
        for layer in (0, 2):
            if (seen.points[layer] - right.points[layer]).abs().max() > 0.1:
                wrong.append(f"points {layer}")
        if max(abs(a - b) for a, b in zip(seen.scores, right.scores, strict=True)) > 0.02:
            wrong.append("scores")
        if (seen.box - right.box).abs().max() > 5:
            wrong.append("box")
        return wrong

    assert differs("no mask") == differs("mask too early") == differs("encoder ratios") == []
    assert differs("boxes") == ["box"]
    assert differs("later layers")[:2] == ["points 2", "scores"]
    assert differs("decoder ratios")[:3] == ["points 0", "points 2", "scores"]
    assert differs("ratios swapped")[:3] == ["points 0", "points 2", "scores"]
    assert differs("proposals")[:2] == ["proposal", "points 0"]
    assert differs("whole batch") == ["proposal"]
    differences = [a - b for a, b in zip(symptoms["whole batch"].scores, right.scores, strict=True)]
    assert max(map(abs, differences[1:-1])) > 0.005 and abs(differences[-1]) < 0.01

    # The two that move the points of all layers differ in y.
    x, y = right.points[0].mean(0)
    ratio = 160 / 224
    torch.testing.assert_close(
        symptoms["decoder ratios"].points[0].mean(0), torch.stack([x / ratio, y])
    )
    torch.testing.assert_close(
        symptoms["ratios swapped"].points[0].mean(0), torch.stack([x / ratio, y * ratio])
    )
    # And those of the mask in what the padding holds.
    assert right.padded_values == symptoms["encoder ratios"].padded_values == (0, 0)
    shortest, longest = symptoms["mask too early"].padded_values
    assert 0.1 < shortest < longest < 0.2
    assert symptoms["no mask"].padded_values[1] > 10


def test_an_experiment_decides_where_figure_and_table_do_not(ignoring, images, symptoms):
    def alike(fault: str) -> set[str]:
        """The faults that the figure and the table of the lesson do not tell from this one."""
        drawn = torch.cat([symptoms[fault].proposal, symptoms[fault].box])
        return {
            other
            for other, seen in symptoms.items()
            if (torch.cat([seen.proposal, seen.box]) - drawn).abs().max() < 0.1
            and [round(s, 2) for s in seen.scores] == [round(s, 2) for s in symptoms[fault].scores]
        }

    assert alike("first image") == {"ratios swapped", "first image"}
    assert alike("nowhere") == {"nowhere", "mask too early", "encoder ratios"}
    for clear in ("later layers", "whole batch"):
        assert alike(clear) == {clear}

    # In the wide image, which is image 0, swapped ratios are wrong, and those of image 0 right.
    on_the_circle = (0.735, 0.38)
    ways = ("nowhere", "first image", "ratios swapped")
    right, first, swapped = (
        observe(ignoring, images[:2], 0, on_the_circle, fault) for fault in ways
    )
    assert torch.equal(first.points[0], right.points[0]) and first.scores == right.scores
    x, y = right.points[0].mean(0)  # not multiplied by 1 and 160/224, but by these swapped
    ratio = 160 / 224
    torch.testing.assert_close(swapped.points[0].mean(0), torch.stack([x * ratio, y / ratio]))

    # The ratios of the encoder show where those of the levels differ, more so in a smaller batch.
    for long_side, least in ((224, 0.0005), (200, 0.1)):
        rule = ResizeConfig(192, long_side, multiple_of=1)
        unrounded = dd.Detector(ignoring.model, ignoring.categories, rule).eval()
        last = {
            fault: observe(unrounded, images[:2], 1, ON_A_CIRCLE, fault).scores[-1]
            for fault in ("nowhere", "encoder ratios", "mask too early")
        }
        assert abs(last["encoder ratios"] - last["nowhere"]) > least
        assert abs(last["mask too early"] - last["nowhere"]) < 0.005


def test_the_test_of_the_lesson_finds_all_faults_but_one(ignoring, images):
    wide, tall, same_size, square = (image.double() for image in images)
    model = dd.DeformableDETR(ignoring.model.config).double()
    model.load_state_dict(ignoring.model.state_dict())
    exact = dd.Detector(model, ignoring.categories, ignoring.resize).eval()
    alone = exact([tall])[0]
    passing: dict[str, set] = {"same size": set(), "wide": set()}
    for fault, (name, other) in itertools.product(
        FAULTS, {"same size": same_size, "wide": wide}.items()
    ):
        with forgetting(model, fault):
            if compare_detections(alone, exact([other, tall])[1]).score_change <= 1e-9:
                passing[name].add(fault)
    assert passing == {"same size": set(FAULTS), "wide": {"nowhere", "encoder ratios"}}
    with forgetting(model, "whole batch"):
        assert compare_detections(alone, exact([wide, tall])[1]).found_again == 7
    with forgetting(model, "ratios swapped"):
        batched = exact([wide, tall, square])[2]
    assert compare_detections(exact([square])[0], batched).score_change <= 1e-9


def test_a_model_remembers_the_padding_afterwards(ignoring, images):
    before = ignoring(images[:2])[1]["scores"]
    for fault in FAULTS:
        with pytest.raises(KeyError), forgetting(ignoring.model, fault):
            raise KeyError
    assert torch.equal(ignoring(images[:2])[1]["scores"], before)
    with (
        pytest.raises(ValueError, match='fault "mask" does not exist; choose one of nowhere, no'),
        forgetting(ignoring.model, "mask"),
    ):
        pass


def test_detections_are_compared_with_the_most_similar_ones():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [60, 0, 70, 10]])
    alone = {
        "boxes": boxes,
        "labels": torch.tensor([1, 2, 3]),
        "scores": torch.tensor([0.9, 0.8, 0.4]),
    }
    assert compare_detections(alone, alone) == (2, 2, 0, 0, pytest.approx([0.9, 0.8]))
    batched = {
        "boxes": torch.tensor([[0.0, 0, 10, 11], [0, 0, 10, 10], [20, 20, 40, 40]]),
        "labels": torch.tensor([1, 1, 5]),  # a duplicate of low score, and another class
        "scores": torch.tensor([0.7, 0.1, 0.8]),
    }
    compared = compare_detections(alone, batched)
    assert (compared.known, compared.found_again) == (2, 1)
    assert compared.scores == pytest.approx([0.7, 0])
    assert compared.score_change == pytest.approx(0.8) and compared.box_change == 1
