"""The gradient of a batch does not depend on how its images are split up.

The parts of a batch are passed the numbers of objects and images of the whole: added up by gradient
accumulation, or, with the average numbers, averaged over processes.
"""

import pytest
import torch
from torch import nn

from ddetr_edu.detector import Detector
from ddetr_edu.losses import denoising
from ddetr_edu.losses.denoising import Denoising
from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR

SMALL = dict(
    num_classes=3,
    d_model=32,
    n_heads=2,
    n_encoder_layers=1,
    n_decoder_layers=2,
    d_ffn=37,
    n_queries=13,
)
MODELS = {
    "one stage": lambda: DeformableDETR(DeformableDETRConfig.preset("tiny", **SMALL)),
    "two stages": lambda: DeformableDETR(DeformableDETRConfig.preset("tiny_two_stage", **SMALL)),
    "DETR": lambda: DETR(DETRConfig.preset("detr_tiny", **SMALL)),
}


@pytest.fixture(params=MODELS)
def detector(request, monkeypatch):
    """A detector in training mode, except that its batch norms do not depend on the batch."""
    torch.manual_seed(0)
    model = MODELS[request.param]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += 0.05 * torch.randn_like(parameter)
            if name.endswith("class_head.bias"):
                parameter.zero_()  # so that the image without objects has a large loss
    noise = None
    if request.param != "DETR":  # which has no denoising
        noise = Denoising(3, SMALL["d_model"], groups=2, label_noise=0)
        # Random noise would depend on the shape of the batch.
        monkeypatch.setattr(denoising, "noised_boxes", lambda boxes, *_: 0.9 * boxes)
    detector = Detector(model, ["a", "b", "c"], ResizeConfig(64, 96), denoising=noise).train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return detector


def batch(n_objects):
    """An image with so many objects, and one without any; both of one size, without padding."""
    g = torch.Generator().manual_seed(1)
    images = list(torch.rand(2, 3, 64, 96, generator=g))
    corners = 40 * torch.rand(n_objects, 2, generator=g)
    boxes = torch.cat([corners, corners + 5 + 15 * torch.rand(n_objects, 2, generator=g)], -1)
    labels = torch.randint(3, (n_objects,), generator=g)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return images, [{"boxes": boxes, "labels": labels}, empty]


def gradient(detector, images, targets, *numbers):
    """The gradient of the sum of all losses, and the losses."""
    detector.zero_grad()
    losses = detector(images, targets, *numbers)
    sum(losses.values()).backward()
    parameters = [p for p in detector.parameters() if p.requires_grad]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return torch.cat([grad.flatten() for grad in grads]), losses


def difference(a, b):
    """Relative to the largest component."""
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("n_objects", [1, 3])
def test_the_gradients_of_two_halves_add_up_to_that_of_the_whole(detector, n_objects):
    images, targets = batch(n_objects)
    whole, losses = gradient(detector, images, targets)
    first, first_losses = gradient(detector, images[:1], targets[:1], n_objects, 2)
    second, second_losses = gradient(detector, images[1:], targets[1:], n_objects, 2)
    assert difference(first + second, whole) < 1e-4
    for name, value in losses.items():
        torch.testing.assert_close(first_losses[name] + second_losses[name], value)


def test_that_test_would_notice_halves_that_are_divided_by_their_own_numbers(detector):
    images, targets = batch(3)
    whole, _ = gradient(detector, images, targets)
    first, _ = gradient(detector, images[:1], targets[:1])
    second, _ = gradient(detector, images[1:], targets[1:])
    assert difference(first + second, whole) > 0.1


@pytest.mark.parametrize("n_objects", [1, 3])
def test_with_average_numbers_the_average_gradient_is_that_of_the_whole(detector, n_objects):
    images, targets = batch(n_objects)
    whole, _ = gradient(detector, images, targets)
    first, _ = gradient(detector, images[:1], targets[:1], n_objects / 2, 1)
    second, _ = gradient(detector, images[1:], targets[1:], n_objects / 2, 1)
    assert difference((first + second) / 2, whole) < 1e-4


@pytest.mark.parametrize("n_objects", [0, 1, 3])
def test_without_numbers_those_of_the_batch_are_used(detector, n_objects):
    images, targets = batch(n_objects)
    found, losses = gradient(detector, images, targets)
    expected, expected_losses = gradient(detector, images, targets, n_objects, 2)
    assert losses == expected_losses
    assert torch.equal(found, expected)
