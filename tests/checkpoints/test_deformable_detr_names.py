"""State dicts as the official code lays them out: loaded and saved again, nothing is lost."""

import pytest
import torch

from ddetr_edu.checkpoints.deformable_detr_names import deduce_config, from_official, to_official
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR

C, FFN, K, LAYERS = 256, 1024, 91, 6  # sizes of all four official models

KINDS = {  # levels, box refinement, two stages, and how many names a file has
    "r50_single_scale": (1, False, False, 549),
    "r50": (4, False, False, 561),
    "r50_refine": (4, True, False, 597),
    "r50_two_stage": (4, True, True, 630),
}


def official_shapes(levels, refine, two_stage):
    """Every name in an official file, with its shape; written independently of our code."""
    shapes = {"transformer.level_embed": (levels, C)}

    def add(prefix, *weight):
        shapes[f"{prefix}.weight"], shapes[f"{prefix}.bias"] = weight, weight[:1]

    def add_attention(prefix):
        add(f"{prefix}.sampling_offsets", 8 * levels * 4 * 2, C)
        add(f"{prefix}.attention_weights", 8 * levels * 4, C)
        add(f"{prefix}.value_proj", C, C)
        add(f"{prefix}.output_proj", C, C)

    for i in range(LAYERS):
        encoder, decoder = f"transformer.encoder.layers.{i}", f"transformer.decoder.layers.{i}"
        add_attention(f"{encoder}.self_attn")
        add_attention(f"{decoder}.cross_attn")
        shapes[f"{decoder}.self_attn.in_proj_weight"] = (3 * C, C)
        shapes[f"{decoder}.self_attn.in_proj_bias"] = (3 * C,)
        add(f"{decoder}.self_attn.out_proj", C, C)
        for layer, norms in ((encoder, 2), (decoder, 3)):
            add(f"{layer}.linear1", FFN, C)
            add(f"{layer}.linear2", C, FFN)
            for n in range(norms):
                add(f"{layer}.norm{n + 1}", C)

    heads = LAYERS + two_stage
    for prefix in ("", *["transformer.decoder."] * refine):
        for i in range(heads):
            if not prefix or two_stage:
                add(f"{prefix}class_embed.{i}", K, C)
            for j, width in enumerate((C, C, 4)):
                add(f"{prefix}bbox_embed.{i}.layers.{j}", width, C)
    if two_stage:
        add("transformer.enc_output", C, C)
        add("transformer.enc_output_norm", C)
        add("transformer.pos_trans", 2 * C, 2 * C)
        add("transformer.pos_trans_norm", 2 * C)
    else:
        add("transformer.reference_points", 2, C)
        shapes["query_embed.weight"] = (300, 2 * C)

    kernels = [(512, 1), (1024, 1), (2048, 1), (2048, 3)] if levels == 4 else [(2048, 1)]
    for level, (width, side) in enumerate(kernels):
        add(f"input_proj.{level}.0", C, width, side, side)
        add(f"input_proj.{level}.1", C)

    def add_convolution(conv, norm, outputs, inputs, side):
        body = "backbone.0.body"
        shapes[f"{body}.{conv}.weight"] = (outputs, inputs, side, side)
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{body}.{norm}.{kind}"] = (outputs,)

    add_convolution("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        width = 32 * 2**stage
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            add_convolution(f"{at}.conv1", f"{at}.bn1", width, inputs, 1)
            add_convolution(f"{at}.conv2", f"{at}.bn2", width, width, 3)
            add_convolution(f"{at}.conv3", f"{at}.bn3", 4 * width, width, 1)
            if block == 0:
                add_convolution(f"{at}.downsample.0", f"{at}.downsample.1", 4 * width, inputs, 1)
            inputs = 4 * width
    return shapes


def shared_with(name, refine):
    """The name of the parameter that an official model also holds under this name."""
    name = name.removeprefix("transformer.decoder.") if "_embed." in name else name
    kind, _, rest = name.partition(".")
    if kind in ("class_embed", "bbox_embed") and not refine:
        return f"{kind}.0.{rest.partition('.')[2]}"
    return name


@pytest.fixture(scope="module", params=KINDS)
def official(request):
    """A preset and an official state dict: shared parameters are one tensor under several names.

    The tensors are one number, spread out, so that they take no memory; no two are the same.
    """
    levels, refine, two_stage, count = KINDS[request.param]
    shapes = official_shapes(levels, refine, two_stage)
    assert len(shapes) == count
    owners = {name: shared_with(name, refine) for name in shapes}
    tensors = {
        owner: torch.tensor(float(n)).expand(shapes[owner])
        for n, owner in enumerate(dict.fromkeys(owners.values()))
    }
    return request.param, {name: tensors[owner] for name, owner in owners.items()}


def test_it_loads_strictly_and_saves_back_identically(official):
    preset, state = official
    config = DeformableDETRConfig.preset(preset)
    ours = from_official(state)
    assert deduce_config(ours) == config
    with torch.device("meta"):
        model = DeformableDETR(config)
    model.load_state_dict(ours, strict=True, assign=True)
    back = to_official(model.state_dict(), config)
    assert back.keys() == state.keys()
    for name, values in state.items():
        assert back[name].shape == values.shape, name
        assert torch.equal(back[name], values), name


def test_decoder_norms_and_heads_are_not_confused(official):
    """norm1 belongs to the cross-attention, norm2 to the self-attention; heads to their layer."""
    preset, state = official
    ours = from_official(state)
    pairs = {
        "decoder.layers.4.cross_attn_norm.weight": "transformer.decoder.layers.4.norm1.weight",
        "decoder.layers.4.self_attn_norm.bias": "transformer.decoder.layers.4.norm2.bias",
        "decoder.layers.4.ffn_norm.weight": "transformer.decoder.layers.4.norm3.weight",
        "encoder.layers.2.self_attn_norm.weight": "transformer.encoder.layers.2.norm1.weight",
        "encoder.layers.2.ffn_norm.weight": "transformer.encoder.layers.2.norm2.weight",
        "decoder.heads.0.bbox_head.2.weight": "bbox_embed.0.layers.1.weight",
    }
    if preset in ("r50_refine", "r50_two_stage"):
        pairs["decoder.heads.5.class_head.bias"] = "class_embed.5.bias"
    if preset == "r50_two_stage":
        pairs["queries.heads.bbox_head.4.bias"] = "bbox_embed.6.layers.2.bias"
    for mine, theirs in pairs.items():
        assert torch.equal(ours[mine], state[theirs]), mine


@pytest.mark.parametrize(
    "name, message",
    [
        ("class_embed.3.bias", "all layers share their heads, but decoder.heads.3"),
        (
            "transformer.decoder.layers.0.norm4.weight",
            "no parameter of this library corresponds to transf",
        ),
        ("model.level_embed", "no parameter of this library corresponds to model"),
    ],
)
def test_an_unofficial_name_is_refused(name, message):
    state = {n: torch.zeros(()).expand(s) for n, s in official_shapes(4, False, False).items()}
    state[name] = torch.ones(K)
    with pytest.raises(ValueError, match=message):
        from_official(state)


def test_two_names_of_one_box_head_must_agree():
    state = {n: torch.zeros(()).expand(s) for n, s in official_shapes(4, True, False).items()}
    state["transformer.decoder.bbox_embed.2.layers.2.bias"] = torch.ones(4)
    with pytest.raises(ValueError, match="should be the same and differ"):
        from_official(state)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet101", "resnet152"])
def test_a_resnet_is_known_by_its_blocks(name):
    with torch.device("meta"):
        config = DeformableDETRConfig(backbone=name)
        assert deduce_config(DeformableDETR(config).state_dict()) == config


def test_what_shapes_do_not_show_can_be_given():
    config = DeformableDETRConfig(
        n_heads=4,
        n_points=6,
        dilation=True,
        dropout=0.3,
        n_queries=77,
        box_refine=True,
        two_stage=True,
        n_decoder_layers=1,
    )
    with torch.device("meta"):
        state = DeformableDETR(config).state_dict()
    known = dict(n_heads=4, dilation=True, dropout=0.3, n_queries=77, box_refine=True)
    assert deduce_config(state, **known) == config
    with pytest.raises(ValueError, match="cannot be divided among 5 heads"):
        deduce_config(state, **{**known, "n_heads": 5})
