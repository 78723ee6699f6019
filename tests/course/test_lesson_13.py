"""Lesson 13: what its text relies on, its exercises in other styles, its logs and its leaks."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import ddetr_edu as dd
from ddetr_edu.analysis.matching_trace import trace_matching
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course import checks
from ddetr_edu.course.exercises import lesson_13_runs
from ddetr_edu.course.leaky_masks import LEAKS, leaking
from ddetr_edu.course.matching_logs import RUNS, match_history, read_log
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.losses.criterion import detection_losses
from ddetr_edu.losses.denoising import Denoising
from ddetr_edu.losses.instability import instability, matching_margins
from ddetr_edu.models.preprocessing import make_batch, to_floats
from ddetr_edu.models.queries import Queries, add_extra

LAST_LAYER = ("loss_label", "loss_l1", "loss_giou")


@pytest.fixture(scope="module")
def detector():
    return dd.load(shipped_checkpoint()).eval()


# The exercises.


def mask_of_the_library(n_queries, counts, n_groups):
    denoising = Denoising(num_classes=3, d_model=64, groups=n_groups, max_queries=1000)
    targets = [{"labels": torch.zeros(n).long(), "boxes": torch.rand(n, 4)} for n in counts]
    n = len(counts)
    own = Queries(*(torch.zeros(n, n_queries, size) for size in (64, 64, 4)))
    return add_extra(own, denoising(targets).extra)[1]


def test_the_solutions_agree_with_the_library():
    for (queries,) in checks.instability.cases().values():
        expected = instability(queries)
        torch.testing.assert_close(checks.instability.solution(queries), expected)
    for arguments in checks.denoising_mask.cases().values():
        expected = mask_of_the_library(*arguments)
        assert torch.equal(checks.denoising_mask.solution(*arguments), expected)


def test_right_answers_in_other_styles():
    def by_loops(queries):
        rows = queries.tolist()
        return [
            sum(a != b for a, b in zip(before, after, strict=True)) / len(after)
            for before, after in itertools.pairwise(rows)
        ]

    def by_diff(queries):
        return np.count_nonzero(np.diff(queries.numpy(), axis=0), axis=1) / queries.shape[1]

    def cell_by_cell(n_queries, counts, n_groups):
        size = max(counts)
        n = n_queries + n_groups * size
        mask = np.zeros((len(counts), n, n))
        for image, row, column in np.ndindex(*mask.shape):
            if column < n_queries:
                continue
            group, place = divmod(column - n_queries, size)
            same = row >= n_queries and (row - n_queries) // size == group
            mask[image, row, column] = not same or place >= counts[image]
        return mask

    def block_by_block(n_queries, counts, n_groups):
        size = max(counts)
        masks = []
        for count in counts:
            inside = torch.zeros(size, size, dtype=torch.bool)
            inside[:, count:] = True
            among = ~torch.block_diag(*[~inside] * n_groups).bool()
            mask = torch.nn.functional.pad(among, (n_queries, 0, n_queries, 0))
            mask[:n_queries, n_queries:] = True
            masks.append(mask)
        return torch.stack(masks)

    for exercise, answer in [
        (checks.instability, by_loops),
        (checks.instability, by_diff),
        (checks.denoising_mask, cell_by_cell),
        (checks.denoising_mask, block_by_block),
        (checks.denoising_mask, mask_of_the_library),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


# What the text relies on.


def test_by_hand():
    queries = torch.tensor([[7, 2, 4, 9], [7, 4, 2, 9], [7, 4, 2, 0]])
    assert instability(queries).tolist() == [1 / 2, 1 / 4]
    x, objects = torch.tensor([0.48, 0.52, -1.0]), torch.tensor([0.3, 0.7])
    cost = 5 * (x[:, None] - objects).abs()
    torch.testing.assert_close(cost[:2], torch.tensor([[0.9, 1.1], [1.1, 0.9]]))
    torch.testing.assert_close(matching_margins(cost).float(), torch.tensor([0.4, 0.4]))
    halfway = 5 * (torch.tensor([0.5, 0.5])[:, None] - objects).abs()
    torch.testing.assert_close(halfway, torch.ones(2, 2))


def test_each_image_has_four_matchings_in_a_step(detector):
    image, target = held_out_scenes()[18]
    predictions = detector.run_model([to_floats(image)])
    prepared = detector.prepare_target(target, tuple(image.shape[1:]))
    losses = detection_losses(predictions, [prepared])
    assert sum(name.startswith("loss_label") for name in losses) == 4


def test_one_object_has_another_query_after_each_layer(detector):
    image, target = held_out_scenes()[18]
    traced = trace_matching(detector, to_floats(image), target)
    assert traced.queries.T.tolist() == [[1] * 3, [6] * 3, [2] * 3, [23, 9, 20], [0] * 3]
    for cost in traced.cost:  # rounding cannot decide it
        assert matching_margins(cost).min() > 1e-3
    rivals = traced.boxes[-1, [23, 9, 20]]
    assert (rivals[:, None] - rivals).abs().max() < 5  # pixels


@pytest.mark.parametrize("trained", [False, True])
def test_how_easily_matches_change(detector, trained):
    torch.manual_seed(0)
    untrained = dd.Detector(
        dd.DeformableDETR(detector.model.config), detector.categories, detector.resize
    )
    model = detector if trained else untrained
    traced = [trace_matching(model, to_floats(i), t) for i, t in held_out_scenes().first(20)]
    margins = torch.cat([matching_margins(each.cost[-1]) for each in traced])
    of_half = torch.cat([matching_margins(each.cost[-1][::2]) for each in traced])
    shares = instability(torch.cat([each.queries for each in traced], dim=1))
    print(margins.median(), of_half.median(), margins.min(), 100 * shares)
    medians = (3.55, 2.58) if trained else (0.44, 0.31)
    assert margins.median().item() == pytest.approx(medians[0], abs=0.0045)
    assert of_half.median().item() == pytest.approx(medians[1], abs=0.0045)
    assert (100 * shares).round().tolist() == ([5, 2] if trained else [11, 8])
    assert margins.min() > 1e-4


def test_how_far_the_gradient_of_a_box_reaches(detector):
    image, _ = held_out_scenes()[18]
    batch, mask = make_batch([to_floats(image)], detector.resize)
    reached = {}
    for mode in ("once", "twice", "always"):
        model = dd.DeformableDETR(dataclasses.replace(detector.model.config, look_forward=mode))
        model.load_state_dict(detector.model.state_dict())
        predicted = model(batch, mask)
        biases = [heads.bbox_head[-1].bias for heads in model.decoder.heads]
        reached[mode] = [
            [
                gradient is not None and bool(gradient.any())
                for gradient in torch.autograd.grad(
                    layer.boxes.sum(), biases, allow_unused=True, retain_graph=True
                )
            ]
            for layer in (*predicted.aux, predicted)
        ]
    lower = np.tri(3, dtype=bool)
    assert reached["once"] == np.eye(3, dtype=bool).tolist()
    assert reached["twice"] == (lower & ~np.tri(3, k=-2, dtype=bool)).tolist()
    assert reached["always"] == lower.tolist()


# The leaks.


@torch.no_grad()
def test_each_leak_is_found(detector):
    pair = [held_out_scenes()[i] for i in (18, 4)]
    targets = [detector.prepare_target(t, tuple(i.shape[1:])) for i, t in pair]
    counts = [len(target["labels"]) for target in targets]
    assert counts[0] != counts[1] and min(counts) >= 2
    torch.manual_seed(4)
    noised = Denoising(num_classes=6, d_model=128, groups=2)(targets)
    batch, mask = make_batch([to_floats(image) for image, _ in pair], detector.resize)
    n, fewer = max(counts), counts.index(min(counts))

    def boxes_with(*where):
        content = noised.extra.queries.content.clone()
        content[where] += 10
        queries = noised.extra.queries._replace(content=content)
        predicted = detector.model(batch, mask, noised.extra._replace(queries=queries))
        return predicted.boxes, predicted.extra.boxes

    found = {}
    for leak in LEAKS:
        with leaking(detector.model, leak, groups=2):
            own, extra = boxes_with(slice(0))
            changes = (
                own - boxes_with(slice(None))[0],
                (extra - boxes_with(slice(None), slice(n))[1])[:, n:],
                (extra - boxes_with(fewer, n - 1)[1])[noised.valid],
            )
        found[leak] = [bool(change.abs().max() > 1e-3) for change in changes]
        assert all(found[leak][k] or change.abs().max() < 1e-5 for k, change in enumerate(changes))
    assert list(found.values()) == [
        [False, False, False],
        [True, True, True],
        [False, True, False],
        [False, False, True],
    ]


def test_an_unknown_leak_is_refused(detector):
    with (
        pytest.raises(ValueError, match='leak "hole" does not exist; choose one of nothing, the'),
        leaking(detector.model, "hole", 1),
    ):
        pass
    assert not detector.model.decoder._forward_pre_hooks


# The logs.


def test_only_the_right_words_pass():
    right = lesson_13_runs.RUNS
    assert tuple(right) == RUNS
    assert checks.runs.check(right).passed
    for run, word in itertools.product(right, lesson_13_runs.SETTINGS):
        if word != right[run]:
            passed, message, _ = checks.runs.check({**right, run: word})
            assert not passed
            assert lesson_13_runs.LOOK[run] in message
            assert f'"{right[run]}"' not in message
            assert lesson_13_runs.SETTINGS[right[run]].means not in message


def test_step_1_tells_the_runs_apart():
    first = {run: read_log(run)[0] for run in RUNS}
    assert {entry["step"] for entry in first.values()} == {1}
    last_layer = {run: np.array([e[name] for name in LAST_LAYER]) for run, e in first.items()}
    for run in "AC":  # the same predictions as D
        np.testing.assert_allclose(last_layer[run], last_layer["D"], rtol=1e-4)
    assert (abs(last_layer["B"] / last_layer["D"] - 1) > 1e-3).all()
    assert first["A"]["loss"] == pytest.approx(first["D"]["loss"], rel=1e-4)
    assert first["A"]["gradient_norm"] > 1.02 * first["D"]["gradient_norm"]
    ratios = {run: entry["loss"] / last_layer[run].sum() for run, entry in first.items()}
    for run in "ABD":
        assert 2.7 < ratios[run] < 3.3
    assert ratios["C"] > 3.8
    assert len({entry["lr"] for entry in first.values()}) == 1


def test_the_logs_are_those_of_whole_runs():
    """benchmarks/matching_runs.py makes them: 1000 steps, a matching after every 20."""
    for run in RUNS:
        log = read_log(run)
        assert log[-1]["step"] == 1000 and log[-1]["AP"] > 0
        steps, queries = match_history(log)
        assert steps.tolist() == list(range(20, 1001, 20))
        logged = [entry["match_changes"] for entry in log if "match_changes" in entry]
        np.testing.assert_allclose(instability(queries), logged, atol=1e-5)
        assert queries.min() >= -1 and queries.max() < 60


def test_denoising_gains_more_than_a_seed_does():
    """Points of AP, and the instability in the second half of the training."""
    logs = {run: read_log(run) for run in RUNS}
    ap = {run: 100 * log[-1]["AP"] for run, log in logs.items()}
    assert [round(ap["D"] - ap["B"]), round(ap["C"] - ap["D"], 1)] == [11, 19.5]
    assert ap["A"] < ap["B"] < ap["D"]
    late = {run: instability(match_history(log).queries)[24:].mean() for run, log in logs.items()}
    assert late["C"] < 0.5 * min(late[run] for run in "ABD")
    assert abs(late["B"] - late["D"]) < 0.05


def test_the_images_make_the_loss_jerk():
    jerks = []
    for run in RUNS:
        entries = [entry for entry in read_log(run) if "loss_label" in entry]
        loss = np.array([sum(entry[name] for name in LAST_LAYER) for entry in entries])
        jerks.append(np.diff(np.log(loss))[10:])
    a, b, c, d = range(4)
    assert np.std(jerks, axis=1).argmax() == c  # where the fewest objects change their query
    correlation = np.corrcoef(jerks)
    assert correlation[[a, a, c], [c, d, d]].min() > 0.55  # the same images
    assert correlation[b, [a, c, d]].max() < 0.25


def test_other_runs_are_refused():
    with pytest.raises(ValueError, match='there is no run "E"; choose one of A, B, C, D'):
        read_log("E")
