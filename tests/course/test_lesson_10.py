"""What lesson 10 relies on: that the checks are right, and the measured facts about the decoder."""

import dataclasses
import itertools
import math
from unittest.mock import patch

import numpy as np
import pytest
import torch

import ddetr_edu as dd
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course import checks
from ddetr_edu.course.answers import read_results
from ddetr_edu.course.detection_counts import count_detections
from ddetr_edu.course.exercise import same_numbers
from ddetr_edu.course.exercises.lesson_10_forward import read_layers
from ddetr_edu.course.rival_queries import rival_scores
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.models import decoder as decoder_module
from ddetr_edu.models import queries as queries_module
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.deformable_detr import Predictions
from ddetr_edu.models.heads import refine_boxes
from ddetr_edu.models.preprocessing import best_detections, to_floats
from ddetr_edu.models.queries import ProposedQueries, Queries, propose

FORWARD = checks.forward


@pytest.fixture(scope="module")
def detector():
    return dd.load(shipped_checkpoint()).eval()


@pytest.fixture(scope="module")
def scenes():
    """The images and the targets that the lesson measures on."""
    return list(zip(*(held_out_scenes("test")[i] for i in range(20)), strict=True))


def counts_of(detector, scenes):
    images, targets = scenes
    return count_detections(detector.predict(list(images)), list(targets))


def no_attention(query, key, value, **options):
    return torch.zeros_like(query), None


def without_self_attention():
    return patch.object(torch.nn.MultiheadAttention, "forward", staticmethod(no_attention))


# The exercises about boxes.


def test_anchors_and_refinement_agree_with_the_library():
    for row, column, (height, width), level in checks.anchor.cases().values():
        masks = [torch.zeros(1, 1, 1, dtype=torch.bool)] * level
        masks.append(torch.zeros(1, height, width, dtype=torch.bool))
        boxes, _ = propose(masks, torch.float64)
        expected = boxes[0, level + row * width + column]
        solved = torch.tensor(checks.anchor.solution(row, column, (height, width), level))
        torch.testing.assert_close(solved.double(), expected)
    for arguments in checks.refine.cases().values():
        torch.testing.assert_close(
            checks.refine.solution(*arguments), refine_boxes(*arguments), atol=1e-9, rtol=0
        )


def test_the_choice_of_proposals_agrees_with_the_library():
    config = DeformableDETRConfig.preset("tiny", num_classes=3, two_stage=True)
    config = dataclasses.replace(config, d_model=32, n_queries=9, ignore_padding=True)
    torch.manual_seed(0)
    stage = ProposedQueries(config)
    for parameter in stage.parameters():
        torch.nn.init.normal_(parameter)
    masks = [torch.zeros(2, 6, 5, dtype=torch.bool), torch.zeros(2, 3, 3, dtype=torch.bool)]
    for mask, width in zip(masks, (3, 2), strict=True):
        mask[1, :, width:] = True
    queries, (logits, boxes) = stage(torch.randn(2, 39, 32), masks)
    is_padding = torch.cat([mask.flatten(1) for mask in masks], dim=1)
    chosen = checks.select_proposals.solution(logits, boxes, is_padding, 9)
    torch.testing.assert_close(chosen, queries.reference_points)


def test_right_answers_in_other_styles():
    def refined_by_loops(reference, delta):
        result = np.zeros(delta.shape)
        for index in np.ndindex(*delta.shape):
            logit = 0.0
            if index[-1] < reference.shape[-1]:
                r = float(reference[index])
                logit = math.log(max(r, 1e-5) / max(1 - r, 1e-5))
            result[index] = 1 / (1 + math.exp(-logit - float(delta[index])))
        return result

    def refined_by_torch(reference, delta):
        logit = reference.logit(eps=1e-5)
        return torch.sigmoid(torch.nn.functional.pad(logit, (0, 4 - logit.shape[-1])) + delta)

    def refined_by_odds(reference, delta):
        reference = reference.clamp(1e-5, 1 - 1e-5)
        odds = torch.ones_like(delta)
        odds[..., : reference.shape[-1]] = reference / (1 - reference)
        odds = odds * delta.exp()
        return odds / (1 + odds)

    def selected_by_sorting(logits, boxes, is_padding, count):
        chosen = []
        for scores, of_image, padded in zip(logits[..., 0], boxes, is_padding, strict=True):
            tokens = [s for s in range(len(scores)) if not padded[s]]
            tokens.sort(key=lambda s, scores=scores: -float(scores[s]))
            chosen.append(of_image[tokens[:count]])
        return torch.stack(chosen)

    def selected_by_indexing(logits, boxes, is_padding, count):
        scores = logits[..., 0].sigmoid() * ~is_padding
        order = scores.argsort(dim=1, descending=True)[:, :count]
        return boxes[torch.arange(len(boxes))[:, None], order]

    def anchor_as_array(row, column, shape, level):
        centre = (np.array([column, row]) + 0.5) / shape[::-1]
        return np.concatenate([centre, np.full(2, 0.1 * 2.0 ** (level - 1))])

    for exercise, answer in [
        (checks.refine, refined_by_loops),
        (checks.refine, refined_by_torch),
        (checks.refine, refined_by_odds),
        (checks.select_proposals, selected_by_sorting),
        (checks.select_proposals, selected_by_indexing),
        (checks.anchor, anchor_as_array),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


# The exercise about the whole detector.


def test_the_solution_passes_and_so_does_the_library(capsys):
    FORWARD(FORWARD.solution)
    assert capsys.readouterr().out.startswith("passed: all 7 cases are right")
    assert FORWARD.check(lambda model, images, mask: model(images, mask)).passed


def test_it_equals_the_library_on_the_trained_model(detector, scenes):
    model, images = detector.model, [to_floats(image) for image in scenes[0][:2]]
    batch, mask = detector._make_batch(images)
    with torch.no_grad():
        logits, boxes = read_layers(FORWARD.solution(model, batch, mask))
        expected_logits, expected_boxes = read_layers(model(batch, mask))
    torch.testing.assert_close(boxes, expected_boxes, atol=1e-6, rtol=0)
    torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=1e-5)


