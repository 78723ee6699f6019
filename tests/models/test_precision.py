"""Under autocast, features have 16 bits, but coordinates must stay in fp32.

bf16 has 8 significant bits: in an image of 1000 pixels it can represent every fourth position.
"""

import pytest
import torch
from torchvision.ops import misc

from ddetr_edu.attention import module as attention_module
from ddetr_edu.models.backbone import FrozenBatchNorm2d
from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR

PRESETS = {
    "one stage": dict(two_stage=False),
    "two stages": dict(two_stage=True),
    "tokens as content": dict(two_stage=True, tokens_as_content=True),
}


@pytest.fixture
def locations(monkeypatch):
    """All sampling locations that are computed, in order."""
    computed = []
    real = attention_module.sampling_locations

    def spy(*arguments):
        computed.append(real(*arguments))
        return computed[-1]

    monkeypatch.setattr(attention_module, "sampling_locations", spy)
    return computed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", PRESETS)
def test_coordinates_stay_in_fp32(kind, dtype, locations):
    """With the official initialisation every box lies at its reference: only rounding is left."""
    torch.manual_seed(0)
    config = DeformableDETRConfig.preset("tiny", num_classes=5, n_queries=11, **PRESETS[kind])
    model = DeformableDETR(config).eval()
    images, mask = torch.randn(2, 3, 67, 101), torch.zeros(2, 67, 101, dtype=torch.bool)
    mask[1, 43:], mask[1, :, 83:] = True, True
    with torch.no_grad():
        exact = model(images, mask)
        exact_locations = locations.copy()
        locations.clear()
        with torch.autocast("cpu", dtype=dtype):
            rough = model(images, mask)
    assert rough.logits.dtype == dtype
    n_encoder = config.n_encoder_layers
    for found, expected in zip(locations[:n_encoder], exact_locations[:n_encoder], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert {found.dtype for found in locations} == {torch.float32}
    rough_boxes = [layer.boxes for layer in (*rough.aux, rough)]
    exact_boxes = [layer.boxes for layer in (*exact.aux, exact)]
    assert {boxes.dtype for boxes in rough_boxes} == {torch.float32}
    if config.two_stage:  # which tokens are chosen depends on their scores, and those are rough
        rough_boxes, exact_boxes = [rough.encoder.boxes], [exact.encoder.boxes]
    for found, expected in zip(rough_boxes, exact_boxes, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_detr_rounds_its_logits_but_not_its_boxes():
    torch.manual_seed(0)
    model = DETR(DETRConfig.preset("detr_tiny", num_classes=5, n_queries=301)).eval()
    images, mask = torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        boxes = model(images, mask).boxes
    assert boxes.dtype == torch.float32
    assert not torch.equal(boxes, boxes.bfloat16().float())


def test_the_frozen_batch_norm_computes_what_torchvisions_does_and_keeps_16_bits():
    torch.manual_seed(0)
    mine, theirs = FrozenBatchNorm2d(7), misc.FrozenBatchNorm2d(7)
    for buffer in mine.buffers():
        buffer.uniform_(0.5, 2)
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(2, 7, 5, 11, requires_grad=True)
    torch.testing.assert_close(mine(x), theirs(x))
    gradients = [torch.autograd.grad(norm(x).square().sum(), x)[0] for norm in (mine, theirs)]
    torch.testing.assert_close(*gradients)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = mine(x.bfloat16())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), theirs(x), rtol=0.02, atol=0.02)
