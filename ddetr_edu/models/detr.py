"""DETR, the predecessor: every query attends to every token. The whole model is in this file.

It has one feature map, dense attention instead of deformable attention, no reference points, and a
softmax with a class "no object". Backbone, data, matching and training are those of Deformable
DETR, so that the two can be compared.
"""

import torch
from torch import Tensor, nn

from ddetr_edu.models.backbone import build_backbone
from ddetr_edu.models.checks import ConfiguredModel, check_batch
from ddetr_edu.models.config import DETRConfig
from ddetr_edu.models.deformable_detr import Predictions, flatten_levels
from ddetr_edu.models.dropout import Dropout
from ddetr_edu.models.encoder import FeedForward
from ddetr_edu.models.heads import box_mlp
from ddetr_edu.models.norms import resize_mask
from ddetr_edu.models.position import sine_position


def dense_attention(config: DETRConfig) -> nn.MultiheadAttention:
    """Ordinary attention, in which every query is compared with every key.

    Args:
        config: The architecture of the model.

    Returns:
        The attention module, batch first; it computes Lq x S scalar products for each head.
    """
    return nn.MultiheadAttention(config.d_model, config.n_heads, config.dropout, batch_first=True)


class DenseEncoderLayer(nn.Module):
    """Dense self-attention and a feed-forward network, each with a residual and a layer norm.

    Args:
        config: The architecture of the model.
    """

    def __init__(self, config: DETRConfig):
        super().__init__()
        self.self_attn = dense_attention(config)
        self.self_attn_norm = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config.d_model, config.d_ffn, config.dropout)
        self.ffn_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor, position: Tensor, padding_mask: Tensor) -> Tensor:
        """Update every token.

        Args:
            tokens: (N, S, C).
            position: (N, S, C), added to the tokens as queries and keys, not as values.
            padding_mask: (N, S) bool, True = padding.

        Returns:
            The new tokens, (N, S, C).
        """
        query = tokens + position
        self_attn_out, _ = self.self_attn(query, query, tokens, padding_mask, need_weights=False)
        tokens = self.self_attn_norm(tokens + self.dropout(self_attn_out))
        return self.ffn_norm(tokens + self.dropout(self.ffn(tokens)))


class DenseDecoderLayer(nn.Module):
    """Self-attention among the queries, dense cross-attention into the memory, feed-forward.

    Args:
        config: The architecture of the model.
    """

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
        """Update the content of every query.

        Args:
            content: (N, Lq, C).
            position: (N, Lq, C), added to the content as queries and keys, not as values.
            memory: (N, S, C), the encoder's output.
            memory_position: (N, S, C), added to the memory as keys, not as values.
            padding_mask: (N, S) bool, True = padding.

        Returns:
            The new content, (N, Lq, C).
        """
        query = content + position
        self_attn_out, _ = self.self_attn(query, query, content, need_weights=False)
        content = self.self_attn_norm(content + self.dropout(self_attn_out))
        cross_attn_out, _ = self.cross_attn(
            content + position, memory + memory_position, memory, padding_mask, need_weights=False
        )
        content = self.cross_attn_norm(content + self.dropout(cross_attn_out))
        return self.ffn_norm(content + self.dropout(self.ffn(content)))


class DETR(ConfiguredModel):
    """Backbone, dense encoder and dense decoder; called like `DeformableDETR`.

    Source: Carion et al., DETR (arXiv 2005.12872); models/detr.py and models/transformer.py of
    facebookresearch/detr.

    Args:
        config: The architecture of the model.
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
        self.class_head = nn.Linear(c, config.num_classes + 1)  # the last one for "no object"
        self.bbox_head = box_mlp(c)
        for layer in [*self.encoder, *self.decoder]:
            for parameter in layer.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, images: Tensor, padding_mask: Tensor) -> Predictions:
        """Predict the boxes and classes of a batch of normalised images.

        Args:
            images: (N, 3, H, W), normalised; a smaller image fills the top left corner.
            padding_mask: (N, H, W) bool, True = padding.

        Returns:
            The predictions, with logits (N, Lq, K+1), and boxes as fractions of each image without
            its padding.

        Raises:
            ValueError: If images or mask have a wrong shape, or lie on another device.
            TypeError: If the images have another dtype than the model.
        """
        check_batch(images, padding_mask, self.queries.weight)
        level = self.input_projection(self.backbone(images)[-1])  # (N, C, H_l, W_l), stride 32
        mask = resize_mask(padding_mask, (level.shape[2], level.shape[3]))  # (N, H_l, W_l)
        # bf16 has 8 significant bits: coordinates need fp32.
        coord_dtype = torch.promote_types(level.dtype, torch.float32)
        position = sine_position(mask, self.config.d_model, shift=0, dtype=coord_dtype)
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
            boxes = self.bbox_head(state).to(coord_dtype).sigmoid()
            layers.append(Predictions(self.class_head(state), boxes, no_object=True))
        *earlier, last = layers
        last.aux = earlier
        return last


@torch.no_grad()
def attention_maps(model: DETR, images: Tensor, padding_mask: Tensor) -> list[Tensor]:
    """The cross-attention weights of each query, the dense counterpart of sampling locations.

    Args:
        model: The model, in evaluation mode (dropout would change the weights); left as it was.
        images: (N, 3, H, W), as for the model.
        padding_mask: (N, H, W) bool, as for the model.

    Returns:
        For each decoder layer (N, M, Lq, H_l, W_l), weights that sum to 1 over H_l and W_l.
    """
    shapes: list[torch.Size] = []
    weights: list[Tensor] = []

    def request_weights(module, args, kwargs):
        return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

    def record_shape(module, args, output):
        shapes.append(output.shape[-2:])

    def record_weights(module, args, output):
        weights.append(output[1])

    hooks = [model.input_projection.register_forward_hook(record_shape)]
    for layer in model.decoder:
        assert isinstance(layer, DenseDecoderLayer)
        hooks.append(layer.cross_attn.register_forward_pre_hook(request_weights, with_kwargs=True))
        hooks.append(layer.cross_attn.register_forward_hook(record_weights))
    try:
        model(images, padding_mask)
    finally:
        for hook in hooks:
            hook.remove()
    return [w.unflatten(-1, shapes[0]) for w in weights]  # (N, M, Lq, S) -> (..., H_l, W_l)
