"""Official files and Hugging Face folders: recognised, told apart, never executed."""

import argparse
import json
import os
import pickle

import pytest
import safetensors.torch
import torch

from ddetr_edu.checkpoints.deformable_detr_names import to_official
from ddetr_edu.checkpoints.huggingface import resize_config, save_huggingface
from ddetr_edu.checkpoints.io import load, save
from ddetr_edu.checkpoints.official import coco_categories, save_official
from ddetr_edu.checkpoints.safe_load import CheckpointError
from ddetr_edu.detector import Detector
from ddetr_edu.models.config import DeformableDETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR

SMALL = dict(
    backbone="resnet18",
    d_model=64,
    n_heads=2,
    n_levels=3,
    n_points=3,
    n_encoder_layers=1,
    n_decoder_layers=2,
    d_ffn=37,
    dropout=0.2,
    n_queries=19,
)
FLAVOURS = {
    "plain": {},
    "refine": dict(box_refine=True),
    "two-stage": dict(box_refine=True, two_stage=True),
}


def build(categories, **changes):
    torch.manual_seed(1)
    config = DeformableDETRConfig(**{**SMALL, "num_classes": len(categories), **changes})
    return Detector(DeformableDETR(config), categories, ResizeConfig(64, 96)).eval()


@pytest.fixture(scope="module", params=FLAVOURS)
def detector(request):
    return build({3: "cat", 7: "dog", 90: "toothbrush"}, **FLAVOURS[request.param])


@pytest.fixture(scope="module")
def plain():
    return build({3: "cat", 7: "dog", 90: "toothbrush"})


def assert_same(found, expected):
    assert found.model.config == expected.model.config
    assert found.categories == expected.categories and found.resize == expected.resize
    state = expected.model.state_dict()
    assert found.model.state_dict().keys() == state.keys()
    for name, values in found.model.state_dict().items():
        assert torch.equal(values, state[name]), name


# Round trips ------------------------------------------------------------------------------------


def test_ours_to_official_to_hugging_face_to_ours(detector, tmp_path):
    save(tmp_path / "a.pt", detector)
    save_official(tmp_path / "b.pth", load(tmp_path / "a.pt"))
    save_huggingface(tmp_path / "c", load(tmp_path / "b.pth"))
    found = load(tmp_path / "c")
    assert not found.training
    assert_same(found, detector)


def test_the_older_pytorch_model_bin_is_read_as_well(detector, tmp_path):
    save_huggingface(tmp_path, detector)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_same(load(tmp_path), detector)


def test_a_real_official_file(tmp_path):
    """With the optimiser's state and all arguments of a run, but without categories."""
    detector = build(coco_categories(91), n_points=4)
    content = {
        "model": to_official(detector.model.state_dict(), detector.model.config),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 2e-4}]},
        "lr_scheduler": {"last_epoch": 49, "base_lrs": [2e-4]},
        "epoch": 49,
        "args": argparse.Namespace(
            lr=2e-4,
            lr_backbone_names=["backbone.0"],
            nheads=2,
            dropout=0.2,
            num_queries=19,
            dilation=False,
            with_box_refine=False,
            two_stage=False,
            dataset_file="coco",
        ),
    }
    torch.save(content, tmp_path / "r50.pth")
    found = load(tmp_path / "r50.pth")
    assert found.resize == ResizeConfig(800, 1333)  # the official default; the file does not say
    found.resize = detector.resize
    assert_same(found, detector)


def test_a_state_dict_alone_is_taken_with_the_official_defaults(tmp_path):
    detector = build(["a", "b"], n_heads=8, dropout=0.1)
    config = detector.model.config
    torch.save(to_official(detector.model.state_dict(), config), tmp_path / "bare.pth")
    found = load(tmp_path / "bare.pth")
    assert found.model.config == config
    assert found.categories == {0: "class 0", 1: "class 1"}


def test_class_outputs_of_the_official_models_are_cocos_ids():
    names = coco_categories(91)
    assert len(names) == 91
    assert (names[1], names[17], names[18], names[75], names[90]) == (
        "person",
        "cat",
        "dog",
        "remote",
        "toothbrush",
    )
    assert sum(name == "N/A" for name in names.values()) == 91 - 80
    assert names[0] == names[12] == "N/A"


def test_the_image_size_is_read_in_its_older_and_newer_form():
    for settings, size in [
        ({"size": {"shortest_edge": 480, "longest_edge": 800}}, (480, 800)),
        ({"size": 600, "max_size": 1000}, (600, 1000)),
        ({}, (800, 1333)),
    ]:
        assert resize_config(settings) == ResizeConfig(*size)


# What cannot be converted -----------------------------------------------------------------------


@pytest.mark.parametrize("write", [save_official, save_huggingface])
@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(backbone="tiny"), "tiny backbone exists in this"),
        (dict(n_levels=2), "n_levels=2"),
        (dict(box_refine=True, two_stage=True, tokens_as_content=True), "tokens_as_content=True"),
    ],
)
def test_a_model_that_only_this_library_has_is_refused(tmp_path, write, changes, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "x", build(["a"], **changes))
    assert not (tmp_path / "x").exists()


