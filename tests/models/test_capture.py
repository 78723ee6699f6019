"""`capture`: the same numbers as other hooks get, only what was chosen, and no hook left."""

import pytest
import torch
from torch import nn

import ddetr_edu as dd
from ddetr_edu.attention import MSDeformAttn
from ddetr_edu.attention import capture as capture_attentions
from ddetr_edu.models.queries import ExtraQueries, Queries

NAMES = [
    "encoder.layers.0.self_attn",
    "encoder.layers.1.self_attn",
    "decoder.layers.0.cross_attn",
    "decoder.layers.1.cross_attn",
    "decoder.layers.2.cross_attn",
]
NO_REFINEMENT = dict(box_refine=False)
TWO_STAGES = dict(two_stage=True)


@pytest.fixture
def batch(random):
    """Two images of different sizes in one padded batch."""
    images = torch.randn(2, 3, 61, 83, generator=random)
    padding_mask = torch.zeros(2, 61, 83, dtype=torch.bool)
    padding_mask[1, 41:], padding_mask[1, :, 53:] = True, True
    return images, padding_mask


def hooks_of(model):
    return [hook for m in model.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]


def by_other_hooks(model, batch):
    """The outputs of the layers inside each attention module, from hooks on those layers."""
    outputs, handles = {}, []
    for name, module in model.named_modules():
        if isinstance(module, MSDeformAttn):
            for inner in ("sampling_offsets", "attention_weights"):
                handles.append(
                    getattr(module, inner).register_forward_hook(
                        lambda m, args, out, key=(name, inner): outputs.__setitem__(
                            key, out.detach()
                        )
                    )
                )
            handles.append(
                module.register_forward_pre_hook(
                    lambda m, args, name=name: outputs.__setitem__(name, args[1].detach())
                )
            )
    predictions = model(*batch)
    for handle in handles:
        handle.remove()
    return outputs, predictions


@pytest.mark.parametrize("changes", [NO_REFINEMENT, {}, TWO_STAGES])
def test_equals_a_second_computation_with_other_hooks(build, batch, changes):
    model = build(**changes)
    with torch.no_grad():
        outputs, without = by_other_hooks(model, batch)
        with dd.capture(model) as records:
            predictions = model(*batch)
    assert [record.name for record in records] == NAMES
    for record in records:
        offsets = outputs[record.name, "sampling_offsets"].view_as(record.offsets)
        assert torch.equal(record.offsets, offsets)
        scores = outputs[record.name, "attention_weights"].view_as(record.weights)
        expected = scores.flatten(3).exp() / scores.flatten(3).exp().sum(-1, keepdim=True)
        torch.testing.assert_close(record.weights.flatten(3), expected)
        references = outputs[record.name][:, :, None, :, None]
        assert torch.equal(record.reference_points, outputs[record.name])
        if references.shape[-1] == 2:
            sizes = torch.tensor([[w, h] for h, w in record.spatial_shapes])
            expected = references + offsets / sizes[:, None]
        else:
            half = references[..., 2:] / 2
            expected = references[..., :2] + offsets / record.offsets.shape[-2] * half
        torch.testing.assert_close(record.locations, expected)
    # The predictions are bitwise the same, and the model is left as it was.
    assert torch.equal(predictions.logits, without.logits)
    assert torch.equal(predictions.boxes, without.boxes)
    assert hooks_of(model) == []


