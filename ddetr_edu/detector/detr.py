"""DETR, where it all began: every query looks at every token. One file, top to bottom.

It has one feature map, dense attention instead of deformable, no reference points, and a softmax
with a class "no object". Backbone, data, matching and training are those of Deformable DETR, so
that the two can be compared.
"""

import torch
from torch import Tensor, nn

from ddetr_edu.detector.backbone import build_backbone
from ddetr_edu.detector.config import DETRConfig
from ddetr_edu.detector.dropout import Dropout
from ddetr_edu.detector.encoder import FeedForward
from ddetr_edu.detector.heads import box_network
from ddetr_edu.detector.model import Predictions, check_batch, flatten_levels, shrink_mask
from ddetr_edu.detector.position import sine_position


def dense_attention(config: DETRConfig) -> nn.MultiheadAttention:
    """Every query compares itself with every key: Lq x S products for each head."""
    return nn.MultiheadAttention(config.d_model, config.n_heads, config.dropout, batch_first=True)


class DenseEncoderLayer(nn.Module):
    """Dense self-attention among the tokens, then the feed-forward net; each added, normalised."""

    def __init__(self, config: DETRConfig):
        super().__init__()
        self.self_attn = dense_attention(config)
        self.self_attn_norm = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config.d_model, config.d_ffn, config.dropout)
        self.ffn_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor, position: Tensor, padding_mask: Tensor) -> Tensor:
        """tokens, position (N, S, C); padding_mask (N, S), True = padding -> (N, S, C)."""
        query = tokens + position
        read, _ = self.self_attn(query, query, tokens, padding_mask, need_weights=False)
        tokens = self.self_attn_norm(tokens + self.dropout(read))
        return self.ffn_norm(tokens + self.dropout(self.ffn(tokens)))


class DenseDecoderLayer(nn.Module):
    """Self-attention among the queries, dense cross-attention into the memory, feed-forward."""

    def __init__(self, config: DETRConfig):
        super().__init__()
        self.self_attn = dense_attention(config)
        self.self_attn_norm = nn.LayerNorm(config.d_model)
        self.cross_attn = dense_attention(config)
        self.cross_attn_norm = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config.d_model, config.d_ffn, config.dropout)
        self.ffn_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        padding_mask: Tensor,
    ) -> Tensor:
        """One round for all queries.

        content, position (N, Lq, C); memory, memory_position (N, S, C); padding_mask (N, S)
        Returns: the new content (N, Lq, C)
        """
        query = content + position
        heard, _ = self.self_attn(query, query, content, need_weights=False)
        content = self.self_attn_norm(content + self.dropout(heard))
        read, _ = self.cross_attn(
            content + position, memory + memory_position, memory, padding_mask, need_weights=False
        )
        content = self.cross_attn_norm(content + self.dropout(read))
        return self.ffn_norm(content + self.dropout(self.ffn(content)))


class DETR(nn.Module):
    """Backbone, dense encoder, dense decoder; called like `DeformableDETR`.

    Source: Carion et al., DETR (arXiv 2005.12872); models/detr.py and models/transformer.py of
    facebookresearch/detr.
    """

    def __init__(self, config: DETRConfig):
        super().__init__()
        self.config = config
        c = config.d_model
        self.backbone = build_backbone(config)
        self.input_projection = nn.Conv2d(self.backbone.channels[-1], c, 1)
        self.encoder = nn.ModuleList(
            DenseEncoderLayer(config) for _ in range(config.n_encoder_layers)
        )
        self.queries = nn.Embedding(config.n_queries, c)  # positions; the content starts at zero
        self.decoder = nn.ModuleList(
            DenseDecoderLayer(config) for _ in range(config.n_decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(c)  # before the heads, after every layer
        self.classify = nn.Linear(c, config.num_classes + 1)  # the last is "no object"
        self.locate = box_network(c)
        for layer in [*self.encoder, *self.decoder]:
            for parameter in layer.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, images: Tensor, padding_mask: Tensor) -> Predictions:
        """Boxes and classes of a batch of normalised images.

        images:       (N, 3, H, W), normalised; a smaller picture fills the top left corner
        padding_mask: (N, H, W) bool, True = padding
        Returns: Predictions with logits (N, Lq, K+1); boxes as fractions of each picture without
            its padding.
        Raises: ValueError or TypeError if images, mask and model do not belong together.
        """
        check_batch(images, padding_mask, self.queries.weight)
        level = self.input_projection(self.backbone(images)[-1])  # (N, C, H_l, W_l), stride 32
        mask = shrink_mask(padding_mask, level.shape[-2:])  # (N, H_l, W_l)
        exact = torch.promote_types(level.dtype, torch.float32)  # 16 bits cannot count pixels
        position = sine_position(mask, self.config.d_model, shift=0, dtype=exact)
        position = position.to(level.dtype)  # (N, C, H_l, W_l)
        position, token_mask = flatten_levels([position]), mask.flatten(1)  # (N, S, C), (N, S)

        memory = flatten_levels([level])  # (N, S, C)
        for layer in self.encoder:
            memory = layer(memory, position, token_mask)

        query_position = self.queries.weight.expand(len(images), -1, -1)  # (N, Lq, C)
        content = torch.zeros_like(query_position)
        layers = []
        for layer in self.decoder:
            content = layer(content, query_position, memory, position, token_mask)
            state = self.decoder_norm(content)
            boxes = self.locate(state).to(exact).sigmoid()
            layers.append(Predictions(self.classify(state), boxes, no_object=True))
        *earlier, last = layers
        last.aux = earlier
        return last


@torch.no_grad()
def attention_maps(model: DETR, images: Tensor, padding_mask: Tensor) -> list[Tensor]:
    """Where each query looks, layer by layer: what sampling points are to Deformable DETR.

    images (N, 3, H, W); padding_mask (N, H, W), as for the model
    Returns: for each decoder layer (N, M, Lq, H_l, W_l), weights that sum to 1 over H_l and W_l
    """
    sizes, weights = [], []

    def ask(module, args, kwargs):
        return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

    hooks = [model.input_projection.register_forward_hook(lambda *c: sizes.append(c[2].shape[2:]))]
    for layer in model.decoder:
        attention = layer.cross_attn
        hooks.append(attention.register_forward_pre_hook(ask, with_kwargs=True))
        hooks.append(attention.register_forward_hook(lambda *call: weights.append(call[2][1])))
    try:
        model(images, padding_mask)
    finally:
        for hook in hooks:
            hook.remove()
    return [w.unflatten(-1, sizes[0]) for w in weights]  # (N, M, Lq, S) -> (..., H_l, W_l)
