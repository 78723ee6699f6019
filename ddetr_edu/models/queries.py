"""What the decoder starts from: a content, a position and a reference point for each query.

In one stage all of it is learned and the same for every image. In two stages the encoder first
proposes boxes, and those of the highest objectness become the queries of that image.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.heads import PredictionHeads, refine_boxes
from ddetr_edu.models.position import sine_box_embedding


class Queries(NamedTuple):
    """The decoder's input. References are fractions of the image without its padding."""

    content: Tensor  # (N, Lq, C)
    position: Tensor  # (N, Lq, C)
    reference_points: Tensor  # (N, Lq, 2) (x, y) in one stage, (N, Lq, 4) (cx, cy, w, h) in two


class LearnedQueries(nn.Module):
    """Queries that are the same for every image, learned with the model (one stage).

    Source: query_embed and reference_points of the official code.

    Args:
        n_queries: Lq.
        d_model: C.
    """

    def __init__(self, n_queries: int, d_model: int):
        super().__init__()
        self.embedding = nn.Embedding(n_queries, 2 * d_model)  # position, then content
        self.reference_points = nn.Linear(d_model, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, n_images: int) -> Queries:
        """The same queries for each of n_images images, with (N, Lq, 2) reference points."""
        embedding = self.embedding.weight.expand(n_images, -1, -1)  # (N, Lq, 2C)
        position, content = embedding.chunk(2, dim=-1)
        # bf16 has 8 significant bits: coordinates need fp32. The device "meta" has no autocast.
        device = position.device.type
        with torch.autocast("cpu" if device == "meta" else device, enabled=False):
            references = self.reference_points(position).sigmoid()
        return Queries(content, position, references)


class ProposedQueries(nn.Module):
    """Queries that start at the boxes that the encoder proposes (two stages).

    Every token refines a box around its own pixel and predicts its objectness. The boxes of the
    highest objectness become reference points. No gradient flows from the decoder's losses
    through this selection: the proposals have losses of their own.

    In the official code this stage is class-agnostic: class output 0 means "object". And a query
    is initialised from its box alone, whose sine embedding becomes its position and content. With
    config.tokens_as_content the tokens are classified as well, and a chosen token becomes the
    content of its query: the decoder then refines the encoder's prediction instead of starting from
    scratch, and converges faster.

    Source: paper, section 4.2 and appendix A.4; the two_stage parts of the official
    deformable_transformer.py. Tokens as content: Efficient DETR (arXiv 2104.01318), section 4.

    Args:
        config: The architecture of the model.
    """

    def __init__(self, config: DeformableDETRConfig):
        super().__init__()
        c = config.d_model
        self.n_queries, self.tokens_as_content = config.n_queries, config.tokens_as_content
        self.ignore_padding = config.ignore_padding
        self.memory_projection = nn.Linear(c, c)
        self.memory_norm = nn.LayerNorm(c)
        self.heads = PredictionHeads(c, config.num_classes, init_box_size=False)
        if config.tokens_as_content:
            self.to_position = nn.Sequential(nn.Linear(2 * c, c), nn.ReLU(), nn.Linear(c, c))
        else:
            self.to_queries = nn.Linear(2 * c, 2 * c)
            self.to_queries_norm = nn.LayerNorm(2 * c)
            nn.init.xavier_uniform_(self.to_queries.weight)
        nn.init.xavier_uniform_(self.memory_projection.weight)

    def forward(
        self, memory: Tensor, padding_masks: list[Tensor]
    ) -> tuple[Queries, tuple[Tensor, Tensor]]:
        """Propose a box for every token, and choose the queries among them.

        Tokens without a valid box are zeroed first, so they all predict the same logits, and their
        box is (1, 1, 1, 1). As in the official code, they may still be chosen; with
        config.ignore_padding, those in the padding are not.

        Args:
            memory: (N, S, C), the encoder's output.
            padding_masks: One (N, H, W) bool per level, True = padding.

        Returns:
            The queries, Lq or, if there are fewer tokens, S of them; and the predictions of all
            tokens: logits (N, S, K) and boxes (N, S, 4) (cx, cy, w, h).
        """
        # bf16 has 8 significant bits: coordinates need fp32.
        coord_dtype = torch.promote_types(memory.dtype, torch.float32)
        proposals, valid = propose(padding_masks, coord_dtype)
        valid = valid[..., None]  # (N, S, 1)
        state = self.memory_norm(self.memory_projection(memory.masked_fill(~valid, 0.0)))
        logits, delta = self.heads(state)
        boxes = refine_boxes(proposals, delta)
        boxes = boxes.masked_fill(~valid, 1.0)  # in the official code the sigmoid of infinity

        count = min(self.n_queries, memory.shape[1])
        topk_indices = self.objectness(logits, padding_masks).topk(count, dim=1).indices
        topk_indices = topk_indices[..., None]  # (N, Lq, 1)
        references = boxes.gather(1, topk_indices.expand(-1, -1, 4)).detach()  # (N, Lq, 4)
        tokens = state.gather(1, topk_indices.expand(-1, -1, state.shape[-1])).detach()
        return self.from_boxes(references, tokens), (logits, boxes)

    def objectness(self, logits: Tensor, padding_masks: list[Tensor]) -> Tensor:
        """The logit by which tokens are chosen.

        Args:
            logits: (N, S, K) of every token.
            padding_masks: One (N, H, W) bool per level, True = padding.

        Returns:
            (N, S): the highest class logit, or, as in the official code, that of class 0; with
            config.ignore_padding minus infinity in the padding.
        """
        objectness = logits.amax(-1) if self.tokens_as_content else logits[..., 0]
        if self.ignore_padding:
            padding = torch.cat([mask.flatten(1) for mask in padding_masks], dim=1)  # (N, S)
            objectness = objectness.masked_fill(padding, -torch.inf)
        return objectness

    def from_boxes(self, boxes: Tensor, tokens: Tensor) -> Queries:
        """Queries that start at given boxes.

        Args:
            boxes: (N, Lq, 4) (cx, cy, w, h), fractions of the image.
            tokens: (N, Lq, C), the projected tokens that proposed them.

        Returns:
            The queries, with the boxes as their reference points.
        """
        sines = sine_box_embedding(boxes, tokens.shape[-1]).to(tokens.dtype)  # (N, Lq, 2C)
        if self.tokens_as_content:
            return Queries(tokens, self.to_position(sines), boxes)
        position, content = self.to_queries_norm(self.to_queries(sines)).chunk(2, dim=-1)
        return Queries(content, position, boxes)


