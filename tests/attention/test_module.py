"""MSDeformAttn: its initialisation, its checks, and what `capture` records of it."""

import pytest
import torch
from inputs import SHAPES, M, N, S

from ddetr_edu import MSDeformAttn, backends, capture, ms_deform_attn
from ddetr_edu.attention import initial_offsets, locations, op
from ddetr_edu.attention import module as module_file

C = M * 7


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return MSDeformAttn(C, n_heads=M, n_levels=2, n_points=3)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return {
        "query": torch.randn(N, 4, C, generator=generator),
        "reference_points": torch.rand(N, 4, 2, 2, generator=generator),
        "value": torch.randn(N, S, C, generator=generator),
        "spatial_shapes": SHAPES,
    }


def test_it_starts_as_the_official_code_does(attention):
    assert attention.sampling_offsets.weight.abs().max() == 0
    star = initial_offsets(M, 2, 3).flatten()
    assert torch.equal(attention.sampling_offsets.bias, star)
    assert attention.attention_weights.weight.abs().max() == 0
    assert attention.attention_weights.bias.abs().max() == 0
    limit = (6 / (C + C)) ** 0.5  # Xavier's bound
    for projection in (attention.value_proj, attention.output_proj):
        assert 0.9 * limit < projection.weight.abs().max() <= limit
        assert projection.bias.abs().max() == 0


def test_its_shapes_and_keys(attention):
    shapes = {name: tuple(p.shape) for name, p in MSDeformAttn(256, 8, 4, 4).named_parameters()}
    assert shapes["sampling_offsets.weight"] == (256, 256)
    assert shapes["attention_weights.weight"] == (128, 256)
    assert shapes["value_proj.weight"] == shapes["output_proj.weight"] == (256, 256)


def test_at_the_start_the_query_does_not_matter_yet(attention, inputs):
    first = attention(**inputs)
    second = attention(**{**inputs, "query": inputs["query"] + 1})
    torch.testing.assert_close(first, second)


def test_padding_does_not_matter(attention, inputs):
    mask = torch.zeros(N, S, dtype=torch.bool)
    mask[1, 30:] = True
    torch.nn.init.normal_(attention.value_proj.bias)  # the bias would make padding non-zero
    first = attention(**inputs, padding_mask=mask)
    noisy = torch.where(mask[..., None], 1e6, inputs["value"])
    second = attention(**{**inputs, "value": noisy}, padding_mask=mask)
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, attention(**inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(N, 4, 6)}, "query has shape"),
        ({"query": torch.zeros(4, C)}, "query has shape"),
        ({"value": torch.zeros(N, S, 6)}, "value has shape"),
        ({"reference_points": torch.zeros(N, 4, 3, 2)}, "reference_points has shape"),
        ({"reference_points": torch.zeros(N, 4, 2)}, "reference_points has shape"),
        ({"reference_points": torch.zeros(N, 3, 2, 2)}, "reference_points has shape"),
        ({"value": torch.zeros(N + 1, S, C)}, "value holds 3 images"),
        ({"reference_points": torch.zeros(N, 4, 2, 3)}, "axis of 3"),
        ({"spatial_shapes": [(7, 5)]}, "n_levels=2"),
        ({"spatial_shapes": [(7, 5), (4, 4)]}, "add up to 51"),
        ({"spatial_shapes": [(47, 1), (0, 4)]}, "no pixel"),
        ({"padding_mask": torch.zeros(N, S)}, "must be bool"),
        ({"padding_mask": torch.zeros(N, 3, dtype=torch.bool)}, "must be bool"),
    ],
)
def test_inputs_that_do_not_fit_are_named(attention, inputs, change, message):
    with pytest.raises(ValueError, match=message):
        attention(**{**inputs, **change})


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="n_heads=7"):
        MSDeformAttn(256, n_heads=7)
    with pytest.raises(ValueError, match="n_points is 0"):
        MSDeformAttn(256, n_points=0)


def test_capture_records_what_was_used_and_removes_its_hooks(attention, inputs):
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.1)
    torch.nn.init.normal_(attention.attention_weights.weight, std=0.1)
    model = torch.nn.ModuleDict({"cross_attn": attention})
    with capture(model) as records:
        output = attention(**inputs)
    (record,) = records
    assert record.name == "cross_attn"
    assert record.locations.shape == (N, 4, M, 2, 3, 2)
    sizes = torch.tensor([[w, h] for h, w in SHAPES])
    expected = inputs["reference_points"][:, :, None, :, None] + record.offsets / sizes[:, None]
    torch.testing.assert_close(record.locations, expected)
    value = attention.value_proj(inputs["value"]).unflatten(-1, (M, -1))
    again = ms_deform_attn(value, SHAPES, record.locations, record.weights)
    torch.testing.assert_close(attention.output_proj(again), output)
    assert not record.weights.requires_grad
    assert not attention._forward_hooks


