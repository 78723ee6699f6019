"""Dropout with a fast Bernoulli mask: the fraction of zeros, their independence, the scale."""

import pytest
import torch
from torch import nn

from ddetr_edu.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_fraction_of_zeros_and_the_scale_of_the_rest(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(7, 11, 1303, dtype=dtype)  # 100,331 numbers, no multiple of 4
    out = Dropout(p)(x)
    assert out.dtype == dtype and out.shape == x.shape
    zeros = (out == 0).double().mean().item()
    assert zeros == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5)
    assert out[out != 0].unique().double().item() == pytest.approx(1 / (1 - p), rel=0.004)


def test_elements_are_dropped_independently():
    """Four elements share one 64-bit draw; neither these nor whole rows may be correlated."""
    torch.manual_seed(0)
    zeros = (Dropout(0.5)(torch.ones(64, 1024)) == 0).double() - 0.5
    for step in (1, 2, 3, 4, 8, 1024, 4096):
        flat = zeros.flatten()
        correlation = 4 * (flat[step:] * flat[:-step]).mean().item()
        assert abs(correlation) < 4 / len(flat) ** 0.5, step
    for index in range(4):
        assert abs(zeros[:, index::4].mean().item()) < 4 * 0.5 / (zeros.numel() / 4) ** 0.5


def test_the_gradient_passes_where_the_element_was_kept():
    torch.manual_seed(0)
    x = torch.randn(5, 13, requires_grad=True)
    out = Dropout(0.3)(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad, (out != 0).float() / 0.7)


def test_the_seed_determines_the_mask():
    layer, x = Dropout(0.1), torch.ones(3, 101)
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(layer(x))
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.1, 1 - 1e-9, 1.0])
def test_probabilities_close_to_0_and_1(p):
    x = torch.ones(10, 10)
    assert torch.equal(Dropout(p).eval()(x), x)
    dropped = Dropout(p)(x)
    if p < 1e-6:
        torch.testing.assert_close(dropped, x)
    elif p == 1:
        assert torch.equal(dropped, torch.zeros_like(x))
    assert dropped.isfinite().all() and Dropout(p)(x[:0]).shape == (0, 10)


def test_it_compiles_without_a_graph_break():
    net = nn.Sequential(nn.Linear(8, 8), Dropout(0.5))
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    out = compiled(torch.randn(4, 8))
    assert (out == 0).any() and (out != 0).any()
