"""The report on gradients names what is cut off, what is zero, and what explodes."""

import math
import re

import pytest
import torch
from torch import nn

from ddetr_edu.training.gradient_report import GradientReport, report_gradients


class Branches(nn.Module):
    """Six linear layers, each with a fate of its own."""

    def __init__(self):
        super().__init__()
        for name in ("plain", "unused", "detached", "zeroed", "behind", "frozen"):
            setattr(self, name, nn.Linear(3, 3, bias=False))
        nn.init.zeros_(self.zeroed.weight)  # so nothing comes back to what is behind it
        self.frozen.requires_grad_(False)

    def forward(self, x):
        branches = self.plain(x), self.detached(x).detach(), self.zeroed(self.behind(x))
        return sum(branches) + self.frozen(x)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Branches()


def report_on(model, x, usual=None, **options) -> GradientReport:
    model.zero_grad()
    model(x).square().sum().backward()
    return report_gradients(model, usual, **options)


def test_each_state_is_told_from_the_others(model):
    report = report_on(model, torch.randn(5, 3))
    assert {g.name: g.state for g in report.gradients} == {
        "plain.weight": "learns",
        "unused.weight": "no gradient",
        "detached.weight": "no gradient",
        "zeroed.weight": "learns",  # its own gradient is not zero: it will leave zero
        "behind.weight": "zero",
        "frozen.weight": "frozen",
    }
    assert report.names("no gradient") == ["unused.weight", "detached.weight"]
    norms = {g.name: g.norm for g in report.gradients}
    assert norms["plain.weight"] == pytest.approx(model.plain.weight.grad.norm().item())
    assert norms["behind.weight"] == 0 and math.isnan(norms["unused.weight"])


def test_a_gradient_explodes_in_comparison_with_another(model):
    x = torch.randn(5, 3)
    usual = report_on(model, x)
    assert report_on(model, x, usual).names("explodes") == []
    # The loss is of degree two in the input.
    assert report_on(model, 9.9 * x, usual).names("explodes") == []
    longer = report_on(model, 10.1 * x, usual)
    assert longer.names("explodes") == ["plain.weight", "zeroed.weight"]
    assert longer.names("zero") == ["behind.weight"]
    assert report_on(model, 10.1 * x, usual, factor=110).names("explodes") == []
    assert report_gradients(model).names("explodes") == []  # with nothing to compare with


def test_what_was_zero_before_does_not_explode(model):
    usual = report_on(model, torch.randn(5, 3))
    nn.init.ones_(model.zeroed.weight)
    assert "behind.weight" in report_on(model, torch.randn(5, 3), usual).names("learns")


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_one_number_that_is_not_finite_is_found(model, number):
    usual = report_on(model, torch.randn(5, 3))
    model.plain.weight.grad[1, 2] = number
    assert report_gradients(model, usual).names("not finite") == ["plain.weight"]


def test_the_table_counts_by_part():
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "b": Branches()})
    model["b"](torch.randn(4, 3)).sum().backward()
    report = report_gradients(model)
    assert report.by_part(1) == {
        "a": {"no gradient": 4},
        "b": {"learns": 2, "no gradient": 2, "zero": 1, "frozen": 1},
    }
    lines = str(report).splitlines()
    states = ["learns", "frozen", "no gradient", "zero"]
    assert re.split(r" {2,}", lines[0].strip()) == states
    assert lines[1].split() == ["a.0", "-", "-", "2", "-"]
    assert lines[-1].split() == ["all", "2", "1", "6", "1"]
    assert len({len(line) for line in lines}) == 1
