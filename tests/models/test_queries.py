"""Queries of two stages: the proposals of the encoder, which are chosen, and what they become."""

import math

import pytest
import torch

from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.position import sine_box_embedding
from ddetr_edu.models.queries import propose

LEVELS = [(11, 53), (6, 27), (3, 14)]  # (H, W); of 53 columns the outermost lie within 0.01
VALID = [(7, 53), (4, 27), (2, 14)]  # rows and columns of the second image: 11 x 53, then this
WHOLE = torch.zeros(2, 67, 101, dtype=torch.bool)


def some_masks():
    masks = []
    for (height, width), (rows, columns) in zip(LEVELS, VALID, strict=True):
        mask = torch.zeros(2, height, width, dtype=torch.bool)
        mask[1] = True
        mask[1, :rows, :columns] = False
        masks.append(mask)
    return masks


def slow_proposals():
    """The box of every token of `some_masks`, and whether it is valid, number by number."""
    boxes, valid = [[], []], [[], []]
    for n in range(2):
        for level, (height, width) in enumerate(LEVELS):
            rows, columns = (height, width) if n == 0 else VALID[level]
            for row in range(height):
                for column in range(width):
                    side = 0.05 * 2**level
                    box = [(column + 0.5) / columns, (row + 0.5) / rows, side, side]
                    boxes[n].append(box)
                    inside = row < rows and column < columns
                    valid[n].append(inside and all(0.01 < x < 0.99 for x in box))
    return torch.tensor(boxes, dtype=torch.float64), torch.tensor(valid)


def test_every_token_proposes_a_box_around_its_pixel():
    boxes, valid = propose(some_masks(), torch.float64)
    expected, expected_valid = slow_proposals()
    torch.testing.assert_close(boxes, expected, rtol=0, atol=1e-12)
    assert torch.equal(valid, expected_valid)
    padding = torch.cat([mask.flatten(1) for mask in some_masks()], dim=1)
    assert (~valid & ~padding).sum(1).tolist() == [22, 14]  # the outermost columns of level 0


@pytest.mark.parametrize("width, invalid", [(49, 0), (50, 2), (51, 2)])
def test_the_outermost_columns_are_invalid_from_a_width_of_50_on(width, invalid):
    _, valid = propose([torch.zeros(1, 1, width, dtype=torch.bool)], torch.float32)
    assert (~valid).sum() == invalid and valid[0, [0, -1]].all() == (invalid == 0)


def test_a_level_whose_boxes_exceed_the_image_proposes_nothing():
    boxes, valid = propose([torch.zeros(1, 2, 3, dtype=torch.bool)] * 6, torch.float32)
    assert valid.view(6, 6).all(1).tolist() == [True] * 5 + [False]
    assert boxes[0, -1, 2] == pytest.approx(1.6)


def run(model, mask=WHOLE, seed=0):
    torch.manual_seed(seed)
    images = torch.randn(len(mask), 3, *mask.shape[1:]).masked_fill(mask[:, None], 0.0)
    memory, masks = [], []
    hooks = [
        model.encoder.register_forward_hook(lambda _, args, out: memory.append(out)),
        model.queries.register_forward_pre_hook(lambda _, args: masks.extend(args[1])),
    ]
    out = model(images, mask)
    for hook in hooks:
        hook.remove()
    return out, memory[0], masks


@torch.no_grad()
def test_tokens_refine_their_proposals_and_the_best_become_queries(build):
    """The whole computation written out, for a batch of two images of which one is padded."""
    model = build(two_stage=True)
    mask = WHOLE.clone()
    mask[1, 43:] = True
    mask[1, :, 71:] = True
    out, memory, masks = run(model, mask)
    own = model.queries
    proposals, valid = propose(masks, torch.float32)
    assert not valid.all()

    states = memory * valid[..., None] @ own.memory_projection.weight.T
    states = states + own.memory_projection.bias
    mean, var = states.mean(-1, keepdim=True), states.var(-1, keepdim=True, correction=0)
    states = (states - mean) / (var + 1e-5).sqrt() * own.memory_norm.weight + own.memory_norm.bias
    logits = states @ own.heads.class_head.weight.T + own.heads.class_head.bias
    torch.testing.assert_close(out.encoder.logits, logits, rtol=0, atol=1e-4)
    boxes = torch.ones(*valid.shape, 4)
    refined = own.heads.bbox_head(states) + torch.log(proposals / (1 - proposals))
    boxes[valid] = refined[valid].sigmoid()
    torch.testing.assert_close(out.encoder.boxes, boxes, rtol=0, atol=1e-5)

    queries, _ = own(memory, masks)
    for n in range(2):
        order = sorted(range(len(logits[n])), key=lambda s: -logits[n, s, 0].item())[:11]
        torch.testing.assert_close(queries.reference_points[n], boxes[n, order], rtol=0, atol=1e-5)
        for q, box in enumerate(boxes[n, order].tolist()):
            sines = []  # d_model = 96: 48 numbers for each of x, y, w, h
            for number in box:
                for k in range(24):
                    angle = 2 * math.pi * number / 10000 ** (2 * k / 48)
                    sines += [math.sin(angle), math.cos(angle)]
            both = own.to_queries_norm(own.to_queries(torch.tensor(sines)))
            torch.testing.assert_close(queries.position[n, q], both[:96], rtol=0, atol=1e-3)
            torch.testing.assert_close(queries.content[n, q], both[96:], rtol=0, atol=1e-3)


