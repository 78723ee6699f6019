"""What a model refuses, and in which words: batches and parameters that do not fit it."""

from dataclasses import replace

import pytest
import torch

from ddetr_edu.detector import Detector
from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR

SMALL = dict(num_classes=5, d_model=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=2, d_ffn=37)
MODELS = {
    "one stage": (DeformableDETR, DeformableDETRConfig.preset("tiny", n_queries=11, **SMALL)),
    "two stages": (
        DeformableDETR,
        DeformableDETRConfig.preset("tiny_two_stage", n_queries=11, **SMALL),
    ),
    "DETR": (DETR, DETRConfig.preset("detr_tiny", n_queries=11, **SMALL)),
}


@pytest.fixture(params=MODELS)
def kind(request):
    """The class of a model and its configuration."""
    return MODELS[request.param]


IMAGES, MASK = torch.zeros(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)


def hole(mask):
    mask = mask.clone()
    mask[1, 10:20, 10:20] = True
    return mask


def left(mask):
    mask = mask.clone()
    mask[1, 5:, :50] = True
    return mask


def stripe(mask):
    mask = mask.clone()
    mask[0, :, 40:50] = True
    return mask


@pytest.mark.parametrize(
    "images, mask, error, message",
    [
        ([IMAGES[0]], MASK, TypeError, "images is of type list"),
        (IMAGES.numpy(), MASK, TypeError, "images is of type ndarray"),
        (IMAGES, None, TypeError, "padding_mask is of type NoneType"),
        (IMAGES[:0], MASK[:0], ValueError, r"shape \(0, 3, 64, 96\).* one or more images"),
        (IMAGES[:, :, :0], MASK[:, :0], ValueError, r"\(2, 3, 0, 96\).* at least one pixel"),
        (IMAGES.double(), MASK, TypeError, "float64, but the model computes in torch.float32"),
        (IMAGES.to("meta"), MASK, ValueError, "images are on meta"),
        (IMAGES, MASK.to("meta"), ValueError, "padding_mask on meta"),
        (IMAGES, MASK.long(), ValueError, "padding_mask is torch.int64 .*must be bool"),
        (IMAGES, hole(MASK), ValueError, "something else than a rectangle"),
        (IMAGES, left(MASK), ValueError, "something else than a rectangle"),
        (IMAGES, stripe(MASK), ValueError, "something else than a rectangle"),
        (IMAGES, ~MASK, ValueError, "inverse"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_in_one_sentence(kind, images, mask, error, message):
    make, config = kind
    with pytest.raises(error, match=message) as refused:
        make(config).eval()(images, mask)
    assert "\n" not in str(refused.value)


def edited(config, field):
    """A configuration in which one field is another."""
    values = dict(n_decoder_layers=3, d_ffn=38, d_model=64, num_classes=6, n_queries=12, n_heads=4)
    values |= dict(n_encoder_layers=2, n_levels=2, n_points=3, backbone="resnet18")
    return replace(config, **{field: values[field]})


@pytest.mark.parametrize(
    "field, message",
    [
        ("n_queries", r"queries.* has shape \(11, .*with n_queries=12 it is \(12, "),
        ("num_classes", r"class_head.*has shape \([56], 32\).*it is \([67], 32\)"),
        ("d_model", "with d_model=64"),
        ("d_ffn", r"linear1.weight has shape \(37, 32\), .*with d_ffn=38 it is \(38, 32\)"),
        ("n_decoder_layers", "of this model's are missing, such as decoder.*2"),
        ("n_encoder_layers", "of this model's are missing, such as encoder.*1"),
        ("backbone", "missing, such as backbone.* unknown to this model, such as backbone"),
        ("n_levels", r"level_embedding has shape \(3, 32\).*with .*n_levels=2 .*it is \(2, 32\)"),
        ("n_points", "has shape .* but in this model .*it is"),
    ],
)
@torch.no_grad()
def test_parameters_of_another_configuration_are_refused_in_one_sentence(kind, field, message):
    make, config = kind
    if not hasattr(config, field):
        return  # a DETR has neither levels nor points
    changed = make(edited(config, field))
    before = [values.clone() for values in changed.state_dict().values()]
    if make is DeformableDETR and config.two_stage and field == "n_queries":
        changed.load_state_dict(make(config).state_dict())  # two stages have no learned queries
        return
    with pytest.raises(ValueError, match=message) as refused:
        changed.load_state_dict(make(config).state_dict())
    assert "\n" not in str(refused.value) and "configuration" in str(refused.value)
    after = changed.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_without_strict_names_may_differ_but_no_shapes(kind):
    make, config = kind
    source = make(config)
    deeper = make(edited(config, "n_decoder_layers"))
    assert deeper.load_state_dict(source.state_dict(), strict=False).missing_keys
    with pytest.raises(ValueError, match="d_ffn=38"):
        make(edited(config, "d_ffn")).load_state_dict(source.state_dict(), strict=False)


def test_its_own_parameters_are_loaded_as_ever(kind):
    make, config = kind
    source, target = make(config), make(config)
    assert not any(target.load_state_dict(source.state_dict()))
    for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("side", [32, 20, 1])
def test_one_image_of_one_token_can_be_trained_on(kind, side):
    make, config = kind
    names = [str(n) for n in range(5)]
    detector = Detector(make(config), names, ResizeConfig(side, side)).train()
    target = {"boxes": torch.tensor([[0.2, 0.2, 0.8, 0.9]]) * side, "labels": torch.tensor([3])}
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    losses = detector([image], [target])
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert len(detector.eval()([image])) == 1
