"""The whole model: its size, its initialisation, its levels, and what it refuses."""

import math

import pytest
import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from ddetr_edu.attention import MSDeformAttn, capture
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR, InputProjection, flatten_levels
from ddetr_edu.models.heads import inverse_sigmoid
from ddetr_edu.models.norms import resize_mask

# Size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "preset, count",
    [
        ("r50_single_scale", 33_844_193),
        ("r50_single_scale_dc5", 33_844_193),
        ("r50", 39_847_265),
        ("r50_refine", 40_627_260),
        ("r50_two_stage", 40_959_129),
    ],
)
def test_as_many_trainable_parameters_as_the_official_models(preset, count):
    with torch.device("meta"):
        model = DeformableDETR(DeformableDETRConfig.preset(preset))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_an_image_of_800_x_1200_has_19947_tokens():
    with torch.device("meta"):
        model = DeformableDETR(DeformableDETRConfig.preset("r50"))
        levels = model.input_projection(model.backbone(torch.zeros(1, 3, 800, 1200)))
        tokens = flatten_levels(levels)
    assert [tuple(x.shape[2:]) for x in levels] == [(100, 150), (50, 75), (25, 38), (13, 19)]
    assert tokens.shape == (1, 19_947, 256)


def test_dc5_keeps_twice_the_resolution():
    sizes = {}
    for preset in ("r50_single_scale", "r50_single_scale_dc5"):
        with torch.device("meta"):
            model = DeformableDETR(DeformableDETRConfig.preset(preset))
            (level,) = model.input_projection(model.backbone(torch.zeros(1, 3, 800, 1200)))
        sizes[preset] = tuple(level.shape[2:])
    assert sizes == {"r50_single_scale": (25, 38), "r50_single_scale_dc5": (50, 75)}


# Initialisation -----------------------------------------------------------------------------------

START = dict(
    backbone="resnet18",
    num_classes=91,
    d_model=128,
    n_heads=8,
    n_encoder_layers=2,
    n_decoder_layers=3,
    d_ffn=64,
    n_queries=101,
)


@pytest.fixture(scope="module", params=[False, True], ids=["shared heads", "refined"])
def fresh(request):
    torch.manual_seed(5)
    return DeformableDETR(DeformableDETRConfig(**START, box_refine=request.param))


def xavier_bound(weight):
    receptive = weight[0][0].numel() if weight.dim() > 2 else 1
    return math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * receptive))


def assert_xavier(weight):
    bound = xavier_bound(weight)
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.97 * bound  # the whole range is used
    assert abs(weight.std() / (bound / math.sqrt(3)) - 1) < 0.05  # uniformly


def test_every_class_starts_at_one_percent(fresh):
    for heads in fresh.decoder.heads:
        torch.testing.assert_close(heads.class_head.bias, torch.full((91,), -4.59512))
        torch.testing.assert_close(heads.class_head.bias.sigmoid(), torch.full((91,), 0.01))


def test_boxes_start_at_their_reference_and_only_the_first_heads_have_an_initial_size(fresh):
    heads = fresh.decoder.heads
    assert len(heads) == (3 if fresh.config.box_refine else 1)
    for index, head in enumerate(heads):
        last = head.bbox_head[-1]
        assert not last.weight.any()
        assert last.bias.tolist() == ([0, 0, -2, -2] if index == 0 else [0, 0, 0, 0])


def test_the_initial_boxes_follow_from_that(fresh):
    with torch.no_grad():
        out = fresh.eval()(torch.randn(2, 3, 65, 97), torch.zeros(2, 65, 97, dtype=torch.bool))
        points = fresh.queries(2).reference_points
    for layer in [*out.aux, out]:
        torch.testing.assert_close(layer.boxes[..., :2], points, rtol=0, atol=1e-5)
        side = torch.full((2, 101, 2), 1 / (1 + math.exp(2)))  # 0.119
        torch.testing.assert_close(layer.boxes[..., 2:], side, rtol=0, atol=1e-5)


def test_the_transformer_is_xavier_and_the_attention_has_its_own_initialisation(fresh):
    attentions = 0
    for layer in [*fresh.encoder.layers, *fresh.decoder.layers]:
        assert_xavier(layer.ffn.linear1.weight)
        assert_xavier(layer.ffn.linear2.weight)
        for module in layer.modules():
            if isinstance(module, MSDeformAttn):
                attentions += 1
                assert not module.sampling_offsets.weight.any()
                assert not module.attention_weights.weight.any()
                assert not module.attention_weights.bias.any()
                star = module.sampling_offsets.bias.unflatten(0, (8, 4, 4, 2))
                reach = star.abs().amax(-1)  # on squares: the larger of |dx|, |dy| is the step
                torch.testing.assert_close(reach, torch.arange(1.0, 5.0).expand(8, 4, 4))
                corner = torch.tensor([1.0, 1.0])  # head 1 points along the diagonal
                torch.testing.assert_close(star[1, 2, 0], corner, rtol=0, atol=1e-6)
                assert_xavier(module.value_proj.weight)
                assert_xavier(module.output_proj.weight)
                assert not module.value_proj.bias.any() and not module.output_proj.bias.any()
    assert attentions == 2 + 3
    for layer in fresh.decoder.layers:
        assert_xavier(
            layer.self_attn.in_proj_weight
        )  # (3C, C) as one matrix, as in the official code
        assert_xavier(layer.self_attn.out_proj.weight)
        assert not layer.self_attn.in_proj_bias.any()


