"""The exported model in onnxruntime, and the model compiled: the same answers, at any size."""

import json
import subprocess
import sys

import pytest
import torch

from ddetr_edu.detector import DeformableDETR, DeformableDETRConfig, PictureSize
from ddetr_edu.training import Detector, save
from ddetr_edu.training.export import export_onnx


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    config = DeformableDETRConfig.preset(
        "tiny", num_classes=2, d_model=32, n_heads=2, n_levels=2, n_encoder_layers=1,
        n_decoder_layers=1, d_ffn=16, n_queries=7,
    )  # fmt: skip
    detector = Detector(DeformableDETR(config), {3: "cat", 8: "owl"}, PictureSize(64, 96)).eval()
    with torch.no_grad():
        for parameter in detector.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return detector


def test_the_exported_model_says_the_same_at_any_size(detector, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    save("c.pt", detector)
    # In a process of its own: the exporter starts threads that later tests could not fork.
    command = [sys.executable, "-m", "ddetr_edu", "export", "c.pt", "--out", "new/model.onnx"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0 and "wrote new/model.onnx" in told.stdout, told.stderr
    session = onnxruntime.InferenceSession("new/model.onnx", providers=["CPUExecutionProvider"])
    for height, width, picture in [(61, 97, (61, 97)), (130, 43, (101, 43)), (64, 96, (64, 71))]:
        images, padding_mask = torch.randn(1, 3, height, width), torch.ones(1, height, width) > 0
        padding_mask[:, : picture[0], : picture[1]] = False
        with torch.no_grad():
            expected = detector.model(images, padding_mask)
        logits, boxes = session.run(
            ["logits", "boxes"], {"images": images.numpy(), "padding_mask": padding_mask.numpy()}
        )
        torch.testing.assert_close(torch.from_numpy(logits), expected.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(boxes), expected.boxes, rtol=0, atol=1e-4)
        assert boxes.std(axis=1)[0, :2].min() > 0.02  # not all at one place
    around = session.get_modelmeta().custom_metadata_map
    assert json.loads(around["categories"]) == {"3": "cat", "8": "owl"}
    size = json.loads(around["size"])
    assert (size["short_side"], size["long_side"]) == (64, 96)
    assert len(json.loads(around["mean"])) == len(json.loads(around["std"])) == 3


def test_what_the_exporter_needs_is_named(detector, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match="pip install onnx onnxscript"):
        export_onnx(tmp_path / "a.onnx", detector)


COMPILE = """
import torch
from ddetr_edu.detector import DeformableDETR, DeformableDETRConfig, PictureSize, make_batch

model = DeformableDETR(DeformableDETRConfig.preset("tiny", num_classes=3, n_queries=19)).eval()
pictures = [torch.rand(3, 61, 97), torch.rand(3, 53, 40)]
images, padding_mask = make_batch(pictures, PictureSize(64, 96))
compiled = torch.compile(model, backend="eager", fullgraph=True)
with torch.no_grad():
    found, expected = compiled(images, padding_mask), model(images, padding_mask)
torch.testing.assert_close(found.logits, expected.logits)
torch.testing.assert_close(found.boxes, expected.boxes)
"""


def test_the_model_compiles_without_a_break():
    # In a process of its own: the compiler starts threads that later tests could not fork.
    told = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
