"""`MSDeformAttn`: the five steps with their learned layers, as a module.

Its comments say where each step is taken: O offsets, W attention weights, L locations,
I interpolation, A aggregation. Lesson 06 is about this module.
"""

from torch import Tensor, nn

from ddetr_edu.attention.attention_weights import attention_weights, reset_attention_weights
from ddetr_edu.attention.kernels.checks import check_module_inputs, check_module_sizes
from ddetr_edu.attention.locations import SpatialShapes, sampling_locations
from ddetr_edu.attention.offsets import reset_sampling_offsets
from ddetr_edu.attention.op import run_backend


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention: every query samples n_points points per head and level.

    Source: paper, section 4.1; ms_deform_attn.py of the official code.

    Args:
        d_model: C, the channels of queries and values.
        n_heads: M, which must divide C.
        n_levels: L.
        n_points: P.
        backend: The implementation of `ms_deform_attn` to use.

    Raises:
        ValueError: If a size is less than 1, or d_model is not a multiple of n_heads.
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
        check_module_sizes(d_model, n_heads, n_levels, n_points)
        self.d_model, self.n_heads = d_model, n_heads
        self.n_levels, self.n_points = n_levels, n_points
        self.backend = backend
        self.sampling_offsets = nn.Linear(d_model, n_heads * n_levels * n_points * 2)
        self.attention_weights = nn.Linear(d_model, n_heads * n_levels * n_points)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as in the official code: a star of offsets, equal weights, Xavier layers."""
        reset_sampling_offsets(self.sampling_offsets, self.n_heads, self.n_levels, self.n_points)
        reset_attention_weights(self.attention_weights)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def sampling_locations_and_weights(
        self, query: Tensor, reference_points: Tensor, spatial_shapes: SpatialShapes
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where each query samples and how much each point counts; no value is read yet.

        Convention: as in `sampling_locations`.

        Args:
            query: (N, Lq, C).
            reference_points: (N, Lq, L, 2) or (N, Lq, L, 4).
            spatial_shapes: [(H, W), ...] of each level.

        Returns:
            Offsets (N, Lq, M, L, P, 2) in pixels, sampling locations (N, Lq, M, L, P, 2) as
            fractions of their level, and attention weights (N, Lq, M, L, P).

        Raises:
            ValueError: As `sampling_locations` does.
        """
        per_point = (self.n_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*per_point, 2))  # step O
        scores = self.attention_weights(query).unflatten(-1, per_point)  # step W, up to the softmax
        # Under autocast the layers above give 16-bit numbers, which lose half a pixel in 150; so
        # locations and weights are computed in the type of the reference points.
        offsets, scores = offsets.to(reference_points.dtype), scores.to(reference_points.dtype)
        locations = sampling_locations(reference_points, offsets, spatial_shapes)  # step L
        return offsets, locations, attention_weights(scores)  # step W: the softmax

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: SpatialShapes,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Sample `value` at the locations that each query chooses.

        Convention: reference points are (x, y), or boxes (cx, cy, w, h), as fractions of the
        padded level; half-pixel centres; zeros are read outside a level and at padding.

        Args:
            query: (N, Lq, C), position already added.
            reference_points: (N, Lq, L, 2) or (N, Lq, L, 4).
            value: (N, S, C), the tokens of all levels, finest level first.
            spatial_shapes: [(H, W), ...] of each level, adding up to S.
            padding_mask: (N, S) bool, True = padding, or None.

        Returns:
            (N, Lq, C).

        Raises:
            ValueError: For a shape, a device or a mask that does not fit; the argument is named.
            TypeError: For a dtype that does not fit, or spatial_shapes as a tensor.
        """
        check_module_inputs(
            self.value_proj.weight,
            self.n_levels,
            query,
            reference_points,
            value,
            spatial_shapes,
            padding_mask,
        )
        _, locations, weights = self.sampling_locations_and_weights(
            query, reference_points, spatial_shapes
        )  # steps O, W and L
        value = self.value_proj(value)
        if padding_mask is not None:
            # After the projection, whose bias would otherwise make padding non-zero.
            value = value.masked_fill(padding_mask[..., None], 0.0)
        value = value.unflatten(-1, (self.n_heads, -1))  # (N, S, C) -> (N, S, M, D)
        # Steps I and A in one: every backend adds up what it reads.
        output = run_backend(value, spatial_shapes, locations, weights, self.backend)
        return self.output_proj(output)
