"""Lesson 00: its programs show the symptoms that its text relies on."""

import pytest
import torch

import ddetr_edu as dd
from ddetr_edu.attention import encoder_reference_points
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course import checks
from ddetr_edu.course.exercises.lesson_00_faults import WORDS, FiveSteps
from ddetr_edu.data.scenes import draw_scene


@pytest.fixture(scope="module")
def programs():
    trace = dd.trace(dd.load(shipped_checkpoint()), draw_scene(seed=0, index=7).image)
    query, attention = trace.largest(), trace.attention(-1)
    programs = {name: FiveSteps(attention, query, name) for name in "ABCDE"}
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
    assert programs[named("weights")].weights.unique().numel() == 1
    dx_dy = programs[named("locations")].offsets
    torch.testing.assert_close(dx_dy.flip(-1), programs[named("nothing")].offsets)


def test_the_table_tells_the_faults_apart(programs):
    symptoms = {name: program.symptoms() for name, program in programs[0].items()}
    distance, highest, total, numbers, change = symptoms["A"]
    of = lambda fault: symptoms[named(fault)]  # noqa: E731
    others = [s for name, s in symptoms.items() if name != named("interpolation")]
    # The nearest pixel jumps or stays; what lies between pixels follows a little.
    jump = of("interpolation")[change]
    assert jump == 0 or jump > 3 * max(s[change] for s in others)
    assert all(0 < s[change] < 1 for s in others)
    assert of("offsets")[distance] == 0 < of("nothing")[distance]
    assert of("locations")[distance] == pytest.approx(of("nothing")[distance], rel=0.3)
    assert of("weights")[highest] == pytest.approx(1 / 12)
    assert of("nothing")[highest] > 0.2
    assert all(s[total] == pytest.approx(1) and s[numbers] == 128 for s in symptoms.values())


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
