"""Deformable DETR from normalised images to predictions, top to bottom."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddetr_edu.attention import MSDeformAttn, valid_ratios
from ddetr_edu.detector.backbone import build_backbone
from ddetr_edu.detector.config import DeformableDETRConfig
from ddetr_edu.detector.decoder import Decoder
from ddetr_edu.detector.encoder import Encoder
from ddetr_edu.detector.position import sine_position
from ddetr_edu.detector.queries import ExtraQueries, LearnedQueries, ProposedQueries, add_extra


@dataclass
class Predictions:
    """What the model says about each query.

    Boxes are (cx, cy, w, h), fractions of the picture without its padding.
    """

    logits: Tensor  # (N, Lq, K), one sigmoid per class; with no_object (N, Lq, K+1), one softmax
    boxes: Tensor  # (N, Lq, 4)
    aux: list["Predictions"] = field(default_factory=list)  # one per earlier decoder layer
    encoder: "Predictions | None" = None  # in two stages: of every token
    extra: "Predictions | None" = None  # of the queries that training added
    no_object: bool = False  # as DETR does: the last logit says "nothing here"
    only_objects: bool = False  # as the official encoder does: class 0 means "object", of any class

    def scores(self) -> Tensor:
        """The probability of each class, (N, Lq, K)."""
        if self.no_object:
            return self.logits.softmax(-1)[..., :-1]
        return self.logits.sigmoid()


class InputProjection(nn.Module):
    """Brings the backbone's maps to C channels, and makes coarser ones from the last.

    Each extra level is a strided convolution: the first of them reads the backbone's raw last map,
    not its projection.

    Source: input_proj of the official deformable_detr.py.
    """

    def __init__(self, channels: tuple[int, ...], d_model: int, n_levels: int):
        super().__init__()
        self.n_backbone = min(len(channels), n_levels)
        channels = channels[-self.n_backbone :]
        layers = [nn.Conv2d(c, d_model, 1) for c in channels]
        width = channels[-1]
        for _ in range(n_levels - self.n_backbone):
            layers.append(nn.Conv2d(width, d_model, 3, stride=2, padding=1))
            width = d_model
        self.levels = nn.ModuleList(
            nn.Sequential(layer, nn.GroupNorm(32, d_model)) for layer in layers
        )
        for convolution, _ in self.levels:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (N, C_i, H_i, W_i), finest first -> L maps (N, C, H_l, W_l)."""
        inputs = maps[-self.n_backbone :]
        levels = []
        for index, project in enumerate(self.levels):
            if index < self.n_backbone:
                source = inputs[index]
            else:
                source = inputs[-1] if index == self.n_backbone else levels[-1]
            levels.append(project(source))
        return levels


