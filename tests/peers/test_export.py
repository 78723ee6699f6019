"""The exported model in onnxruntime, and the compiled model: the same predictions, at any size."""

import json
import re
import subprocess
import sys

import pytest
import torch

from ddetr_edu.checkpoints.io import save
from ddetr_edu.checkpoints.onnx import export_onnx
from ddetr_edu.detector import Detector
from ddetr_edu.models.config import DeformableDETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    config = DeformableDETRConfig.preset(
        "tiny",
        num_classes=2,
        d_model=32,
        n_heads=2,
        n_levels=2,
        n_encoder_layers=1,
        n_decoder_layers=1,
        d_ffn=16,
        n_queries=7,
    )
    detector = Detector(DeformableDETR(config), {3: "cat", 8: "owl"}, ResizeConfig(64, 96)).eval()
    with torch.no_grad():
        for parameter in detector.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return detector


def test_the_exported_model_predicts_the_same_at_any_size(detector, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    save("c.pt", detector)
    # In a process of its own: the exporter starts threads that later tests could not fork.
    command = [sys.executable, "-m", "ddetr_edu", "export", "c.pt", "--out", "new/model.onnx"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "wrote new/model.onnx" in result.stdout, result.stderr
    assert re.search(r"^opset \d+; onnxruntime [\d.]+ gives the same", result.stdout, re.MULTILINE)
    session = onnxruntime.InferenceSession("new/model.onnx", providers=["CPUExecutionProvider"])
    for height, width, image in [(61, 97, (61, 97)), (130, 43, (101, 43)), (64, 96, (64, 71))]:
        images, padding_mask = torch.randn(1, 3, height, width), torch.ones(1, height, width) > 0
        padding_mask[:, : image[0], : image[1]] = False
        with torch.no_grad():
            expected = detector.model(images, padding_mask)
        logits, boxes = session.run(
            ["logits", "boxes"], {"images": images.numpy(), "padding_mask": padding_mask.numpy()}
        )
        torch.testing.assert_close(torch.from_numpy(logits), expected.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(boxes), expected.boxes, rtol=0, atol=1e-4)
        assert boxes.std(axis=1)[0, :2].min() > 0.02  # the boxes do differ
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["categories"]) == {"3": "cat", "8": "owl"}
    resize = json.loads(metadata["resize"])
    assert (resize["short_side"], resize["long_side"]) == (64, 96)
    assert len(json.loads(metadata["mean"])) == len(json.loads(metadata["std"])) == 3


def test_missing_packages_of_the_exporter_are_named(detector, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match="pip install onnx onnxscript"):
        export_onnx(tmp_path / "a.onnx", detector)


COMPILE = """
import torch
from ddetr_edu.models.config import DeformableDETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.preprocessing import make_batch

model = DeformableDETR(DeformableDETRConfig.preset("tiny", num_classes=3, n_queries=19)).eval()
images = [torch.rand(3, 61, 97), torch.rand(3, 53, 40)]
images, padding_mask = make_batch(images, ResizeConfig(64, 96))
compiled = torch.compile(model, backend="eager", fullgraph=True)
with torch.no_grad():
    found, expected = compiled(images, padding_mask), model(images, padding_mask)
torch.testing.assert_close(found.logits, expected.logits)
torch.testing.assert_close(found.boxes, expected.boxes)
"""


def test_the_model_compiles_without_a_graph_break():
    # In a process of its own: the compiler starts threads that later tests could not fork.
    result = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
