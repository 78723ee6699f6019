"""The ★★★ exercise of lesson 10: a whole detector, put together from its parts.

An answer is compared with the solution in what it predicts and in how the gradient of the last
boxes flows back through the layers: what is detached, and what is not, does not show otherwise.
"""

import inspect
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ddetr_edu.attention import valid_ratios
from ddetr_edu.course.answers import NotNumbers, describe
from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.decoder import Decoder, DecoderLayer, scale_to_levels
from ddetr_edu.models.deformable_detr import DeformableDETR, Predictions, flatten_levels
from ddetr_edu.models.heads import refine_boxes
from ddetr_edu.models.norms import resize_mask
from ddetr_edu.models.position import sine_position


def my_forward(model, images, padding_mask):
    """(model, images (N, 3, H, W), padding_mask (N, H, W)) -> [(logits, boxes) of each layer]"""
    # From images to tokens.
    levels = model.input_projection(model.backbone(images))  # L maps (N, C, H_l, W_l)
    shapes = [tuple(level.shape[2:]) for level in levels]
    masks = [resize_mask(padding_mask, shape) for shape in shapes]
    ratios = valid_ratios(masks, images.dtype)
    positions = []
    for mask, embedding in zip(masks, model.level_embedding, strict=True):
        sines = sine_position(mask, len(embedding), dtype=images.dtype)
        positions.append(sines + embedding[:, None, None])
    tokens, position = flatten_levels(levels), flatten_levels(positions)  # (N, S, C) each
    token_mask = torch.cat([mask.flatten(1) for mask in masks], dim=1)
    memory = model.encoder(tokens, position, shapes, ratios, token_mask)
    # From tokens to queries.
    (content, position, reference), _ = model.queries(memory, masks)
    # From queries to boxes.
    predictions = []
    for layer, heads in zip(model.decoder.layers, model.decoder.heads, strict=True):
        query = content + position
        attended, _ = layer.self_attn(query, query, content)
        content = layer.self_attn_norm(content + attended)
        on_levels = scale_to_levels(reference, ratios)
        sampled = layer.cross_attn(content + position, on_levels, memory, shapes, token_mask)
        content = layer.cross_attn_norm(content + sampled)
        content = layer.ffn_norm(content + layer.ffn(content))
        logits, delta = heads(content)
        boxes = refine_boxes(reference, delta)
        predictions.append((logits, boxes))
        reference = boxes.detach()
    return predictions


class ForwardExercise(Exercise):
    """An exercise whose function runs a model; what is compared are predictions and gradients."""

    def _run(self, function: Callable, arguments: tuple) -> tuple[Tensor, ...]:
        """The predictions of all layers, and the gradients of a weighted sum of the last boxes.

        The gradients are those of the last bias of each layer's box head, and of the last bias of
        each decoder layer itself.

        Raises:
            NotNumbers: If the function does not return the logits and boxes of each layer.
        """
        with torch.enable_grad():  # a lesson may have switched it off
            logits, boxes = read_layers(function(*arguments))
        decoder = arguments[0].decoder
        weights = torch.linspace(-1, 2, boxes[-1].numel(), dtype=boxes.dtype)
        outputs = (boxes[-1] * weights.view_as(boxes[-1])).sum()
        biases = [heads.bbox_head[-1].bias for heads in decoder.heads]
        biases += [layer.ffn_norm.bias for layer in decoder.layers]
        gradients = [torch.zeros_like(bias) for bias in biases]
        if outputs.requires_grad:
            gradients = list(
                torch.autograd.grad(outputs, biases, allow_unused=True, materialize_grads=True)
            )
        n_layers = len(decoder.layers)
        by_box_head, by_layer = gradients[:n_layers], gradients[n_layers:]
        return logits, boxes, torch.stack(by_box_head), torch.stack(by_layer)


def read_layers(result: object) -> tuple[Tensor, Tensor]:
    """Read what a `forward` of a learner returned.

    Args:
        result: (logits, boxes) of each decoder layer, or the library's `Predictions`.

    Returns:
        The logits (layers, N, Lq, K) and the boxes (layers, N, Lq, 4).

    Raises:
        NotNumbers: For anything else.
    """
    if isinstance(result, Predictions):
        result = [(each.logits, each.boxes) for each in (*result.aux, result)]
    if result is None:
        raise NotNumbers("None")
    wanted = "; a list with the pair (logits, boxes) of each decoder layer was expected"
    if not isinstance(result, (list, tuple)) or not result:
        raise NotNumbers(describe(result) + wanted)
    for pair in result:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise NotNumbers(f"a list that contains {describe(pair)}{wanted}")
        for part in pair:
            if not isinstance(part, Tensor):
                raise NotNumbers(f"a list of pairs that contain {describe(part)}{wanted}")
    shapes = {tuple(part.shape for part in pair) for pair in result}
    if len(shapes) > 1:
        raise NotNumbers(f"predictions of different shapes in different layers{wanted}")
    logits, boxes = zip(*result, strict=True)
    return torch.stack(logits), torch.stack(boxes)