class DeformableDETR(nn.Module):
    """Backbone, encoder, decoder: a picture's boxes without anchors and without suppression.

    Source: Zhu et al., Deformable DETR (arXiv 2010.04159); the official code's deformable_detr.py
    and deformable_transformer.py.
    """

    def __init__(self, config: DeformableDETRConfig):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config)
        self.input_projection = InputProjection(
            self.backbone.channels, config.d_model, config.n_levels
        )
        self.level_embedding = nn.Parameter(torch.empty(config.n_levels, config.d_model))
        self.encoder = Encoder(config)
        if config.two_stage:
            self.queries = ProposedQueries(config)
        else:
            self.queries = LearnedQueries(config.n_queries, config.d_model)
        self.decoder = Decoder(config)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The official start of the transformer: Xavier everywhere, then the attention's own."""
        nn.init.normal_(self.level_embedding)
        for layer in [*self.encoder.layers, *self.decoder.layers]:
            for parameter in layer.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
            for module in layer.modules():
                if isinstance(module, MSDeformAttn):
                    module.reset_parameters()

    def forward(
        self, images: Tensor, padding_mask: Tensor, extra: ExtraQueries | None = None
    ) -> Predictions:
        """Boxes and classes of a batch of normalised images.

        images:       (N, 3, H, W), normalised; a smaller picture fills the top left corner
        padding_mask: (N, H, W) bool, True = padding
        extra:        queries added in training; they change nothing for the model's own
        Returns: Predictions, boxes as fractions of each picture without its padding.
        Raises: ValueError or TypeError if images, mask and model do not belong together.
        """
        check_batch(images, padding_mask, self.level_embedding)
        levels = self.input_projection(self.backbone(images))  # L x (N, C, H_l, W_l)
        spatial_shapes = [tuple(level.shape[-2:]) for level in levels]
        masks = [shrink_mask(padding_mask, shape) for shape in spatial_shapes]
        tokens = flatten_levels(levels)  # (N, S, C)
        # Tokens may be 16-bit numbers, which cannot count pixels: places have 32 bits or more.
        exact = torch.promote_types(tokens.dtype, torch.float32)
        positions = [
            sine_position(mask, self.config.d_model, dtype=exact) + embedding[:, None, None]
            for mask, embedding in zip(masks, self.level_embedding, strict=True)
        ]
        position = flatten_levels(positions).to(tokens.dtype)  # (N, S, C)
        token_mask = torch.cat([mask.flatten(1) for mask in masks], dim=1)  # (N, S)
        ratios = valid_ratios(masks, exact)  # (N, L, 2)

        memory = self.encoder(tokens, position, spatial_shapes, ratios, token_mask)
        proposed = unseen = None
        if self.config.two_stage:
            queries, proposed = self.queries(memory, masks)
        else:
            queries = self.queries(len(images))
        n_queries = queries.content.shape[1]
        if extra is not None:
            queries, unseen = add_extra(queries, extra)
        layers = self.decoder(queries, memory, spatial_shapes, ratios, token_mask, unseen)

        predictions = predictions_of(layers, slice(0, n_queries))
        if proposed is not None:
            only_objects = not self.config.token_queries
            predictions.encoder = Predictions(*proposed, only_objects=only_objects)
        if extra is not None:
            predictions.extra = predictions_of(layers, slice(n_queries, None))
        return predictions


def check_batch(images: Tensor, padding_mask: Tensor, weight: Tensor) -> None:
    """Raise ValueError or TypeError, in one sentence, unless a model can take this batch.

    weight: any weight of the model; it tells device and type
    """
    if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"images is {images.dtype} of shape {tuple(images.shape)}, but the model takes "
            "normalised floating-point images (N, 3, H, W)"
        )
    if images.device != weight.device or padding_mask.device != weight.device:
        raise ValueError(
            f"images are on {images.device} and padding_mask on {padding_mask.device}, but the "
            f"model is on {weight.device}; move them to one device"
        )
    if images.dtype != weight.dtype and not torch.is_autocast_enabled(weight.device.type):
        raise TypeError(
            f"images are {images.dtype}, but the model computes in {weight.dtype}; convert one "
            "to the other"
        )
    expected = (images.shape[0], *images.shape[2:])
    if padding_mask.shape != expected or padding_mask.dtype != torch.bool:
        raise ValueError(
            f"padding_mask is {padding_mask.dtype} of shape {tuple(padding_mask.shape)}, but "
            f"with these images it must be bool of shape {expected}, True = padding"
        )
    if not torch.compiler.is_compiling() and padding_mask[:, 0, 0].any():
        raise ValueError(
            "padding_mask marks the top left pixel of an image as padding; pictures must lie "
            "in the top left corner, with True = padding (Hugging Face's pixel_mask is the "
            "inverse)"
        )


def predictions_of(layers: list[tuple[Tensor, Tensor]], queries: slice) -> Predictions:
    """What the decoder's layers say of some queries: the last layer, with the earlier ones."""
    *earlier, last = [
        Predictions(logits[:, queries], boxes[:, queries]) for logits, boxes in layers
    ]
    last.aux = earlier
    return last


def shrink_mask(padding_mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """The padding mask of a level: the nearest pixel of the full mask, (N, H, W) -> (N, *shape)."""
    return F.interpolate(padding_mask[None].float(), size=shape, mode="nearest")[0].bool()


def flatten_levels(levels: list[Tensor]) -> Tensor:
    """All levels as one row of tokens: L x (N, C, H_l, W_l) -> (N, S, C), finest level first."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
