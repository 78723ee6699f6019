"""Lesson 17: the verdicts, trials that can turn out otherwise, exercises in other styles."""

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ddetr_edu.attention import (
    MSDeformAttn,
    aggregate,
    bilinear_sample,
    initial_offsets,
    ms_deform_attn,
    sampling_locations,
)
from ddetr_edu.course import (
    checks,
    claims_counts,
    claims_geometry,
    claims_model,
    claims_operation,
    claims_reported,
    claims_training,
)
from ddetr_edu.course.claim import (
    CONDITION,
    HOLDS,
    WORDS,
    WRONG,
    agrees,
    count_right,
    decide,
    list_verdicts,
    read_vote,
)
from ddetr_edu.course.claim_themes import THEMES
from ddetr_edu.course.exercises import lesson_17_mystery as mystery
from ddetr_edu.course.exercises.lesson_17 import trial_with
from ddetr_edu.course.locating import RIGHT
from ddetr_edu.course.locating import WRONG as WRONG_PROGRAMS
from ddetr_edu.models.position import sinusoids

# The words expected by number; what is not here is wrong.
EXPECTED = {
    **dict.fromkeys((30, 31, 33, 34), HOLDS),
    **dict.fromkeys((4, 7, 12, 18, 24, 25, 35), CONDITION),
}
CLAIMS = {claim.number: claim for claims in THEMES.values() for claim in claims}


def test_each_claim_occurs_once():
    numbers = [claim.number for claims in THEMES.values() for claim in claims]
    assert sorted(numbers) == list(range(1, 36))
    assert all(claim.statement.endswith(".") for claim in CLAIMS.values())


@pytest.mark.parametrize("number", sorted(CLAIMS))
def test_the_verdict_is_the_expected_one(number):
    word, because = CLAIMS[number].trial()
    assert word == EXPECTED.get(number, WRONG)
    assert any(digit.isdigit() for digit in because) and because.endswith(".")


@pytest.mark.parametrize(
    ("number", "part"),
    [
        (1, "0, 0, 0 and 0 degrees"),
        (2, "1.41 times"),
        (3, "1 to 4 pixels"),
        (5, "3.0, 6.1, 12.1 and 22.9 %"),
        (6, "0 are right with floor and ceil of the normalised (x, y), and 100 with"),
        (7, "gives 27.0; as a fraction of the map, which a sampling location is, it gives 29.0"),
        (8, "19,947 tokens"),
        (9, "1,247 times"),
        (10, "83,333"),
        (11, "0.125 on average; those of the library sum to 1.000"),
        (14, "IndexError; in each of 8 images, it gives the shape (8, 4, 5, 4)"),
        (17, "8, 16, 32, 64"),
        (20, "takes 183: backbone 78, input projection 5, encoder 90, decoder and heads 10"),
        (21, "1e-05"),
        (24, "of 1 layer if boxes are detached, of 2 with DINO's look forward twice, and of 3"),
        (25, "6 box heads with iterative refinement; without it they have 1"),
        (32, "300 queries in one stage and 300 in two"),
        (33, "4,096"),
    ],
)
def test_the_numbers_that_the_text_relies_on(number, part):
    assert part in CLAIMS[number].trial().because


# Trials that meet another implementation: of most of them, the claim is true.


def attention_with(change) -> MSDeformAttn:
    attention = MSDeformAttn()
    with torch.no_grad():
        change(attention)
    return attention


def direction_by_point(n_heads, n_levels, n_points):
    star = initial_offsets(n_heads, n_levels, n_points)[:n_points, :1, :1]  # (P, 1, 1, 2)
    return star.permute(1, 2, 0, 3).repeat(n_heads, n_levels, 1, 1)


def circle(*sizes):
    star = initial_offsets(*sizes)
    return star / star.norm(dim=-1, keepdim=True)


def clamped(*arguments):
    return sampling_locations(*arguments).clamp(0, 1)


def floor_and_ceil(feature_map, x, y):
    value = claims_geometry.read_at_floor_and_ceil(feature_map, x, y)
    return torch.tensor(value, dtype=torch.float64)


