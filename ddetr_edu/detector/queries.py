"""What the decoder starts from: a content, a position and a reference point for each query.

In one stage all of it is learned and the same for every picture. In two stages the encoder first
proposes boxes, and the most promising become the queries of that picture.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddetr_edu.detector.config import DeformableDETRConfig
from ddetr_edu.detector.heads import PredictionHeads
from ddetr_edu.detector.position import sine_boxes


class Queries(NamedTuple):
    """The decoder's input. References are fractions of the picture without its padding."""

    content: Tensor  # (N, Lq, C)
    position: Tensor  # (N, Lq, C)
    reference_points: Tensor  # (N, Lq, 2) (x, y) in one stage, (N, Lq, 4) (cx, cy, w, h) in two


class LearnedQueries(nn.Module):
    """Queries that are the same for every picture, learned with the model (one stage).

    Source: query_embed and reference_points of the official code.
    """

    def __init__(self, n_queries: int, d_model: int):
        super().__init__()
        self.embedding = nn.Embedding(n_queries, 2 * d_model)  # position, then content
        self.reference_points = nn.Linear(d_model, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, n_images: int) -> Queries:
        """The same queries for each of n_images pictures."""
        embedding = self.embedding.weight.expand(n_images, -1, -1)  # (N, Lq, 2C)
        position, content = embedding.chunk(2, dim=-1)
        with torch.autocast(position.device.type, enabled=False):  # 16 bits cannot name a pixel
            references = self.reference_points(position).sigmoid()
        return Queries(content, position, references)


class ProposedQueries(nn.Module):
    """Queries that begin at the boxes the encoder finds most promising (two stages).

    Every token corrects a box around its own pixel and says how likely an object is there. The
    best boxes become reference points. The decoder's losses do not reach the encoder's boxes and
    features; those have a loss of their own.

    Officially a token does not say what the object is: its class output 0 means "object". And a
    query knows no more than where its box stands, written as sines, which become position and
    content. With config.token_queries the tokens tell the classes apart, and what a chosen token
    knows is the content of its query: the decoder begins with the encoder's answer, not from
    nothing, and learns much sooner.

    Source: paper, section 4.2 and appendix A.4; the two_stage parts of the official
    deformable_transformer.py. Tokens as queries: Efficient DETR (arXiv 2104.01318), section 4.
    """

    def __init__(self, config: DeformableDETRConfig):
        super().__init__()
        c = config.d_model
        self.n_queries, self.token_queries = config.n_queries, config.token_queries
        self.memory_projection = nn.Linear(c, c)
        self.memory_norm = nn.LayerNorm(c)
        self.heads = PredictionHeads(c, config.num_classes, guess_size=False)
        if config.token_queries:
            self.to_position = nn.Sequential(nn.Linear(2 * c, c), nn.ReLU(), nn.Linear(c, c))
        else:
            self.to_queries = nn.Linear(2 * c, 2 * c)
            self.to_queries_norm = nn.LayerNorm(2 * c)
            nn.init.xavier_uniform_(self.to_queries.weight)
        nn.init.xavier_uniform_(self.memory_projection.weight)

    def forward(
        self, memory: Tensor, padding_masks: list[Tensor]
    ) -> tuple[Queries, tuple[Tensor, Tensor]]:
        """The best proposals of each picture as queries; of all tokens if there are too few.

        A token without a usable box says the same whatever it has read, with the box (1, 1, 1, 1).
        As officially, it may still be among the best.

        memory (N, S, C); padding_masks: one (N, H, W) per level, True = padding
        Returns: the queries, and what every token said: logits (N, S, K) and boxes (N, S, 4).
        """
        exact = torch.promote_types(memory.dtype, torch.float32)  # 16 bits cannot name a pixel
        proposals, usable = propose(padding_masks, exact)
        usable = usable[..., None]
        state = self.memory_norm(self.memory_projection(memory.masked_fill(~usable, 0.0)))
        logits, boxes = self.heads(state, proposals)
        boxes = boxes.masked_fill(~usable, 1.0)  # officially the sigmoid of infinity

        count = min(self.n_queries, memory.shape[1])
        promising = logits.amax(-1) if self.token_queries else logits[..., 0]  # (N, S)
        best = promising.topk(count, dim=1).indices[..., None]  # (N, Lq, 1)
        references = boxes.gather(1, best.expand(-1, -1, 4)).detach()  # (N, Lq, 4)
        tokens = state.gather(1, best.expand(-1, -1, state.shape[-1])).detach()  # (N, Lq, C)
        return self.starting_at(references, tokens), (logits, boxes)

    def starting_at(self, references: Tensor, tokens: Tensor) -> Queries:
        """Queries that begin at boxes (N, Lq, 4) (cx, cy, w, h), chosen by tokens (N, Lq, C)."""
        sines = sine_boxes(references, tokens.shape[-1]).to(tokens.dtype)  # (N, Lq, 2C)
        if self.token_queries:
            return Queries(tokens, self.to_position(sines), references)
        position, content = self.to_queries_norm(self.to_queries(sines)).chunk(2, dim=-1)
        return Queries(content, position, references)