def propose(padding_masks: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """An initial box around every token, and whether it is valid.

    Its width and height are 0.05 of the image's on the finest level and double from level to
    level. A box is not valid in the padding, nor where one of its four numbers lies within 0.01 of
    0 or 1: there the inverse sigmoid is steep.

    Convention: pixel i covers [i, i + 1), so its centre is i + 0.5; boxes are fractions of the
    image without its padding.

    Source: gen_encoder_output_proposals of the official deformable_transformer.py.

    Args:
        padding_masks: One (N, H, W) bool per level, True = padding; an image fills the top left
            corner.
        dtype: Of the boxes.

    Returns:
        The boxes (N, S, 4) (cx, cy, w, h), and valid (N, S) bool.
    """
    levels = []
    for level, mask in enumerate(padding_masks):
        height, width = mask.shape[1:]
        y = torch.arange(height, dtype=dtype, device=mask.device) + 0.5
        x = torch.arange(width, dtype=dtype, device=mask.device) + 0.5
        y, x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([x, y], dim=-1).flatten(0, 1)  # (H*W, 2), in pixels of the level
        size = torch.stack([(~mask[:, 0, :]).sum(1), (~mask[:, :, 0]).sum(1)], dim=-1)  # (N, 2)
        centres = centres / size[:, None]  # (N, H*W, 2), fractions of the image
        levels.append(torch.cat([centres, torch.full_like(centres, 0.05 * 2**level)], dim=-1))
    boxes = torch.cat(levels, dim=1)
    padding = torch.cat([mask.flatten(1) for mask in padding_masks], dim=1)  # (N, S)
    return boxes, ((boxes > 0.01) & (boxes < 0.99)).all(dim=-1) & ~padding


class ExtraQueries(NamedTuple):
    """Queries that are added in training only.

    They attend to the model's own queries, but the own queries do not attend to them.
    """

    queries: Queries  # E of them, with boxes (N, E, 4) as references
    attn_mask: Tensor  # (N, E, E) bool, True = blocked: row does not attend to column


def add_extra(own: Queries, extra: ExtraQueries) -> tuple[Queries, Tensor]:
    """Append extra queries to the model's own.

    Where the model's queries start at points, the extra ones start at the centres of their boxes.

    Args:
        own: The Lq queries of the model.
        extra: E further queries.

    Returns:
        The Lq + E queries, and their attn_mask (N, Lq + E, Lq + E) bool, True = blocked.
    """
    content, position, boxes = extra.queries
    added = (content, position, boxes[..., : own.reference_points.shape[-1]])
    n_own = own.content.shape[1]
    # Padded with False: all attend to the model's own queries,
    attn_mask = nn.functional.pad(extra.attn_mask, (n_own, 0, n_own, 0))
    attn_mask[:, :n_own, n_own:] = True  # but those do not attend to the extra ones.
    return Queries(*(torch.cat(both, dim=1) for both in zip(own, added, strict=True))), attn_mask