def sample_in_pixels(feature_map, x, y):
    height, width, _ = feature_map.shape
    return bilinear_sample(feature_map, (x + 0.5) / width, (y + 0.5) / height)


def plain_sum(references, offsets, shapes):
    return references[:, :, None, :, None] + offsets


def height_first(references, offsets, shapes):
    return sampling_locations(references, offsets, [(w, h) for h, w in shapes])


def one_softmax(scores):
    return scores.flatten(2).softmax(-1).view_as(scores)


def sizes_of_images(value, shapes, locations, weights):
    if len(shapes) != len(value):
        raise ValueError
    return ms_deform_attn(value, [(4, 6), (2, 3)], locations, weights)


def pixel_number(mask, d_model):
    x = torch.arange(mask.shape[2]) / 6.283 + 0 * mask[:, :1].float()  # not normalised
    return sinusoids(x, d_model).permute(0, 3, 1, 2)


FASTER = claims_reported.Reported(epochs=50, ap=44.5, fps=60.0)


def as_stated(height, width):
    return [], {"a": 100.0, "b": 40.0, "c": 30.0, "d": 3.0}


def half_of_them(height, width):
    return [], {"a": 50.0, "b": 20.0, "c": 15.0, "d": 1.5}


def along_the_queries(boxes, queries):
    return boxes.gather(1, queries[..., None].expand(-1, -1, 4))


def cross_entropy(logits, labels):
    return -logits.log_softmax(-1)[:, labels]


def highest_total(logits, boxes, target):
    from ddetr_edu.losses.matcher import LossWeights, matching_cost

    cost = matching_cost(logits, boxes, target["labels"], target["boxes"], LossWeights())
    objects = torch.arange(cost.shape[1])
    ways = itertools.permutations(range(len(cost)), len(objects))
    return torch.tensor(max(ways, key=lambda queries: cost[list(queries), objects].sum().item()))


