"""Lesson 00: its programs have the faults that experiments find, and its text is true."""

import pytest
import torch
from torchvision.ops import box_iou

import ddetr_edu as dd
from ddetr_edu.analysis.inspector import InspectorSession
from ddetr_edu.attention import encoder_reference_points, ms_deform_attn
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course import checks
from ddetr_edu.course.exercises.lesson_00_colours import attend_to_colours
from ddetr_edu.course.exercises.lesson_00_faults import FiveSteps, encoder_query
from ddetr_edu.data.scenes import draw_scene


@pytest.fixture(scope="module")
def given():
    detector, scene = dd.load(shipped_checkpoint()), draw_scene(seed=0, index=7)
    return encoder_query(detector, scene.image, x=0.51, y=0.72)


@pytest.fixture(scope="module")
def programs(given):
    names = checks.broken_steps.solution
    return {name: FiveSteps(given.attention, given.spatial_shapes, name) for name in names}


def changes_with_the_query(program, given):
    """Step O."""
    other = torch.randn(given.query.shape, generator=torch.Generator().manual_seed(0))
    return not torch.equal(program.offsets(given.query), program.offsets(other))


def adds_up_to_one(program, given):
    """Step W."""
    return torch.allclose(program.weights(given.query).sum((1, 2)), torch.ones(4))


def one_pixel_arrives_as_one_pixel(program, given):
    """Step L."""
    moved = program.locations(given.reference, torch.ones(4, 3, 4, 2)) - given.reference
    in_pixels = moved * torch.tensor([(w, h) for h, w in given.spatial_shapes])[:, None]
    return torch.allclose(in_pixels, torch.ones(4, 3, 4, 2), atol=1e-4)


def follows_a_small_movement(program, given):
    """Step I."""
    locations = given.reference + torch.rand(4, 3, 4, 2) / 10
    read, then = (program.interpolation(given.maps, locations + d) for d in (0, 0.001))
    return bool(0 < (read - then).abs().max() < 0.5)


def keeps_heads_apart(program, given):
    """Step A."""
    samples = torch.zeros(4, 3, 4, 32)
    samples[0] = 1
    output = program.aggregation(samples, torch.full((4, 3, 4), 1 / 12))
    return torch.allclose(output, torch.cat([torch.ones(32), torch.zeros(96)]))


EXPERIMENTS = {
    "offsets": changes_with_the_query,
    "weights": adds_up_to_one,
    "locations": one_pixel_arrives_as_one_pixel,
    "interpolation": follows_a_small_movement,
    "aggregation": keeps_heads_apart,
}


def test_one_experiment_for_each_step_finds_every_fault_and_no_other(programs, given):
    torch.manual_seed(0)
    for name, program in programs.items():
        broken = [step for step, works in EXPERIMENTS.items() if not works(program, given)]
        assert (broken or ["nothing"]) == [checks.broken_steps.solution[name]], name


def test_without_a_fault_the_steps_are_the_attention(programs, given):
    right = programs["C"]
    locations = right.locations(given.reference, right.offsets(given.query))
    samples = right.interpolation(given.maps, locations)
    output = right.aggregation(samples, right.weights(given.query))
    # The same query at the same reference in the model, whose value projection is in the maps.
    value = torch.cat([of_level.flatten(2) for of_level in given.maps], dim=2)  # (M, D, S)
    expected = ms_deform_attn(
        value.permute(2, 0, 1)[None],
        given.spatial_shapes,
        locations[None, None],
        right.weights(given.query)[None, None],
    )
    assert torch.allclose(output, expected[0, 0], atol=1e-5)


def test_what_nearest_pixels_read_jumps_for_a_few_points(programs, given):
    changed = {}
    for name in "BC":
        program = programs[name]
        locations = program.locations(given.reference, program.offsets(given.query))
        read, then = (program.interpolation(given.maps, locations + d) for d in (0, 0.005))
        changed[name] = ((read - then).abs().amax(-1) > 1e-6).sum().item()
    assert 0 < changed["B"] <= 8 < 40 < changed["C"] <= 48


