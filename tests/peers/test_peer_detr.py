"""Our DETR against Hugging Face's with the same parameters, converted in both directions."""

import pytest
import torch

from ddetr_edu.checkpoints.detr_names import from_huggingface, to_huggingface
from ddetr_edu.checkpoints.huggingface import save_huggingface
from ddetr_edu.checkpoints.io import load
from ddetr_edu.checkpoints.official import save_official
from ddetr_edu.detector import Detector
from ddetr_edu.losses.criterion import detection_losses
from ddetr_edu.models.config import DETRConfig
from ddetr_edu.models.detr import DETR

transformers = pytest.importorskip("transformers")
pytest.importorskip("timm")  # its ResNets have the keys of torchvision's

from safetensors.torch import load_file, save_file  # noqa: E402  (comes with transformers)

SIZES = dict(d_model=48, n_heads=3, n_encoder_layers=2, n_decoder_layers=3, d_ffn=37, n_queries=11)


def theirs_and_ours(dilation: bool = False):
    """Two models with the same random parameters, in evaluation mode."""
    torch.manual_seed(3)
    name = "resnet50" if dilation else "resnet18"  # only bottlenecks can dilate
    theirs = transformers.DetrForObjectDetection(
        transformers.DetrConfig(
            backbone=name,
            dilation=dilation,
            num_labels=5,
            num_queries=11,
            d_model=48,
            encoder_layers=2,
            encoder_attention_heads=3,
            encoder_ffn_dim=37,
            decoder_layers=3,
            decoder_attention_heads=3,
            decoder_ffn_dim=37,
        )
    )
    with torch.no_grad():
        for key, value in theirs.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.8, 1.2)
            elif "backbone" not in key and value.dim() > 1:
                value.normal_(0, 1 if "query" in key else value[0].numel() ** -0.5)
            else:
                value += 0.01 * torch.randn_like(value)
    ours = DETR(DETRConfig(num_classes=5, backbone=name, dilation=dilation, **SIZES))
    ours.load_state_dict(from_huggingface(theirs.state_dict()))
    return theirs.eval(), ours.eval()


@pytest.fixture(scope="module")
def models():
    return theirs_and_ours()


def padded_batch(dtype):
    """Two images of different shapes, neither square, in one batch."""
    images = torch.randn(2, 3, 101, 149, generator=torch.Generator().manual_seed(5), dtype=dtype)
    mask = torch.ones(2, 101, 149, dtype=torch.bool)
    mask[0, :101, :67] = False
    mask[1, :53, :149] = False
    return images.masked_fill(mask[:, None], 0), mask


def difference(theirs, ours, dtype) -> float:
    images, mask = padded_batch(dtype)
    with torch.no_grad():
        expected = theirs.to(dtype)(images, pixel_mask=(~mask).long())
        found = ours.to(dtype)(images, mask)
    assert expected.logits.std(1).min() > 1e-3  # the queries do differ
    return max(
        (expected.logits - found.logits).abs().max().item(),
        (expected.pred_boxes - found.boxes).abs().max().item(),
    )


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_the_same_predictions_on_a_padded_batch(models, dtype, bound):
    assert difference(*models, dtype) <= bound


def test_the_same_predictions_with_dilation():
    assert difference(*theirs_and_ours(dilation=True), torch.float64) <= 1e-9


@pytest.mark.parametrize("mistake", ["half a pixel", "norms swapped", "no mask", "no final norm"])
def test_the_comparison_would_notice(models, mistake, monkeypatch):
    theirs, _ = models
    ours = DETR(DETRConfig(num_classes=5, backbone="resnet18", **SIZES)).eval()
    state = from_huggingface(theirs.state_dict())
    if mistake == "norms swapped":
        state = {swapped(key): value for key, value in state.items()}
    ours.load_state_dict(state)
    if mistake == "half a pixel":
        from ddetr_edu.models import detr

        sine = detr.sine_position
        monkeypatch.setattr(detr, "sine_position", lambda m, c, shift, dtype: sine(m, c, 0.5))
    elif mistake == "no final norm":
        ours.decoder_norm = torch.nn.Identity()
    elif mistake == "no mask":
        for layer in [*ours.encoder, *ours.decoder]:
            attention = layer.cross_attn if hasattr(layer, "cross_attn") else layer.self_attn
            attention.register_forward_pre_hook(lambda _, args: args[:3])
    assert difference(theirs, ours, torch.float32) > 1e-3


def swapped(key: str) -> str:
    """The key with the norms after self-attention and after cross-attention exchanged."""
    names = {"self_attn_norm": "cross_attn_norm", "cross_attn_norm": "self_attn_norm"}
    part = next((part for part in key.split(".") if part in names), None)
    return key.replace(part, names[part]) if part and key.startswith("decoder") else key


def test_a_file_of_theirs_converted_to_ours_and_back_is_the_same(models, tmp_path):
    theirs, _ = models
    theirs.float().save_pretrained(tmp_path / "theirs")
    file = load_file(tmp_path / "theirs" / "model.safetensors")
    ours = DETR(DETRConfig(num_classes=5, backbone="resnet18", **SIZES))
    ours.load_state_dict(from_huggingface(file))
    back = to_huggingface(ours.state_dict())
    assert set(back) == set(file)
    assert all(torch.equal(back[key], file[key]) for key in file)


def test_they_load_what_we_write(models, tmp_path):
    theirs, ours = models
    theirs.float().config.save_pretrained(tmp_path)
    save_file(to_huggingface(ours.float().state_dict()), tmp_path / "model.safetensors")
    loaded, report = transformers.DetrForObjectDetection.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert difference(loaded.eval(), ours, torch.float32) <= 1e-4


def test_the_same_losses(models):
    """Matching, softmax with "no object", L1 and GIoU of the last layer."""
    theirs, ours = (model.float() for model in models)
    images, mask = padded_batch(torch.float32)
    g = torch.Generator().manual_seed(2)
    targets = [
        {
            "labels": torch.randint(5, (n,), generator=g),
            "boxes": 0.2 + 0.3 * torch.rand(n, 4, generator=g),
        }
        for n in (4, 2)
    ]
    with torch.no_grad():
        labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]
        expected = theirs(images, pixel_mask=(~mask).long(), labels=labels).loss_dict
        found = detection_losses(ours(images, mask), targets)
    torch.testing.assert_close(found["loss_label"], expected["loss_ce"])
    torch.testing.assert_close(found["loss_l1"], 5 * expected["loss_bbox"])
    torch.testing.assert_close(found["loss_giou"], 2 * expected["loss_giou"])


def test_a_folder_of_theirs_is_loaded_and_written_back(models, tmp_path):
    theirs = models[0].float()
    theirs.save_pretrained(tmp_path / "theirs")
    detector = load(tmp_path / "theirs")
    assert isinstance(detector.model, DETR) and detector.model.config.n_heads == 3
    assert list(detector.categories.values()) == list(theirs.config.id2label.values())
    assert difference(theirs, detector.model, torch.float32) <= 1e-4
    save_huggingface(tmp_path / "back", detector)
    back, info = transformers.DetrForObjectDetection.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not any(info.values()), info
    for name, values in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], values), name


def test_an_official_file_is_loaded_and_written_back(models, tmp_path):
    detector = Detector(models[1].float(), ["a", "b", "c", "d", "e"])
    save_official(tmp_path / "a.pth", detector)
    loaded = load(tmp_path / "a.pth")
    assert loaded.model.config == detector.model.config
    assert loaded.categories == detector.categories
    for name, values in detector.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], values), name
