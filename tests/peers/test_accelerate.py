"""Our operation under the models of transformers: the same answers, and everything put back."""

import importlib
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import ddetr_edu as dd
from ddetr_edu.attention import accelerate

transformers = pytest.importorskip("transformers")

N, LQ, M, D, POINTS = 2, 3, 5, 7, [4, 2, 3]
SHAPES = [(11, 13), (5, 6), (2, 3)]


def inputs(points=POINTS, dtype=torch.float64):
    """Value, locations and weights; a fifth of the points outside; levels on one axis."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in SHAPES)
    value = torch.randn(N, tokens, M, D, dtype=dtype, generator=generator)
    locations = torch.rand(N, LQ, M, sum(points), 2, dtype=dtype, generator=generator) * 1.2 - 0.1
    weights = torch.rand(N, LQ, M, sum(points), dtype=dtype, generator=generator)
    return value.requires_grad_(), locations.requires_grad_(), weights.requires_grad_()


def operation(family):
    """Their operation of three tensors, looked up at each call as their models do."""
    source = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    if hasattr(source, "multi_scale_deformable_attention_v2"):
        return lambda value, locations, weights: source.multi_scale_deformable_attention_v2(
            value, SHAPES, locations, weights, POINTS
        ), POINTS
    equal = [4, 4, 4]

    def by_level(value, locations, weights):
        locations = locations.unflatten(3, (3, 4))
        weights = weights.unflatten(3, (3, 4))
        if hasattr(source, "multi_scale_deformable_attention"):
            return source.multi_scale_deformable_attention(value, SHAPES, locations, weights)
        attention = source.MultiScaleDeformableAttention()
        shapes = torch.tensor(SHAPES)
        return attention(value, shapes, SHAPES, None, locations, weights, 64)

    return by_level, equal


@pytest.fixture
def calls(monkeypatch):
    """How often our operation was called."""
    made = []
    ours = accelerate.ms_deform_attn

    def counted(*arguments, **options):
        made.append(arguments)
        return ours(*arguments, **options)

    monkeypatch.setattr(accelerate, "ms_deform_attn", counted)
    return made


@pytest.mark.parametrize("family", accelerate.FAMILIES)
def test_every_family_gives_the_same_values_and_gradients(family, calls):
    run, points = operation(family)
    tensors = inputs(points)
    theirs = run(*tensors)
    upstream = torch.randn_like(theirs)
    gradients = torch.autograd.grad(theirs, tensors, upstream)
    with dd.accelerated_transformers():
        ours = run(*tensors)
    assert len(calls) == 1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for mine, expected in zip(torch.autograd.grad(ours, tensors, upstream), gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-10)
    assert torch.equal(run(*tensors), theirs)
    assert len(calls) == 1, "not undone"


def test_discrete_sampling_stays_theirs(calls):
    source = importlib.import_module("transformers.models.rt_detr_v2.modeling_rt_detr_v2")
    value, locations, weights = inputs()
    arguments = (value, SHAPES, locations, weights, POINTS, "discrete")
    theirs = source.multi_scale_deformable_attention_v2(*arguments)
    with dd.accelerated_transformers(), dd.accelerated_transformers():
        ours = source.multi_scale_deformable_attention_v2(*arguments)
    assert torch.equal(ours, theirs)
    assert not calls


def test_sixteen_bits_come_back_as_sixteen_bits():
    run, points = operation("deformable_detr")
    tensors = [tensor.detach().float() for tensor in inputs(points)]
    exact = run(*tensors)
    with dd.accelerated_transformers():
        rounded = run(*(tensor.bfloat16() for tensor in tensors))
    assert rounded.dtype == torch.bfloat16
    theirs = run(*(tensor.bfloat16() for tensor in tensors))
    assert (rounded - exact).abs().max() <= (theirs - exact).abs().max() * 1.05


SMALL = dict(d_model=32, encoder_ffn_dim=16, decoder_ffn_dim=16, decoder_layers=2, num_queries=9)
RT = dict(
    SMALL, encoder_hidden_dim=32, encoder_in_channels=[16, 24, 40], decoder_in_channels=[32] * 3
)
SWIN = dict(embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4)


def rt_resnet():
    return transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 40], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def deformable_detr():
    pytest.importorskip("timm")
    config = transformers.DeformableDetrConfig(backbone="resnet18", encoder_layers=1, **SMALL)
    return transformers.DeformableDetrForObjectDetection(config)


def rt_detr():
    config = transformers.RTDetrConfig(backbone_config=rt_resnet(), **RT)
    return transformers.RTDetrForObjectDetection(config)


def rt_detr_v2():
    config = transformers.RTDetrV2Config(backbone_config=rt_resnet(), **RT)
    return transformers.RTDetrV2ForObjectDetection(config)


def grounding_dino():
    swin = transformers.SwinConfig(out_indices=[2, 3, 4], **SWIN)
    text = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=swin, text_config=text, encoder_layers=1, **SMALL
    )
    return transformers.GroundingDinoForObjectDetection(config)


def mask2former():
    swin = transformers.SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"], **SWIN)
    config = transformers.Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=16, dim_feedforward=16, encoder_layers=1, decoder_layers=2,
        num_queries=9,
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(config)


@pytest.mark.parametrize(
    "build", [deformable_detr, rt_detr, rt_detr_v2, grounding_dino, mask2former]
)
def test_whole_models_give_the_same_answers(build, calls):
    torch.manual_seed(0)
    model = build().eval()
    generator = torch.Generator().manual_seed(1)
    with (
        torch.no_grad()
    ):  # offsets and weights begin as zeros and stars: nothing would depend on them
        for name, parameter in model.named_parameters():
            if "sampling_offsets" in name or "attention_weights" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = {"pixel_values": torch.randn(2, 3, 96, 160, generator=generator)}
    if build is grounding_dino:
        given["input_ids"] = torch.tensor([[101, 4937, 1012, 102]]).expand(2, 4)

    def answers():
        with torch.no_grad():
            found = model(**given)
        return [value for value in found.to_tuple() if torch.is_tensor(value)]

    theirs = answers()
    with dd.accelerated_transformers():
        assert dd.accelerate(model) is model
        ours = answers()
    assert calls
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    made = len(calls)
    assert all(map(torch.equal, answers(), theirs))
    assert len(calls) == made, "not undone"
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_module_that_keeps_its_function_is_accelerated_and_gets_it_back(calls):
    source = importlib.import_module("transformers.models.d_fine.modeling_d_fine")
    config = transformers.DFineConfig(
        d_model=20, decoder_attention_heads=5, decoder_n_points=[3, 6, 2]
    )
    old = source.DFineMultiscaleDeformableAttention(config)
    query, tokens = torch.randn(2, 7, 20), torch.randn(2, 179, 20)
    reference = torch.rand(2, 7, 1, 4)

    def run(module):
        return module(
            query,
            reference_points=reference,
            encoder_hidden_states=tokens,
            spatial_shapes=torch.tensor(SHAPES),
            spatial_shapes_list=SHAPES,
        )[0]

    with dd.accelerated_transformers():
        new = source.DFineMultiscaleDeformableAttention(config)
        new.load_state_dict(old.state_dict())
        ours = run(old)
        assert torch.equal(ours, run(new))
        assert len(calls) == 2
    for module in (old, new):
        torch.testing.assert_close(run(module), ours, rtol=0, atol=1e-5)
        assert module.ms_deformable_attn_core is source.multi_scale_deformable_attention_v2
    assert len(calls) == 2


# mmcv and the official code are compiled for one machine; what we replace has these names and
# arguments there.
MMCV = """
class MultiScaleDeformableAttnFunction:
    @staticmethod
    def forward(ctx, value, value_spatial_shapes, value_level_start_index, sampling_locations,
                attention_weights, im2col_step):
        raise RuntimeError("not compiled")

    @classmethod
    def apply(cls, *arguments):
        return cls.forward(None, *arguments)