def test_faults_show_in_the_figure_or_not_at_all(programs, given):
    """Four panels differ from the others: those of a fault in one of the first three steps."""
    right = programs["C"]
    locations = right.locations(given.reference, right.offsets(given.query))
    for name, program in programs.items():
        same = torch.allclose(
            program.locations(given.reference, program.offsets(given.query)), locations
        )
        same &= torch.allclose(program.weights(given.query), right.weights(given.query))
        hidden = checks.broken_steps.solution[name] in ("interpolation", "aggregation", "nothing")
        assert same == hidden, name


def test_the_attention_to_colours_is_the_sum_of_what_it_reads():
    steps = attend_to_colours(
        draw_scene(seed=0, index=7).image, (16, 12), row=11, column=6, seed=13
    )
    torch.testing.assert_close((steps.weights[..., None] * steps.samples).sum(1), steps.output)
    assert torch.allclose(steps.weights.sum(1), torch.ones(2))
    assert steps.offsets[0, 1].tolist() == pytest.approx([3.0, -1.5], abs=0.05)
    assert steps.weights[0, 1].item() == pytest.approx(0.62, abs=0.005)
    assert steps.weights[1].max() > 0.75, "most of head 1 comes from the large triangle"
    centre = torch.tensor([6.5, 11.5])
    torch.testing.assert_close(steps.locations * torch.tensor([12, 16]), centre + steps.offsets)


def test_a_query_finds_another_object_of_its_size_only():
    scene = draw_scene(seed=0, index=7)
    detector = dd.load(shipped_checkpoint())
    session = InspectorSession(dd.trace(detector, scene.image))
    sizes = torch.tensor([scene.image.width, scene.image.height])
    boxes = torch.as_tensor(scene.boxes)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / sizes
    large, blue, circle = 0, 2, 3
    detections = detector.predict(scene.image)
    overlaps = box_iou(detections["boxes"], boxes[[circle]].float())
    query = int(detections["queries"][overlaps.argmax()])
    assert overlaps.max() > 0.5
    found, not_found = (session.move_query(query, *centres[k].tolist()) for k in (blue, large))
    assert found.scores[-1, 0] > 0.5 > 0.1 > not_found.scores[-1, 0]
    share = not_found.boxes[-1, 0, 2:] / ((boxes[large, 2:] - boxes[large, :2]) / sizes).numpy()
    assert (share > 0.4).all() and (share < 0.6).all(), "half as wide and high as the triangle"


def test_the_answers_that_the_reader_judges():
    """No object of eight is missing, one has two classes, and two classes are wrong."""
    scene = draw_scene(seed=0, index=7)
    found = dd.load(shipped_checkpoint()).predict(scene.image, threshold=0.5)
    overlaps = box_iou(found["boxes"], torch.as_tensor(scene.boxes))
    assert overlaps.max(1).values.min() > 0.5
    nearest = overlaps.argmax(1)
    assert len(nearest) - 1 == len(set(nearest.tolist())) == len(scene.boxes)
    assert len(found["queries"].unique()) == len(scene.boxes), "one query has given two answers"
    assert (found["labels"] != torch.as_tensor(scene.labels)[nearest]).sum() == 2


def test_the_example_by_hand():
    shapes = [(8, 12), (4, 6), (2, 3), (1, 2)]
    references = encoder_reference_points(shapes, torch.ones(1, 4, 2))
    assert references.shape[1] == 128 == checks.count_tokens.solution(64, 96)
    assert checks.locate_token.solution(100, shapes) == (1, 0, 4)
    assert references[0, 100, 1].tolist() == [0.75, 0.125]


def test_right_answers_in_other_styles():
    def by_listing(index, spatial_shapes):
        everything = [
            [level, row, column]
            for level, (height, width) in enumerate(spatial_shapes)
            for row in range(height)
            for column in range(width)
        ]
        return everything[index]

    def by_tensors(index, spatial_shapes):
        sizes = torch.tensor([height * width for height, width in spatial_shapes])
        level = int((sizes.cumsum(0) <= index).sum())
        rest = index - int(sizes[:level].sum())
        return torch.tensor([level, *divmod(rest, spatial_shapes[level][1])])

    for answer in (by_listing, by_tensors):
        result = checks.locate_token.check(answer)
        assert result.passed, result.message
