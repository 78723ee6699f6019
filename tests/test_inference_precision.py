"""Inference with features of 16 bits: nearly the same detections, with boxes computed in fp32."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from ddetr_edu.checkpoints.io import load, save
from ddetr_edu.cli.main import main
from ddetr_edu.data.shapes import held_out_scenes, write_shapes_set
from ddetr_edu.detector import Detector
from ddetr_edu.evaluation.coco_metrics import evaluate
from ddetr_edu.models.autocast import autocast, choose_precision, describe_slow_precision, is_fast
from ddetr_edu.training.config import OptimConfig
from ddetr_edu.training.logging import describe_device
from ddetr_edu.training.trainer import Trainer

MODEL = Path(__file__).parents[1] / "data" / "tiny-shapes" / "model.safetensors"
CPU = torch.device("cpu")


def dtype_of_features(detector, image):
    """Of the backbone's maps, while the detector predicts."""
    dtypes = set()
    hook = detector.model.backbone.register_forward_hook(
        lambda module, inputs, maps: dtypes.update(m.dtype for m in maps)
    )
    detector.predict(image)
    hook.remove()
    (dtype,) = dtypes
    return dtype


def test_the_precision_is_that_of_the_features(build):
    detector, image = build(), torch.rand(3, 70, 90)
    faster = detector.for_inference("bf16")
    assert dtype_of_features(faster, image) == torch.bfloat16
    assert dtype_of_features(detector.for_inference("fp16"), image) == torch.float16
    assert dtype_of_features(detector.for_inference(), image) == torch.float32
    assert dtype_of_features(detector, image) == torch.float32  # the original is unchanged
    assert dtype_of_features(faster.for_inference("bf16"), image) == torch.bfloat16
    assert dtype_of_features(faster.for_inference(), image) == torch.float32
    assert {p.dtype for p in faster.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):  # whoever asks for autocast still gets it
        assert dtype_of_features(detector.for_inference(), image) == torch.bfloat16


@pytest.mark.parametrize("two_stage", [False, True])
def test_boxes_and_scores_are_fp32(build, two_stage):
    faster = build(two_stage=two_stage).for_inference("bf16")
    found = faster.predict(torch.rand(3, 70, 90), threshold=0.0)
    for name in ("boxes", "scores"):
        assert found[name].dtype == torch.float32
        assert not torch.equal(found[name], found[name].bfloat16().float()), name


def test_the_shipped_model_detects_the_same(tmp_path):
    detector, scenes = load(MODEL), held_out_scenes("val").first(12)
    rough = detector.for_inference("bf16")
    expected, found = (evaluate(d, scenes, 4, show_progress=False)[0] for d in (detector, rough))
    assert expected["AP"] > 0.6
    assert found["AP"] == pytest.approx(expected["AP"], abs=0.02)
    image = scenes[0][0]
    one, other = (d.predict(image, threshold=0.3) for d in (detector, rough))
    assert len(one["scores"]) == len(other["scores"]) > 2
    assert not torch.equal(one["scores"], other["scores"])
    distance = torch.cdist(one["boxes"], other["boxes"], p=float("inf")).amin(1)
    assert distance.max() < 2  # pixels


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_on_a_gpu_the_shipped_model_detects_the_same(precision):
    detector, scenes = load(MODEL).to("cuda"), held_out_scenes("val").first(12)
    rough = detector.for_inference(precision)
    expected, found = (evaluate(d, scenes, 4, show_progress=False)[0] for d in (detector, rough))
    assert found["AP"] == pytest.approx(expected["AP"], abs=0.02) and found != expected


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "bfloat16", ""])
def test_an_unknown_precision_is_refused(build, precision):
    with pytest.raises(ValueError, match=f'"{precision}" is not known; choose one of fp32, bf16'):
        build().for_inference(precision)


