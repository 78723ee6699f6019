"""Backbones of timm: maps, parameters, norms, normalisation, and what is done with such models."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ddetr_edu.attention import capture
from ddetr_edu.checkpoints.io import load, save
from ddetr_edu.checkpoints.name_maps import check_convertible
from ddetr_edu.checkpoints.official import save_official
from ddetr_edu.cli.main import main
from ddetr_edu.detector import Detector
from ddetr_edu.models.backbone import MEAN, STD, ResNetBackbone, build_backbone, normalization
from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR
from ddetr_edu.models.fusing import fuse_conv_bn
from ddetr_edu.models.timm_backbone import MissingTimm, TimmBackbone, exportable_padding

timm = pytest.importorskip("timm")

LITE = "tf_efficientnet_lite0"
IMAGENET = Path(__file__).parents[3] / "shared" / "backbones" / f"{LITE}.safetensors"
SMALL = "mobilenetv3_small_050"  # 0.6 million parameters
CATEGORIES = {3: "cat", 7: "dog"}


@pytest.fixture
def detector():
    """detector(**changes): a small detector behind a small backbone, in evaluation mode."""

    def make(**changes) -> Detector:
        torch.manual_seed(0)
        small = dict(d_model=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=1, n_queries=7)
        settings = {"backbone": f"timm/{SMALL}", "num_classes": 2, **small, **changes}
        model = DeformableDETR(DeformableDETRConfig.preset("lite", **settings))
        return Detector(model, CATEGORIES, ResizeConfig(64, 96)).eval()

    return make


@pytest.fixture
def parameters(tmp_path):
    """parameters(name): the file of a whole network of timm with random parameters, and these."""

    def write(name: str = SMALL, **changes):
        torch.manual_seed(5)
        network = with_random_norms(timm.create_model(name))
        state = {**network.state_dict(), **changes}
        path = tmp_path / f"{name}.safetensors"
        save_file({n: tensor.contiguous() for n, tensor in state.items()}, path)
        return path, network.eval()

    return write


def with_random_norms(network):
    """So that batch norms have an effect, and would be missed."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


# Maps and parameters ------------------------------------------------------------------------------


def test_depthwise_convolutions_are_trained_in_32_bits_on_a_cpu():
    """Their gradient is slow in bf16 there; what is not trained is computed in bf16."""
    backbone, images = TimmBackbone(SMALL), torch.rand(1, 3, 64, 96)
    plain = TimmBackbone("resnet10t")
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone(images)[0].dtype == torch.float32
        assert plain(images)[0].dtype == torch.bfloat16
        with torch.no_grad():
            assert backbone(images)[0].dtype == torch.bfloat16
        backbone.requires_grad_(False)
        assert backbone(images)[0].dtype == torch.bfloat16
    assert backbone(images)[0].dtype == torch.float32


@pytest.mark.parametrize(
    "name",
    [LITE, SMALL, "resnet18", "convnext_atto", "xception41", "mambaout_femto"],
    # own class, own class, layers, names joined by "_", hooks, channels last
)
@torch.no_grad()
def test_maps_are_those_of_timms_own_network_with_the_parameters_of_a_file(parameters, name):
    path, network = parameters(name)
    backbone = TimmBackbone(name)
    images = torch.randn(2, 3, 67, 101)
    before = backbone.eval()(images)
    backbone.load_file(path)
    maps = backbone(images)
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    expected = [tuple(math.ceil(side / s) for side in (67, 101)) for s in (8, 16, 32)]
    assert [tuple(m.shape[2:]) for m in maps] == expected
    features = timm.create_model(
        name, features_only=True, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    )
    if name == "convnext_atto":  # which would leave out the last rows and columns
        images = nn.functional.pad(images, (0, 128 - 101, 0, 96 - 67))
    theirs = features.eval()(images)[-3:]
    if name == "mambaout_femto":
        theirs = [m.permute(0, 3, 1, 2) for m in theirs]
    theirs = [m[:, :, :h, :w] for m, (h, w) in zip(theirs, expected, strict=True)]
    for found, expected, random in zip(maps, theirs, before, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, random, rtol=1e-2)


