"""The decoder: heads, box refinement, and where gradients stop."""

import pytest
import torch

from ddetr_edu.models.heads import PredictionHeads, refine_boxes
from ddetr_edu.models.queries import LearnedQueries


def run(model, seed=0):
    torch.manual_seed(seed)
    return model(torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool))


def logit(x):
    x = x.clamp(1e-5, 1 - 1e-5)
    return torch.log(x / (1 - x))


@pytest.fixture
def states():
    """states(model): the list to which its decoder layers' outputs will be appended."""

    def hook(model):
        outputs = []
        for layer in model.decoder.layers:
            layer.register_forward_hook(lambda _, args, out: outputs.append(out))
        return outputs

    return hook


def box_delta(heads, state):
    """The box head, written out."""
    x = state
    for layer in (heads.bbox_head[0], heads.bbox_head[2]):
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    return x @ heads.bbox_head[4].weight.T + heads.bbox_head[4].bias


@torch.no_grad()
def test_each_layer_refines_the_box_of_the_layer_before(build, states):
    model = build(box_refine=True)
    content = states(model)
    out = run(model)
    layers = [*out.aux, out]
    assert len(content) == len(layers) == len(model.decoder.heads) == 3
    for index, (layer, state) in enumerate(zip(layers, content, strict=True)):
        delta = box_delta(model.decoder.heads[index], state)
        if index == 0:
            delta[..., :2] += logit(model.queries(2).reference_points)
        else:
            delta += logit(layers[index - 1].boxes)
        torch.testing.assert_close(layer.boxes, delta.sigmoid(), rtol=0, atol=1e-5)
        head = model.decoder.heads[index].class_head
        torch.testing.assert_close(layer.logits, state @ head.weight.T + head.bias)


@torch.no_grad()
def test_without_refinement_all_layers_share_heads_and_the_initial_reference(build, states):
    model = build(box_refine=False)
    content = states(model)
    out = run(model)
    (heads,) = model.decoder.heads
    point = logit(model.queries(2).reference_points)
    for layer, state in zip([*out.aux, out], content, strict=True):
        delta = box_delta(heads, state)
        delta[..., :2] += point
        torch.testing.assert_close(layer.boxes, delta.sigmoid(), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            layer.logits, state @ heads.class_head.weight.T + heads.class_head.bias
        )


def test_the_loss_of_a_layers_boxes_reaches_only_its_own_box_head(build):
    model = build(box_refine=True)
    for layer in model.decoder.layers:  # the state of a query is a constant now
        layer.register_forward_hook(lambda _, args, out: out.detach())
    run(model).boxes.sum().backward()
    learning = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    own = {
        f"decoder.heads.2.bbox_head.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")
    }
    assert learning == own


def test_that_test_would_notice_a_reference_that_is_not_detached(build, monkeypatch):
    model = build(box_refine=True)
    monkeypatch.setattr(torch.Tensor, "detach", lambda self: self, raising=False)
    for layer in model.decoder.layers:
        layer.register_forward_hook(lambda _, args, out: out.data)
    run(model).boxes.sum().backward()
    gradients = [p.grad for n, p in model.named_parameters() if "decoder.heads.0.bbox_head" in n]
    assert any(g is not None and g.any() for g in gradients)


def box_gradients(model, layer):
    """The layers whose deltas get a gradient from the boxes of one layer, states being constant."""
    for decoder_layer in model.decoder.layers:
        decoder_layer.register_forward_hook(lambda _, args, out: out.detach())
    out = run(model)
    [*out.aux, out][layer].boxes.sum().backward()
    weights = [heads.bbox_head[-1].weight for heads in model.decoder.heads]
    return [index for index, w in enumerate(weights) if w.grad is not None and w.grad.any()]


@pytest.mark.parametrize("two_stage", [False, True])
@pytest.mark.parametrize(
    "look_forward, reached",
    [
        ("once", [[0], [1], [2], [3]]),
        ("twice", [[0], [0, 1], [1, 2], [2, 3]]),
        ("always", [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]),
    ],
)
def test_how_far_the_gradient_of_a_layers_boxes_reaches(build, look_forward, two_stage, reached):
    for layer, expected in enumerate(reached):
        model = build(look_forward=look_forward, two_stage=two_stage, n_decoder_layers=4)
        assert box_gradients(model, layer) == expected


@pytest.mark.parametrize("look_forward, flows", [("once", 0), ("twice", 0), ("always", 1)])
def test_only_with_always_a_gradient_flows_through_the_sampling_locations(
    build, look_forward, flows
):
    """The class of layer 1 depends on the box of layer 0 through sampling alone."""
    model = build(look_forward=look_forward)
    model.decoder.layers[0].register_forward_hook(lambda _, args, out: out.detach())
    run(model).aux[1].logits.sum().backward()
    gradient = model.decoder.heads[0].bbox_head[-1].weight.grad
    assert (gradient is not None and gradient.any()) == flows


