"""Norms that leave out padding give an image what it gets alone."""

import pytest
import torch
from torch import nn

from ddetr_edu.models.norms import apply_norm, resize_mask

SIZES = ((6, 4), (3, 8), (6, 8))  # of the images at the level of the norm
HEIGHT, WIDTH = 6, 8
STRIDE = 4


@pytest.fixture
def batch(random):
    """A feature map with other values in the padding, and the mask at the size of the images."""
    x = 1 + 2 * torch.randn(3, 64, HEIGHT, WIDTH, generator=random)
    mask = torch.ones(3, STRIDE * HEIGHT, STRIDE * WIDTH, dtype=torch.bool)
    for n, (h, w) in enumerate(SIZES):
        mask[n, : STRIDE * h - 1, : STRIDE * w - 2] = False  # ends inside the last cell
        x[n, :, h:], x[n, :, :, w:] = 50.0, -30.0
    return x, mask


def crops(x):
    return [x[n : n + 1, :, :h, :w] for n, (h, w) in enumerate(SIZES)]


def randomised(norm, random):
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter += torch.randn(parameter.shape, generator=random)
    return norm


@pytest.mark.parametrize("groups", [32, 64, 1])
def test_a_masked_group_norm_is_that_of_each_image_alone(batch, random, groups):
    x, mask = batch
    norm = randomised(nn.GroupNorm(groups, 64), random)
    found = apply_norm(norm, x, mask)
    for part, alone in zip(crops(found), crops(x), strict=True):
        torch.testing.assert_close(part, norm(alone), rtol=0, atol=2e-6)
    assert not found[resize_mask(mask, (HEIGHT, WIDTH))[:, None].expand_as(found)].any()
    assert (norm(x)[0, :, :, :4] - norm(x[:1, :, :, :4])).abs().max() > 0.1  # the usual norm


def test_so_is_its_gradient(batch, random):
    x, mask = batch
    norm, weight = randomised(nn.GroupNorm(32, 64), random), torch.randn(x.shape, generator=random)
    x.requires_grad_()
    (apply_norm(norm, x, mask) * weight).sum().backward()
    found, x.grad = x.grad, None
    sum((norm(a) * w).sum() for a, w in zip(crops(x), crops(weight), strict=True)).backward()
    torch.testing.assert_close(found, x.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_a_masked_batch_norm(batch, random, memory_format):
    x, mask = batch
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    norm, weight = randomised(nn.BatchNorm2d(64), random), torch.randn(x.shape, generator=random)
    parameters = (x, norm.weight, norm.bias)
    found = torch.autograd.grad((apply_norm(norm, x, mask) * weight).sum(), parameters)

    inside = (~resize_mask(mask, (HEIGHT, WIDTH)))[:, None].double()  # (N, 1, H, W)
    count, axes = inside.sum(), (0, 2, 3)
    mean = (x * inside).sum(axes, keepdim=True) / count
    variance = ((x - mean).square() * inside).sum(axes, keepdim=True) / count
    normed = (x - mean) / (variance + norm.eps).sqrt()
    normed = normed * norm.weight[:, None, None] + norm.bias[:, None, None]
    expected = torch.autograd.grad((normed * inside * weight).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_masked_group_norm_of_another_dtype(batch, random, dtype):
    x, mask = batch
    norm = randomised(nn.GroupNorm(32, 64), random).to(dtype)
    found = apply_norm(norm, x.to(dtype), mask)
    assert found.dtype == dtype
    for part, alone in zip(crops(found), crops(x.to(dtype)), strict=True):
        tolerance = 1e-12 if dtype == torch.float64 else 0.05
        torch.testing.assert_close(part, norm(alone), rtol=0, atol=tolerance)


def test_a_masked_batch_norm_in_training_sees_only_the_images(batch, random):
    x, mask = batch
    masked = randomised(nn.BatchNorm2d(64), random)
    plain = nn.BatchNorm2d(64)
    plain.load_state_dict(masked.state_dict())
    found = apply_norm(masked, x, mask)
    row = torch.cat([crop.flatten(2) for crop in crops(x)], dim=2)[..., None]  # (1, 64, values, 1)
    expected = plain(row)
    parts = torch.cat([crop.flatten(2) for crop in crops(found)], dim=2)[..., None]
    torch.testing.assert_close(parts, expected, rtol=0, atol=1e-5)
    assert not found[0, :, :, 4:].any() and not found[1, :, 3:].any()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(masked, name), getattr(plain, name))


def test_other_norms_only_leave_zeros_in_the_padding(batch, random):
    x, mask = batch
    for norm in (randomised(nn.BatchNorm2d(64), random).eval(), nn.Identity()):
        found = apply_norm(norm, x, mask)
        assert all(torch.equal(a, b) for a, b in zip(crops(found), crops(norm(x)), strict=True))
        assert not found[0, :, :, 4:].any() and not found[1, :, 3:].any()


def test_without_a_mask_it_is_the_norm_itself(batch, random):
    x, _ = batch
    for norm in (nn.GroupNorm(32, 64), nn.BatchNorm2d(64).eval(), nn.Identity()):
        assert torch.equal(apply_norm(norm, x), norm(x))


def test_one_value_has_no_variance(random):
    x = torch.randn(1, 32, 1, 1, generator=random)
    group_norm, batch_norm = nn.GroupNorm(32, 32), randomised(nn.BatchNorm2d(32), random)
    batch_norm.running_var.fill_(3.0)
    for norm in (group_norm, batch_norm):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            norm(x)  # what torch does
    found = apply_norm(group_norm, x)[..., 0, 0]
    torch.testing.assert_close(found, group_norm.bias[None], rtol=0, atol=1e-3)  # but for rounding
    found = apply_norm(batch_norm, x)
    torch.testing.assert_close(found, batch_norm.eval()(x))
    torch.testing.assert_close(batch_norm.running_var, torch.full((32,), 3.0))
