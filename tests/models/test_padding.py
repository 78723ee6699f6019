"""Padding must have no effect: an image gets the same boxes alone and padded in a batch.

Of the differences that padding makes, some must be zero and some are inherent:

- Zero: those of the transformer. References, proposals, positions and sampling locations are
  fractions of the image, and masked tokens read as zeros. Only rounding is left.
- Inherent to two stages: a masked token may be chosen as a query, with the box (1, 1, 1, 1), for it
  has a score, the same one for all masked tokens; an image alone has none. The image loses one
  query for each. This is kept, since the official parameters were trained with it. Also, a small
  image alone may have fewer tokens than queries, and more in a batch with a larger one.
- Inherent to the official model: convolutions at the border of an image and group norms depend on
  the padding. A bound shows how small that effect is in a fresh tiny model.
- With ignore_padding a tiny model has neither of the two.
- Where a side of the batch is no multiple of the largest stride, the mask of a level may count one
  row more than the image alone would have.
"""

import pytest
import torch
from torch import nn

import ddetr_edu.models.deformable_detr
from ddetr_edu.attention import capture
from ddetr_edu.models.backbone import ResNetBackbone
from ddetr_edu.models.capture import capture as capture_model
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.models.deformable_detr import Predictions
from ddetr_edu.models.fusing import fuse_conv_bn
from ddetr_edu.models.preprocessing import make_batch


class Pool(nn.Module):
    """A backbone without overlap: each cell of a map is the mean of its own pixels."""

    channels = (3, 3, 3)

    def forward(self, images):
        return [nn.functional.avg_pool2d(images, stride) for stride in (8, 16, 32)]