def test_a_device_that_lacks_it_is_named(monkeypatch):
    choose_precision("fp32", torch.device("meta"))
    with pytest.raises(ValueError, match='"bf16" is not possible on the device "meta".* fp32'):
        choose_precision("bf16", torch.device("meta"))
    gpu, native = torch.device("cuda:0"), []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or native
    )
    with pytest.raises(ValueError, match='"bf16" .* cuda:0, a Tesla T4, which .* fp16 or fp32'):
        choose_precision("bf16", gpu)
    assert choose_precision("fp16", gpu) == "fp16" and choose_precision("auto", gpu) == "fp32"
    native.append("an A100")
    assert choose_precision("bf16", gpu) == choose_precision("auto", gpu) == "bf16"


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
def test_a_cpu_is_fast_with_instructions_and_the_library_that_uses_them(monkeypatch, name):
    capabilities = {"avx2": True, "avx512_bf16": False, name: True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert is_fast("bf16", CPU) and not is_fast("fp16", CPU)
    assert choose_precision("auto", CPU) == "bf16"
    assert describe_slow_precision("bf16", CPU) is None
    assert "no fast fp16" in describe_slow_precision("fp16", CPU)
    capabilities[name] = False
    assert choose_precision("auto", CPU) == "fp32"
    assert "no fast bf16" in describe_slow_precision("bf16", CPU)
    assert describe_slow_precision("fp32", CPU) is None
    capabilities[name] = True
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert choose_precision("auto", CPU) == "fp32"
    monkeypatch.undo()
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # torch 2.6
    assert choose_precision("auto", CPU) == "fp32"
    assert describe_slow_precision("bf16", CPU) is None  # it is not known
    assert choose_precision("auto", torch.device("meta")) == "fp32"


def test_auto_is_settled_when_training_or_inference_begin(build, monkeypatch):
    for fast, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("ddetr_edu.models.autocast.is_fast", lambda *_, fast=fast: fast)
        assert build().for_inference("auto").precision == expected
        assert Trainer(build(), OptimConfig().filled("fast"), "auto").precision == expected


def test_a_training_says_where_fp32_would_be_faster(monkeypatch):
    monkeypatch.setattr("ddetr_edu.models.autocast.is_fast", lambda *_: False)
    assert len(describe_device(CPU, "fp32", workers=0).splitlines()) == 1
    device, advice = describe_device(CPU, "bf16", workers=0).splitlines()
    assert "bf16" in device and "--precision auto" in advice
    monkeypatch.setattr("ddetr_edu.models.autocast.is_fast", lambda *_: True)
    assert len(describe_device(CPU, "bf16", workers=0).splitlines()) == 1


def test_training_and_inference_refuse_alike(build, monkeypatch):
    def lacking(precision, device):
        raise ValueError(f"no {precision} on {device}")

    for module in ("ddetr_edu.detector", "ddetr_edu.training.trainer"):
        monkeypatch.setattr(f"{module}.choose_precision", lacking)
    with pytest.raises(ValueError, match="no bf16 on cpu"):
        build().for_inference("bf16")
    with pytest.raises(ValueError, match="no bf16 on cpu"):
        Trainer(build(), OptimConfig().filled("fast"), "bf16")


def test_fp32_leaves_the_autocast_of_others_alone():
    with torch.autocast("cpu", torch.bfloat16), autocast("fp32", CPU):
        assert torch.is_autocast_enabled("cpu")
    with autocast("bf16", CPU):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


# The commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["predict own/val/{image} --checkpoint c.pt", "eval --data own --checkpoint c.pt --workers 0"],
)
def test_the_commands_compute_in_the_precision_asked_for(
    build, tmp_path, monkeypatch, capsys, line
):
    monkeypatch.chdir(tmp_path)
    write_shapes_set(Path("own"), train=1, val=2, seed=1)
    image = min(path.name for path in Path("own/val").iterdir())
    save("c.pt", build(categories=held_out_scenes().categories))
    precisions, real = [], Detector.run_model

    def spy(self, images):
        precisions.append(self.precision)
        return real(self, images)

    monkeypatch.setattr(Detector, "run_model", spy)
    words = line.format(image=image).split()
    monkeypatch.setattr("ddetr_edu.models.autocast.is_fast", lambda *_: False)
    for arguments in ([], ["--precision", "fp32"], ["--precision", "auto"]):
        assert main([*words, *arguments]) == 0
    assert "no fast" not in capsys.readouterr().err
    assert main([*words, "--precision", "bf16"]) == 0
    assert precisions == ["fp32", "fp32", "fp32", "bf16"]
    assert "no fast bf16" in capsys.readouterr().err
    assert main([*words, "--precision", "int8"]) == 1
    assert "int8" in capsys.readouterr().err