@pytest.mark.parametrize("changes", [NO_REFINEMENT, {}, TWO_STAGES])
def test_the_decoder_layer_by_layer(build, batch, changes):
    model = build(**changes)
    with torch.no_grad(), dd.capture(model) as records:
        predictions = model(*batch)
    (decoder,) = records.decoder
    layers = [*predictions.aux, predictions]
    assert len(decoder.references) == len(decoder.boxes) == len(decoder.logits) == 3
    for layer, logits, boxes in zip(layers, decoder.logits, decoder.boxes, strict=True):
        assert torch.equal(layer.logits, logits) and torch.equal(layer.boxes, boxes)
    # The reference entering a layer, as fractions of the image, is the one its attention had as
    # fractions of the padded levels.
    masks = [
        nn.functional.interpolate(batch[1][None].float(), size=shape)[0] == 0
        for shape in records[-1].spatial_shapes
    ]
    for record, entering in zip(records[2:], decoder.references, strict=True):
        for level, valid in enumerate(masks):
            ratio = torch.stack([valid[:, 0].float().mean(1), valid[:, :, 0].float().mean(1)], 1)
            ratio = ratio.repeat(1, entering.shape[-1] // 2)[:, None]
            torch.testing.assert_close(record.reference_points[:, :, level], entering * ratio)
    assert decoder.references[0].shape[-1] == (4 if model.config.two_stage else 2)
    moves = not torch.equal(decoder.references[0], decoder.references[-1])
    assert moves == model.config.box_refine
    if not model.config.two_stage:
        assert records.proposals == []
        return
    (proposals,) = records.proposals
    assert torch.equal(proposals.logits, predictions.encoder.logits)
    assert torch.equal(proposals.boxes, predictions.encoder.boxes)
    chosen = proposals.boxes.gather(1, proposals.topk_indices[..., None].expand(-1, -1, 4))
    assert torch.equal(chosen, decoder.references[0])
    left_out = torch.ones(proposals.logits.shape[:2]).scatter(1, proposals.topk_indices, 0).bool()
    for n in range(2):
        objectness = proposals.objectness[n]
        assert objectness[proposals.topk_indices[n]].min() >= objectness[left_out[n]].max()


@pytest.mark.parametrize(
    "layers, expected",
    [
        ("decoder*", NAMES[2:]),
        (-1, NAMES[4:]),
        (0, NAMES[:1]),
        ([1, "decoder.layers.1*"], [NAMES[1], NAMES[3]]),
        ("*layers.0*", [NAMES[0], NAMES[2]]),
        ([2, -3], NAMES[2:3]),
    ],
)
def test_only_chosen_layers_are_recorded(build, batch, layers, expected):
    model = build()
    with torch.no_grad(), dd.capture(model, layers) as records:
        model(*batch)
    assert [record.name for record in records] == expected
    assert len(records.decoder) == any("decoder" in name for name in expected)


@pytest.mark.parametrize("queries", [[7, 0, 3], torch.tensor([7, 0, 3])])
def test_chosen_queries_have_the_values_of_all_queries(build, batch, queries):
    model = build(**TWO_STAGES)
    with torch.no_grad():
        with dd.capture(model) as every:
            model(*batch)
        with dd.capture(model, queries=queries) as records:
            model(*batch)
    for record, full in zip(records, every, strict=True):
        for name in ("reference_points", "offsets", "locations", "weights"):
            torch.testing.assert_close(getattr(record, name), getattr(full, name)[:, [7, 0, 3]])
    for name in ("references", "logits", "boxes"):
        some, all_ = getattr(records.decoder[0], name), getattr(every.decoder[0], name)
        for few, many in zip(some, all_, strict=True):
            assert torch.equal(few, many[:, [7, 0, 3]])


def test_what_was_not_chosen_holds_no_memory(build, batch):
    """Memory is counted by storage, so that a small view of a large tensor would be noticed."""
    model = build(**NO_REFINEMENT)

    def held(**chosen):
        with torch.no_grad(), dd.capture(model, **chosen) as records:
            model(*batch)
        tensors = [v for r in records for v in vars(r).values() if isinstance(v, torch.Tensor)]
        storages = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in tensors}
        return sum(storages.values())

    one_query = 2 * 3 * (2 + 3 * 2 * 5) * 4  # N, L, (reference and, by head and point, 5), bytes
    assert held(layers="decoder*", queries=[4]) == 3 * one_query
    assert held(queries=[4, 5]) == 5 * 2 * one_query
    assert held(layers="decoder*") <= 3 * 11 * one_query < held() / 5


