"""Statistics: no warning where all is well, and a sentence for what was broken on purpose."""

import numpy as np
import pytest
import torch

from ddetr_edu.analysis.recording import head_norms
from ddetr_edu.attention import MSDeformAttn, capture, valid_ratios
from ddetr_edu.attention.locations import encoder_reference_points
from ddetr_edu.viz import attention_statistics, attention_warnings, plot_statistics

M, L, P = 5, 2, 3
SHAPES = [(13, 11), (7, 5)]
S = sum(h * w for h, w in SHAPES)


@pytest.fixture
def attention():
    """Encoder and decoder of one attention each, untrained."""
    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {"encoder": MSDeformAttn(35, M, L, P), "decoder": MSDeformAttn(35, M, L, P)}
    )


def run(model):
    """The records of a pass: tokens at their pixels, queries at boxes."""
    generator = torch.Generator().manual_seed(1)
    memory = torch.randn(2, S, 35, generator=generator)
    queries = torch.randn(2, 17, 35, generator=generator)
    boxes = torch.rand(2, 17, 1, 4, generator=generator).expand(-1, -1, L, -1) * 0.4 + 0.3
    ratios = valid_ratios([torch.zeros(2, *shape, dtype=torch.bool) for shape in SHAPES])
    with torch.no_grad(), capture(model) as records:
        model["encoder"](memory, encoder_reference_points(SHAPES, ratios), memory, SHAPES)
        model["decoder"](queries, boxes, memory, SHAPES)
    return records


def warned(model):
    return attention_warnings(attention_statistics(run(model), head_norms(model)))


def train(model):
    """As if trained: offsets and weights depend on the query."""
    with torch.no_grad():
        for module in model.values():
            module.sampling_offsets.weight.normal_(std=0.2)
            module.attention_weights.weight.normal_(std=0.2)


def test_the_numbers_are_those_of_the_records(attention):
    train(attention)
    records = run(attention)
    rows = attention_statistics(records)
    assert [row["name"] for row in rows] == ["encoder", "decoder"]
    for row, record in zip(rows, records, strict=True):
        weights, points = record.weights.double(), record.locations
        entropy = -(weights * weights.log()).sum((3, 4))  # (N, Lq, M)
        np.testing.assert_allclose(row["effective_points"], entropy.exp().mean((0, 1)), rtol=1e-4)
        out = ((points < 0) | (points > 1)).any(-1)
        expected = (weights * out).sum((0, 1, 3, 4)) / weights.sum((0, 1, 3, 4))
        np.testing.assert_allclose(row["outside"], expected, rtol=1e-4)
        reach = (record.offsets.abs().amax(-1) / P * weights).sum((3, 4)).flatten(0, 1)
        np.testing.assert_allclose(row["reach"], np.median(reach, axis=0), rtol=1e-4)
        np.testing.assert_allclose(row["reach_p99"], np.percentile(reach, 99, axis=0), rtol=1e-4)


def test_an_untrained_and_a_trained_attention_have_no_warning(attention):
    assert warned(attention) == []
    rows = attention_statistics(run(attention))
    for row in rows:  # the star: P points at distances 1 to P, all with the same weight
        np.testing.assert_allclose(row["reach"], (P + 1) / 2 / P, rtol=1e-5)
        np.testing.assert_allclose(row["effective_points"], L * P, rtol=1e-5)
    train(attention)
    assert warned(attention) == []


def of_head(layer, head):
    """The rows of a linear layer's weight and bias that belong to one head."""
    count = layer.out_features // M
    rows = slice(head * count, (head + 1) * count)
    return layer.weight[rows], layer.bias[rows]


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("head", [0, 3])
@pytest.mark.parametrize(
    "fault, words",
    [
        ("no output", "dead, its output is near zero"),
        ("no value", "dead, its output is near zero"),
        ("same for every query", "dead, it samples the same way for every query"),
        ("far away", "dead, 100% of its weight lies outside"),
        ("one-hot", "collapsed weights"),
    ],
)
def test_a_head_that_was_broken_is_named_and_no_other(attention, part, head, fault, words):
    train(attention)
    module = attention[part]
    with torch.no_grad():
        if fault == "no output":
            module.output_proj.weight[:, 7 * head : 7 * head + 7] *= 1e-4
        elif fault == "no value":
            module.value_proj.weight[7 * head : 7 * head + 7] = 0
        elif fault == "same for every query":
            for layer in (module.sampling_offsets, module.attention_weights):
                of_head(layer, head)[0].zero_()
        elif fault == "far away":
            of_head(module.sampling_offsets, head)[1].fill_(25)
        else:
            of_head(module.attention_weights, head)[1][4] += 40
    warnings = warned(attention)
    assert any(w.startswith(f"{part}, head {head}: {words}") for w in warnings), warnings
    assert all(w.startswith(f"{part}, head {head}: ") for w in warnings), warnings
    assert len(warnings) == 1 or fault == "far away"


def test_offsets_times_fifty_run_away_in_every_head(attention):
    with torch.no_grad():
        for layer in attention["decoder"].sampling_offsets.parameters():
            layer *= 50
    runaway = [w for w in warned(attention) if "runaway offsets" in w]
    assert len(runaway) == M and all(w.startswith("decoder, ") for w in runaway)
    assert "33 times" in runaway[0]  # 50 x (P + 1) / 2 / P


def test_many_queries_are_sampled_evenly(attention):
    records = run(attention)
    record = records[1]
    for name in ("offsets", "locations", "weights"):
        setattr(record, name, torch.cat([getattr(record, name)] * 200, dim=1))
    (row,) = attention_statistics([record])
    assert len(row["reach_by_query"]) <= 2 * 1000
    assert attention_warnings([row]) == []


def test_table_and_figure(attention):
    figure, data = plot_statistics(run(attention), title="both")
    lines = data["table"].splitlines()
    assert len(lines) == 3 and lines[1].startswith("encoder") and "6.00" in lines[1]
    assert len(figure.axes) == 3 and "No warnings" in figure.get_supxlabel()
    with pytest.raises(ValueError, match="no record"):
        plot_statistics([])
