"""Under autocast the numbers are of 16 bits; where things are must keep 32.

bfloat16 has 8 bits for a fraction: in a picture of 1000 pixels it names every fourth.
"""

import pytest
import torch
from torchvision.ops.misc import FrozenBatchNorm2d

from ddetr_edu.attention import module as attention_module
from ddetr_edu.detector import DETR, DeformableDETR, DeformableDETRConfig, DETRConfig
from ddetr_edu.detector.backbone import FrozenNorm

PRESETS = {
    "one stage": dict(two_stage=False),
    "two stages": dict(two_stage=True),
    "token queries": dict(two_stage=True, token_queries=True),
}


@pytest.fixture
def places(monkeypatch):
    """All sampling locations that are computed, in order."""
    seen = []
    real = attention_module.sampling_locations

    def spy(*arguments):
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr(attention_module, "sampling_locations", spy)
    return seen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", PRESETS)
def test_places_keep_32_bits(kind, dtype, places):
    """At the official start every box stands at its reference: what is left is rounding."""
    torch.manual_seed(0)
    config = DeformableDETRConfig.preset("tiny", num_classes=5, n_queries=11, **PRESETS[kind])
    model = DeformableDETR(config).eval()
    images, mask = torch.randn(2, 3, 67, 101), torch.zeros(2, 67, 101, dtype=torch.bool)
    mask[1, 43:], mask[1, :, 83:] = True, True
    with torch.no_grad():
        exact = model(images, mask)
        exact_places = places.copy()
        places.clear()
        with torch.autocast("cpu", dtype=dtype):
            rough = model(images, mask)
    assert rough.logits.dtype == dtype
    n_encoder = config.n_encoder_layers
    for found, wanted in zip(places[:n_encoder], exact_places[:n_encoder], strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert {found.dtype for found in places} == {torch.float32}
    boxes, wanted = [p.boxes for p in (*rough.aux, rough)], [p.boxes for p in (*exact.aux, exact)]
    assert {b.dtype for b in boxes} == {torch.float32}
    if config.two_stage:  # which queries are chosen depends on scores, and those are rough
        boxes, wanted = [rough.encoder.boxes], [exact.encoder.boxes]
    for found, expected in zip(boxes, wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_detr_rounds_its_corrections_but_not_its_boxes():
    torch.manual_seed(0)
    model = DETR(DETRConfig.preset("detr_tiny", num_classes=5, n_queries=301)).eval()
    images, mask = torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        boxes = model(images, mask).boxes
    assert boxes.dtype == torch.float32
    assert not torch.equal(boxes, boxes.bfloat16().float())


def test_a_frozen_norm_is_torchvisions_and_keeps_16_bits():
    torch.manual_seed(0)
    mine, theirs = FrozenNorm(7), FrozenBatchNorm2d(7)
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