def test_training_and_checkpointed_activations(build, batch):
    """Nothing is recorded twice or keeps the graph alive, and gradients are the same."""
    model = build(**TWO_STAGES).train()

    def train():
        model.zero_grad()
        predictions = model(*batch)
        (predictions.logits.sum() + predictions.boxes.square().sum()).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    expected = train()
    for model.encoder.checkpoint_activations in (False, True):
        with dd.capture(model) as records:
            gradients = train()
        assert [record.name for record in records] == NAMES
        assert len(records.decoder) == len(records.proposals) == 1
        assert all(map(torch.equal, gradients, expected))
        tensors = [t for r in (*records, *records.proposals) for t in vars(r).values()]
        tensors += [t for values in vars(records.decoder[0]).values() for t in values]
        assert not any(t.requires_grad for t in tensors if isinstance(t, torch.Tensor))


def test_queries_added_in_training_are_recorded_too(build, batch, random):
    model = build(**TWO_STAGES)
    c = model.config.d_model
    extra = Queries(*(torch.rand(2, 2, n, generator=random) for n in (c, c, 4)))
    with torch.no_grad(), dd.capture(model) as records:
        predictions = model(*batch, ExtraQueries(extra, torch.zeros(2, 2, 2, dtype=torch.bool)))
    assert records[-1].weights.shape[1] == 11 + 2 == records.decoder[0].boxes[-1].shape[1]
    assert torch.equal(records.decoder[0].boxes[-1][:, 11:], predictions.extra.boxes)
    assert records.proposals[0].topk_indices.shape == (2, 11)


def test_each_forward_pass_has_its_records(build, batch):
    model = build(**TWO_STAGES)
    with torch.no_grad(), dd.capture(model, "decoder*") as records:
        model(*batch)
        last = model(batch[0].flip(0), batch[1].flip(0))
    assert len(records) == 6 and len(records.decoder) == len(records.proposals) == 2
    assert torch.equal(records.decoder[-1].boxes[-1], last.boxes)


def test_a_detector_or_a_decoder_alone(build, batch):
    model = build()
    detector = dd.Detector(model, list("abcde")).eval()
    with torch.no_grad(), dd.capture(detector, "*decoder*") as records:
        detector([torch.rand(3, 61, 83)])
    assert [r.name for r in records] == ["model." + name for name in NAMES[2:]]
    with torch.no_grad(), dd.capture(model.decoder) as records:
        predictions = model(*batch)
    assert torch.equal(records.decoder[0].boxes[-1], predictions.boxes)


def test_an_exception_leaves_no_hook(build, batch):
    model = build(**TWO_STAGES)
    with pytest.raises(RuntimeError, match="boom"), dd.capture(model):
        model(*batch)
        raise RuntimeError("boom")
    with pytest.raises(ValueError, match="images"), dd.capture(model):
        model(batch[0][0], batch[1])
    with (
        pytest.raises(ValueError, match=r"query 11 .* decoder.layers.0.cross_attn has 11 queries"),
        dd.capture(model, "decoder*", queries=[3, 11]),
    ):
        model(*batch)
    assert hooks_of(model) == []


@pytest.mark.parametrize("capture", [dd.capture, capture_attentions])
def test_an_impossible_choice_is_refused_on_entering(build, capture):
    model = build()
    for layers in ("backbone*", 5, -6, ["encoder*", "decode"], []):
        with pytest.raises(ValueError, match="none of the 5 attentions|no attention"):
            capture(model, layers).__enter__()
    for queries in ([], [0.5], [-1], torch.ones(11, dtype=torch.bool), torch.zeros(2, 2), 3):
        with pytest.raises(ValueError, match="list of query numbers"):
            capture(model, queries=queries).__enter__()
    with pytest.raises(ValueError, match="Linear contains no MSDeformAttn"):
        capture(nn.Linear(2, 3)).__enter__()
    assert hooks_of(model) == []