def test_embeddings_start_normal_and_references_xavier(fresh):
    assert fresh.queries.embedding.weight.shape == (101, 256)
    for weight in (fresh.queries.embedding.weight, fresh.level_embedding):
        assert abs(weight.mean()) < 0.15 and abs(weight.std() - 1) < 0.1
    assert_xavier(fresh.queries.reference_points.weight)
    assert not fresh.queries.reference_points.bias.any()


def test_input_projections_start_xavier(fresh):
    kernels = []
    for convolution, norm in fresh.input_projection.levels:
        kernels.append((convolution.in_channels, convolution.kernel_size, convolution.stride))
        assert_xavier(convolution.weight)
        assert not convolution.bias.any()
        assert isinstance(norm, nn.GroupNorm) and norm.num_groups == 32
    assert kernels == [
        (128, (1, 1), (1, 1)),
        (256, (1, 1), (1, 1)),
        (512, (1, 1), (1, 1)),
        (512, (3, 3), (2, 2)),
    ]


def test_frozen_parts_are_frozen_inside_the_model(fresh):
    frozen = {n for n, p in fresh.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(n.startswith(("backbone.body.conv1", "backbone.body.layer1")) for n in frozen)
    assert any(isinstance(m, FrozenBatchNorm2d) for m in fresh.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fresh.modules())


# Levels and tokens ------------------------------------------------------------------------------


def test_extra_levels_come_from_the_last_map_itself_then_from_each_other():
    torch.manual_seed(0)
    project = InputProjection((5, 7, 11), 32, n_levels=5)
    maps = [torch.randn(2, c, h, w) for c, h, w in ((5, 19, 29), (7, 10, 15), (11, 5, 8))]
    levels = project(maps)
    assert [tuple(x.shape[2:]) for x in levels] == [(19, 29), (10, 15), (5, 8), (3, 4), (2, 2)]

    def by_hand(index, source):
        convolution, norm = project.levels[index]
        out = nn.functional.conv2d(
            source,
            convolution.weight,
            convolution.bias,
            stride=1 if index < 3 else 2,
            padding=0 if index < 3 else 1,
        )
        return nn.functional.group_norm(out, 32, norm.weight, norm.bias)

    for index, source in enumerate([*maps, maps[-1], levels[3]]):
        torch.testing.assert_close(levels[index], by_hand(index, source))


@pytest.mark.parametrize("n_levels, widths", [(1, [11]), (2, [7, 11])])
def test_fewer_levels_use_the_coarsest_maps(n_levels, widths):
    project = InputProjection((5, 7, 11), 32, n_levels)
    assert [convolution.in_channels for convolution, _ in project.levels] == widths
    maps = [torch.randn(1, c, h, h + 2) for c, h in ((5, 13), (7, 7), (11, 4))]
    assert [x.shape[2] for x in project(maps)] == [7, 4][-n_levels:]


def test_tokens_are_in_row_major_order_finest_level_first():
    levels = [torch.arange(2 * 3 * h * w).view(2, 3, h, w) + 1000 * h for h, w in ((5, 7), (2, 3))]
    tokens = flatten_levels(levels)
    assert tokens.shape == (2, 35 + 6, 3)
    assert torch.equal(tokens[1, 2 * 7 + 4], levels[0][1, :, 2, 4])
    assert torch.equal(tokens[0, 35 + 1 * 3 + 2], levels[1][0, :, 1, 2])


def test_a_mask_is_resized_by_nearest_neighbour():
    mask = torch.ones(2, 11, 17, dtype=torch.bool)
    mask[0, :6, :9] = False
    mask[1, :11, :4] = False
    resized = resize_mask(mask, (5, 7))
    assert resized.dtype == torch.bool and resized.shape == (2, 5, 7)
    for row in range(5):
        for column in range(7):
            expected = mask[:, row * 11 // 5, column * 17 // 7]
            assert torch.equal(resized[:, row, column], expected)


def test_levels_in_a_forward_pass_round_up(build):
    model = build(n_levels=4)
    with capture(model) as records, torch.no_grad():
        model(torch.randn(1, 3, 67, 101), torch.zeros(1, 67, 101, dtype=torch.bool))
    for record in records:
        assert record.spatial_shapes == [(9, 13), (5, 7), (3, 4), (2, 2)]
    assert [record.name for record in records] == (
        [f"encoder.layers.{i}.self_attn" for i in range(2)]
        + [f"decoder.layers.{i}.cross_attn" for i in range(3)]
    )


def test_the_level_embedding_is_added_level_by_level(build):
    """Each level's row is added to the positions of its own tokens and of no others."""
    model = build()
    positions = []
    model.encoder.register_forward_pre_hook(lambda _, args: positions.append(args[1]))
    images, mask = torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
    with torch.no_grad():
        model(images, mask)
        model.level_embedding[1] += torch.arange(96.0)
        model(images, mask)
    change = positions[1] - positions[0]  # (N, S, C)
    n_first, n_second = 8 * 12, 4 * 6
    middle = slice(n_first, n_first + n_second)
    torch.testing.assert_close(
        change[:, middle], torch.arange(96.0).expand(2, n_second, 96), rtol=0, atol=1e-4
    )
    assert not change[:, :n_first].any() and not change[:, n_first + n_second :].any()


# Predictions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("box_refine", [False, True])
def test_shapes_and_auxiliary_predictions(build, box_refine):
    model = build(box_refine=box_refine)
    out = model(torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool))
    assert len(out.aux) == 3 - 1 and out.encoder is None
    for layer in [out, *out.aux]:
        assert layer.logits.shape == (2, 11, 5) and layer.boxes.shape == (2, 11, 4)
        assert layer.boxes.min() >= 0 and layer.boxes.max() <= 1
    assert not any(layer.aux for layer in out.aux)
    assert not torch.equal(out.boxes, out.aux[1].boxes)


def test_a_single_layer_has_no_auxiliary_predictions(build):
    model = build(n_decoder_layers=1)
    out = model(torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool))
    assert out.aux == []