def test_capture_cleans_up_after_an_exception(attention):
    with pytest.raises(RuntimeError, match="boom"), capture(attention):
        raise RuntimeError("boom")
    assert not attention._forward_hooks


def test_capture_says_when_there_is_nothing_to_capture():
    with (
        pytest.raises(ValueError, match="Linear contains no MSDeformAttn"),
        capture(torch.nn.Linear(2, 3)),
    ):
        pass


# --- the checks of ms_deform_attn


def arguments():
    generator = torch.Generator().manual_seed(2)
    return {
        "value": torch.rand(N, S, M, 7, generator=generator),
        "spatial_shapes": SHAPES,
        "sampling_locations": torch.rand(N, 3, M, 2, 11, 2, generator=generator),
        "attention_weights": torch.rand(N, 3, M, 2, 11, generator=generator),
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"value": torch.zeros(N, S, M)}, ValueError, "it takes 4 axes"),
        ({"sampling_locations": torch.zeros(N, 3, M, 2, 11)}, ValueError, "it takes 6 axes"),
        ({"sampling_locations": torch.zeros(N, 3, 4, 2, 11, 2)}, ValueError, "M=5"),
        ({"attention_weights": torch.zeros(N, 3, M, 2, 7)}, ValueError, "one weight for each"),
        ({"spatial_shapes": [(7, 5)]}, ValueError, "names 1 levels"),
        ({"spatial_shapes": [(7, 5), (3, 3)]}, ValueError, "add up to 44"),
        ({"spatial_shapes": [(47, 1), (0, 4)]}, ValueError, "no pixel"),
        ({"spatial_shapes": torch.tensor(SHAPES)}, TypeError, "tolist"),
        ({"backend": "fast"}, ValueError, '"fast" does not exist'),
        ({"value": torch.zeros(N, S, M, 7).double()}, TypeError, "one floating type"),
        ({"value": torch.zeros(N, S, M, 7, device="meta")}, ValueError, "one device"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, error, message):
    with pytest.raises(error, match=message) as raised:
        ms_deform_attn(**{**arguments(), **change})
    assert "\n" not in str(raised.value)


def test_backends_are_listed():
    listed = backends()
    assert set(listed) == {"naive", "grid_sample", "cpu", "cuda", "discrete"}
    assert listed["naive"].available and listed["grid_sample"].available


def test_mismatched_types_and_devices_are_named_by_the_module(attention, inputs):
    with pytest.raises(TypeError, match="value is torch.float64, but this module computes in"):
        attention(**{**inputs, "value": inputs["value"].double()})
    with pytest.raises(ValueError, match="query is on meta, but this module is on cpu"):
        attention(**{**inputs, "query": inputs["query"].to("meta")})
    for dtype in (torch.float64, torch.bfloat16, torch.int64):
        with pytest.raises(TypeError, match=f"reference_points is {dtype}, but this module"):
            attention(**{**inputs, "reference_points": inputs["reference_points"].to(dtype)})
    with pytest.raises(TypeError, match="tolist"):
        attention(**{**inputs, "spatial_shapes": torch.tensor(SHAPES)})


def test_one_call_checks_everything_once(attention, inputs, monkeypatch):
    calls = []
    for module, name in (
        (module_file, "check_module_inputs"),
        (locations, "check_reference_points"),
        (op, "check_operation"),
    ):
        monkeypatch.setattr(module, name, lambda *_, name=name: calls.append(name))
    attention(**inputs)
    assert calls == ["check_module_inputs", "check_reference_points"]
    calls.clear()
    ms_deform_attn(**arguments())
    assert calls == ["check_operation"]


def test_16_bit_modules_take_32_bit_reference_points(attention, inputs):
    half = {name: x.bfloat16() for name, x in inputs.items() if name in ("query", "value")}
    assert attention.bfloat16()(**{**inputs, **half}).dtype == torch.bfloat16


def test_whole_numbers_are_refused():
    whole = {k: v.to(torch.int64) for k, v in arguments().items() if k != "spatial_shapes"}
    with pytest.raises(TypeError, match="one floating type"):
        ms_deform_attn(**whole, spatial_shapes=SHAPES)
