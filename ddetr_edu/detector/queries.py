"""What the decoder starts from: a content, a position and a reference point for each query."""

from typing import NamedTuple

from torch import Tensor, nn


class Queries(NamedTuple):
    """The decoder's input. Reference points are (x, y) fractions of the picture."""

    content: Tensor  # (N, Lq, C)
    position: Tensor  # (N, Lq, C)
    reference_points: Tensor  # (N, Lq, 2)


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
        return Queries(content, position, self.reference_points(position).sigmoid())