def test_other_styles_of_forward_pass():
    def with_the_librarys_decoder(model, images, padding_mask):
        seen = {}
        keep = lambda decoder, inputs: seen.update(inputs=inputs)  # noqa: E731
        hook = model.decoder.register_forward_pre_hook(keep)
        model(images, padding_mask)
        hook.remove()
        return tuple(list(pair) for pair in model.decoder(*seen["inputs"]))

    result = FORWARD.check(with_the_librarys_decoder)
    assert result.passed, result.message


def test_no_two_mistakes_give_the_same_in_all_cases():
    """So each is rejected, and named by its own name."""
    outcomes = {"the solution": [], **{name: [] for name in FORWARD.mistakes}}
    functions = {"the solution": FORWARD.solution, **FORWARD.mistakes}
    for arguments in FORWARD.cases().values():
        for name, function in functions.items():
            results = read_results(FORWARD._run(function, arguments), FORWARD.results)
            outcomes[name].append([result.values for result in results])
    assert len(FORWARD.mistakes) >= 8
    for (name, one), (other_name, other) in itertools.combinations(outcomes.items(), 2):
        different = any(
            not same_numbers(a, b, 1e-3)
            for case, other_case in zip(one, other, strict=True)
            for a, b in zip(case, other_case, strict=True)
        )
        assert different, f"{name} / {other_name}"


@pytest.mark.parametrize(
    "start",
    [
        "the reference is not detached",
        "this looks forward twice",
        "the position is not added to th",
        "the position is not added in th",
    ],
)
def test_a_mistake_is_named(start):
    name = next(name for name in FORWARD.mistakes if name.startswith(start))
    passed, message, _ = FORWARD.check(FORWARD.mistakes[name])
    assert not passed
    assert message.endswith(f"it looks as if {name}")
    assert "model, of the type DeformableDETR, images (" in message
    assert len(message) < 1500


def test_a_detached_box_shows_in_the_gradients_only():
    name = next(name for name in FORWARD.mistakes if name.startswith("the reference is not detach"))
    message = FORWARD.check(FORWARD.mistakes[name]).message
    assert "gradient of the box heads: at [0, 0]: expected 0, got " in message


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda pairs: None, "returned None: is a `return` missing?"),
        (lambda pairs: torch.stack([boxes for _, boxes in pairs]), "an object of the type Tensor"),
        (lambda pairs: [], "an object of the type list; a list with the pair (logits, boxes)"),
        (lambda pairs: [boxes for _, boxes in pairs], "a list that contains an object of the type"),
        (lambda pairs: [(logits, None) for logits, _ in pairs], "pairs that contain None"),
        (lambda pairs: pairs[-1:], "the shape is (1, 1, 5, 4), but (2, 1, 5, 4) was expected"),
        (lambda pairs: [(boxes, logits) for logits, boxes in pairs], ""),
        (lambda pairs: [(logits, boxes * torch.nan) for logits, boxes in pairs], "got NaN"),
        (lambda pairs: [(logits, boxes.double().float()) for logits, boxes in pairs], None),
    ],
)
def test_what_is_no_answer_is_named(wrong, expected):
    passed, message, _ = FORWARD.check(lambda *inputs: wrong(FORWARD.solution(*inputs)))
    if expected is None:  # a right answer in fp32
        assert passed, message
    else:
        assert not passed
        assert expected in message