@pytest.mark.skipif(not IMAGENET.exists(), reason=f"needs {IMAGENET}")
@torch.no_grad()
def test_imagenet_parameters_reach_every_layer():
    """The real file: all 247 tensors fit timm's own network, and the features are the same."""
    state = load_file(IMAGENET)
    network = timm.create_model(LITE).eval()
    missing, unknown = network.load_state_dict(state, strict=False)
    assert not unknown and all(name.endswith("num_batches_tracked") for name in missing)
    backbone = TimmBackbone(LITE).eval()
    backbone.load_file(IMAGENET)
    for name, value in backbone.body.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, state[name]), name
    image = torch.rand(1, 3, 224, 224)
    theirs = network.forward_intermediates(image, indices=[2, 3, 4], intermediates_only=True)
    for found, expected in zip(backbone(image), theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_resnet_of_torchvision_loads_a_file_too(parameters):
    path, network = parameters("resnet18")  # timm's has the same names
    backbone = ResNetBackbone("resnet18")
    backbone.load_file(path)
    assert torch.equal(backbone.body.layer4[1].conv2.weight, network.layer4[1].conv2.weight)
    assert torch.equal(backbone.body.bn1.running_var, network.bn1.running_var)
    with pytest.raises(ValueError, match="not hold the parameters of resnet34: .* are missing"):
        ResNetBackbone("resnet34").load_file(path)


def test_a_classifier_of_other_classes_does_not_matter(parameters):
    path, _ = parameters(**{"classifier.weight": torch.zeros(3, 1024)})
    TimmBackbone(SMALL).load_file(path)


@pytest.mark.parametrize(
    "name, other, message",
    [
        ("resnet18", "resnet34", r"\d+ are unknown to it, such as layer1\.2\."),
        ("resnet34", "resnet18", r"\d+ tensors are missing, such as layer1\.2\."),
        (SMALL, "mobilenetv3_small_075", r"has shape \(\d+, .*\) instead of \(\d+, "),
        (SMALL, "resnet18", r"tensors are missing.*are unknown"),
    ],
)
def test_parameters_of_another_network_are_refused_and_nothing_is_loaded(
    parameters, name, other, message
):
    path, _ = parameters(other)
    backbone = TimmBackbone(name)
    before = {n: tensor.clone() for n, tensor in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=f"not hold the parameters of timm/{name}: .*{message}"):
        backbone.load_file(path)
    assert all(torch.equal(tensor, before[n]) for n, tensor in backbone.state_dict().items())


def test_files_of_other_kinds_are_never_opened(tmp_path):
    """Unpickling one would write a file."""

    class Harmful:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harmed",)

    torch.save(Harmful(), tmp_path / "a.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00\x00")
    backbone = TimmBackbone(SMALL)
    for name, message in [
        ("a.pth", "code"),
        ("cut.safetensors", "cannot be read"),
        ("b", "no file"),
    ]:
        with pytest.raises(ValueError, match=message) as refused:
            backbone.load_file(tmp_path / name)
        assert name in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "harmed").exists()


def test_published_parameters_are_downloaded_as_safetensors(parameters, monkeypatch):
    path, network = parameters()
    asked = []

    def download(*args):
        asked.append(args)
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    backbone = TimmBackbone(SMALL)
    backbone.load_imagenet()
    assert asked == [(network.pretrained_cfg["hf_hub_id"], "model.safetensors")]
    assert torch.equal(backbone.body.conv_stem.weight, network.conv_stem.weight)


