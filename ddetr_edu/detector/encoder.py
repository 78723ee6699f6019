"""The encoder: every token of the feature maps looks at a few others, on all levels."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddetr_edu.attention import MSDeformAttn, pixel_centres
from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.detector.config import DeformableDETRConfig
from ddetr_edu.detector.dropout import Dropout


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, for each token alone."""

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
    """Deformable self-attention, then the feed-forward net; each added to its input, normalised."""

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
        """tokens, position (N, S, C); references (N, S, L, 2); padding_mask (N, S) -> (N, S, C)."""
        read = self.self_attn(
            tokens + position, reference_points, tokens, spatial_shapes, padding_mask
        )
        tokens = self.self_attn_norm(tokens + self.dropout(read))
        return self.ffn_norm(tokens + self.dropout(self.ffn(tokens)))


class Encoder(nn.Module):
    """Layers of deformable self-attention over the tokens of all levels; the result is the memory.

    `checkpoint_activations`, if set, forgets what happened inside each layer and computes it again
    when gradients need it: training then takes less memory and more time.

    Source: paper, section 4.1; DeformableTransformerEncoder of the official code.
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
        """tokens, position (N, S, C); ratios (N, L, 2); padding_mask (N, S) -> memory (N, S, C)."""
        reference_points = pixel_centres(spatial_shapes, ratios)  # (N, S, L, 2)
        for layer in self.layers:
            arguments = (tokens, position, reference_points, spatial_shapes, padding_mask)
            if self.checkpoint_activations and self.training:
                tokens = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                tokens = layer(*arguments)
        return tokens