@cache
def small_model(n_levels: int, n_layers: int, n_queries: int, n_heads: int) -> DeformableDETR:
    """A two-stage model in fp64 in which no parameter of encoder or decoder is zero.

    Args:
        n_levels: L.
        n_layers: Of the decoder.
        n_queries: Lq.
        n_heads: M.

    Returns:
        The model, in evaluation mode; the gradient reaches its decoder only.
    """
    config = DeformableDETRConfig.preset(
        "tiny",
        num_classes=n_levels + 1,
        d_model=32,
        n_heads=n_heads,
        n_levels=n_levels,
        n_points=2,
        n_encoder_layers=1,
        n_decoder_layers=n_layers,
        d_ffn=24,
        n_queries=n_queries,
        two_stage=True,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(n_queries)
        model = DeformableDETR(config).double().eval()
        for part in (model.encoder, model.queries, model.decoder):
            for parameter in part.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    return model


def _images() -> Cases:
    sizes = {  # the sizes of the images in their batch, and L, layers, Lq, M
        "one image without padding": ([(64, 96)], (3, 2, 5, 4)),
        "a wide image and a tall one": ([(64, 96), (90, 40)], (3, 3, 7, 2)),
        "three images of different sizes": ([(70, 33), (40, 100), (52, 64)], (2, 2, 9, 4)),
        "four levels": ([(72, 120), (96, 50)], (4, 2, 6, 8)),
        "one level": ([(80, 45), (33, 64)], (1, 3, 4, 2)),
        "one decoder layer": ([(50, 72), (64, 30)], (2, 1, 8, 4)),
        "one query": ([(64, 40), (45, 88), (96, 70), (33, 50)], (3, 4, 1, 1)),
    }
    generator = torch.Generator().manual_seed(2)
    cases: Cases = {}
    for name, (images, model) in sizes.items():
        height, width = max(h for h, _ in images), max(w for _, w in images)
        batch = torch.zeros(len(images), 3, height, width, dtype=torch.float64)
        mask = torch.ones(len(images), height, width, dtype=torch.bool)
        for n, (h, w) in enumerate(images):
            batch[n, :, :h, :w] = torch.randn(3, h, w, generator=generator)
            mask[n, :h, :w] = False
        cases[name] = small_model(*model), batch, mask
    return cases


def written(*changes: tuple[str, str]) -> Callable:
    """`my_forward` with other code in some places, as somebody could have written it.

    Args:
        changes: Pairs of code that stands in it once, and what to write instead.

    Returns:
        The function.
    """

    def forward(*arguments):
        return _compiled(changes)(*arguments)

    return forward


@cache
def _compiled(changes: tuple[tuple[str, str], ...]) -> Callable:
    source = inspect.getsource(my_forward)
    for right, wrong in changes:
        assert source.count(right) == 1, right
        source = source.replace(right, wrong)
    scope = dict(globals())
    exec(source, scope)
    return scope["my_forward"]


KEEP_FIRST = ("predictions = []", "predictions, first = [], reference")

forward = ForwardExercise(
    my_forward,
    _images,
    {
        # Boxes and references.
        "the reference is not detached: the gradient of a box flows into all earlier layers": (
            written(("boxes.detach()", "boxes"))
        ),
        "the predicted boxes are detached: their losses can teach nothing": written(
            ("refine_boxes(reference, delta)", "refine_boxes(reference, delta).detach()")
        ),
        "the content is detached between the layers; only the reference is": written(
            ("reference = boxes.detach()", "reference, content = boxes.detach(), content.detach()")
        ),
        "this looks forward twice: a box's gradient reaches the delta of the layer before, too": (
            written(
                ("predictions = []", "predictions, carried = [], reference"),
                ("boxes = refine_boxes(reference, delta)", "boxes = refine_boxes(carried, delta)"),
                ("reference = boxes.detach()", "carried = refine_boxes(reference, delta)"),
                (
                    "    return predictions",
                    "        reference = carried.detach()\n    return predictions",
                ),
            )
        ),
        "the delta was added to the box in [0, 1]; add it to the logit": written(
            ("refine_boxes(reference, delta)", "reference + delta")
        ),
        "the delta was added to the box in [0, 1] and clamped; add it to the logit": written(
            ("refine_boxes(reference, delta)", "(reference + delta).clamp(0, 1)")
        ),
        "the box is the sigmoid of reference + delta; the reference needs its logit first": written(
            ("refine_boxes(reference, delta)", "(reference + delta).sigmoid()")
        ),
        "boxes are refined from a detached reference, but the points around it are not detached": (
            written(
                ("refine_boxes(reference, delta)", "refine_boxes(reference.detach(), delta)"),
                ("reference = boxes.detach()", "reference = boxes"),
            )
        ),
        "every layer starts from the proposals; a layer refines the box of the layer before": (
            written(("reference = boxes.detach()", "pass"))
        ),
        "every layer samples around the proposals; it must sample around the refined boxes": (
            written(KEEP_FIRST, ("scale_to_levels(reference", "scale_to_levels(first"))
        ),
        "every layer refines the proposals; it must refine the box that it has sampled around": (
            written(KEEP_FIRST, ("refine_boxes(reference", "refine_boxes(first"))
        ),
        "the next layer's reference has the delta twice": written(
            ("boxes.detach()", "refine_boxes(boxes, delta).detach()")
        ),
        # Padding.
        "the decoder's cross-attention does not get the mask: it reads values of the padding": (
            written(("memory, shapes, token_mask)", "memory, shapes)"))
        ),
        "the encoder does not get the mask: it reads values of the padding": written(
            ("shapes, ratios, token_mask)", "shapes, ratios, torch.zeros_like(token_mask))")
        ),
        "the valid ratios are forgotten in the decoder": written(
            ("scale_to_levels(reference, ratios)", "scale_to_levels(reference, ratios * 0 + 1)")
        ),
        "the valid ratios are forgotten in the encoder": written(
            (
                "position, shapes, ratios, token_mask)",
                "position, shapes, ratios * 0 + 1, token_mask)",
            )
        ),
        "padding is proposed like the image: the proposals got masks without padding": written(
            ("model.queries(memory, masks)", "model.queries(memory, [m & False for m in masks])")
        ),
        "position embeddings count over the padded maps; give them the masks": written(
            ("sine_position(mask,", "sine_position(mask & False,")
        ),
        # Queries, keys and values.
        "the position is not added to the keys of the self-attention": written(
            ("layer.self_attn(query, query, content)", "layer.self_attn(query, content, content)")
        ),
        "the position is not added to the queries of the self-attention": written(
            ("layer.self_attn(query, query, content)", "layer.self_attn(content, query, content)")
        ),
        "the position is not added in the self-attention; its queries and keys need it": written(
            ("query = content + position", "query = content")
        ),
        "the position is added to the values of the self-attention; they are the content alone": (
            written(
                ("layer.self_attn(query, query, content)", "layer.self_attn(query, query, query)")
            )
        ),
        "the position is not added to the queries of the cross-attention": written(
            ("layer.cross_attn(content + position", "layer.cross_attn(content")
        ),
        "the cross-attention gets the queries of the self-attention; the content has changed": (
            written(("layer.cross_attn(content + position", "layer.cross_attn(query"))
        ),
        "the position is added to the encoder's tokens; the encoder does that itself": written(
            ("model.encoder(tokens, position,", "model.encoder(tokens + position, position,")
        ),
        "content and position are swapped": written(
            ("(content, position, reference), _", "(position, content, reference), _")
        ),
        "the level embeddings are missing": written((" + embedding[:, None, None]", "")),
        "the cross-attention reads the tokens; it must read the memory, the encoder's output": (
            written(("on_levels, memory", "on_levels, tokens"))
        ),
        # Layers.
        "there is no self-attention": written(
            ("layer.self_attn_norm(content + attended)", "layer.self_attn_norm(content)")
        ),
        "a residual is missing: self-attention adds to the content": written(
            ("layer.self_attn_norm(content + attended)", "layer.self_attn_norm(attended)")
        ),
        "a residual is missing: the feed-forward network adds to the content": written(
            ("layer.ffn_norm(content + layer.ffn(content))", "layer.ffn_norm(layer.ffn(content))")
        ),
        "all residuals are missing: each part of a layer adds to the content": written(
            ("layer.self_attn_norm(content + attended)", "layer.self_attn_norm(attended)"),
            ("layer.cross_attn_norm(content + sampled)", "layer.cross_attn_norm(sampled)"),
            ("layer.ffn_norm(content + layer.ffn(content))", "layer.ffn_norm(layer.ffn(content))"),
        ),
        "the norms of self-attention and cross-attention are swapped": written(
            ("layer.self_attn_norm", "layer.other_norm"),
            ("layer.cross_attn_norm", "layer.self_attn_norm"),
            ("layer.other_norm", "layer.cross_attn_norm"),
        ),
        "all layers use the heads of the first; each has its own": written(
            ("model.decoder.heads,", "[model.decoder.heads[0] for _ in model.decoder.layers],")
        ),
        "a layer uses the heads of the layer before it, and the first those of the proposals": (
            written(("model.decoder.heads,", "[model.queries.heads, *model.decoder.heads[:-1]],"))
        ),
    },
    library=(DeformableDETR.forward, Decoder, DecoderLayer),
    results=("logits", "boxes", "gradient of the box heads", "gradient of the layers"),
    precision=1e-6,
)
