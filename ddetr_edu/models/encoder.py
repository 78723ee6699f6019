"""The encoder: every token of the feature maps attends to a few others, on all levels."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddetr_edu.attention import MSDeformAttn, encoder_reference_points
from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.dropout import Dropout


class FeedForward(nn.Module):
    """The feed-forward network: two linear layers with a ReLU between, for each token alone.

    Args:
        d_model: C.
        d_ffn: The hidden channels.
        dropout: The probability of dropout after the ReLU.
    """

    def __init__(self, d_model: int, d_ffn: int, dropout: float):
        super().__init__()
        self.linear1 = nn.Linear(d_model, d_ffn)
        self.linear2 = nn.Linear(d_ffn, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)"""
        hidden = self.linear1(x).relu_()  # in place: it is the largest tensor of the transformer
        return self.linear2(self.dropout(hidden))


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each with a residual and a layer norm.

    Args:
        config: The architecture of the model.
    """

    def __init__(self, config: DeformableDETRConfig):
        super().__init__()
        c = config.d_model
        self.self_attn = MSDeformAttn(c, config.n_heads, config.n_levels, config.n_points)
        self.self_attn_norm = nn.LayerNorm(c)
        self.ffn = FeedForward(c, config.d_ffn, config.dropout)
        self.ffn_norm = nn.LayerNorm(c)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        reference_points: Tensor,
        spatial_shapes: SpatialShapes,
        padding_mask: Tensor,
    ) -> Tensor:
        """Update every token.

        Args:
            tokens: (N, S, C).
            position: (N, S, C), added to the tokens as queries, not as values.
            reference_points: (N, S, L, 2) (x, y), fractions of each padded level.
            spatial_shapes: (H, W) of each level.
            padding_mask: (N, S) bool, True = padding.

        Returns:
            The new tokens, (N, S, C).
        """
        self_attn_out = self.self_attn(
            tokens + position, reference_points, tokens, spatial_shapes, padding_mask
        )
        tokens = self.self_attn_norm(tokens + self.dropout(self_attn_out))
        return self.ffn_norm(tokens + self.dropout(self.ffn(tokens)))


class Encoder(nn.Module):
    """Layers of deformable self-attention over the tokens of all levels; the result is the memory.

    With `checkpoint_activations` set, the activations inside each layer are not kept but recomputed
    in the backward pass: training then takes less memory and more time.

    Source: paper, section 4.1; DeformableTransformerEncoder of the official code.

    Args:
        config: The architecture of the model.
    """

    def __init__(self, config: DeformableDETRConfig):
        super().__init__()
        self.checkpoint_activations = False
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_encoder_layers))

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        spatial_shapes: SpatialShapes,
        ratios: Tensor,
        padding_mask: Tensor,
    ) -> Tensor:
        """Encode the tokens of all levels.

        Args:
            tokens: (N, S, C), finest level first.
            position: (N, S, C), the position and level embeddings of the tokens.
            spatial_shapes: (H, W) of each level.
            ratios: (N, L, 2) from `valid_ratios`.
            padding_mask: (N, S) bool, True = padding.

        Returns:
            The memory, (N, S, C).
        """
        reference_points = encoder_reference_points(spatial_shapes, ratios)  # (N, S, L, 2)
        for layer in self.layers:
            arguments = (tokens, position, reference_points, spatial_shapes, padding_mask)
            if self.checkpoint_activations and self.training:
                tokens = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                tokens = layer(*arguments)
        return tokens
