"""Lesson 00: its programs show the symptoms that its text relies on."""

import pytest
import torch
from torchvision.ops import box_iou

import ddetr_edu as dd
from ddetr_edu.analysis.inspector import InspectorSession
from ddetr_edu.attention import encoder_reference_points
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course import checks
from ddetr_edu.course.exercises.lesson_00_faults import WORDS, FiveSteps
from ddetr_edu.data.scenes import draw_scene


@pytest.fixture(scope="module")
def programs():
    trace = dd.trace(dd.load(shipped_checkpoint()), draw_scene(seed=0, index=7).image)
    query, attention = trace.largest(), trace.attention(-1)
    programs = {name: FiveSteps(attention, query, name) for name in "ABCDEF"}
    return programs, attention.locations[0, query], attention.weights[0, query]


def named(fault: str) -> str:
    (name,) = [k for k, word in checks.broken_steps.solution.items() if word == fault]
    return name


def test_each_fault_changes_what_it_should_and_nothing_else(programs):
    programs, locations, weights = programs
    for name, program in programs.items():
        fault = checks.broken_steps.solution[name]
        moved = not torch.allclose(program.locations, locations)
        assert moved == (fault in ("locations", "offsets"))
        assert torch.equal(program.weights, weights) == (fault != "weights")
        right = programs[named("nothing")].offsets
        assert torch.equal(program.offsets, right) == (fault != "offsets")
    output = programs[named("aggregation")].output().view(-1, 4).T.flatten()
    assert torch.equal(output, programs[named("nothing")].output())


def test_the_table_tells_the_faults_apart(programs):
    symptoms = {name: program.symptoms() for name, program in programs[0].items()}
    rows = list(symptoms["A"])
    right, down, highest, total, to_the_right, below, change, of_head_0 = rows
    assert [row[0] for row in rows] == list("OOWWLLIA"), "in the order of the steps"
    normal = symptoms[named("nothing")]
    odd = {
        row: {name for name, s in symptoms.items() if s[row] != pytest.approx(normal[row], rel=0.1)}
        for row in rows
    }
    offsets, locations, weights = (named(x) for x in ("offsets", "locations", "weights"))
    assert odd[right] == odd[down] == {offsets}
    assert odd[total] == {weights} and symptoms[weights][total] == pytest.approx(3)
    assert odd[to_the_right] == odd[below] == {offsets, locations}
    assert symptoms[offsets][right] == symptoms[offsets][to_the_right] == 0
    assert odd[of_head_0] == {named("aggregation")} and normal[of_head_0] == 32
    assert symptoms[named("aggregation")][of_head_0] == 8
    # The nearest pixel jumps or stays; what lies between pixels follows a little.
    jump = symptoms[named("interpolation")][change]
    others = [s[change] for name, s in symptoms.items() if name != named("interpolation")]
    assert jump == 0 or jump > 3 * max(others)
    assert all(0 < s < 1 for s in others)
    # Offsets are counted in parts of the box, of which 4 reaches the edge: 3.54 / 4 of half of it.
    half = 100 * programs[0]["C"].reference[0, 0, 0, 2:] / 2
    expected = half * torch.tensor([normal[right], normal[down]]) / 4
    assert [normal[to_the_right], normal[below]] == pytest.approx(expected.tolist(), rel=1e-3)


def test_a_query_finds_another_object_of_its_size_only():
    scene = draw_scene(seed=0, index=7)
    detector = dd.load(shipped_checkpoint())
    session = InspectorSession(dd.trace(detector, scene.image))
    sizes = torch.tensor([scene.image.width, scene.image.height])
    boxes = torch.as_tensor(scene.boxes)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / sizes
    ring, blue, brown = 1, 2, 4
    detections = detector.predict(scene.image)
    overlaps = box_iou(detections["boxes"], boxes[[blue]].float())
    query = int(detections["queries"][overlaps.argmax()])
    assert overlaps.max() > 0.5
    found, not_found = (session.move_query(query, *centres[k].tolist()) for k in (brown, ring))
    assert found.scores[-1, 0] > 0.5 > 0.1 > not_found.scores[-1, 0]
    assert not_found.boxes[-1, 0, 2] < 0.6 * (boxes[ring, 2] - boxes[ring, 0]) / sizes[0]


def test_the_answers_that_the_reader_judges():
    """One object of eight is missing, and two classes are wrong."""
    scene = draw_scene(seed=0, index=7)
    found = dd.load(shipped_checkpoint()).predict(scene.image, threshold=0.5)
    overlaps = box_iou(found["boxes"], torch.as_tensor(scene.boxes))
    assert overlaps.max(1).values.min() > 0.5
    nearest = overlaps.argmax(1)
    assert len(nearest) == len(set(nearest.tolist())) == len(scene.boxes) - 1
    assert (found["labels"] != torch.as_tensor(scene.labels)[nearest]).sum() == 2


def test_words_are_explained():
    assert set(WORDS) == set(checks.broken_steps.words)


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
