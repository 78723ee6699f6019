"""DETR: its size and initialisation, its layers against the formulas, and its padding."""

import math

import pytest
import torch
from torch import nn

from ddetr_edu.models.config import DETRConfig
from ddetr_edu.models.detr import DETR, attention_maps
from ddetr_edu.models.position import sine_position

SMALL = dict(
    num_classes=5,
    d_model=44,
    n_heads=11,
    n_encoder_layers=2,
    n_decoder_layers=3,
    d_ffn=37,
    n_queries=7,
)


@pytest.fixture
def build():
    """build(**changes): a small model in evaluation mode, with noise on its parameters."""

    def make(**changes) -> DETR:
        torch.manual_seed(0)
        model = DETR(DETRConfig.preset("detr_tiny", **{**SMALL, **changes}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        return model.eval()

    return make


def batch(height=71, width=103, dtype=torch.float32):
    """A full image, and one that fills the top left 64 x 96 pixels."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(2, 3, height, width, generator=generator, dtype=dtype)
    mask = torch.zeros(2, height, width, dtype=torch.bool)
    mask[1] = True
    mask[1, :64, :96] = False
    return images.masked_fill(mask[:, None], 0), mask


# Size and initialisation -------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["detr_r50", "detr_r50_dc5"])
def test_as_many_parameters_as_the_official_model(preset):
    with torch.device("meta"):
        model = DETR(DETRConfig.preset(preset))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 41_302_368
    stem_and_first_stage = 64 * 3 * 7 * 7 + 64 * 64 + 9 * 64 * 64 + 2 * 256 * 64
    stem_and_first_stage += 2 * (256 * 64 + 9 * 64 * 64 + 64 * 256)
    assert stem_and_first_stage == 222_400
    assert sum(p.numel() for p in model.parameters()) == trained + stem_and_first_stage


@pytest.mark.parametrize("preset, size", [("detr_r50", (25, 38)), ("detr_r50_dc5", (50, 75))])
def test_one_feature_map_of_stride_32_or_with_dilation_16(preset, size):
    with torch.device("meta"):
        model = DETR(DETRConfig.preset(preset))
        level = model.input_projection(model.backbone(torch.zeros(1, 3, 800, 1200))[-1])
    assert level.shape == (1, 256, *size)


def test_the_defaults_are_the_official_ones():
    config = DETRConfig.preset("detr_r50")
    assert config == DETRConfig(91, "resnet50", False, 256, 8, 6, 6, 2048, 0.1, 100)
    assert DETRConfig.preset("detr_r50_dc5") == DETRConfig(dilation=True)


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(backbone="vgg16"), "vgg16.*is not known"),
        (dict(backbone="tiny", dilation=True), "dilation needs a torchvision ResNet"),
        (dict(n_queries=0), "n_queries is 0"),
        (dict(n_heads=7), "d_model=256 .*n_heads=7"),
        (dict(d_model=30, n_heads=2), "d_model=30 must be a multiple of 4"),
        (dict(dropout=1.0), "dropout is 1.0"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(values, message):
    with pytest.raises(ValueError, match=message) as refused:
        DETRConfig(**values)
    assert "\n" not in str(refused.value)


def test_an_unknown_preset_is_refused_with_a_list_of_the_known_ones():
    with pytest.raises(ValueError, match="r50.*detr_tiny, detr_r50, detr_r50_dc5"):
        DETRConfig.preset("r50")


def test_the_transformer_is_xavier_and_the_heads_are_not():
    torch.manual_seed(1)
    model = DETR(DETRConfig.preset("detr_tiny", dropout=0.1))
    for layer in [*model.encoder, *model.decoder]:
        for name, weight in layer.named_parameters():
            if weight.dim() > 1:
                bound = math.sqrt(6 / sum(weight.shape))
                assert 0.97 * bound < weight.abs().max() <= bound, name
            elif "attn." in name:
                assert not weight.any(), name  # the biases of attention
        assert {m.p for m in layer.modules() if isinstance(m, nn.Dropout)} == {0.1}
        assert layer.self_attn.dropout == 0.1
    assert model.queries.weight.std().item() == pytest.approx(1, abs=0.05)
    assert model.class_head.bias.abs().max() < 1  # no prior probability: these share a softmax
    assert model.bbox_head[-1].weight.any()


# Predictions ------------------------------------------------------------------------------------


@torch.no_grad()
def test_boxes_and_classes_after_every_layer(build):
    out = build()(*batch())
    assert out.no_object and len(out.aux) == 2 and out.encoder is None
    for layer in [*out.aux, out]:
        assert layer.no_object and layer.aux in ([], out.aux)
        assert layer.logits.shape == (2, 7, 6) and layer.boxes.shape == (2, 7, 4)
        assert layer.boxes.min() > 0 and layer.boxes.max() < 1
        assert layer.scores().shape == (2, 7, 5)
        no_object = layer.logits.softmax(-1)[..., 5]
        torch.testing.assert_close(layer.scores().sum(-1) + no_object, torch.ones(2, 7))
    assert not torch.equal(out.logits, out.aux[1].logits)


def slow_attention(attention, query, key, value):
    """Multi-head attention of one image, written from its formula: (Lq, C), (S, C) -> (Lq, C)."""
    width = query.shape[-1] // attention.num_heads
    q, k, v = (
        x @ w.T + b
        for x, w, b in zip(
            (query, key, value),
            attention.in_proj_weight.chunk(3),
            attention.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    heads = []
    for m in range(attention.num_heads):
        part = slice(m * width, (m + 1) * width)
        weights = (q[:, part] @ k[:, part].T / math.sqrt(width)).softmax(-1)
        heads.append(weights @ v[:, part])
    return torch.cat(heads, -1) @ attention.out_proj.weight.T + attention.out_proj.bias


def feed_forward(layer, x):
    hidden = (x @ layer.ffn.linear1.weight.T + layer.ffn.linear1.bias).clamp(min=0)
    return layer.ffn_norm(x + hidden @ layer.ffn.linear2.weight.T + layer.ffn.linear2.bias)


def slow_detr(model, image):
    """The states before the heads, layer by layer, of one image without padding: (Lq, C)."""
    level = model.input_projection(model.backbone(image[None])[-1])[0]  # (C, H_l, W_l)
    no_padding = torch.zeros(1, *level.shape[1:], dtype=torch.bool)
    tokens = level.flatten(1).T  # (S, C)
    position = sine_position(no_padding, level.shape[0], 0, image.dtype)[0].flatten(1).T
    for layer in model.encoder:
        self_attn_out = slow_attention(
            layer.self_attn, tokens + position, tokens + position, tokens
        )
        tokens = feed_forward(layer, layer.self_attn_norm(tokens + self_attn_out))
    queries = model.queries.weight
    content, states = torch.zeros_like(queries), []
    for layer in model.decoder:
        query = content + queries
        self_attn_out = slow_attention(layer.self_attn, query, query, content)
        content = layer.self_attn_norm(content + self_attn_out)
        cross_attn_out = slow_attention(
            layer.cross_attn, content + queries, tokens + position, tokens
        )
        content = feed_forward(layer, layer.cross_attn_norm(content + cross_attn_out))
        states.append(model.decoder_norm(content))
    return states


def max_error(model) -> float:
    """The largest difference between the model and `slow_detr`, in any logit or box."""
    images, _ = batch(dtype=torch.float64)
    out = model(images[:1], torch.zeros(1, 71, 103, dtype=torch.bool))
    error = 0.0
    for layer, state in zip([*out.aux, out], slow_detr(model, images[0]), strict=True):
        error = max(error, (layer.logits[0] - model.class_head(state)).abs().max().item())
        error = max(error, (layer.boxes[0] - model.bbox_head(state).sigmoid()).abs().max().item())
    return error


@torch.no_grad()
def test_agrees_with_attention_written_out_from_its_formula(build):
    assert max_error(build().double()) < 1e-9


@pytest.mark.parametrize("mistake", ["position in the values", "no position", "half a pixel"])
@torch.no_grad()
def test_the_comparison_would_notice(build, mistake, monkeypatch):
    model = build().double()
    if mistake == "position in the values":
        for layer in model.encoder:
            layer.self_attn.register_forward_pre_hook(lambda _, a: (a[0], a[0], a[0], a[3]))
    elif mistake == "no position":
        for layer in model.decoder:
            layer.cross_attn.register_forward_pre_hook(lambda _, a: (a[0], a[2], a[2], a[3]))
    else:
        monkeypatch.setattr(
            "ddetr_edu.models.detr.sine_position",
            lambda mask, c, shift, dtype: sine_position(mask, c, 0.5, dtype),
        )
    assert max_error(model) > 1e-4


# Padding ----------------------------------------------------------------------------------------


class Pool(nn.Module):
    """A backbone without overlap: each cell of the map is the mean of its own pixels."""

    channels = (3,)

    def forward(self, images):
        return [nn.functional.avg_pool2d(images, 32)]


@pytest.fixture
def leakless(build):
    """A model in fp64 in which padding could have an effect through the transformer alone."""
    model = build()
    model.backbone = Pool()
    model.input_projection = nn.Conv2d(3, 44, 1)
    nn.init.normal_(model.input_projection.weight, 0, 3)
    return model.double()


def padding_effect(model):
    """The largest difference between the small image's predictions, padded and alone."""
    images, mask = batch(160, 224, torch.float64)
    padded, alone = model(images, mask), model(images[1:, :, :64, :96], mask[1:, :64, :96])
    return max(
        (padded.logits[1] - alone.logits[0]).abs().max().item(),
        (padded.boxes[1] - alone.boxes[0]).abs().max().item(),
    )


@torch.no_grad()
def test_an_image_gets_the_same_predictions_alone_and_padded(leakless):
    assert padding_effect(leakless) < 1e-9


@torch.no_grad()
def test_masked_pixels_do_not_matter(leakless):
    images, mask = batch(160, 224, torch.float64)
    before = leakless(images, mask)
    after = leakless(torch.where(mask[:, None], 100 * torch.randn_like(images), images), mask)
    assert torch.equal(before.boxes[1], after.boxes[1])
    assert torch.equal(before.logits[1], after.logits[1])


@pytest.mark.parametrize("mistake", ["in the encoder", "in the decoder", "in the position"])
@torch.no_grad()
def test_a_missing_mask_would_be_noticed(leakless, mistake, monkeypatch):
    if mistake == "in the position":
        monkeypatch.setattr(
            "ddetr_edu.models.detr.sine_position",
            lambda mask, *args, **kw: sine_position(torch.zeros_like(mask), *args, **kw),
        )
    attentions = {
        "in the encoder": [layer.self_attn for layer in leakless.encoder],
        "in the decoder": [layer.cross_attn for layer in leakless.decoder],
        "in the position": [],
    }
    for attention in attentions[mistake]:
        attention.register_forward_pre_hook(lambda _, args: args[:3])
    assert padding_effect(leakless) > 1e-4


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda i, m: (i[0], m), "images is torch.float32 of shape"),
        (lambda i, m: (i.double(), m), "images are torch.float64, but the model"),
        (lambda i, m: (i, ~m), "marks the top left pixel"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(build, spoil, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()(*spoil(*batch()))


# Attention maps ---------------------------------------------------------------------------------


def test_attention_maps_are_what_the_decoder_used(build):
    model = build().double()
    images, mask = batch(160, 224, torch.float64)
    calls = []
    for layer in model.decoder:
        layer.cross_attn.register_forward_hook(lambda _, args, out: calls.append((args[2], out[0])))
    maps = attention_maps(model, images, mask)
    assert [tuple(m.shape) for m in maps] == [(2, 11, 7, 5, 7)] * 3
    for layer, weights, (memory, output) in zip(model.decoder, maps, calls, strict=True):
        torch.testing.assert_close(weights.sum((-2, -1)), torch.ones(2, 11, 7).double())
        assert not weights[1, :, :, 2:].any() and not weights[1, :, :, :, 3:].any()  # padding
        _, _, value = (
            memory @ w.T + b
            for w, b in zip(
                layer.cross_attn.in_proj_weight.chunk(3),
                layer.cross_attn.in_proj_bias.chunk(3),
                strict=True,
            )
        )
        value = value.unflatten(-1, (11, 4))  # (N, S, M, D)
        heads = torch.einsum("nmqs,nsmd->nqmd", weights.flatten(-2), value).flatten(-2)
        expected = layer.cross_attn.out_proj(heads)
        torch.testing.assert_close(output, expected)


@torch.no_grad()
def test_attention_maps_leave_the_model_as_it_was(build):
    model = build()
    before = model(*batch())
    attention_maps(model, *batch())
    assert torch.equal(model(*batch()).logits, before.logits)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
