"""Backbones: their feature maps, and which of their parameters are trained."""

import functools
import hashlib
import re
import threading
import urllib.error
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops.misc import FrozenBatchNorm2d

from ddetr_edu.models.backbone import ResNetBackbone, TinyBackbone, build_backbone
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.fusing import fuse_conv_bn


def test_the_configuration_chooses_the_backbone():
    assert isinstance(build_backbone(DeformableDETRConfig.preset("tiny")), TinyBackbone)
    with torch.device("meta"):
        backbone = build_backbone(DeformableDETRConfig(backbone="resnet34"))
    assert backbone.channels == (128, 256, 512)


def test_tiny_gives_strides_8_16_32_and_rounds_up():
    backbone = TinyBackbone().eval()
    maps = backbone(torch.randn(2, 3, 67, 101))
    assert [tuple(m.shape) for m in maps] == [(2, 64, 9, 13), (2, 128, 5, 7), (2, 192, 3, 4)]
    assert backbone.channels == (64, 128, 192)
    count = sum(p.numel() for p in backbone.parameters())
    assert 1.25e6 < count < 1.35e6  # "1.3 million parameters"


def test_tiny_starts_every_residual_block_as_its_shortcut():
    torch.manual_seed(0)
    block = TinyBackbone().stages[0][1].eval()  # as many channels in as out
    x = torch.rand(2, 64, 5, 7)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize(
    "dilation, last", [(False, (2, 3)), (True, (3, 5))], ids=["stride 32", "DC5"]
)
def test_resnet50_gives_three_maps_finest_first(dilation, last):
    with torch.device("meta"):
        backbone = ResNetBackbone("resnet50", dilation)
        maps = backbone(torch.zeros(2, 3, 47, 79))
    assert backbone.channels == (512, 1024, 2048)
    expected = [(2, 512, 6, 10), (2, 1024, 3, 5), (2, 2048, *last)]
    assert [tuple(m.shape) for m in maps] == expected


def test_resnet_computes_what_torchvision_computes():
    torch.manual_seed(0)
    theirs = resnet18(weights=None).eval()
    ours = ResNetBackbone("resnet18").eval()
    state = theirs.state_dict()
    ours.body.load_state_dict({k: state[k] for k in ours.body.state_dict()})
    reference = create_feature_extractor(theirs, ["layer2", "layer3", "layer4"])
    x = torch.randn(1, 3, 43, 61)
    with torch.no_grad():
        for found, expected in zip(ours(x), reference(x).values(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_resnet_freezes_its_stem_its_first_stage_and_every_norm():
    torch.manual_seed(0)
    backbone = ResNetBackbone("resnet18")
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in backbone.modules())
    norms = [m for m in backbone.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 20 and not any(list(norm.parameters()) for norm in norms)
    frozen = {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad}
    trained = {n.split(".")[1] for n, p in backbone.named_parameters() if p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    assert trained == {"layer2", "layer3", "layer4"}

    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    sum(m.sum() for m in backbone.train()(torch.randn(2, 3, 33, 47))).backward()
    assert before and all(torch.equal(b, before[n]) for n, b in backbone.named_buffers())
    assert backbone.body.layer2[0].conv1.weight.grad is not None
    assert backbone.body.layer1[0].conv1.weight.grad is None


@pytest.mark.parametrize("name, dilation", [("resnet51", False), ("resnet18", True)])
def test_a_resnet_that_torchvision_cannot_build_is_refused_by_name(name, dilation):
    with pytest.raises(ValueError, match=f'torchvision cannot build the backbone "{name}"'):
        ResNetBackbone(name, dilation)


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """torch.hub with an empty cache and a network that gives 404; the list of requested URLs."""
    requested = []

    def refuse(url, *args, **kwargs):
        requested.append(url)
        raise urllib.error.HTTPError(url, 404, "Not Found", {}, None)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    return requested


def test_a_failed_download_is_reported_in_one_sentence(no_hub):
    with pytest.raises(OSError, match="resnet18 could not be downloaded.*404") as refused:
        ResNetBackbone("resnet18").load_imagenet()
    assert len(no_hub) == 1 and no_hub[0] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_imagenet_parameters_reach_every_layer(monkeypatch):
    torch.manual_seed(0)
    donor = resnet18(weights=None).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: donor)
    backbone = ResNetBackbone("resnet18")
    backbone.load_imagenet()
    for name, value in backbone.body.state_dict().items():
        assert torch.equal(value, donor[name]), name
    assert not any(re.match("fc", name) for name in backbone.body.state_dict())


def test_imagenet_parameters_are_downloaded_over_http_and_cached(monkeypatch, tmp_path):
    torch.manual_seed(0)
    donor = resnet18(weights=None).state_dict()
    folder = tmp_path / "server"
    folder.mkdir()
    torch.save(donor, folder / "weights.pth")
    # torch.hub checks a download against the digest in its name.
    digest = hashlib.sha256((folder / "weights.pth").read_bytes()).hexdigest()[:8]
    (folder / "weights.pth").rename(folder / f"resnet18-{digest}.pth")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/resnet18-{digest}.pth"
        monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", url)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
        for _ in range(2):  # the second time from the cache
            backbone = ResNetBackbone("resnet18")
            backbone.load_imagenet()
            assert torch.equal(backbone.body.conv1.weight, donor["conv1.weight"])
        server.shutdown()


@pytest.mark.parametrize("make", [TinyBackbone, lambda: ResNetBackbone("resnet18")])
def test_fused_batch_norms_compute_the_same(make):
    torch.manual_seed(0)
    backbone = make().double().eval()
    for name, tensor in backbone.state_dict().items():  # so that the norms have an effect
        if "num_batches" not in name:
            tensor.copy_(torch.rand_like(tensor) + (0.5 if tensor.dim() == 1 else -0.5))
    images = torch.randn(2, 3, 67, 101, dtype=torch.float64)
    with torch.no_grad():
        before = backbone(images)
        fuse_conv_bn(backbone)
        after = backbone(images)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=0)
    norms = (nn.BatchNorm2d, FrozenBatchNorm2d)
    assert not any(isinstance(module, norms) for module in backbone.modules())
