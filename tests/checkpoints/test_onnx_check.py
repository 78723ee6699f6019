"""An exported model is compared with torch, and what is not compared is said."""

import math
import sys
import types

import numpy as np
import pytest
import torch

from ddetr_edu.checkpoints.onnx_check import OnnxCheck, check_exported, largest_difference
from ddetr_edu.models.deformable_detr import Predictions

IMAGES, MASK = torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool)


def predictions(shift: float = 0.0) -> Predictions:
    g = torch.Generator().manual_seed(0)
    logits, boxes = torch.randn(1, 7, 3, generator=g), torch.rand(1, 7, 4, generator=g)
    return Predictions(logits, boxes + shift)


@pytest.fixture
def runtime(monkeypatch):
    """Puts a stand-in for onnxruntime in place, which answers with these predictions."""

    def install(found: Predictions | None):
        class Session:
            def __init__(self, content, options, providers):
                if found is None:
                    raise RuntimeError("opset 99\nis not supported")

            def run(self, names, inputs):
                assert names == ["logits", "boxes"] and set(inputs) == {"images", "padding_mask"}
                return np.asarray(found.logits), np.asarray(found.boxes)

        module = types.SimpleNamespace(
            __version__="1.0", SessionOptions=types.SimpleNamespace, InferenceSession=Session
        )
        monkeypatch.setitem(sys.modules, "onnxruntime", module)

    return install


def test_the_opset_and_the_difference_are_said(runtime):
    runtime(predictions(1e-5))
    check = check_exported(b"", 20, IMAGES, MASK, predictions())
    assert (check.opset, check.program) == (20, "onnxruntime 1.0")
    assert check.difference == pytest.approx(1e-5, rel=0.1)
    assert str(check).startswith("opset 20; onnxruntime 1.0 gives the same on an image as torch")
    assert str(check).endswith("differ by at most 1.0e-05")


@pytest.mark.parametrize("shift", [0.1, math.nan])
def test_another_answer_than_torchs_is_an_error(runtime, shift):
    runtime(predictions(shift))
    with pytest.raises(ValueError, match=r"onnxruntime 1\.0 and torch .* disagree .* no file"):
        check_exported(b"", 20, IMAGES, MASK, predictions())


def test_a_runtime_that_cannot_run_the_file_is_named(runtime):
    runtime(None)
    check = check_exported(b"", 99, IMAGES, MASK, predictions())
    assert check.difference is None
    assert str(check) == (
        "opset 99; not compared with torch, because onnxruntime 1.0 cannot run it "
        "(opset 99 is not supported)"
    )


def test_without_a_runtime_it_says_that_nothing_was_compared(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    check = check_exported(b"", 18, IMAGES, MASK, predictions())
    assert isinstance(check, OnnxCheck) and check.difference is None
    assert "not compared with torch" in str(check) and "pip install onnxruntime" in str(check)


def test_exchanged_queries_are_no_difference_but_a_missing_one_is():
    one = predictions()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    exchanged = Predictions(one.logits[:, order], one.boxes[:, order])
    assert largest_difference(exchanged, one) == 0
    twice = Predictions(one.logits[:, [0, 0, *range(2, 7)]], one.boxes[:, [0, 0, *range(2, 7)]])
    assert largest_difference(twice, one) > 0.1
    fewer = Predictions(one.logits[:, :6], one.boxes[:, :6])
    assert largest_difference(fewer, one) == math.inf