OTHERWISE = {
    1: [(HOLDS, (direction_by_point,))],
    2: [(HOLDS, (circle,))],
    3: [(HOLDS, (attention_with(lambda a: a.sampling_offsets.bias.zero_()),))],
    4: [
        (HOLDS, (lambda s, w: aggregate(s, w).unflatten(-1, (8, -1)).sum(-2),)),
        (
            WRONG,
            (lambda s, w: aggregate(s, w).unflatten(-1, (8, -1)).transpose(-1, -2).flatten(2),),
        ),
    ],
    5: [(HOLDS, (clamped,))],
    6: [(HOLDS, (floor_and_ceil,))],
    7: [(HOLDS, (sample_in_pixels,)), (WRONG, (lambda m, x, y: bilinear_sample(m, y, x),))],
    8: [(HOLDS, (lambda h, w: [(h // s, w // s) for s in (8, 16, 32, 64)],))],
    9: [(HOLDS, (lambda n: (155 * 128, 128),))],
    10: [(HOLDS, (lambda n: (80 * 128, 128),))],
    11: [(HOLDS, (one_softmax,))],
    12: [(HOLDS, (plain_sum,)), (WRONG, (height_first,)), (CONDITION, (height_first, (9, 9)))],
    13: [(HOLDS, (lambda *a: claims_training.box_of_a_target(*a)[[0, 1, 3, 2]],))],
    14: [(HOLDS, (along_the_queries,))],
    15: [(HOLDS, (cross_entropy, highest_total)), (WRONG, (cross_entropy,))],
    16: [
        (
            HOLDS,
            (
                nn.ModuleDict(
                    {"class_head": nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))}
                    | {"bbox_head": nn.Linear(2, 4)}
                ),
            ),
        )
    ],
    17: [(HOLDS, (lambda: [4, 8, 16, 32],))],
    18: [
        (HOLDS, (claims_reported.OFFICIAL_TABLE, 44.5)),
        (WRONG, ({n: r._replace(ap=40.0) for n, r in claims_reported.OFFICIAL_TABLE.items()},)),
    ],
    19: [(HOLDS, ({**claims_reported.OFFICIAL_TABLE, "Deformable DETR": FASTER},))],
    20: [(HOLDS, (half_of_them,)), (CONDITION, (as_stated,))],
    21: [(HOLDS, (lambda x: torch.log(x.clamp(min=1e-6) / (1 - x).clamp(min=1e-6)),))],
    22: [(HOLDS, (pixel_number,))],
    23: [
        (HOLDS, (lambda shape: torch.full((8, *shape), float(shape[0])), lambda embedding: (9, 10)))
    ],
    24: [
        (HOLDS, (claims_training.layers_reached, lambda: dict(once=1.0, twice=2.0, always=3.0))),
        (WRONG, (claims_training.layers_reached, lambda: dict(once=2.0, twice=1.0))),
    ],
    25: [(HOLDS, (lambda refine: (6, 6),)), (WRONG, (lambda refine: (1, 6),))],
    26: [(HOLDS, (sizes_of_images,))],
    27: [
        (
            HOLDS,
            (
                lambda seed: (
                    [(2, 3)],
                    torch.rand(6, 2, generator=torch.Generator().manual_seed(seed)),
                ),
            ),
        )
    ],
    28: [(HOLDS, (claims_operation.dense_attention_output,))],
    29: [(HOLDS, (SimpleNamespace(value_proj=SimpleNamespace(out_features=512), n_heads=8),))],
    30: [(WRONG, (lambda s, w: aggregate(s, w.flip(-1)),))],
    31: [(WRONG, (lambda s, w: aggregate(s, w.flip(-1)),))],
    32: [(HOLDS, (lambda preset: 100 if "two" in preset else 300,))],
    33: [(WRONG, (MSDeformAttn(256, 8, 4, 8),))],
    34: [(WRONG, (height_first,)), (WRONG, (plain_sum,))],
}


@pytest.mark.parametrize("number", sorted(OTHERWISE))
def test_another_implementation_gets_another_verdict(number):
    for word, implementation in OTHERWISE[number]:
        assert CLAIMS[number].trial(*implementation).word == word


def test_without_self_attention_there_are_many_duplicates():
    detector = copy.deepcopy(claims_training.shipped_detector())
    for layer in detector.model.decoder.layers:
        nn.init.zeros_(layer.self_attn.out_proj.weight)
        nn.init.zeros_(layer.self_attn.out_proj.bias)
    assert claims_training.try_without_nms(detector).word == WRONG


def test_all_trials_but_none_can_turn_out_otherwise():
    assert set(OTHERWISE) | {35} == set(CLAIMS)


# Rules, votes and what is printed.


def test_the_rule():
    assert decide(True, "1.", on_condition=True) == (HOLDS, "1.")
    assert decide(False, "1.", on_condition=True) == (CONDITION, "1.")
    assert decide(False, "1.") == (WRONG, "1.")


def test_votes_are_read_in_any_case_and_by_their_first_letter():
    assert [read_vote(vote) for vote in (None, "Holds ", "c", "WRO")] == [None, *WORDS]
    for vote in ("", "true", "x"):
        with pytest.raises(ValueError, match="is no vote; write one of holds, condition, wrong"):
            read_vote(vote)


def test_votes_are_counted_and_shown(capsys):
    verdicts = {3: decide(True, "It is 3."), 5: decide(False, "It is 5.")}
    assert count_right(verdicts, {3: None, 9: "holds"}) == "no votes on these 2 claims"
    assert count_right(verdicts, {3: "h", 5: "h"}) == "1 of 2 votes agree with the verdict"
    list_verdicts(verdicts, {3: None, 5: "h"})
    assert capsys.readouterr().out.splitlines() == [
        " 3  HOLDS. It is 3.",
        " 5  WRONG (your vote: holds). It is 5.",
    ]


# The exercises.


def test_the_solutions_agree_with_the_library():
    for stated, measured in checks.agrees.cases().values():
        assert checks.agrees.solution(stated, measured) is agrees(stated, measured)
    for (locate,) in checks.trial.cases().values():
        assert checks.trial.solution(locate) is trial_with()(locate)


def test_right_answers_in_other_styles():
    def by_half_a_unit(stated, measured):
        number = stated.replace(",", "")
        unit = 10.0 ** -(len(number) - number.index(".") - 1) if "." in number else 1.0
        return abs(measured - float(number)) < unit / 2

    def by_formatting(stated, measured):
        decimals = len(stated.split(".")[1]) if "." in stated else 0
        return f"{measured:,.{decimals}f}" == stated

    def by_three_points(locate):
        for (h, w), (x, y), (dx, dy) in [
            ((3, 8), (0.2, 0.7), (1.3, -0.4)),
            ((8, 3), (0.9, 0.4), (2.7, 0.6)),
            ((5, 6), (0.1, 0.3), (-4.2, 5.1)),
        ]:
            found = locate(torch.tensor([x, y]).double(), torch.tensor([dx, dy]), (h, w)).tolist()
            expected = x + dx / w, y + dy / h
            if any(abs(a - b) > 1e-5 for a, b in zip(found, expected, strict=True)):
                return False
        return True

    for exercise, answer in [
        (checks.agrees, by_half_a_unit),
        (checks.agrees, by_formatting),
        (checks.trial, by_three_points),
        (checks.trial, lambda locate: torch.tensor(by_three_points(locate))),
        (checks.trial, lambda locate: int(trial_with()(locate))),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


def test_what_a_weak_trial_acquits():
    def acquitted(trial):
        return {name for name, program in WRONG_PROGRAMS.items() if trial(program)}

    assert len(RIGHT) == 4 and len(WRONG_PROGRAMS) == 15
    assert acquitted(trial_with(shapes=((4, 4), (9, 9)))) == {
        "divides (dx, dy) by (H, W)",
        "divides both by W",
        "divides both by H",
        "divides dx by the longer side",
        "divides dx by the shorter side",
    }
    assert acquitted(trial_with(references=((0.5, 0.5),))) == {
        "always starts in the middle",
        "swaps x and y of the reference",
    }
    assert acquitted(trial_with(offsets=((0.25, 0.4), (-0.3, 0.45)))) == {"clamps to [0, 1]"}
    assert acquitted(trial_with()) == set()
    assert sum(not trial_with(atol=0)(program) for program in RIGHT.values()) >= 2


def test_locations_have_the_type_of_the_reference():
    for program in (*RIGHT.values(), *WRONG_PROGRAMS.values()):
        for dtype in (torch.float32, torch.float64):
            start = torch.tensor([0.5, 0.25], dtype=dtype)
            assert program(start, torch.tensor([1.0, 2.0]), (4, 10)).dtype == dtype
        assert program([0.5, 0.25], (1, 2), (4, 10)).shape == (2,)


# The unknown attentions.


def test_only_the_right_words_pass():
    right = dict(mystery.VERSIONS)
    assert checks.mystery.check(right).passed
    for version, word in itertools.product(right, mystery.PECULIARITIES):
        if word != right[version]:
            passed, message, _ = checks.mystery.check({**right, version: word})
            assert not passed
            assert mystery.PECULIARITIES[word].shows in message
            assert f'"{right[version]}"' not in message


def columns(shapes):
    """The x of each pixel's centre, in all four channels."""
    rows = [((torch.arange(w) + 0.5) / w).repeat(h) for h, w in shapes]
    return torch.cat(rows)[:, None].repeat(1, 4).double()


def observe(what: mystery.Peculiarity) -> set[str]:
    """The experiments of the solution: which of them find something peculiar."""
    shapes, tall = [(40, 60), (20, 30)], [(80, 60), (40, 30)]
    query = torch.tensor([[0.5, -1.0, 0.0, 2.0], [1.0, 0.0, -0.5, 0.5]])
    other = torch.tensor([[0.5, -1.0, 0.0, 2.0], [-1.0, 2.0, 0.5, 0.0]])
    middle, ones = torch.full((2, 2), 0.5), torch.ones(3000, 4)
    values = torch.rand(3000, 4, generator=torch.Generator().manual_seed(0)).double()
    ask = lambda *arguments: mystery.attend(what, *arguments)  # noqa: E731
    same = lambda a, b: torch.allclose(a, torch.as_tensor(b).double(), atol=1e-6)  # noqa: E731
    found = set()
    sums = ask(query, middle, ones, shapes)
    if not same(sums, torch.ones(2, 4)):
        found.add("sum 2" if same(sums, torch.full((2, 4), 2.0)) else "sums")
    beyond = ask(query, middle - 1.5, ones, shapes)
    if not same(beyond, torch.zeros(2, 4)):
        found.add("a quarter" if same(beyond, torch.full((2, 4), 0.25)) else "beyond")
    if not same(ask(query, middle, 3 * values, shapes), 3 * ask(query, middle, values, shapes)):
        found.add("not linear")
    if not same(ask(other, middle, values, shapes)[0], ask(query, middle, values, shapes)[0]):
        found.add("other query")
    step = torch.tensor([0.001, 0])
    before, after = (ask(query, r, columns(shapes), shapes) for r in (middle, middle + step))
    if not torch.allclose((after - before) / 0.001, sums, atol=1e-3):
        found.add("steps")
    if not same(ask(query, middle, columns(tall), tall), before):
        found.add("height")
    corner = ask(query, torch.tensor([[0.9, 0.1]] * 2), columns(shapes), shapes)
    if (corner / sums).min() < 0.7:
        found.add("corner")
    changed = values.clone()
    changed[2400:] += 1
    if same(ask(query, middle, changed, shapes), ask(query, middle, values, shapes)):
        found.add("level 1")
    read = []
    for channel in (0, 2):  # the pixels that a channel of the output depends on
        tokens = values.clone().requires_grad_()
        ask(query, middle, tokens, shapes)[0, channel].backward()
        read.append(tokens.grad[:, channel] != 0)
    if torch.equal(*read):
        found.add("same pixels")
    return found


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("nothing", set()),
        ("keys", {"not linear"}),
        ("neighbours", {"other query"}),
        ("all heads", {"sums"}),
        ("each level", {"sum 2"}),
        ("sigmoid", {"sums", "corner"}),
        ("H and W", {"height"}),
        ("clamp", {"a quarter"}),
        ("border", {"beyond"}),
        ("nearest", {"steps"}),
        ("x and y", {"steps", "height", "corner"}),
        ("one level", {"steps", "level 1"}),
        ("same heads", {"same pixels"}),
    ],
)
def test_an_experiment_finds_each_peculiarity(word, expected):
    assert observe(mystery.PECULIARITIES[word]) == expected


def test_asking_is_repeatable_and_changes_nothing():
    shapes = [(4, 6), (2, 3)]
    arguments = torch.randn(3, 4), torch.rand(3, 2), torch.randn(30, 4)
    before = [argument.clone() for argument in arguments]
    for version in mystery.VERSIONS:
        first = mystery.ask(version, *arguments, shapes)
        assert first.shape == (3, 4) and first.dtype == torch.float64
        assert torch.equal(first, mystery.ask(version, *arguments, shapes))
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))


# Counts.


def test_the_parts_are_those_of_the_whole_model():
    shapes, counts = claims_counts.run_parts(800, 1200)
    assert shapes == [(100, 150), (50, 75), (25, 38), (13, 19)]
    n_tokens = 19947
    per_token = 256 * (256 + 256 + 256 + 128) + 2 * 256 * 1024  # of an encoder layer
    assert counts["encoder"] == pytest.approx(6 * n_tokens * per_token / 1e9, rel=1e-6)
    assert max(counts, key=counts.get) == "encoder"


def test_models_on_the_meta_device_have_no_numbers():
    model = claims_model.build("r50")
    assert all(parameter.is_meta for parameter in model.parameters())