@pytest.fixture(params=[False, True], ids=["one stage", "two stages"])
def leakless(build, request):
    """A model in fp64 in which padding could have an effect through the transformer alone."""
    model = build(seed=3, n_queries=13, two_stage=request.param)
    if request.param:
        change_score_of_invalid(model, -5)
    model.backbone = Pool()
    model.input_projection = ddetr_edu.models.deformable_detr.InputProjection((3, 3, 3), 96, 3)
    for level in model.input_projection.levels:
        level[1] = nn.Identity()
        nn.init.normal_(level[0].weight, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # so that offsets and attention weights depend on the query
        for name, parameter in model.named_parameters():
            if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    return model.double()


def change_score_of_invalid(model, change):
    """Change the score of the tokens without a valid box, all of which are zeroed."""
    own = model.queries
    with torch.no_grad():
        zeroed = own.memory_norm(own.memory_projection.bias)  # the state of all such tokens
        own.heads.class_head.weight[0] += change * zeroed / zeroed.square().sum()


HEIGHT, WIDTH = 96, 160  # of the batch
SMALL = (64, 96)  # of the image in its corner; all are multiples of 32, the largest stride


@pytest.fixture
def padded():
    """A batch of a full image and a small one, and the small one alone."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(2, 3, HEIGHT, WIDTH, dtype=torch.float64, generator=generator)
    mask = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    mask[1] = True
    mask[1, : SMALL[0], : SMALL[1]] = False
    images[1] = images[1].masked_fill(mask[1], 0.0)
    return images, mask


def alone(images, mask):
    h, w = SMALL
    return images[1:, :, :h, :w], mask[1:, :h, :w]


def distance(a, b):
    boxes = (a.boxes - b.boxes).abs().max().item()
    return max(boxes, (a.logits - b.logits).abs().max().item())


@torch.no_grad()
def test_an_image_gets_the_same_predictions_alone_and_padded(leakless, padded):
    batched, single = leakless(*padded), leakless(*alone(*padded))
    for many, one in zip([batched, *batched.aux], [single, *single.aux], strict=True):
        torch.testing.assert_close(many.boxes[1:], one.boxes, rtol=0, atol=1e-5)
        torch.testing.assert_close(many.logits[1:], one.logits, rtol=0, atol=1e-4)
    assert single.boxes.std(1).min() > 0.003  # the queries do differ


@pytest.mark.parametrize("leakless", [True], indirect=True)
@torch.no_grad()
def test_in_two_stages_padding_may_take_queries_from_an_image(leakless, padded):
    """The inherent part: all 13 queries go to padding, where they are identical, and are lost."""
    change_score_of_invalid(leakless, +50)
    batched, single = leakless(*padded), leakless(*alone(*padded))
    wasted = batched.boxes[1, :, None].sub(batched.boxes[1, :1]).abs().amax((1, 2)) < 1e-6
    assert wasted.all() and single.boxes.std(1).min() > 0.003
    # The encoder's predictions for the tokens of the image are still the same.
    inside = (batched.encoder.boxes[1] < 1).all(-1)
    assert inside.sum() == 8 * 12 + 4 * 6 + 2 * 3
    for name in ("boxes", "logits"):
        many, one = getattr(batched.encoder, name)[1][inside], getattr(single.encoder, name)[0]
        torch.testing.assert_close(many, one, rtol=0, atol=1e-4)


@torch.no_grad()
def test_masked_pixels_do_not_matter(leakless, padded):
    images, mask = padded
    before = leakless(images, mask)
    images = torch.where(mask[:, None], 100 * torch.randn_like(images), images)
    after = leakless(images, mask)
    assert torch.equal(before.boxes, after.boxes) and torch.equal(before.logits, after.logits)


@pytest.mark.parametrize("mistake", ["no ratios", "no mask in attention", "one mask for all"])
@torch.no_grad()
def test_a_missing_piece_would_be_noticed(leakless, padded, monkeypatch, mistake):
    if mistake == "no ratios":
        ratios = ddetr_edu.models.deformable_detr.valid_ratios
        monkeypatch.setattr(
            ddetr_edu.models.deformable_detr,
            "valid_ratios",
            lambda *args: torch.ones_like(ratios(*args)),
        )
    elif mistake == "no mask in attention":
        # The bias of the value projection makes padding non-zero.
        for module in leakless.modules():
            if hasattr(module, "value_proj"):
                module.register_forward_pre_hook(lambda _, args: (*args[:4], None))
    else:
        sine = ddetr_edu.models.deformable_detr.sine_position
        monkeypatch.setattr(
            ddetr_edu.models.deformable_detr,
            "sine_position",
            lambda mask, *args, **kwargs: sine(torch.zeros_like(mask), *args, **kwargs),
        )
    batched, single = leakless(*padded), leakless(*alone(*padded))
    batched.boxes, batched.logits = batched.boxes[1:], batched.logits[1:]
    assert distance(batched, single) > 1e-3


@torch.no_grad()
def test_the_encoder_refers_to_the_same_position_on_every_level(leakless, padded):
    """The reference of token (row, column) is its pixel's centre, as a fraction of the image."""
    with capture(leakless.encoder) as records:
        leakless(*padded)
    shapes = [(12, 20), (6, 10), (3, 5)]
    valid = [(8, 12), (4, 6), (2, 3)]  # rows and columns of the small image
    assert records[0].spatial_shapes == shapes
    references = records[0].reference_points  # (N, S, L, 2)
    start = 0
    for (height, width), (rows, columns) in zip(shapes, valid, strict=True):
        for row, column in ((0, 0), (rows - 1, columns - 1), (1, 2)):
            token = start + row * width + column
            x, y = (column + 0.5) / columns, (row + 0.5) / rows  # fractions of the small image
            for level, ((h, w), (r, c)) in enumerate(zip(shapes, valid, strict=True)):
                expected = torch.tensor([x * c / w, y * r / h], dtype=torch.float64)
                torch.testing.assert_close(references[1, token, level], expected)
            full = torch.tensor([(column + 0.5) / width, (row + 0.5) / height]).double()
            torch.testing.assert_close(references[0, token], full.expand(3, 2), rtol=0, atol=1e-7)
        start += height * width
    assert all(torch.equal(record.reference_points, references) for record in records)


@torch.no_grad()
def test_the_decoder_scales_its_references_to_each_padded_level(leakless, padded):
    with capture(leakless.decoder) as records:
        out = leakless(*padded)
    ratio = torch.tensor([SMALL[1] / WIDTH, SMALL[0] / HEIGHT]).double()  # (x, y)
    if leakless.config.two_stage:
        best = out.encoder.logits[1, :, 0].topk(13).indices
        first = out.encoder.boxes[1, best] * ratio.repeat(2)  # (Lq, 4)
    else:
        first = leakless.queries(1).reference_points[0] * ratio  # (Lq, 2)
    torch.testing.assert_close(
        records[0].reference_points[1], first[:, None].expand(-1, 3, -1), rtol=0, atol=1e-7
    )
    for record, before in zip(records[1:], out.aux, strict=True):
        expected = before.boxes[1] * ratio.repeat(2)
        torch.testing.assert_close(
            record.reference_points[1], expected[:, None].expand(-1, 3, -1), rtol=0, atol=1e-7
        )


@torch.no_grad()
def test_in_the_whole_tiny_model_padding_moves_boxes_little(build):
    """Measured over eight seeds: at most 0.034 of the image, mostly under 0.01."""
    model, generator = build(), torch.Generator().manual_seed(6)
    images = [torch.rand(3, h, w, generator=generator) for h, w in ((64, 96), (97, 71), (53, 89))]
    size = ResizeConfig(64, 96)
    batch = model(*make_batch(images, size))
    moved = []
    for n, image in enumerate(images):
        single = model(*make_batch([image], size))
        moved.append((single.boxes[0] - batch.boxes[n]).abs().max().item())
        assert single.boxes.std(1).mean() > 0.05
    assert 0 < max(moved) < 0.05


@torch.no_grad()
def test_in_two_stages_padding_moves_proposals_little(build):
    """Measured over eight seeds: at most 0.019 of the image.

    A small shift may change which tokens are chosen, so single queries have no such bound.
    """
    model, generator = build(two_stage=True), torch.Generator().manual_seed(6)
    images = [torch.rand(3, h, w, generator=generator) for h, w in ((64, 96), (96, 64))]
    size = ResizeConfig(64, 96)
    batch = model(*make_batch(images, size)).encoder.boxes
    for n, image in enumerate(images):
        single = model(*make_batch([image], size)).encoder.boxes[0]
        batched, single = (boxes[(boxes < 1).all(-1)] for boxes in (batch[n], single))
        assert 0 < (batched - single).abs().max() < 0.03


# Norms that leave out padding -------------------------------------------------------------------


def images_of(*sizes):
    """A batch whose padding goes up to multiples of 64, and each image as a batch of its own.

    Alone, an image is not padded at all, even where its sides are no multiples of a stride.
    """
    g = torch.Generator().manual_seed(6)
    images = [torch.randn(3, h, w, generator=g) for h, w in sizes]
    height, width = (-(-max(side) // 64) * 64 for side in zip(*sizes, strict=True))
    batch, mask = torch.zeros(len(images), 3, height, width), torch.ones(len(images), height, width)
    for n, (h, w) in enumerate(sizes):
        batch[n, :, :h, :w], mask[n, :h, :w] = images[n], 0
    alone = [(image[None], torch.zeros(1, *image.shape[1:], dtype=torch.bool)) for image in images]
    return (batch, mask.bool()), alone


@pytest.mark.parametrize("n_levels", [2, 3, 4])
@torch.no_grad()
def test_with_ignore_padding_the_whole_tiny_model_predicts_as_for_the_image_alone(build, n_levels):
    batch, alone = images_of((64, 192), (50, 75), (33, 64), (64, 48))
    moved = {}
    for ignore_padding in (False, True):
        model = build(n_levels=n_levels, ignore_padding=ignore_padding)
        found, singles = model(*batch), [model(*one) for one in alone]
        moved[ignore_padding] = max(
            distance(Predictions(many.logits[n : n + 1], many.boxes[n : n + 1]), one)
            for n, single in enumerate(singles)
            for many, one in zip([found, *found.aux], [single, *single.aux], strict=True)
        )
    assert moved[True] < 2e-5 and moved[False] > 1e-2


@pytest.mark.parametrize("tokens_as_content", [False, True])
@torch.no_grad()
def test_with_ignore_padding_so_do_two_stages(build, tokens_as_content):
    """Alone the smallest image has 64 tokens, so that all 11 queries are its own."""
    batch, alone = images_of((64, 192), (50, 75), (64, 48))
    moved = {}
    for ignore_padding in (False, True):
        model = build(
            two_stage=True, tokens_as_content=tokens_as_content, ignore_padding=ignore_padding
        )
        # The zeroed tokens get the highest objectness of all, so that padding would be chosen.
        own = model.queries
        zeroed = own.memory_norm(own.memory_projection.bias)
        own.heads.class_head.weight[0] += 5 * zeroed / zeroed.square().sum()
        with capture_model(model) as records:
            found = model(*batch)
        singles = [model(*one) for one in alone]
        moved[ignore_padding] = max(
            distance(Predictions(many.logits[n : n + 1], many.boxes[n : n + 1]), one)
            for n, single in enumerate(singles)
            for many, one in zip([found, *found.aux], [single, *single.aux], strict=True)
        )
    assert moved[True] < 2e-5 and moved[False] > 1e-2
    (proposals,) = records.proposals
    padding = proposals.objectness.isinf()
    assert padding[1:].any(1).all() and not padding[0].any()
    assert not padding.gather(1, proposals.topk_indices).any()


def test_with_ignore_padding_training_does_not_depend_on_how_much_padding_there_is(build):
    """Batch norms mix the images of a batch, but the padding of that batch has no part in it."""
    (images, mask), _ = images_of((64, 128), (50, 75))
    wider = (
        nn.functional.pad(images, (0, 64, 0, 64)),
        nn.functional.pad(mask, (0, 64, 0, 64), value=True),
    )
    results = []
    for batch in ((images, mask), wider):
        model = build(ignore_padding=True).train()
        out = model(*batch)
        out.boxes.sum().backward()
        results.append((out, model))
    (a, first), (b, second) = results
    torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=5e-5)
    torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=2e-5)
    for x, y in zip(first.buffers(), second.buffers(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    for (name, x), y in zip(first.named_parameters(), second.parameters(), strict=True):
        if x.grad is not None:
            scale = x.grad.abs().max().item()
            torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=2e-3 * scale + 1e-5, msg=name)


@torch.no_grad()
def test_ignore_padding_survives_fusing_and_changes_nothing_without_padding(build):
    batch, alone = images_of((64, 128), (50, 75))
    masked, plain = build(ignore_padding=True), build()
    assert torch.equal(masked(*alone[0]).logits, plain(*alone[0]).logits)
    expected = masked(*batch)
    fuse_conv_bn(masked.backbone)
    assert distance(masked(*batch), expected) < 1e-4


@torch.no_grad()
def test_with_ignore_padding_a_resnet_leaves_zeros_in_the_padding():
    (images, mask), _ = images_of((64, 128), (50, 75))
    maps = ResNetBackbone("resnet18").eval()(images, mask)
    for m, shape in zip(maps, ((7, 10), (4, 5), (2, 3)), strict=True):
        rows, columns = shape  # of the second image, rounded up
        assert m[1, :, :rows, :columns].any() and m[0].any()
        assert not m[1, :, rows:].any() and not m[1, :, :, columns:].any()