@pytest.mark.parametrize("two_stage", [False, True])
@torch.no_grad()
def test_predictions_do_not_depend_on_look_forward(build, two_stage):
    models = [build(look_forward=x, two_stage=two_stage) for x in ("once", "twice", "always")]
    first, *others = [run(model) for model in models]
    for other in others:
        for a, b in zip([first, *first.aux], [other, *other.aux], strict=True):
            assert torch.equal(a.boxes, b.boxes) and torch.equal(a.logits, b.logits)


@pytest.mark.parametrize("box_refine", [False, True])
def test_the_initial_reference_points_get_a_gradient(build, box_refine):
    model = build(box_refine=box_refine)
    run(model).aux[0].boxes.sum().backward()
    assert model.queries.reference_points.weight.grad.any()


def test_points_and_boxes_are_refined_alike():
    torch.manual_seed(0)
    heads = PredictionHeads(d_model=7, num_classes=5)
    with torch.no_grad():
        heads.bbox_head[-1].weight.normal_()
    state, reference = torch.randn(2, 3, 7), torch.rand(2, 3, 4) * 0.8 + 0.1
    _, delta = heads(state)
    torch.testing.assert_close(delta, box_delta(heads, state))
    expected = logit(reference)
    torch.testing.assert_close(refine_boxes(reference, delta), (delta + expected).sigmoid())
    expected[..., 2:] = 0
    by_point = refine_boxes(reference[..., :2], delta)
    torch.testing.assert_close(by_point, (delta + expected).sigmoid())


def test_queries_are_position_then_content_and_the_point_comes_from_the_position():
    torch.manual_seed(0)
    queries = LearnedQueries(n_queries=3, d_model=7)
    content, position, points = queries(2)
    assert content.shape == position.shape == (2, 3, 7) and points.shape == (2, 3, 2)
    table = queries.embedding.weight
    assert torch.equal(position[1], table[:, :7]) and torch.equal(content[1], table[:, 7:])
    linear = queries.reference_points
    expected = (table[:, :7] @ linear.weight.T + linear.bias).sigmoid()
    torch.testing.assert_close(points[0], expected)
    assert torch.equal(points[0], points[1])


def test_a_decoder_layer_is_self_attention_then_cross_attention_then_feed_forward(build):
    """The module against the same layer written out with torch's own dense attention."""
    layer = build().decoder.layers[1].double()
    torch.manual_seed(1)
    content, position = torch.randn(2, 2, 5, 96, dtype=torch.float64)
    memory = torch.randn(2, 7 * 3 + 2 * 2 + 1, 96, dtype=torch.float64)
    shapes = [(7, 3), (2, 2), (1, 1)]
    reference = torch.rand(2, 5, 3, 4, dtype=torch.float64)
    mask = torch.zeros(2, memory.shape[1], dtype=torch.bool)
    mask[1, 19:21] = True

    q_weight, k_weight, v_weight = layer.self_attn.in_proj_weight.chunk(3)
    q_bias, k_bias, v_bias = layer.self_attn.in_proj_bias.chunk(3)
    query = content + position

    def per_head(x):
        return x.unflatten(-1, (3, 32)).transpose(1, 2)

    self_attn_out = (
        torch.nn.functional.scaled_dot_product_attention(
            per_head(query @ q_weight.T + q_bias),
            per_head(query @ k_weight.T + k_bias),
            per_head(content @ v_weight.T + v_bias),
        )
        .transpose(1, 2)
        .flatten(2)
    )
    out = layer.self_attn_norm(content + layer.self_attn.out_proj(self_attn_out))
    cross_attn_out = layer.cross_attn(out + position, reference, memory, shapes, mask)
    out = layer.cross_attn_norm(out + cross_attn_out)
    hidden = (out @ layer.ffn.linear1.weight.T + layer.ffn.linear1.bias).clamp(min=0)
    out = layer.ffn_norm(out + hidden @ layer.ffn.linear2.weight.T + layer.ffn.linear2.bias)
    found = layer(content, position, reference, memory, shapes, mask)
    torch.testing.assert_close(found, out, rtol=1e-9, atol=1e-9)


def test_an_encoder_layer_adds_the_position_to_queries_and_not_to_values(build):
    layer = build().encoder.layers[0].double()
    torch.manual_seed(2)
    shapes = [(5, 3), (2, 2), (1, 1)]
    tokens, position = torch.randn(2, 2, 20, 96, dtype=torch.float64)
    reference = torch.rand(2, 20, 3, 2, dtype=torch.float64)
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[0, 11:15] = True
    self_attn_out = layer.self_attn(tokens + position, reference, tokens, shapes, mask)
    out = layer.self_attn_norm(tokens + self_attn_out)
    hidden = (out @ layer.ffn.linear1.weight.T + layer.ffn.linear1.bias).clamp(min=0)
    out = layer.ffn_norm(out + hidden @ layer.ffn.linear2.weight.T + layer.ffn.linear2.bias)
    found = layer(tokens, position, reference, shapes, mask)
    torch.testing.assert_close(found, out, rtol=1e-9, atol=1e-9)


def test_dropout_acts_in_training_only(build):
    model = build(dropout=0.5)
    assert torch.equal(run(model).boxes, run(model).boxes)
    model.train()
    torch.manual_seed(3)
    images, mask = torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)
    assert not torch.equal(model(images, mask).boxes, model(images, mask).boxes)
