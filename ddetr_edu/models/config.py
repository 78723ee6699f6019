"""What each model is made of and how large its images are, as plain dataclasses."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

LookForward = Literal["once", "twice", "always"]  # explained in decoder.py
Precision = Literal["fp32", "bf16", "fp16", "auto"]  # of a forward pass; explained in autocast.py
ClassLoss = Literal["focal", "varifocal"]  # explained in losses/criterion.py and varifocal.py


@dataclass(frozen=True)
class DeformableDETRConfig:
    """The architecture of a Deformable DETR; the defaults are the paper's multi-scale model.

    With ignore_padding the group norms of the input projections, and in training the batch norms of
    the tiny backbone, take their statistics outside the padding and leave zeros in it, and in two
    stages no token of the padding is chosen as a query. In evaluation an image then gets the same
    predictions, up to rounding, alone and in a batch with larger ones, on three conditions. The
    sides of the batch are multiples of the largest stride (`multiple_of` of `ResizeConfig` sees to
    it): otherwise the mask of a level may count a token more than the image alone has. The image
    alone has as many tokens as there are queries, in two stages. And the backbone is the tiny one:
    in a ResNet or a backbone of timm, convolutions at the border of an image read what frozen norms
    have made of the padding, and some of timm's backbones average or attend over the whole map.

    Source: main.py of the official code.

    Raises:
        ValueError: For values that no model can have.
    """

    num_classes: int = 91  # class outputs; 91 because COCO's category ids go up to 90
    backbone: str = "resnet50"  # a torchvision ResNet by its name, "timm/NAME", or "tiny"
    dilation: bool = False  # DC5: the last stage keeps stride 16 and uses dilation instead
    d_model: int = 256  # C, the channels of the transformer
    n_heads: int = 8  # M, attention heads
    n_levels: int = 4  # L, up to three stages of the backbone, then strided convolutions
    n_points: int = 4  # P, sampling points for each head and level
    n_encoder_layers: int = 6  # encoder layers; 0 for no encoder
    n_decoder_layers: int = 6  # decoder layers
    d_ffn: int = 1024  # hidden channels of the feed-forward networks
    dropout: float = 0.1  # dropout probability
    n_queries: int = 300  # Lq, queries of the decoder
    box_refine: bool = False  # each decoder layer refines the box of the layer before it
    two_stage: bool = False  # queries start from boxes that the encoder proposes
    tokens_as_content: bool = (
        False  # queries start with the content of encoder tokens; needs two_stage
    )
    look_forward: LookForward = "once"  # gradient through box refinement: once, twice, always
    ignore_padding: bool = False  # norms and proposals leave it out, unlike in the official code
    # freeze a timm backbone's norms and first layers, as a ResNet's always are and tiny's never
    frozen_norms: bool = True

    def __post_init__(self):
        check_sizes(self, "n_levels", "n_points")
        if self.d_model % 32:
            raise ValueError(
                f"d_model={self.d_model} must be a multiple of 32, the number of groups of the "
                "group norms that follow the input projections"
            )
        if self.two_stage and not self.box_refine:
            raise ValueError(
                "two_stage needs box_refine: proposals are boxes, and without refinement no layer "
                "would correct them; set box_refine=True as well"
            )
        if self.tokens_as_content and not self.two_stage:
            raise ValueError(
                "tokens_as_content needs two_stage: only then does the encoder choose tokens that "
                "can become queries; set two_stage=True as well"
            )
        if self.look_forward not in get_args(LookForward):
            raise ValueError(
                f'look_forward "{self.look_forward}" is not known; choose one of '
                f"{', '.join(get_args(LookForward))}"
            )
        if self.look_forward != "once" and not self.box_refine:
            raise ValueError(
                f'look_forward "{self.look_forward}" needs box_refine: without refinement no '
                "layer has the box of an earlier one; set box_refine=True as well"
            )
        if self.ignore_padding and not self.frozen_norms:
            raise ValueError(
                "ignore_padding needs frozen_norms in a timm backbone, whose batch norms otherwise "
                "take their statistics over the padding as well; change one of the two"
            )

    @classmethod
    def preset(cls, name: str, **changes) -> "DeformableDETRConfig":
        """A configuration by name, with changes: `preset("tiny", num_classes=6)`.

        Args:
            name: One of PRESETS.
            **changes: Fields with other values than the preset's.

        Returns:
            The configuration.

        Raises:
            ValueError: For an unknown name, listing the known ones, or for values that no model
                can have.
        """
        if name not in PRESETS:
            raise ValueError(f'preset "{name}" does not exist; choose one of {", ".join(PRESETS)}')
        return cls(**{**PRESETS[name], **changes})


TINY: dict[str, Any] = dict(
    backbone="tiny",
    d_model=128,
    n_heads=4,
    n_levels=3,
    n_encoder_layers=2,
    n_decoder_layers=3,
    d_ffn=256,
    dropout=0.0,
    n_queries=60,
    box_refine=True,
)

TWO_STAGE: dict[str, Any] = dict(two_stage=True, tokens_as_content=True, look_forward="twice")

# For photographs: the transformer of tiny in two stages, behind a backbone that can be pretrained.
LAPTOP: dict[str, Any] = {**TINY, **TWO_STAGE, "n_queries": 100}

# What each preset changes from the defaults above.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "tiny_two_stage": {**TINY, **TWO_STAGE},
    "lite": {**LAPTOP, "backbone": "timm/tf_efficientnet_lite0"},
    "r18_two_stage": {**LAPTOP, "backbone": "resnet18"},
    "r50_single_scale": dict(n_levels=1),
    "r50_single_scale_dc5": dict(n_levels=1, dilation=True),
    "r50": dict(),
    "r50_refine": dict(box_refine=True),
    "r50_two_stage": dict(box_refine=True, two_stage=True),
}


@dataclass(frozen=True)
class DETRConfig:
    """The architecture of a DETR; the defaults are its paper's R50 model.

    Source: main.py of facebookresearch/detr.

    Raises:
        ValueError: For values that no model can have.
    """

    num_classes: int = 91  # classes without "no object", for which the model adds an output
    backbone: str = "resnet50"  # a torchvision ResNet by its name, "timm/NAME", or "tiny"
    dilation: bool = False  # DC5: the last stage keeps stride 16 and uses dilation instead
    d_model: int = 256  # C, the channels of the transformer
    n_heads: int = 8  # M, attention heads
    n_encoder_layers: int = 6  # encoder layers; 0 for no encoder
    n_decoder_layers: int = 6  # decoder layers
    d_ffn: int = 2048  # hidden channels of the feed-forward networks
    dropout: float = 0.1  # dropout probability
    n_queries: int = 100  # Lq, queries of the decoder
    # freeze a timm backbone's norms and first layers, as a ResNet's always are and tiny's never
    frozen_norms: bool = True

    def __post_init__(self):
        check_sizes(self)
        if self.d_model % 4:
            raise ValueError(
                f"d_model={self.d_model} must be a multiple of 4: the position embedding has sines "
                "and cosines of x and of y"
            )

    @classmethod
    def preset(cls, name: str, **changes) -> "DETRConfig":
        """A configuration by name, with changes: `preset("detr_tiny", num_classes=6)`.

        Args:
            name: One of DETR_PRESETS.
            **changes: Fields with other values than the preset's.

        Returns:
            The configuration.

        Raises:
            ValueError: For an unknown name, listing the known ones, or for values that no model
                can have.
        """
        if name not in DETR_PRESETS:
            raise ValueError(
                f'preset "{name}" does not exist; choose one of {", ".join(DETR_PRESETS)}'
            )
        return cls(**{**DETR_PRESETS[name], **changes})


# What each preset changes from the defaults above; detr_tiny is as wide and as deep as tiny.
DETR_PRESETS: dict[str, dict[str, Any]] = {
    "detr_tiny": dict(
        backbone="tiny",
        d_model=128,
        n_heads=4,
        n_encoder_layers=2,
        n_decoder_layers=3,
        d_ffn=256,
        dropout=0.0,
        n_queries=60,
    ),
    "detr_r50": dict(),
    "detr_r50_dc5": dict(dilation=True),
}


def check_sizes(config: DeformableDETRConfig | DETRConfig, *more: str) -> None:
    """Check the backbone, the sizes and the dropout that both kinds of model have.

    Args:
        config: The configuration to check.
        *more: Names of further fields that must be at least 1.

    Raises:
        ValueError: For a value that no model can have.
    """
    check_types(config)
    resnet, timm = config.backbone.startswith("resnet"), config.backbone.startswith("timm/")
    if not (config.backbone == "tiny" or resnet or timm):
        raise ValueError(
            f'backbone "{config.backbone}" is not known; use "tiny", a torchvision ResNet such as '
            '"resnet50", or a model of timm such as "timm/tf_efficientnet_lite0"'
        )
    if config.dilation and not resnet:
        raise ValueError(
            f"dilation needs a torchvision ResNet; the backbone {config.backbone} cannot be dilated"
        )
    if not config.frozen_norms and not timm:
        raise ValueError(
            f"frozen_norms=False is for backbones of timm, and this one is {config.backbone}: a "
            "ResNet's norms are always frozen and those of the tiny backbone always trained"
        )
    positive = ("num_classes", "d_model", "n_heads", "d_ffn", "n_decoder_layers", "n_queries")
    for name in (*positive, *more):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; at least 1 is needed")
    if config.n_encoder_layers < 0:
        raise ValueError(f"n_encoder_layers is {config.n_encoder_layers}; it must be 0 or more")
    if config.d_model % config.n_heads:
        raise ValueError(
            f"d_model={config.d_model} channels cannot be divided evenly among "
            f"n_heads={config.n_heads}; choose a number of heads that divides d_model"
        )
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout is {config.dropout}; it must lie in [0, 1)")


def check_types(config) -> None:
    """Check that plain fields hold what they are declared to: a float may be given as an int.

    Args:
        config: A dataclass.

    Raises:
        ValueError: Naming the field, for a number that is a string, a half integer and the like.
    """
    names = {int: "an integer", float: "a number", bool: "True or False", str: "a string"}
    for field in fields(config):
        value, expected = getattr(config, field.name), field.type
        if expected in names and type(value) not in (
            (int, float) if expected is float else (expected,)
        ):
            raise ValueError(f"{field.name} is {value!r}; it must be {names[expected]}")


@dataclass(frozen=True)
class ResizeConfig:
    """The size that images are resized to: the short side is given, the long side has a maximum.

    The aspect ratio is kept, except for the rounding to a multiple. The official recipe uses 800
    and 1333, and in training short sides from 480 to 800 in steps of 32.

    Raises:
        ValueError: For sides that contradict one another.
    """

    short_side: int = 800  # the short side of a resized image, in pixels
    long_side: int = 1333  # maximum long side, in pixels; longer images get a smaller short side
    # short sides of which one is sampled for each image in training; empty: short_side
    short_sides_in_training: tuple[int, ...] = ()
    multiple_of: int = 1  # round both sides to multiples of this, such as the stride 32

    def __post_init__(self):
        check_types(self)
        if not 1 <= self.short_side <= self.long_side:
            raise ValueError(
                f"an image size needs 1 <= short_side <= long_side, but it is "
                f"{self.short_side} and {self.long_side}"
            )
        if not 1 <= self.multiple_of <= self.long_side:
            raise ValueError(
                f"multiple_of is {self.multiple_of}; it must lie in 1 to the long side, "
                f"{self.long_side}"
            )
        for side in self.short_sides_in_training:
            if not 1 <= side <= self.long_side:
                raise ValueError(
                    f"short_sides_in_training holds {side}; each must lie in 1 to the long side, "
                    f"{self.long_side}"
                )

    def fit(self, height: int, width: int, short_side: int | None = None) -> tuple[int, int]:
        """The (height, width) that an image of this size is resized to.

        The long side is rounded down, as in the official code: 375 x 500 at 800 becomes 800 x 1066.
        It never exceeds long_side, which the official code overshoots by a pixel now and then.

        With multiple_of=32 the image ends where a token ends, on each level of strides 8, 16 and
        32. Otherwise, in a batch with larger images, it ends somewhere inside a token, and the
        model, which counts whole tokens to know where the image ends, is off by as much: by one
        percent of an 800 px image, but by up to 7 px of 192, which is the size of a small object.
        Boxes are fractions of the image, so stretching it does not move them.

        Args:
            height: Of the image, in pixels.
            width: Of the image, in pixels.
            short_side: Replaces `self.short_side`, such as one drawn for a training image.

        Returns:
            The (height, width) to resize to, in pixels.
        """
        short, long = min(height, width), max(height, width)
        side = short_side or self.short_side
        if side * long > self.long_side * short:
            side = max(1, round(self.long_side * short / long))
        longer = min(self.long_side, side * long // short)
        if self.multiple_of > 1:
            side, longer = self._rounded(side), self._rounded(longer)
        return (side, longer) if height <= width else (longer, side)

    def _rounded(self, side: int) -> int:
        """The multiple of multiple_of next to a side, at least one and within the long side."""
        max_count = self.long_side // self.multiple_of
        return self.multiple_of * min(max(round(side / self.multiple_of), 1), max_count)