def test_only_the_stub_is_not_attempted():
    def my_forward(model, images, padding_mask):
        """(model, images, padding_mask) -> [(logits, boxes) of each layer]"""
        raise NotImplementedError  # put your answer here

    assert not FORWARD.check(my_forward).attempted

    def changes_its_images(model, images, padding_mask):
        result = FORWARD.solution(model, images, padding_mask)
        images.zero_()
        return result

    assert "changed its argument `images` in place" in FORWARD.check(changes_its_images).message


def test_sizes_differ_from_case_to_case():
    sizes = [
        (*images.shape, model.config.n_levels, model.config.n_queries, model.config.n_heads)
        for model, images, _ in FORWARD.cases().values()
    ]
    assert len(set(sizes)) == len(sizes) == 7
    for name, axis in zip("NCHWLqM", zip(*sizes, strict=True), strict=True):
        assert name == "C" or len(set(axis)) >= 4
    assert all(height != width for _, _, height, width, *_ in sizes)


# What the text relies on.


def test_counts_of_the_trained_model(detector, scenes):
    assert counts_of(detector, scenes) == (87, 79, 6)
    with without_self_attention():
        assert counts_of(detector, scenes) == (87, 81, 66)
    by_layer = []
    for layer in detector.model.decoder.layers:
        with patch.object(layer.self_attn, "forward", no_attention):
            by_layer.append(counts_of(detector, scenes)[1:])
    assert by_layer == [(79, 30), (76, 8), (81, 14)]


def test_self_attention_raises_most_scores_of_queries_that_report(detector, scenes):
    def scores_of(image):
        with torch.no_grad():
            return detector.run_model([to_floats(image)]).scores()[0]  # (Lq, K)

    changes = []
    for image in scenes[0]:
        with without_self_attention():
            alone = scores_of(image)
        scores = scores_of(image)
        changes.append((scores - alone)[scores >= 0.5])
    changes = torch.cat(changes)
    assert (changes > 0).float().mean() > 0.6 and changes.mean() > 0.01


def test_proposals_alone_find_less_than_the_decoder(detector, scenes):
    detections = []
    for image in scenes[0]:
        with torch.no_grad():
            predictions = detector.run_model([to_floats(image)])
        (best,) = best_detections(predictions.encoder, [tuple(image.shape[1:])])
        detections.append({**best, "labels": torch.tensor(detector.labels)[best["classes"]]})
    assert count_detections(detections, scenes[1]) == (87, 75, 21)


def changed(detector, scenes, change):
    stage = detector.model.queries
    from_boxes = stage.from_boxes
    with patch.object(stage, "from_boxes", lambda *inputs: change(from_boxes(*inputs))):
        return counts_of(detector, scenes)


def test_what_the_queries_need(detector, scenes):
    def twice(each):
        return Queries(*(torch.cat([part, part], dim=1) for part in each))

    def moved(each):
        x, y, w, h = each.reference_points.unbind(-1)
        return each._replace(reference_points=torch.stack([x + w / 2, y, w, h], dim=-1))

    def the_mean_of(part):
        def change(each):
            mean = getattr(each, part).mean(dim=1, keepdim=True)
            return each._replace(**{part: mean.expand_as(getattr(each, part)).contiguous()})

        return change

    assert changed(detector, scenes, twice) == (87, 79, 91)
    assert changed(detector, scenes, moved).found == 39
    assert changed(detector, scenes, lambda each: Queries(*(part.flip(1) for part in each))) == (
        87,
        79,
        6,
    )
    found = [changed(detector, scenes, the_mean_of(part)).found for part in Queries._fields]
    assert found[1] >= 78 and found[0] <= 36 and found[2] <= 7


def test_class_0_is_not_objectness_in_the_trained_model(detector, scenes):
    class_0 = lambda self, logits, padding_masks: logits[..., 0]  # noqa: E731
    with patch.object(ProposedQueries, "objectness", class_0):
        assert counts_of(detector, scenes).found == 60


def test_more_queries_than_in_training_find_a_little_more(detector, scenes):
    with patch.object(detector.model.queries, "n_queries", 300):
        assert counts_of(detector, scenes) == (87, 81, 8)


def test_few_queries_are_silenced_by_each_other(detector, scenes):
    with patch.object(detector.model.queries, "n_queries", 10):
        assert counts_of(detector, scenes).found == 71
        with without_self_attention():
            assert counts_of(detector, scenes).found == 80


def test_a_wrong_refinement_that_detects_as_well(detector, scenes):
    first_order = lambda reference, delta: reference + reference * (1 - reference) * delta  # noqa: E731
    with patch.object(decoder_module, "refine_boxes", first_order):
        assert counts_of(detector, scenes).found == 80
    with patch.object(queries_module, "refine_boxes", first_order):
        assert counts_of(detector, scenes).found == 73
    with patch.object(decoder_module, "refine_boxes", torch.add):
        assert counts_of(detector, scenes).found < 10
    generator = torch.Generator().manual_seed(0)
    references = torch.rand(1000, 4, generator=generator)
    deltas = 2 * torch.randn(1000, 4, generator=generator)
    boxes = first_order(references, deltas)
    assert (boxes[:, 2:] <= 0).any() and (boxes > 1).any()
    boxes = refine_boxes(references, deltas)
    assert (boxes > 0).all() and (boxes < 1).all()