def multi_scale_deformable_attn_pytorch(value, value_spatial_shapes, sampling_locations,
                                        attention_weights):
    raise RuntimeError("slow")

class MultiScaleDeformableAttention(torch.nn.Module):
    def forward(self, value, spatial_shapes, level_start_index, locations, weights, compiled):
        if compiled:
            return MultiScaleDeformableAttnFunction.apply(
                value, spatial_shapes, level_start_index, locations, weights, 64)
        return multi_scale_deformable_attn_pytorch(value, spatial_shapes, locations, weights)
"""


@pytest.mark.parametrize("compiled", [True, False])
def test_functions_of_mmcv_and_the_official_code(compiled, monkeypatch):
    source = types.ModuleType("mmcv_of_this_test")
    source.torch = torch
    exec(MMCV, vars(source))
    monkeypatch.setitem(sys.modules, source.__name__, source)
    model = nn.Sequential(source.MultiScaleDeformableAttention())
    dd.accelerate(model)
    value, locations, weights = inputs([4, 4, 4])
    locations, weights = locations.unflatten(3, (3, 4)), weights.unflatten(3, (3, 4))
    found = model[0](value, torch.tensor(SHAPES), None, locations, weights, compiled)
    assert torch.equal(found, dd.ms_deform_attn(value, SHAPES, locations, weights))


def test_a_model_without_deformable_attention_is_refused():
    with pytest.raises(ValueError, match="knows no deformable attention in Linear of torch"):
        dd.accelerate(nn.Linear(2, 3))


def test_other_arguments_than_those_known_are_refused(monkeypatch):
    """A later version may have the same name for another operation."""
    source = types.ModuleType("another_version")
    source.torch = torch
    exec(
        MMCV.replace("value_level_start_index", "starts").replace("_pytorch(", "_torch("),
        vars(source),
    )
    monkeypatch.setitem(sys.modules, source.__name__, source)
    with pytest.raises(ValueError, match="MultiScaleDeformableAttention of another_version"):
        dd.accelerate(source.MultiScaleDeformableAttention())


def test_it_is_undone_after_an_error():
    run, points = operation("mask2former")
    source = importlib.import_module("transformers.models.mask2former.modeling_mask2former")
    theirs = source.multi_scale_deformable_attention
    with pytest.raises(KeyError), dd.accelerated_transformers():
        assert source.multi_scale_deformable_attention is not theirs
        raise KeyError
    assert source.multi_scale_deformable_attention is theirs


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        return self.model(image).logits


def test_an_accelerated_model_can_be_exported():
    """Other programs do not have our kernel."""
    torch.manual_seed(0)
    model = Logits(rt_detr_v2().eval())
    image = torch.randn(1, 3, 64, 96)
    with dd.accelerated_transformers(), torch.no_grad():
        exported = torch.export.export(model, (image,))
        found = exported.module()(image)
    assert "ddetr" not in str(exported.graph)
    torch.testing.assert_close(found, model(image), rtol=1e-4, atol=1e-4)


def test_the_example_of_the_readme_runs():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = (b for b in re.findall(r"```python\n(.*?)```", readme, re.S) if "accelerate" in b)
    names: dict = {}
    exec(code, names)
    assert names["outputs"].pred_boxes.shape[-1] == 4
