"""DETR's parameters under the official repository's and Hugging Face's names."""

import pytest
import torch

from ddetr_edu.checkpoints.detr_names import (
    from_huggingface,
    from_official,
    to_huggingface,
    to_official,
)
from ddetr_edu.models.config import DETRConfig
from ddetr_edu.models.detr import DETR


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the official detr-r50, without its backbone."""
    c, ffn = 256, 2048
    shapes = {
        "query_embed.weight": (100, c),
        "class_embed.weight": (92, c),
        "class_embed.bias": (92,),
        "input_proj.weight": (c, 2048, 1, 1),
        "input_proj.bias": (c,),
    }
    for n, out in enumerate((c, c, 4)):
        shapes |= {f"bbox_embed.layers.{n}.weight": (out, c), f"bbox_embed.layers.{n}.bias": (out,)}
    for part, attentions in (
        ("encoder", ["self_attn"]),
        ("decoder", ["self_attn", "multihead_attn"]),
    ):
        for layer in range(6):
            at = f"transformer.{part}.layers.{layer}."
            for attention in attentions:
                shapes |= {
                    f"{at}{attention}.in_proj_weight": (3 * c, c),
                    f"{at}{attention}.in_proj_bias": (3 * c,),
                    f"{at}{attention}.out_proj.weight": (c, c),
                    f"{at}{attention}.out_proj.bias": (c,),
                }
            shapes |= {
                f"{at}linear1.weight": (ffn, c),
                f"{at}linear1.bias": (ffn,),
                f"{at}linear2.weight": (c, ffn),
                f"{at}linear2.bias": (c,),
            }
            for n in range(1, len(attentions) + 2):
                shapes |= {f"{at}norm{n}.weight": (c,), f"{at}norm{n}.bias": (c,)}
    return shapes | {"transformer.decoder.norm.weight": (c,), "transformer.decoder.norm.bias": (c,)}


@pytest.fixture(scope="module")
def model():
    with torch.device("meta"):
        return DETR(DETRConfig.preset("detr_r50"))


def test_an_official_state_dict_loads_strictly_and_saves_back_the_same(model):
    with torch.device("meta"):
        official = {key: torch.empty(shape) for key, shape in official_shapes().items()}
    backbone = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    assert len(backbone) == 265
    official |= {k.replace("backbone.", "backbone.0.", 1): v for k, v in backbone.items()}
    ours = from_official(official)
    model.load_state_dict(ours, assign=True)
    back = to_official(model.state_dict())
    assert set(back) == set(official)
    assert all(back[key].shape == official[key].shape for key in official)
    assert all(from_official(back)[key].shape == value.shape for key, value in ours.items())


def test_no_two_parameters_are_confused(model):
    numbered = {key: torch.tensor(n) for n, key in enumerate(model.state_dict())}
    assert from_official(to_official(numbered)) == numbered


def test_each_norm_keeps_its_position():
    """Self-attention, cross-attention, feed-forward: in this order, unlike Deformable DETR's."""
    keys = [f"transformer.decoder.layers.4.norm{n}.bias" for n in (1, 2, 3)]
    expected = [f"decoder.4.{name}_norm.bias" for name in ("self_attn", "cross_attn", "ffn")]
    assert list(from_official(dict.fromkeys(keys, torch.zeros(1)))) == expected


def small_state():
    torch.manual_seed(0)
    sizes = dict(d_model=12, n_heads=3, n_encoder_layers=1, n_decoder_layers=2, d_ffn=7)
    return DETR(DETRConfig(num_classes=5, backbone="resnet18", **sizes)).state_dict()


def test_projections_are_split_for_hugging_face_and_joined_again():
    ours = small_state()
    theirs = to_huggingface(ours)
    query, key, value = ours["decoder.1.cross_attn.in_proj_weight"].split(12)
    at = "model.decoder.layers.1.encoder_attn."
    assert torch.equal(theirs[f"{at}q_proj.weight"], query)
    assert torch.equal(theirs[f"{at}k_proj.weight"], key)
    assert torch.equal(theirs[f"{at}v_proj.weight"], value)
    back = from_huggingface(theirs)
    assert set(back) == set(ours)
    assert all(torch.equal(back[name], ours[name]) for name in ours)


def test_names_that_transformers_5_uses_in_memory_are_understood():
    theirs = to_huggingface(small_state())
    newer = {
        key.replace("conv_encoder.", "").replace("out_proj", "o_proj").replace(".fc", ".mlp.fc"): v
        for key, v in theirs.items()
    }
    assert set(newer) != set(theirs)
    assert set(from_huggingface(newer)) == set(from_huggingface(theirs))


def test_an_unofficial_name_is_refused():
    with pytest.raises(ValueError, match="no parameter of this library corresponds to mask_head"):
        from_official({"mask_head.lay1.weight": torch.zeros(1)})