def propose(padding_masks: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A square box around every token, and whether it can be used.

    A box's side is 0.05 of the picture on the finest level and doubles from level to level. It is
    of no use in the padding, nor where one of its four numbers lies within 0.01 of 0 or 1: there
    the inverse sigmoid is steep.

    Convention: pixel i covers [i, i + 1), so its centre is i + 0.5; boxes are fractions of the
    picture without its padding.

    padding_masks: one (N, H, W) per level, True = padding; a picture fills the top left corner
    Returns: boxes (N, S, 4) (cx, cy, w, h); usable (N, S) bool
    Source: gen_encoder_output_proposals of the official deformable_transformer.py.
    """
    boxes = []
    for level, mask in enumerate(padding_masks):
        height, width = mask.shape[1:]
        y = torch.arange(height, dtype=dtype, device=mask.device) + 0.5
        x = torch.arange(width, dtype=dtype, device=mask.device) + 0.5
        y, x = torch.meshgrid(y, x, indexing="ij")
        centre = torch.stack([x, y], dim=-1).flatten(0, 1)  # (H*W, 2), in pixels of the level
        picture = torch.stack([(~mask[:, 0, :]).sum(1), (~mask[:, :, 0]).sum(1)], dim=-1)  # (N, 2)
        centre = centre / picture[:, None]  # (N, H*W, 2)
        boxes.append(torch.cat([centre, torch.full_like(centre, 0.05 * 2**level)], dim=-1))
    boxes = torch.cat(boxes, dim=1)
    padding = torch.cat([mask.flatten(1) for mask in padding_masks], dim=1)  # (N, S)
    return boxes, ((boxes > 0.01) & (boxes < 0.99)).all(dim=-1) & ~padding


class ExtraQueries(NamedTuple):
    """Queries that only training adds. They see the model's own queries; those see none of them."""

    queries: Queries  # E of them, with boxes (N, E, 4) as references
    unseen: Tensor  # (N, E, E) bool, True = the row's query does not see the column's


def add_extra(own: Queries, extra: ExtraQueries) -> tuple[Queries, Tensor]:
    """The model's own queries followed by the extra ones, and who does not see whom.

    Where the model's queries begin as points, the extra ones begin at the centres of their boxes.

    Returns: Lq + E queries; unseen (N, Lq + E, Lq + E) bool
    """
    content, position, boxes = extra.queries
    added = (content, position, boxes[..., : own.reference_points.shape[-1]])
    n_own = own.content.shape[1]
    unseen = nn.functional.pad(extra.unseen, (n_own, 0, n_own, 0))  # False: all see the model's own
    unseen[:, :n_own, n_own:] = True
    return Queries(*(torch.cat(both, dim=1) for both in zip(own, added, strict=True))), unseen
