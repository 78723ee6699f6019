"""Deformable DETR from normalised images to predictions, top to bottom."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ddetr_edu.attention import MSDeformAttn, valid_ratios
from ddetr_edu.models.backbone import build_backbone
from ddetr_edu.models.checks import ConfiguredModel, check_batch
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.decoder import Decoder
from ddetr_edu.models.encoder import Encoder
from ddetr_edu.models.norms import apply_norm, resize_mask
from ddetr_edu.models.position import sine_position
from ddetr_edu.models.queries import ExtraQueries, LearnedQueries, ProposedQueries, add_extra


@dataclass
class Predictions:
    """What the model predicts for each query.

    Boxes are (cx, cy, w, h), fractions of the image without its padding.
    """

    logits: Tensor  # (N, Lq, K), one sigmoid per class; with no_object (N, Lq, K+1), one softmax
    boxes: Tensor  # (N, Lq, 4)
    aux: list["Predictions"] = field(default_factory=list)  # one per earlier decoder layer
    encoder: "Predictions | None" = None  # in two stages: those of every token
    extra: "Predictions | None" = None  # those of the queries that are added in training
    no_object: bool = False  # the last logit is that of "no object", as in DETR
    class_agnostic: bool = False  # class 0 is "object", as in the official code's encoder

    def scores(self) -> Tensor:
        """The probability of each class: (N, Lq, K), without that of "no object".

        Those of 16-bit logits are in fp32, where more of them differ.
        """
        logits = self.logits.to(torch.promote_types(self.logits.dtype, torch.float32))
        if self.no_object:
            return logits.softmax(-1)[..., :-1]
        return logits.sigmoid()


class InputProjection(nn.Module):
    """Projects the backbone's maps to C channels, and makes coarser levels from the last.

    Each extra level is a strided convolution. The first of them reads the backbone's last map
    itself, not its projection.

    Source: input_proj of the official deformable_detr.py.

    Args:
        channels: Of the backbone's maps, finest first.
        d_model: C, a multiple of 32, the number of groups of the group norms.
        n_levels: L. If there are fewer levels than maps, the coarsest maps are used.
    """

    def __init__(self, channels: tuple[int, ...], d_model: int, n_levels: int):
        super().__init__()
        self.n_backbone = min(len(channels), n_levels)
        channels = channels[-self.n_backbone :]
        convolutions = [nn.Conv2d(c, d_model, 1) for c in channels]
        width = channels[-1]
        for _ in range(n_levels - self.n_backbone):
            convolutions.append(nn.Conv2d(width, d_model, 3, stride=2, padding=1))
            width = d_model
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        self.levels = nn.ModuleList(
            nn.Sequential(convolution, nn.GroupNorm(32, d_model)) for convolution in convolutions
        )

    def forward(self, maps: list[Tensor], padding_mask: Tensor | None = None) -> list[Tensor]:
        """The backbone's maps (N, C_i, H_i, W_i), finest first -> L maps (N, C, H_l, W_l).

        With a padding_mask (N, H, W) bool the group norms leave out the padding.
        """
        inputs = maps[-self.n_backbone :]
        levels: list[Tensor] = []
        for index, project in enumerate(self.levels):
            if index < self.n_backbone:
                source = inputs[index]
            else:
                source = inputs[-1] if index == self.n_backbone else levels[-1]
            assert isinstance(project, nn.Sequential)
            convolution, norm = project
            levels.append(apply_norm(norm, convolution(source), padding_mask))
        return levels


class DeformableDETR(ConfiguredModel):
    """Backbone, encoder and decoder: the boxes of an image without anchors and without NMS.

    `torch.compile(model, dynamic=True)`, or in place `model.compile(dynamic=True)`, compiles it
    once for all sizes of images and batches, and once more for batches of a single image. Of a
    `Detector` compile the model alone: its resizing would be compiled anew for every size.

    Source: Zhu et al., Deformable DETR (arXiv 2010.04159); the official code's deformable_detr.py
    and deformable_transformer.py.

    Args:
        config: The architecture of the model.
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
        self.queries: ProposedQueries | LearnedQueries
        if config.two_stage:
            self.queries = ProposedQueries(config)
        else:
            self.queries = LearnedQueries(config.n_queries, config.d_model)
        self.decoder = Decoder(config)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise encoder and decoder layers as the official code does.

        Their weight matrices are Xavier-uniform, except in MSDeformAttn, which has its own
        initialisation. The level embedding is normal.
        """
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
        """Predict the boxes and classes of a batch of normalised images.

        Args:
            images: (N, 3, H, W), normalised; a smaller image fills the top left corner.
            padding_mask: (N, H, W) bool, True = padding.
            extra: Queries that are added in training; they do not change the predictions of the
                model's own.

        Returns:
            The predictions, with boxes as fractions of each image without its padding.

        Raises:
            ValueError: If images or mask have a wrong shape, or lie on another device.
            TypeError: If the images have another dtype than the model.
        """
        check_batch(images, padding_mask, self.level_embedding)
        levels = self.project(images, padding_mask)  # L x (N, C, H_l, W_l)
        spatial_shapes = [(level.shape[2], level.shape[3]) for level in levels]
        masks = [resize_mask(padding_mask, shape) for shape in spatial_shapes]
        tokens = flatten_levels(levels)  # (N, S, C)
        # bf16 has 8 significant bits: coordinates need fp32.
        coord_dtype = torch.promote_types(tokens.dtype, torch.float32)
        positions = [
            sine_position(mask, self.config.d_model, dtype=coord_dtype) + embedding[:, None, None]
            for mask, embedding in zip(masks, self.level_embedding, strict=True)
        ]
        position = flatten_levels(positions).to(tokens.dtype)  # (N, S, C)
        token_mask = torch.cat([mask.flatten(1) for mask in masks], dim=1)  # (N, S)
        ratios = valid_ratios(masks, coord_dtype)  # (N, L, 2)

        memory = self.encoder(tokens, position, spatial_shapes, ratios, token_mask)
        encoder_predictions = attn_mask = None
        if self.config.two_stage:
            queries, (logits, boxes) = self.queries(memory, masks)
            class_agnostic = not self.config.tokens_as_content
            encoder_predictions = Predictions(logits, boxes, class_agnostic=class_agnostic)
        else:
            queries = self.queries(len(images))
        n_queries = queries.content.shape[1]
        if extra is not None:
            queries, attn_mask = add_extra(queries, extra)
        layers = self.decoder(queries, memory, spatial_shapes, ratios, token_mask, attn_mask)

        predictions = collect_predictions(layers, slice(0, n_queries))
        predictions.encoder = encoder_predictions
        if extra is not None:
            predictions.extra = collect_predictions(layers, slice(n_queries, None))
        return predictions

    def project(self, images: Tensor, padding_mask: Tensor) -> list[Tensor]:
        """The feature maps that the tokens are made of.

        Args:
            images: (N, 3, H, W), normalised.
            padding_mask: (N, H, W) bool, True = padding.

        Returns:
            L maps (N, C, H_l, W_l), finest first. With config.ignore_padding they do not depend on
            the padding; see `DeformableDETRConfig`.
        """
        # Without padding the usual norms give the same, and faster; a graph must fit any batch.
        if self.config.ignore_padding and (torch.compiler.is_compiling() or padding_mask.any()):
            return self.input_projection(self.backbone(images, padding_mask), padding_mask)
        return self.input_projection(self.backbone(images))


def collect_predictions(layers: list[tuple[Tensor, Tensor]], queries: slice) -> Predictions:
    """The predictions of the decoder for some of its queries.

    Args:
        layers: The logits (N, Lq, K) and boxes (N, Lq, 4) of each layer, first layer first.
        queries: Which queries to keep.

    Returns:
        The predictions of the last layer, with those of the earlier ones in `aux`.
    """
    *earlier, last = [
        Predictions(logits[:, queries], boxes[:, queries]) for logits, boxes in layers
    ]
    last.aux = earlier
    return last


def flatten_levels(levels: list[Tensor]) -> Tensor:
    """The tokens of all levels in one row: L x (N, C, H_l, W_l) -> (N, S, C), finest first."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
