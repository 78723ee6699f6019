"""What a model costs, by parts: FLOPs, kept memory and time, and the limits of a machine."""

import pytest
import torch
from torch import nn

from ddetr_edu import MSDeformAttn
from ddetr_edu.analysis.attention_cost import attention_layer, kept_bytes
from ddetr_edu.analysis.flops import (
    count_flops,
    detr_without_numbers,
    flops_by_part,
    image_without_numbers,
    model_without_numbers,
)
from ddetr_edu.analysis.machine_limits import MachineLimits, fastest
from ddetr_edu.analysis.part_times import seconds_by_part
from ddetr_edu.analysis.parts import REST, main_parts, share_out, with_attention
from ddetr_edu.analysis.roofline_tasks import measure
from ddetr_edu.analysis.saved_activations import SavedBytes, saved_by_part
from ddetr_edu.attention import backends, ms_deform_attn
from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig

SMALL = DeformableDETRConfig.preset("tiny", num_classes=3, n_queries=7)
IMAGE = image_without_numbers(64, 96)


class Outer(nn.Module):
    """Two parts, one of them inside the other, and something that belongs to neither."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.second = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7))
        self.parts = {self.first: "first", self.second: "second", self.second[1]: "inner"}

    def forward(self, x):
        return self.second(self.first(x)) @ torch.ones(7, 11, device=x.device)


def test_flops_are_shared_out_between_parts():
    model = Outer()
    counted = flops_by_part(model.parts, lambda: model(torch.ones(13, 2)))
    assert counted == {
        "first": 2 * 13 * 2 * 3,
        "second": 2 * 13 * 3 * 5,
        "inner": 2 * 13 * 5 * 7,
        REST: 2 * 13 * 7 * 11,
    }
    assert count_flops(lambda: model(torch.ones(13, 2))) == sum(counted.values())


def test_a_part_that_runs_twice_is_added_up_and_hooks_are_removed():
    model, ticks = nn.Linear(1, 1), iter(range(100))

    def run():
        model(torch.ones(1, 1))
        model(torch.ones(1, 1))

    # Readings: start, begin, end, begin, end, stop.
    assert share_out({model: "part"}, run, lambda: next(ticks)) == {"part": 2, REST: 3}

    def fail():
        raise KeyError

    with pytest.raises(KeyError):
        share_out({model: "part"}, fail, lambda: 0)
    assert not model._forward_hooks and not model._forward_pre_hooks


@pytest.mark.parametrize("two_stage", [False, True])
def test_all_flops_of_a_model_are_in_its_parts(two_stage):
    config = DeformableDETRConfig.preset("tiny", n_queries=7, two_stage=two_stage)
    model = model_without_numbers(config)
    by_part = flops_by_part(main_parts(model), lambda: model(*IMAGE))
    assert ("proposals" in by_part) == two_stage
    # In one stage the reference points come from a linear layer of C channels to two numbers.
    assert by_part[REST] == (0 if two_stage else 2 * 7 * 128 * 2)
    assert min(n for part, n in by_part.items() if part != REST) > 0
    # What attention takes is taken from encoder and decoder, and from nothing else.
    finer = flops_by_part(with_attention(model), lambda: model(*IMAGE))
    changed = {part for part in by_part if by_part[part] != finer[part]}
    assert changed == {"encoder", "decoder"}
    assert sum(finer.values()) == sum(by_part.values())


def test_the_backward_pass_of_the_attention_has_twice_its_flops():
    leaves = [
        torch.empty(shape, device="meta", requires_grad=True)
        for shape in ((2, 12, 3, 5), (2, 4, 3, 1, 6, 2), (2, 4, 3, 1, 6))
    ]
    forward = count_flops(lambda: ms_deform_attn(leaves[0], [(3, 4)], *leaves[1:]))
    assert forward == 2 * 4 * 2 * 4 * 3 * 6 * 5
    both = count_flops(lambda: ms_deform_attn(leaves[0], [(3, 4)], *leaves[1:]).sum().backward())
    assert both == 3 * forward
    for leaf in leaves:
        assert leaf.grad.shape == leaf.shape


def test_the_kernel_counts_as_without_numbers():
    if not backends()["cpu"].available:
        pytest.skip("the kernel does not run here")
    tensors = torch.ones(1, 12, 3, 5), torch.ones(1, 4, 3, 1, 6, 2), torch.ones(1, 4, 3, 1, 6)
    on_meta = [tensor.to("meta") for tensor in tensors]
    here, there = (
        count_flops(lambda t=t: ms_deform_attn(t[0], [(3, 4)], *t[1:])) for t in (tensors, on_meta)
    )
    assert here == there > 0


def test_the_papers_model_has_the_flops_that_lesson_16_states():
    model = model_without_numbers(DeformableDETRConfig.preset("r50"))
    by_part = flops_by_part(main_parts(model), lambda: model(*image_without_numbers(800, 1200)))
    rounded = {part: round(n / 1e9, 1) for part, n in by_part.items()}
    assert rounded == {
        "backbone": 156.8,
        "projection": 9.2,
        "encoder": 184.3,
        "decoder": 19.7,
        "heads": 0.6,
        REST: 0.0,
    }
    detr = detr_without_numbers(DETRConfig.preset("detr_tiny"))
    assert count_flops(lambda: detr(*IMAGE)) > 0


def test_kept_memory_agrees_with_that_of_one_layer():
    """Shared memory counts once, parameters do not count, and "meta" keeps what a kernel keeps."""
    layer = attention_layer("deformable, grid_sample", 32, 48)
    with SavedBytes(layer.module) as saved:
        layer.run()
    assert saved.total == kept_bytes("deformable, grid_sample", 32, 48)
    if backends()["cpu"].available:
        n, c, points = layer.n_tokens, 256, 8 * 4 * 4
        with torch.device("meta"):
            module = MSDeformAttn()
            query, tokens = torch.empty(1, n, c, requires_grad=True), torch.empty(1, n, c)
            reference = torch.empty(1, n, 4, 2)
        with SavedBytes(module) as saved:
            module(query, reference, tokens, [(4, 6), (2, 3), (1, 2), (1, 1)])
        kept = kept_bytes("deformable, kernel", 32, 48)
        assert abs(saved.total - kept) <= 4 * n * points


def test_checkpointing_keeps_less_and_computes_the_encoder_once_more():
    model = model_without_numbers(SMALL).train()

    def step():
        predictions = model(*IMAGE)
        (predictions.logits.sum() + predictions.boxes.sum()).backward()

    kept, steps = [], []
    for checkpointing in (False, True):
        model.encoder.checkpoint_activations = checkpointing
        kept.append(saved_by_part(model, main_parts(model), lambda: model(*IMAGE)))
        steps.append(count_flops(step))
    assert kept[1]["encoder"] < kept[0]["encoder"] / 4
    assert {p: n for p, n in kept[0].items() if p != "encoder"} == {
        p: n for p, n in kept[1].items() if p != "encoder"
    }
    encoder = flops_by_part(main_parts(model), lambda: model(*IMAGE))["encoder"]
    assert steps[1] - steps[0] == encoder


def test_times_of_parts_add_up_to_a_pass():
    model = Outer()
    seconds = seconds_by_part(model.parts, lambda: model(torch.ones(13, 2)), rounds=2)
    assert set(seconds) == {"first", "second", "inner", REST}
    assert min(seconds.values()) >= 0


def test_the_roof_has_a_slope_and_a_level():
    limits = MachineLimits(gflops=100, gigabytes=20)
    assert limits.ridge == 5
    assert limits.attainable(0.25) == 5
    assert limits.attainable(5) == limits.attainable(1000) == 100


def test_the_fastest_of_several_is_positive():
    calls = []
    assert fastest(lambda: calls.append(1), rounds=3) > 0
    assert len(calls) == 4  # one warms up


def test_an_operation_is_measured_with_its_flops_and_bytes():
    linear = measure(nn.Linear(5, 3), (torch.ones(7, 5),))
    assert linear.flops == 2 * 7 * 5 * 3
    assert linear.nbytes == 4 * (7 * 5 + 5 * 3 + 3 + 7 * 3)
    assert linear.intensity == linear.flops / linear.nbytes
    assert linear.gflops == linear.flops / linear.seconds / 1e9
    addition = measure(torch.add, (torch.ones(4, 6), torch.ones(4, 6)))
    assert (addition.flops, addition.nbytes) == (24, 4 * 3 * 24)
