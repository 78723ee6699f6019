"""The decoder: queries talk to one another, look into the memory, and name boxes."""

import copy

import torch
from torch import Tensor, nn

from ddetr_edu.attention import MSDeformAttn
from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.detector.config import DeformableDETRConfig
from ddetr_edu.detector.dropout import Dropout
from ddetr_edu.detector.encoder import FeedForward
from ddetr_edu.detector.heads import PredictionHeads, correct
from ddetr_edu.detector.queries import Queries


class DecoderLayer(nn.Module):
    """Self-attention among the queries, deformable cross-attention into the memory, feed-forward.

    The self-attention is the ordinary dense one: among a few hundred queries it costs little, and
    it is how queries agree on who takes which object.
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
        unseen: Tensor | None = None,
    ) -> Tensor:
        """One round for all queries.

        content, position (N, Lq, C); reference_points (N, Lq, L, 2 or 4), fractions of each padded
        level; memory (N, S, C); padding_mask (N, S), True = padding
        unseen: (N*M, Lq, Lq) bool, True = the row's query does not see the column's; None: all do
        Returns: the new content (N, Lq, C)
        """
        query = content + position
        heard, _ = self.self_attn(query, query, content, need_weights=False, attn_mask=unseen)
        content = self.self_attn_norm(content + self.dropout(heard))
        read = self.cross_attn(
            content + position, reference_points, memory, spatial_shapes, padding_mask
        )
        content = self.cross_attn_norm(content + self.dropout(read))
        return self.ffn_norm(content + self.dropout(self.ffn(content)))


class Decoder(nn.Module):
    """Decoder layers, each followed by prediction heads.

    Without box refinement all layers share one pair of heads and every layer decodes against the
    first reference points. With it each layer has heads of its own and corrects the box of the
    layer before. What does the loss of a layer's box teach?

    - look_forward "once" (the paper): the corrected box is detached, so only its own correction.
    - "twice" (DINO): also the correction before it, which thus looks one layer forward. Where the
      layer samples stays detached.
    - "always": every correction before it, and where each layer samples; nothing is detached.

    The three predict the same from the same weights; they differ in what is learned.

    Source: paper, section 4.2; DeformableTransformerDecoder of the official code; DINO (arXiv
    2203.03605), section 3.5.
    """

    def __init__(self, config: DeformableDETRConfig):
        super().__init__()
        self.box_refine, self.look_forward = config.box_refine, config.look_forward
        self.n_heads = config.n_heads
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_decoder_layers))
        # Queries of one stage begin as points, those of two stages as boxes.
        first = PredictionHeads(config.d_model, config.num_classes, guess_size=not config.two_stage)
        self.heads = nn.ModuleList([first])
        if config.box_refine:
            for _ in range(1, config.n_decoder_layers):
                later = copy.deepcopy(first)  # later layers have a box in any case
                nn.init.zeros_(later.locate[-1].bias)
                self.heads.append(later)

    def forward(
        self,
        queries: Queries,
        memory: Tensor,
        spatial_shapes: SpatialShapes,
        ratios: Tensor,
        padding_mask: Tensor,
        unseen: Tensor | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """The logits (N, Lq, K) and boxes (N, Lq, 4) after every layer, first layer first.

        queries: references as fractions of the picture
        memory (N, S, C); ratios (N, L, 2); padding_mask (N, S), True = padding
        unseen: (N, Lq, Lq) bool, True = the row's query does not see the column's; None: all do
        """
        content, position, reference = queries
        if unseen is not None:
            unseen = unseen.repeat_interleave(self.n_heads, dim=0)  # (N*M, Lq, Lq)
        known = reference  # the same numbers as reference, but may carry a gradient further back
        predictions = []
        for index, layer in enumerate(self.layers):
            # References are fractions of the picture; sampling needs fractions of the padded level.
            scale = torch.cat([ratios] * (reference.shape[-1] // 2), dim=-1)  # (N, L, 2 or 4)
            on_levels = reference[:, :, None] * scale[:, None]  # (N, Lq, L, 2 or 4)
            content = layer(
                content, position, on_levels, memory, spatial_shapes, padding_mask, unseen
            )
            heads = self.heads[index if self.box_refine else 0]
            correction = heads.locate(content)
            predictions.append((heads.classify(content), correct(known, correction)))
            if self.box_refine:
                boxes = correct(reference, correction)
                reference = boxes if self.look_forward == "always" else boxes.detach()
                known = reference if self.look_forward == "once" else boxes
        return predictions
