"""What each model is made of, as a plain dataclass."""

from dataclasses import dataclass
from typing import Literal, get_args

LookForward = Literal["once", "twice", "always"]  # explained in decoder.py


@dataclass(frozen=True)
class DeformableDETRConfig:
    """Every choice that shapes the model; the defaults are the paper's multi-scale model.

    Raises: ValueError, in one sentence, for values that cannot be built.
    Source: main.py of the official code.
    """

    num_classes: int = 91  # COCO's ids run to 90; the official models have one output for each
    backbone: str = "resnet50"  # any torchvision ResNet by its name, or "tiny"
    dilation: bool = False  # DC5: the last stage keeps stride 16 and dilates instead
    d_model: int = 256  # C
    n_heads: int = 8  # M
    n_levels: int = 4  # L: up to three stages of the backbone, then strided convolutions
    n_points: int = 4  # P
    n_encoder_layers: int = 6
    n_decoder_layers: int = 6
    d_ffn: int = 1024
    dropout: float = 0.1
    n_queries: int = 300  # Lq of the decoder
    box_refine: bool = False  # each decoder layer corrects the box of the layer before
    two_stage: bool = False  # queries start at boxes that the encoder proposes
    token_queries: bool = False  # and with what the encoder knows there, of which class it is
    look_forward: LookForward = "once"  # how far back the loss of a refined box teaches

    def __post_init__(self):
        check_sizes(self, "n_levels", "n_points")
        if self.d_model % 32:
            raise ValueError(
                f"d_model={self.d_model} must be a multiple of 32, the number of groups that "
                "normalise the projected feature maps"
            )
        if self.two_stage and not self.box_refine:
            raise ValueError(
                "two_stage needs box_refine: proposals are boxes, and without refinement no layer "
                "would correct them; set box_refine=True as well"
            )
        if self.token_queries and not self.two_stage:
            raise ValueError(
                "token_queries needs two_stage: only then does the encoder choose tokens that can "
                "become queries; set two_stage=True as well"
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

    @classmethod
    def preset(cls, name: str, **changes) -> "DeformableDETRConfig":
        """A configuration by name, with changes: `preset("tiny", num_classes=6)`.

        Raises: ValueError for an unknown name, listing the known ones.
        """
        if name not in PRESETS:
            raise ValueError(f'preset "{name}" does not exist; choose one of {", ".join(PRESETS)}')
        return cls(**{**PRESETS[name], **changes})


TINY = dict(
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

# What each preset changes from the defaults above.
PRESETS = {
    "tiny": TINY,
    "tiny_two_stage": dict(**TINY, two_stage=True, token_queries=True, look_forward="twice"),
    "r50_single_scale": dict(n_levels=1),
    "r50_single_scale_dc5": dict(n_levels=1, dilation=True),
    "r50": dict(),
    "r50_refine": dict(box_refine=True),
    "r50_two_stage": dict(box_refine=True, two_stage=True),
}


@dataclass(frozen=True)
class DETRConfig:
    """Every choice that shapes a DETR; the defaults are its paper's R50 model.

    Raises: ValueError, in one sentence, for values that cannot be built.
    Source: main.py of facebookresearch/detr.
    """

    num_classes: int = 91  # "no object" not counted: the model adds an output for it
    backbone: str = "resnet50"  # any torchvision ResNet by its name, or "tiny"
    dilation: bool = False  # DC5: the last stage keeps stride 16 and dilates instead
    d_model: int = 256  # C
    n_heads: int = 8  # M
    n_encoder_layers: int = 6
    n_decoder_layers: int = 6
    d_ffn: int = 2048
    dropout: float = 0.1
    n_queries: int = 100  # Lq of the decoder

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

        Raises: ValueError for an unknown name, listing the known ones.
        """
        if name not in DETR_PRESETS:
            raise ValueError(
                f'preset "{name}" does not exist; choose one of {", ".join(DETR_PRESETS)}'
            )
        return cls(**{**DETR_PRESETS[name], **changes})


# What each preset changes from the defaults above; detr_tiny is as wide and as deep as tiny.
DETR_PRESETS = {
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
    """Raise ValueError, in one sentence, for a backbone, a size or a dropout no model can have.

    more: names of further fields that must be at least 1
    """
    if config.backbone != "tiny" and not config.backbone.startswith("resnet"):
        raise ValueError(
            f'backbone "{config.backbone}" is not known; use "tiny" or a torchvision ResNet '
            'such as "resnet50"'
        )
    if config.dilation and config.backbone == "tiny":
        raise ValueError("dilation needs a torchvision ResNet; the tiny backbone has none")
    for name in ("num_classes", "d_model", "n_heads", "d_ffn", "n_decoder_layers", "n_queries",
                 *more):  # fmt: skip
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; at least 1 is needed")
    if config.n_encoder_layers < 0:
        raise ValueError(f"n_encoder_layers is {config.n_encoder_layers}; 0 means no encoder")
    if config.d_model % config.n_heads:
        raise ValueError(
            f"d_model={config.d_model} channels cannot be shared out over "
            f"n_heads={config.n_heads}; choose a number of heads that divides d_model"
        )
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout is {config.dropout}; it must lie in [0, 1)")