def test_images_of_a_batch_do_not_influence_each_other(build):
    model = build()
    images, mask = torch.randn(3, 3, 64, 96), torch.zeros(3, 64, 96, dtype=torch.bool)
    with torch.no_grad():
        before = model(images, mask)
        images[1] = torch.randn(3, 64, 96)
        after = model(images, mask)
    for n in (0, 2):
        torch.testing.assert_close(before.boxes[n], after.boxes[n], rtol=0, atol=1e-6)
        torch.testing.assert_close(before.logits[n], after.logits[n], rtol=0, atol=1e-4)
    assert (before.boxes[1] - after.boxes[1]).abs().max() > 1e-3


def test_every_trainable_parameter_gets_a_gradient(build):
    model = build(n_levels=4).train()
    out = model(torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool))
    everything = [x for layer in [out, *out.aux] for x in (layer.boxes, layer.logits)]
    sum(x.square().sum() for x in everything).backward()
    untouched = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "images, mask, message",
    [
        (torch.zeros(3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool), r"\(3, 64, 96\)"),
        (torch.zeros(1, 1, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool), r"\(N, 3, H, W\)"),
        (
            torch.zeros(1, 3, 64, 96, dtype=torch.uint8),
            torch.zeros(1, 64, 96, dtype=torch.bool),
            "uint8",
        ),
        (torch.zeros(1, 3, 64, 96), torch.zeros(1, 96, 64, dtype=torch.bool), r"\(1, 64, 96\)"),
        (torch.zeros(2, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool), r"\(2, 64, 96\)"),
        (torch.zeros(1, 3, 64, 96), torch.zeros(1, 64, 96), "must be bool"),
        (torch.zeros(1, 3, 64, 96), torch.ones(1, 64, 96, dtype=torch.bool), "inverse"),
    ],
    ids=["rank", "channels", "uint8", "transposed", "count", "dtype", "inverse"],
)
def test_images_and_masks_that_do_not_fit_are_refused(build, images, mask, message):
    with pytest.raises(ValueError, match=message) as refused:
        build()(images, mask)
    assert "\n" not in str(refused.value)


def test_inverse_sigmoid_is_the_inverse_and_clamps():
    x = torch.linspace(1e-4, 1 - 1e-4, 101, dtype=torch.float64)
    torch.testing.assert_close(inverse_sigmoid(x).sigmoid(), x, rtol=0, atol=1e-9)
    edge = math.log((1 - 1e-5) / 1e-5)
    ends = inverse_sigmoid(torch.tensor([-0.3, 0.0, 1.0, 1.7], dtype=torch.float64))
    torch.testing.assert_close(
        ends, torch.tensor([-edge, -edge, edge, edge], dtype=torch.float64), rtol=0, atol=2e-5
    )
