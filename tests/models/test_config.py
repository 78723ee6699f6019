"""Configurations: presets have the values of the paper, and impossible values are refused."""

import dataclasses

import pytest

from ddetr_edu.models.config import PRESETS, DeformableDETRConfig


def test_the_defaults_are_the_official_ones():
    assert dataclasses.asdict(DeformableDETRConfig()) == dict(
        num_classes=91,
        backbone="resnet50",
        dilation=False,
        d_model=256,
        n_heads=8,
        n_levels=4,
        n_points=4,
        n_encoder_layers=6,
        n_decoder_layers=6,
        d_ffn=1024,
        dropout=0.1,
        n_queries=300,
        box_refine=False,
        two_stage=False,
        tokens_as_content=False,
        look_forward="once",
        ignore_padding=False,
        frozen_norms=True,
    )


@pytest.mark.parametrize(
    "name, differs",
    [
        ("r50", {}),
        ("r50_single_scale", {"n_levels": 1}),
        ("r50_single_scale_dc5", {"n_levels": 1, "dilation": True}),
        ("r50_refine", {"box_refine": True}),
        ("r50_two_stage", {"box_refine": True, "two_stage": True}),
    ],
)
def test_a_preset_differs_from_the_defaults_only_where_its_name_says(name, differs):
    assert DeformableDETRConfig.preset(name) == DeformableDETRConfig(**differs)


def test_every_preset_can_be_built_and_changed():
    for name in PRESETS:
        assert DeformableDETRConfig.preset(name, num_classes=7).num_classes == 7
    assert DeformableDETRConfig.preset("tiny", n_queries=13).n_queries == 13
    assert DeformableDETRConfig.preset("tiny").backbone == "tiny"


def test_an_unknown_preset_is_refused_with_a_list_of_the_known_ones():
    with pytest.raises(ValueError, match="r51") as refused:
        DeformableDETRConfig.preset("r51")
    assert all(name in str(refused.value) for name in PRESETS)


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(backbone="vgg16"), "vgg16.*is not known.*resnet50"),
        (dict(backbone="tiny", dilation=True), "dilation needs a torchvision ResNet"),
        (dict(num_classes=0), "num_classes is 0"),
        (dict(n_levels=0), "n_levels is 0"),
        (dict(n_points=-1), "n_points is -1"),
        (dict(n_decoder_layers=0), "n_decoder_layers is 0"),
        (dict(n_queries=0), "n_queries is 0"),
        (dict(d_model=256, n_heads=7), "d_model=256 .*n_heads=7"),
        (dict(d_model=80, n_heads=8), "d_model=80 must be a multiple of 32"),
        (dict(two_stage=True), "two_stage needs box_refine"),
        (dict(tokens_as_content=True), "tokens_as_content needs two_stage"),
        (dict(look_forward="back", box_refine=True), 'look_forward "back".*once, twice, always'),
        (dict(look_forward="twice"), 'look_forward "twice" needs box_refine'),
        (dict(dropout=1.0), "dropout is 1.0"),
        (dict(dropout=-0.1), "dropout is -0.1"),
        (dict(dropout=float("nan")), "dropout is nan"),
        (dict(dropout="0.1"), "dropout is '0.1'; it must be a number"),
        (dict(n_queries="60"), "n_queries is '60'; it must be an integer"),
        (dict(n_queries=60.5), "n_queries is 60.5; it must be an integer"),
        (dict(num_classes=True), "num_classes is True; it must be an integer"),
        (dict(d_model=None), "d_model is None; it must be an integer"),
        (dict(ignore_padding="no"), "ignore_padding is 'no'; it must be True or False"),
        (dict(backbone=50), "backbone is 50; it must be a string"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(values, message):
    with pytest.raises(ValueError, match=message) as refused:
        DeformableDETRConfig(**values)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["n_heads", "d_ffn", "n_encoder_layers", "d_model"])
def test_negative_and_zero_sizes_are_refused_by_name(name):
    value = -1 if name == "n_encoder_layers" else 0  # a model without an encoder can be built
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        DeformableDETRConfig(**{name: value})
