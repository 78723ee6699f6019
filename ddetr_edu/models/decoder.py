"""The decoder: queries attend to each other and to the memory, and predict boxes."""

import copy

import torch
from torch import Tensor, nn

from ddetr_edu.attention import MSDeformAttn
from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.dropout import Dropout
from ddetr_edu.models.encoder import FeedForward
from ddetr_edu.models.heads import PredictionHeads, refine_boxes
from ddetr_edu.models.queries import Queries


class DecoderLayer(nn.Module):
    """Self-attention among the queries, deformable cross-attention into the memory, feed-forward.

    The self-attention is the ordinary dense one: among a few hundred queries it costs little, and
    it is how queries avoid detecting the same object twice.

    Args:
        config: The architecture of the model.
    """

    def __init__(self, config: DeformableDETRConfig):
        super().__init__()
        c, dropout = config.d_model, config.dropout
        self.self_attn = nn.MultiheadAttention(c, config.n_heads, dropout, batch_first=True)
        self.self_attn_norm = nn.LayerNorm(c)
        self.cross_attn = MSDeformAttn(c, config.n_heads, config.n_levels, config.n_points)
        self.cross_attn_norm = nn.LayerNorm(c)
        self.ffn = FeedForward(c, config.d_ffn, dropout)
        self.ffn_norm = nn.LayerNorm(c)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        spatial_shapes: SpatialShapes,
        padding_mask: Tensor,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Update the content of every query.

        Args:
            content: (N, Lq, C).
            position: (N, Lq, C), added to the content as queries and keys, not as values.
            reference_points: (N, Lq, L, 2 or 4), fractions of each padded level.
            memory: (N, S, C), the encoder's output.
            spatial_shapes: (H, W) of each level.
            padding_mask: (N, S) bool, True = padding.
            attn_mask: (N*M, Lq, Lq) bool, True = blocked: the query of the row does not attend to
                that of the column. None blocks nothing.

        Returns:
            The new content, (N, Lq, C).
        """
        query = content + position
        self_attn_out, _ = self.self_attn(
            query, query, content, need_weights=False, attn_mask=attn_mask
        )
        content = self.self_attn_norm(content + self.dropout(self_attn_out))
        cross_attn_out = self.cross_attn(
            content + position, reference_points, memory, spatial_shapes, padding_mask
        )
        content = self.cross_attn_norm(content + self.dropout(cross_attn_out))
        return self.ffn_norm(content + self.dropout(self.ffn(content)))


class Decoder(nn.Module):
    """Decoder layers, each followed by prediction heads.

    Without box refinement all layers share one pair of heads, and every layer predicts relative to
    the initial reference points. With it each layer has heads of its own and refines the box of the
    layer before. `look_forward` sets how far the gradient of a layer's box flows back through
    that refinement:

    - "once" (the paper): the refined box is detached, so only the layer's own delta gets it.
    - "twice" (DINO's "look forward twice"): the delta of the layer before gets it, too. The boxes
      that the layers sample around stay detached.
    - "always": all earlier deltas get it, also through the sampling; the decoder detaches nothing.

    With the same parameters the three predict the same; they differ in what is learned.

    Source: paper, section 4.2; DeformableTransformerDecoder of the official code; DINO (arXiv
    2203.03605), section 3.5.

    Args:
        config: The architecture of the model.
    """

    def __init__(self, config: DeformableDETRConfig):
        super().__init__()
        self.box_refine, self.look_forward = config.box_refine, config.look_forward
        self.n_heads = config.n_heads
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_decoder_layers))
        # Queries start at points in one stage, and at boxes in two.
        first = PredictionHeads(
            config.d_model, config.num_classes, init_box_size=not config.two_stage
        )
        self.heads = nn.ModuleList([first])
        if config.box_refine:
            for _ in range(1, config.n_decoder_layers):
                later = copy.deepcopy(first)
                later.reset_boxes()  # later layers refine a box in either case
                self.heads.append(later)

    def forward(
        self,
        queries: Queries,
        memory: Tensor,
        spatial_shapes: SpatialShapes,
        ratios: Tensor,
        padding_mask: Tensor,
        attn_mask: Tensor | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Predict logits and boxes after every layer.

        Args:
            queries: Content, position and reference points, the latter as fractions of the image.
            memory: (N, S, C), the encoder's output.
            spatial_shapes: (H, W) of each level.
            ratios: (N, L, 2) from `valid_ratios`.
            padding_mask: (N, S) bool, True = padding.
            attn_mask: (N, Lq, Lq) bool, True = blocked: the query of the row does not attend to
                that of the column. None blocks nothing.

        Returns:
            For each layer, first layer first, the logits (N, Lq, K) and the boxes (N, Lq, 4)
            (cx, cy, w, h) as fractions of the image.
        """
        content, position, ref_boxes = queries  # in one stage they are points at first
        if attn_mask is not None:
            attn_mask = attn_mask.repeat_interleave(self.n_heads, dim=0)  # (N*M, Lq, Lq)
        # Always the same numbers, except that ref_boxes may carry a gradient further back.
        ref_boxes_detached = ref_boxes
        predictions = []
        for index, layer in enumerate(self.layers):
            on_levels = scale_to_levels(ref_boxes_detached, ratios)  # (N, Lq, L, 2 or 4)
            content = layer(
                content, position, on_levels, memory, spatial_shapes, padding_mask, attn_mask
            )
            logits, delta = self.heads[index if self.box_refine else 0](content)
            predictions.append((logits, refine_boxes(ref_boxes, delta)))
            if self.box_refine:
                refined = refine_boxes(ref_boxes_detached, delta)
                ref_boxes_detached = refined if self.look_forward == "always" else refined.detach()
                ref_boxes = ref_boxes_detached if self.look_forward == "once" else refined
        return predictions


def scale_to_levels(references: Tensor, ratios: Tensor) -> Tensor:
    """Express reference points, which are fractions of the image, as fractions of each level.

    An image fills only a part of a padded level, and sampling counts from border to border of the
    whole level.

    Source: DeformableTransformerDecoder of the official deformable_transformer.py.

    Args:
        references: (N, Lq, 2) (x, y) or (N, Lq, 4) (cx, cy, w, h).
        ratios: (N, L, 2) (x, y) from `valid_ratios`.

    Returns:
        (N, Lq, L, 2 or 4).
    """
    scale = torch.cat([ratios] * (references.shape[-1] // 2), dim=-1)  # (N, L, 2 or 4)
    return references[:, :, None] * scale[:, None]