def test_a_failed_download_is_reported_in_one_sentence(monkeypatch):
    def fail(*args):
        raise RuntimeError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(OSError, match="timm/mobilenetv3_small_050 could not .*no network") as error:
        TimmBackbone(SMALL).load_imagenet()
    assert "--backbone-weights" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, message",
    [
        ("tf_efficientnet_lte0", "no model .*tf_efficientnet_lite0"),
        ("hf-hub:timm/resnet18", "no model"),
        ("resnet18.no_such_tag", "cannot build resnet18.no_such_tag"),
        ("vit_tiny_patch16_224", "has feature maps of strides 16, 16, 16"),
        ("swin_tiny_patch4_window7_224", r"cannot be a backbone: .* fails \(Input height"),
        ("inception_v4", "cannot be a backbone: .*gives maps of"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused_by_name(name, message):
    with pytest.raises(ValueError, match=message) as refused:
        TimmBackbone(name)
    assert "\n" not in str(refused.value)


def test_without_timm_one_sentence_says_how_to_install_it(detector, tmp_path, monkeypatch, capsys):
    save(tmp_path / "c.pt", detector())
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingTimm, match="pip install timm$"):
        build_backbone(DeformableDETRConfig.preset("lite"))
    with pytest.raises(MissingTimm, match="pip install timm$"):
        load(tmp_path / "c.pt")
    assert main(["export", str(tmp_path / "c.pt"), "--out", str(tmp_path / "c.onnx")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("pip install timm")


# What is trained ----------------------------------------------------------------------------------


def test_frozen_norms_and_first_layers_do_not_change_in_training():
    backbone = TimmBackbone(LITE).train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    sum(m.sum() for m in backbone(torch.randn(2, 3, 64, 96))).backward()
    assert len(norms) == 48 and before
    assert all(torch.equal(buffer, before[name]) for name, buffer in backbone.named_buffers())
    trained = {name for name, p in backbone.named_parameters() if p.grad is not None}
    assert trained == {n for n, p in backbone.named_parameters() if p.requires_grad}
    stages = {name.split(".")[2] for name in trained}  # of body.blocks.2.0.conv_pw.weight
    assert stages == {"2", "3", "4", "5", "6"}  # stride 8 and above
    assert not [name for name in trained if "bn" in name]


def test_norms_that_are_not_frozen_are_trained_with_all_other_layers():
    backbone = TimmBackbone(LITE, frozen_norms=False).train()
    before = backbone.body.bn1.running_mean.clone()
    sum(m.sum() for m in backbone(torch.randn(2, 3, 64, 96))).backward()
    assert not torch.equal(backbone.body.bn1.running_mean, before)
    assert all(p.grad is not None for p in backbone.parameters())


def test_a_checkpoint_fits_with_frozen_norms_and_without():
    frozen, trained = TimmBackbone(SMALL), TimmBackbone(SMALL, frozen_norms=False)
    trained.load_state_dict(frozen.state_dict())
    frozen.load_state_dict(trained.state_dict())


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(backbone="timm/resnet18", dilation=True), "dilation needs a torchvision ResNet"),
        (dict(frozen_norms=False), "frozen_norms=False is for backbones of timm.*resnet50"),
        (dict(backbone="tiny", frozen_norms=False), "frozen_norms=False is .*tiny"),
        (
            dict(backbone="timm/resnet18", frozen_norms=False, ignore_padding=True),
            "ignore_padding needs frozen_norms",
        ),
    ],
)
def test_settings_that_contradict_the_backbone_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DeformableDETRConfig(**values)


@torch.no_grad()
def test_with_ignore_padding_the_maps_are_zero_in_the_padding(detector):
    images, mask = torch.randn(2, 3, 64, 128), torch.zeros(2, 64, 128, dtype=torch.bool)
    mask[1, 50:], mask[1, :, 75:] = True, True
    backbone = TimmBackbone(SMALL).eval()
    for m, (rows, columns) in zip(backbone(images, mask), ((7, 10), (4, 5), (2, 3)), strict=True):
        assert m[1, :, :rows, :columns].any() and m[0].any()
        assert not m[1, :, rows:].any() and not m[1, :, :, columns:].any()
    model = detector(ignore_padding=True).model
    assert torch.isfinite(model(images, mask).boxes).all()


# Normalisation ------------------------------------------------------------------------------------


def test_images_are_normalised_as_the_backbone_expects(detector):
    images = []
    for backbone in (f"timm/{LITE}", f"timm/{SMALL}", "resnet18"):
        other = detector(backbone=backbone)
        other.model.register_forward_pre_hook(lambda _, args: images.append(args[0]))
        other([torch.full((3, 64, 96), 0.75)])
    lite, *imagenet = images
    torch.testing.assert_close(lite, torch.full((1, 3, 64, 96), (0.75 - 0.5) / 0.5))
    for batch in imagenet:
        expected = (torch.full((3,), 0.75) - torch.tensor(MEAN)) / torch.tensor(STD)
        torch.testing.assert_close(batch[0, :, 5, 7], expected)


@pytest.mark.parametrize("name", ["c.pt", "c.safetensors"])
def test_a_checkpoint_keeps_the_name_and_the_normalisation(detector, tmp_path, name, monkeypatch):
    """Even where another version of timm has another one; and nothing is downloaded."""

    def download(*args):
        raise AssertionError("no network is needed")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    before = detector(frozen_norms=False)
    before.model.backbone.image_mean.copy_(torch.tensor([0.25, 0.5, 0.75]))
    save(tmp_path / name, before)
    after = load(tmp_path / name)
    assert after.model.config == before.model.config
    assert after.model.config.backbone == f"timm/{SMALL}"
    mean, std = normalization(after.model.backbone)
    assert mean.tolist() == [0.25, 0.5, 0.75]
    torch.testing.assert_close(std, torch.tensor(STD))
    image = torch.rand(3, 70, 90)
    found, expected = after.predict(image, 0.0), before.predict(image, 0.0)
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=0, atol=1e-3)