def test_by_hand():
    ln3, ln4 = math.log(3), math.log(4)
    box = refine_boxes(
        torch.tensor([1 / 2, 1 / 4, 1 / 5, 1 / 10]), torch.tensor([ln3, ln3, ln4, 0])
    )
    torch.testing.assert_close(box, torch.tensor([3 / 4, 1 / 2, 1 / 2, 1 / 10]))
    box = refine_boxes(box, torch.tensor([-ln3, 0, -ln4, 0]))
    torch.testing.assert_close(box, torch.tensor([1 / 2, 1 / 2, 1 / 5, 1 / 10]))


@pytest.mark.parametrize(
    ("look_forward", "reached"),
    [
        ("once", [False, False, True]),
        ("twice", [False, True, True]),
        ("always", [True, True, True]),
    ],
)
def test_which_box_heads_get_a_gradient_from_the_last_boxes(look_forward, reached):
    torch.manual_seed(0)
    config = DeformableDETRConfig.preset("tiny", num_classes=6, two_stage=True)
    model = dd.DeformableDETR(dataclasses.replace(config, look_forward=look_forward)).eval()
    predictions = model(torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool))
    biases = [heads.bbox_head[-1].bias for heads in model.decoder.heads]
    gradients = torch.autograd.grad(predictions.boxes.sum(), biases, materialize_grads=True)
    assert [bool(gradient.any()) for gradient in gradients] == reached


def test_tokens_that_may_not_propose():
    shapes = [(100, 134), (50, 67), (25, 34), (13, 17)]
    _, valid = propose(
        [torch.zeros(1, *shape, dtype=torch.bool) for shape in shapes], torch.float32
    )
    by_level = (~valid[0]).split([height * width for height, width in shapes])
    assert [int(level.sum()) for level in by_level] == [464, 230, 0, 0]
    outermost = 2 * (100 + 134) - 4
    assert int(by_level[0].sum()) == outermost and int(by_level[1].sum()) == 2 * (50 + 67) - 4


def test_the_rivals_of_an_object(detector):
    image, target = held_out_scenes("test")[19]
    scores = rival_scores(detector, image, target["boxes"][1], int(target["labels"][1]))
    assert scores.shape == (4, 12)
    assert scores[0, 0] > scores[0, 1] > 0.5  # the first is the better proposal
    assert scores[1, 0] < 0.1 and (scores[1:, 1].diff() > 0).all()
    assert int((scores[-1] >= 0.5).sum()) == 1
    with without_self_attention():
        alone = rival_scores(detector, image, target["boxes"][1], int(target["labels"][1]))
    assert alone.shape == (4, 16)
    assert int((alone[-1] >= 0.5).sum()) == 2
    # The others are low from the proposal to the last layer, or at least no detections.
    assert (scores[:, 2:] < 0.25).all() and (alone[:, 2:] < 0.45).all()
    with torch.no_grad():
        predictions = detector.run_model([to_floats(image)])
    output = detector.labels.index(int(target["labels"][1]))
    last = predictions.logits[0, :, output].sigmoid()
    # A sigmoid's last bit depends on how many numbers there are.
    assert ((scores[-1][:, None] - last).abs().amin(1) < 1e-6).all()


def test_duplicates_are_counted_once_for_each_further_detection():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [0, 1, 10, 10], [30, 30, 40, 40]])
    detected = {
        "boxes": boxes,
        "labels": torch.tensor([1, 1, 1, 2]),
        "scores": torch.tensor([0.9, 0.6, 0.5, 0.8]),
    }
    target = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [30, 30, 40, 40]]),
        "labels": torch.tensor([1, 1]),
    }
    assert count_detections([detected], [target]) == (2, 1, 2)
    assert count_detections([detected], [target], threshold=0.7) == (2, 1, 0)
    empty = {name: values[:0] for name, values in detected.items()}
    assert count_detections([empty], [target]) == (2, 0, 0)


def test_the_layers_of_predictions_are_read_in_order():
    pairs = [(torch.full((1, 2, 3), k), torch.full((1, 2, 4), k)) for k in (0.0, 1.0)]
    last = Predictions(*pairs[1], aux=[Predictions(*pairs[0])])
    for result in (pairs, tuple(pairs), last):
        logits, boxes = read_layers(result)
        assert logits[:, 0, 0, 0].tolist() == boxes[:, 0, 0, 0].tolist() == [0, 1]