@torch.no_grad()
def test_only_class_output_0_decides_which_tokens_are_chosen(build):
    model = build(two_stage=True)
    before, memory, masks = run(model)
    model.queries.heads.class_head.bias[1:] += torch.randn(4)
    queries, _ = model.queries(memory, masks)
    model.queries.heads.class_head.weight[0] *= -1  # the worst are the best now
    turned, _ = model.queries(memory, masks)
    again, _, _ = run(model)
    assert not torch.equal(queries.reference_points, turned.reference_points)
    assert not torch.equal(again.boxes, before.boxes)
    model.queries.heads.class_head.weight[0] *= -1
    assert torch.equal(run(model)[0].boxes, before.boxes)


@torch.no_grad()
def test_references_of_the_decoder_are_the_chosen_boxes(build):
    model = build(two_stage=True)
    out, memory, masks = run(model)
    queries, _ = model.queries(memory, masks)
    for n in range(2):
        best = out.encoder.logits[n, :, 0].topk(11).indices
        assert torch.equal(queries.reference_points[n], out.encoder.boxes[n, best])
    for heads in model.decoder.heads:
        heads.bbox_head[-1].weight.zero_()
        heads.bbox_head[-1].bias.zero_()
    torch.testing.assert_close(run(model)[0].boxes, queries.reference_points, rtol=0, atol=2e-5)


@torch.no_grad()
def test_tokens_of_any_class_become_the_content_of_queries(build):
    model = build(two_stage=True, tokens_as_content=True)
    model.queries.heads.class_head.weight.normal_()
    out, memory, masks = run(model)
    assert not out.encoder.class_agnostic
    own = model.queries
    queries, (logits, boxes) = own(memory, masks)
    valid = propose(masks, torch.float32)[1][..., None]
    state = own.memory_norm(own.memory_projection(memory * valid))
    for n in range(2):
        order = sorted(range(logits.shape[1]), key=lambda s: -logits[n, s].max().item())[:11]
        assert order != sorted(order) and len({logits[n, s].argmax().item() for s in order}) > 1
        torch.testing.assert_close(queries.content[n], state[n, order], rtol=0, atol=1e-5)
        assert torch.equal(queries.reference_points[n], boxes[n, order])
    position = own.to_position(sine_box_embedding(queries.reference_points, 96))
    torch.testing.assert_close(queries.position, position, rtol=0, atol=1e-5)


def test_the_decoders_losses_do_not_reach_the_tokens_that_become_queries(build):
    model = build(two_stage=True, tokens_as_content=True)
    out, _, _ = run(model)
    sum(
        x.square().sum() for layer in (out, *out.aux) for x in (layer.boxes, layer.logits)
    ).backward()
    untouched = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    first_stage = ("queries.heads.", "queries.memory_")
    assert untouched == {n for n, _ in model.named_parameters() if n.startswith(first_stage)}


def test_more_queries_than_tokens_takes_all_tokens(build):
    model = build(two_stage=True, n_queries=300)
    square = torch.zeros(1, 96, 96, dtype=torch.bool)
    out, _, _ = run(model, square)
    assert out.boxes.shape == (1, 12 * 12 + 6 * 6 + 3 * 3, 4) == out.encoder.boxes.shape
    assert [layer.logits.shape[1] for layer in out.aux] == [189, 189]


def test_the_decoders_losses_do_not_reach_the_proposals(build):
    model = build(two_stage=True)
    out, _, _ = run(model)
    layers = [out, *out.aux]
    sum(x.square().sum() for layer in layers for x in (layer.boxes, layer.logits)).backward()
    untouched = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    first_stage = ("queries.heads.", "queries.memory_")
    assert untouched == {n for n, _ in model.named_parameters() if n.startswith(first_stage)}
    out, _, _ = run(model)
    (out.encoder.boxes.square().sum() + out.encoder.logits.square().sum()).backward()
    assert not any(p.grad is None or not p.grad.any() for p in model.parameters())


def test_tokens_without_a_valid_box_are_finite_forwards_and_backwards(build):
    """Even when only padding is chosen, because its constant score is made the highest."""
    model = build(two_stage=True)
    mask = WHOLE.clone()
    mask[1, 8:, :] = True
    mask[1, :, 8:] = True  # one token of each level is left
    own = model.queries
    with torch.no_grad():
        zeroed = own.memory_norm(own.memory_projection.bias)  # the state of all such tokens
        own.heads.class_head.weight[0] = 3 * zeroed / zeroed.norm()
    out, memory, masks = run(model, mask)
    queries, _ = own(memory, masks)
    assert (queries.reference_points[1] == 1).all()
    everything = [x for layer in (out, *out.aux, out.encoder) for x in (layer.boxes, layer.logits)]
    assert all(torch.isfinite(x).all() for x in everything)
    sum(x.square().sum() for x in everything).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_in_two_stages_no_head_has_an_initial_size():
    torch.manual_seed(0)
    model = DeformableDETR(
        DeformableDETRConfig.preset("tiny_two_stage", num_classes=6, tokens_as_content=False)
    )
    for heads in [*model.decoder.heads, model.queries.heads]:
        assert not heads.bbox_head[-1].weight.any() and not heads.bbox_head[-1].bias.any()
        torch.testing.assert_close(heads.class_head.bias.sigmoid(), torch.full((6,), 0.01))
    for linear in (model.queries.memory_projection, model.queries.to_queries):
        bound = math.sqrt(6 / sum(linear.weight.shape))
        assert 0.97 * bound < linear.weight.abs().max() <= bound
    with torch.no_grad():
        out, memory, masks = run(model.eval())
        proposals, valid = propose(masks, torch.float32)
    torch.testing.assert_close(out.encoder.boxes[valid], proposals[valid], rtol=0, atol=1e-5)