# What the library does with such a model ----------------------------------------------------------


@pytest.mark.parametrize(
    "name, left",
    [(LITE, 0), (SMALL, 0), ("resnetv2_50", 16), ("repvit_m0_9", 23), ("convnext_atto", 0)],
)
@torch.no_grad()
def test_fused_batch_norms_compute_the_same(name, left):
    """Activations in norms are kept, and norms of sums are not fused into one of the summands."""
    torch.manual_seed(0)
    backbone = with_random_norms(TimmBackbone(name)).double().eval()
    images = torch.randn(2, 3, 67, 101, dtype=torch.float64)
    before = backbone(images)
    fuse_conv_bn(backbone)
    for found, expected in zip(backbone(images), before, strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * scale)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in backbone.modules()) == left


def test_a_copy_for_inference_agrees(detector):
    original = detector(backbone=f"timm/{LITE}")
    with_random_norms(original.model.backbone)
    faster, image = original.for_inference(), torch.rand(3, 75, 90)
    with torch.no_grad():
        expected, found = original.run_model([image]), faster.run_model([image])
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-5)


def test_capture_records_its_attention(detector):
    other = detector()
    with capture(other) as records:
        other([torch.rand(3, 64, 96)])
    assert [record.name.split(".")[0] for record in records] == ["model", "model"]
    assert records[0].spatial_shapes == [(8, 12), (4, 6), (2, 3)]


def test_other_layouts_have_no_such_model(detector, tmp_path):
    with pytest.raises(ValueError, match=f"this backbone is timm/{SMALL}; .*`ddetr export`"):
        save_official(tmp_path / "c.pth", detector(look_forward="once"))
    assert not (tmp_path / "c.pth").exists()
    with_resnet = DeformableDETRConfig.preset("r18_two_stage", tokens_as_content=False)
    check_convertible(with_resnet)


def test_a_detr_takes_such_a_backbone():
    config = DETRConfig.preset("detr_tiny", backbone=f"timm/{SMALL}", num_classes=2)
    losses = Detector(DETR(config), ["a", "b"], ResizeConfig(64, 96))(
        [torch.rand(3, 64, 96)],
        [{"boxes": torch.tensor([[10.0, 20, 60, 50]]), "labels": torch.tensor([1])}],
    )
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_padding_for_the_export_is_timms():
    from timm.layers import padding

    timms = padding.get_same_padding
    with exportable_padding():
        ours = padding.get_same_padding
    assert padding.get_same_padding is timms and ours is not timms
    for size in range(1, 30):
        for kernel, stride, dilation in ((1, 2, 1), (2, 3, 1), (3, 2, 1), (5, 2, 2), (7, 4, 1)):
            arguments = (size, kernel, stride, dilation)
            assert ours(*arguments) == timms(*arguments), arguments


EXPORT = """
import json, sys, torch
from ddetr_edu.checkpoints.io import load
from ddetr_edu.checkpoints.onnx import export_onnx
import onnxruntime

print(export_onnx("c.onnx", load("c.pt")))
session = onnxruntime.InferenceSession("c.onnx", providers=["CPUExecutionProvider"])
print(json.loads(session.get_modelmeta().custom_metadata_map["mean"]))
"""


def test_an_exported_model_predicts_the_same_and_tells_its_normalisation(detector, tmp_path):
    """tf_mobilenetv3: padding as TensorFlow's, which depends on the size of the image."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    other = detector(backbone="timm/tf_mobilenetv3_small_minimal_100")
    other.model.backbone.image_mean.copy_(torch.tensor([0.25, 0.5, 0.75]))
    save(tmp_path / "c.pt", other)
    # In a process of its own: the exporter starts threads that later tests could not fork.
    result = subprocess.run(
        [sys.executable, "-c", EXPORT], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    check, mean = result.stdout.splitlines()
    assert "gives the same on an image as torch" in check and mean == "[0.25, 0.5, 0.75]"
