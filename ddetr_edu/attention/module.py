"""`MSDeformAttn`: the five steps with their learned layers, as a module."""

import torch
from torch import Tensor, nn

from ddetr_edu.attention.locations import SpatialShapes, sampling_locations
from ddetr_edu.attention.offsets import reset_sampling_offsets
from ddetr_edu.attention.op import ms_deform_attn
from ddetr_edu.attention.weights import attention_weights, reset_attention_weights


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention: every query reads n_points places per head and level.

    d_model:  C, channels of queries and values; n_heads must divide it
    backend:  which implementation of `ms_deform_attn` to use
    Raises: ValueError if d_model is not a multiple of n_heads.
    Source: paper, section 4.1; ms_deform_attn.py of the official code.
    """

    def __init__(
        self,
        d_model: int = 256,
        n_heads: int = 8,
        n_levels: int = 4,
        n_points: int = 4,
        backend: str = "auto",
    ):
        super().__init__()
        for name, count in (
            ("d_model", d_model),
            ("n_heads", n_heads),
            ("n_levels", n_levels),
            ("n_points", n_points),
        ):
            if count < 1:
                raise ValueError(f"{name} is {count}; MSDeformAttn needs at least 1")
        if d_model % n_heads:
            raise ValueError(
                f"d_model={d_model} channels cannot be shared out over n_heads={n_heads}; "
                "choose a number of heads that divides d_model"
            )
        self.d_model, self.n_heads = d_model, n_heads
        self.n_levels, self.n_points = n_levels, n_points
        self.backend = backend
        self.sampling_offsets = nn.Linear(d_model, n_heads * n_levels * n_points * 2)
        self.attention_weights = nn.Linear(d_model, n_heads * n_levels * n_points)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The official start: offsets a star, weights equal, projections Xavier."""
        reset_sampling_offsets(self.sampling_offsets, self.n_heads, self.n_levels, self.n_points)
        reset_attention_weights(self.attention_weights)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def look(
        self, query: Tensor, reference_points: Tensor, spatial_shapes: SpatialShapes
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where each query looks and how much each point counts; no value is read yet.

        Convention: as in `sampling_locations`.

        query (N, Lq, C); reference_points (N, Lq, L, 2 or 4); spatial_shapes [(H, W), ...]
        Returns: offsets (N, Lq, M, L, P, 2) in pixels, sampling locations (N, Lq, M, L, P, 2) as
            fractions of their level, attention weights (N, Lq, M, L, P).
        """
        per_point = (self.n_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*per_point, 2))
        scores = self.attention_weights(query).unflatten(-1, per_point)
        # Under autocast the layers above give 16-bit numbers; half a pixel in 150 is lost there,
        # so places and weights are kept in the type of the reference points.
        offsets, scores = offsets.to(reference_points.dtype), scores.to(reference_points.dtype)
        locations = sampling_locations(reference_points, offsets, spatial_shapes)
        return offsets, locations, attention_weights(scores)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: SpatialShapes,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Read `value` at the places each query chooses.

        Convention: reference points are (x, y), or boxes (cx, cy, w, h), as fractions of the
        padded level; half-pixel centres; zeros are read outside a level and at padding.

        query:            (N, Lq, C), position already added
        reference_points: (N, Lq, L, 2) or (N, Lq, L, 4)
        value:            (N, S, C), the tokens of all levels, finest level first
        spatial_shapes:   [(H, W), ...] of each level, adding up to S
        padding_mask:     (N, S) bool, True = padding, or None
        Returns:          (N, Lq, C)
        Raises: ValueError or TypeError, naming the argument that does not fit.
        """
        self._check(query, reference_points, value, spatial_shapes, padding_mask)
        _, locations, weights = self.look(query, reference_points, spatial_shapes)
        value = self.value_proj(value)
        if padding_mask is not None:
            # After the projection: its bias would otherwise make padding speak.
            value = value.masked_fill(padding_mask[..., None], 0.0)
        value = value.unflatten(-1, (self.n_heads, -1))  # (N, S, C) -> (N, S, M, D)
        output = ms_deform_attn(value, spatial_shapes, locations, weights, self.backend)
        return self.output_proj(output)

    def _check(self, query, reference_points, value, spatial_shapes, padding_mask) -> None:
        weight = self.value_proj.weight
        for name, tensor in (
            ("query", query), ("value", value), ("reference_points", reference_points),
        ):  # fmt: skip
            if tensor.device != weight.device:
                raise ValueError(
                    f"{name} is on {tensor.device}, but this module is on {weight.device}; "
                    "move one to the other"
                )
            autocast = torch.is_autocast_enabled(weight.device.type)
            if tensor.dtype != weight.dtype and not autocast and name != "reference_points":
                raise TypeError(
                    f"{name} is {tensor.dtype}, but this module computes in {weight.dtype}; "
                    "convert one to the other"
                )
        for name, tensor in (("query", query), ("value", value)):
            if tensor.dim() != 3 or tensor.shape[-1] != self.d_model:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, but this module takes "
                    f"(N, {'Lq' if name == 'query' else 'S'}, C={self.d_model})"
                )
        if len(spatial_shapes) != self.n_levels:
            raise ValueError(
                f"spatial_shapes names {len(spatial_shapes)} levels, but this module was built "
                f"with n_levels={self.n_levels}"
            )
        expected = (*query.shape[:2], self.n_levels)
        if reference_points.dim() != 4 or reference_points.shape[:3] != expected:
            raise ValueError(
                f"reference_points has shape {tuple(reference_points.shape)}, but with this query "
                f"it must be {expected} followed by 2 or 4"
            )
        if padding_mask is not None and (
            padding_mask.shape != value.shape[:2] or padding_mask.dtype != torch.bool
        ):
            raise ValueError(
                f"padding_mask is {padding_mask.dtype} of shape {tuple(padding_mask.shape)}, but "
                f"it must be bool of shape (N, S) = {tuple(value.shape[:2])}, True = padding"
            )