# Files that are no checkpoint -------------------------------------------------------------------


class Trap:
    """Creates a folder when it is unpickled without safety."""

    def __init__(self, victim):
        self.victim = str(victim)

    def __reduce__(self):
        return os.mkdir, (self.victim,)


@pytest.mark.parametrize("where", ["args", "scheduler", "parameters", "hugging face"])
def test_code_in_a_file_is_not_executed(plain, tmp_path, where):
    victim, path = tmp_path / "executed", tmp_path / "r50.pth"
    state = to_official(plain.model.state_dict(), plain.model.config)
    trap, args = Trap(victim), argparse.Namespace(nheads=2)
    if where == "args":
        args.nheads = trap
    content = {"model": state, "args": args}
    if where == "scheduler":
        content["lr_scheduler"] = trap
    elif where == "parameters":
        content["model"]["transformer.level_embed"] = trap
    elif where == "hugging face":
        save_huggingface(tmp_path, plain)
        (tmp_path / "model.safetensors").unlink()
        content, path = {"a": trap}, tmp_path / "pytorch_model.bin"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"{path.name} is not a checkpoint that can be read"):
        load(tmp_path if where == "hugging face" else path)
    assert not victim.exists()
    torch.load(path, weights_only=False)
    assert victim.exists()  # the trap works


def test_no_other_class_is_let_in(tmp_path):
    torch.save({"model": {}, "args": argparse.ArgumentParser}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a.pth is not a checkpoint that can be read safely"):
        load(tmp_path / "a.pth")


def write(name, content):
    def damage(folder):
        (folder / name).unlink(missing_ok=True)  # it is a link to the intact file
        (folder / name).write_bytes(content)

    return damage


def damage_settings(**changes):
    def damage(folder):
        settings = json.loads((folder / "config.json").read_text())
        write("config.json", json.dumps({**settings, **changes}).encode())(folder)

    return damage


def cut(name, share):
    def damage(folder):
        content = (folder / name).read_bytes()
        write(name, content[: int(share * len(content))])(folder)

    return damage


def parameters(**state):
    return write("model.safetensors", safetensors.torch.save(state))


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("huggingface")
    save_huggingface(folder, plain)
    return folder


@pytest.mark.parametrize(
    "damage, message",
    [
        (damage_settings(model_type="yolos"), "config.json describes no deformable_detr or"),
        (damage_settings(position_embedding_type="learned"), "position_embedding_type is learned"),
        (damage_settings(encoder_attention_heads=5), "cannot be divided among 5 heads"),
        (damage_settings(encoder_attention_heads=0), "does not fit"),
        (damage_settings(encoder_attention_heads="two"), "does not fit"),
        (damage_settings(id2label=[1]), "does not fit"),
        (damage_settings(category_ids=[1]), "does not fit"),
        (write("config.json", b"{"), "config.json cannot be read as JSON"),
        (write("config.json", b"[]"), "config.json holds no settings"),
        (write("config.json", b"\xff\xfe"), "config.json cannot be read as JSON"),
        (write("preprocessor_config.json", b"{"), "or_config.json cannot be read as JSON"),
        (cut("model.safetensors", 0.5), "model.safetensors cannot be read"),
        (cut("model.safetensors", 0), "model.safetensors cannot be read"),
        (write("model.safetensors", pickle.dumps({})), "model.safetensors cannot be read"),
        (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors nor pytorch_mod"),
        (lambda f: (f / "config.json").unlink(), "there is no checkpoint at .*ddetr train"),
        (parameters(), "does not fit"),
        (
            parameters(embedder=torch.zeros(3)),
            "no parameter of this library corresponds to embedder",
        ),
    ],
)
def test_a_damaged_folder_is_one_sentence(folder, tmp_path, damage, message):
    for file in folder.iterdir():
        os.link(file, tmp_path / file.name)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message) as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c["model"].pop("query_embed.weight"),
        lambda c: c["model"].update({"transformer.level_embed": torch.zeros(3)}),
        lambda c: c["model"].update({"transformer.level_embed": "zeros"}),
        lambda c: c["model"].update({"backbone.0.body.layer2.0.conv1.weight": torch.zeros(3)}),
        lambda c: c["model"].update({3: torch.zeros(3)}),
        lambda c: c.update(args=argparse.Namespace(nheads="many")),
        lambda c: c.update(args=7),
        lambda c: c.update(categories={1: "a"}),
    ],
)
def test_a_damaged_official_file_is_one_sentence(plain, tmp_path, damage):
    state = to_official(plain.model.state_dict(), plain.model.config)
    content = {"model": state, "args": argparse.Namespace(nheads=2)}
    damage(content)
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a.pth does not fit") as refused:
        load(tmp_path / "a.pth")
    assert "\n" not in str(refused.value)
