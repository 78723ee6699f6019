"""A model with a NaN gives no answer, and the first tensor that holds it is named."""

import math

import pytest
import torch
from torch import nn

from ddetr_edu.detector import Detector
from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR
from ddetr_edu.models.non_finite import first_activation, first_non_finite

SMALL = dict(num_classes=2, d_model=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=2, d_ffn=16)


def build(preset: str = "tiny_two_stage") -> Detector:
    torch.manual_seed(0)
    model: DeformableDETR | DETR
    if preset == "detr_tiny":
        model = DETR(DETRConfig.preset(preset, n_queries=7, **SMALL))
    else:
        model = DeformableDETR(DeformableDETRConfig.preset(preset, n_queries=7, **SMALL))
    return Detector(model, ["cat", "owl"], ResizeConfig(64, 96)).eval()


@torch.no_grad()
def put(detector: Detector, name: str, value: float = math.nan) -> None:
    dict(detector.model.named_parameters())[name].view(-1)[3] = value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name",
    [
        "backbone.{}",
        "encoder.layers.0.ffn.linear1.weight",
        "encoder.layers.0.self_attn.sampling_offsets.weight",  # NaN locations read zeros
        "queries.heads.class_head.weight",  # of NaN objectness, a wrong token is chosen
        "decoder.heads.0.class_head.weight",  # only an earlier layer's answer
        "decoder.heads.1.class_head.weight",
    ],
)
def test_a_parameter_that_is_not_finite_is_named(name, value):
    detector = build()
    first = next(n for n, _ in detector.model.named_parameters() if n.startswith("backbone."))
    name = name.format(first.removeprefix("backbone."))
    image = torch.rand(3, 50, 60)
    assert len(detector.predict(image, 0.0)["scores"]) == 14
    put(detector, name, value)
    for answer in (lambda: detector.predict(image), lambda: detector([image])):
        with pytest.raises(ValueError, match=rf"the parameter {name} \(1 of \d+ numbers\)"):
            answer()


def test_a_detr_is_checked_as_well():
    detector = build("detr_tiny")
    name = [n for n, _ in detector.model.named_parameters() if n.startswith("decoder.")][0]
    detector.predict(torch.rand(3, 50, 60))
    put(detector, name)
    with pytest.raises(ValueError, match=f"the parameter {name} "):
        detector.predict(torch.rand(3, 50, 60))


def test_a_buffer_is_named():
    detector = build()
    detector.model.register_buffer("mean", torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match=r"the buffer mean \(1 of 2 numbers\)"):
        detector.predict(torch.rand(3, 50, 60))


def test_an_overflow_between_finite_parameters_is_named():
    detector = build()
    with torch.no_grad():
        detector.model.encoder.layers[0].ffn.linear2.weight.fill_(1e38)
    with pytest.raises(ValueError, match=r"the output of encoder\.layers\.0\.ffn\.linear2 \("):
        detector.predict(torch.rand(3, 50, 60))
    assert not any(module._forward_hooks for module in detector.modules())


def test_images_are_named():
    image = torch.rand(3, 50, 60)
    image[1, 20, 20] = math.nan
    with pytest.raises(ValueError, match="the images hold NaN or infinity"):
        build()([image])


def test_a_sum_that_overflows_is_no_error():
    detector = build()
    detector.model.register_buffer("large", torch.tensor([3e38, 3e38]))
    detector.predict(torch.rand(3, 50, 60))
    assert first_non_finite(detector.model) is None


def test_the_first_activation_is_that_of_the_innermost_module():
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    model = nn.Sequential(nn.Identity(), nn.Sequential(Root(), nn.ReLU()))
    assert first_activation(model, torch.tensor([4.0, -1.0])) == (
        "the output of 1.0 (1 of 2 numbers)"
    )
    assert first_activation(model, torch.tensor([4.0])) is None
