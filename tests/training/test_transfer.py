"""Fine-tuning on other categories: what has the same name keeps its output, wherever it was."""

import re

import pytest
import torch

from ddetr_edu.detector import DETR, DeformableDETR, DeformableDETRConfig, DETRConfig
from ddetr_edu.training import Detector, TrainConfig, load, save, train
from ddetr_edu.training.official import coco_categories
from ddetr_edu.training.prepare import build_detector
from ddetr_edu.training.transfer import adopt_weights

NEW = {5: "dog", 6: "comet", 8: "cat"}  # in another order and with other ids


@pytest.fixture
def source(build):
    detector = build(two_stage=True)
    with torch.no_grad():
        for parameter in detector.model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return detector


@pytest.fixture
def fresh(build):
    return build(seed=1, categories=NEW, two_stage=True).model


def test_outputs_follow_their_names(source, fresh):
    before = {name: values.clone() for name, values in fresh.state_dict().items()}
    adopt_weights(fresh, NEW, source)
    old, new = source.model.state_dict(), fresh.state_dict()
    classify = [name for name in new if ".classify." in name]
    assert len(classify) == 2 * 3  # weight and bias of two layers and of the first stage
    for name in classify:
        if name.startswith("queries."):
            assert torch.equal(new[name][0], old[name][0])  # "object"
            assert torch.equal(new[name][1:], before[name][1:])
            continue
        assert torch.equal(new[name][0], old[name][1])  # dog
        assert torch.equal(new[name][2], old[name][0])  # cat
        assert torch.equal(new[name][1], before[name][1])  # comet
    assert before["decoder.heads.0.classify.bias"][1].sigmoid() == pytest.approx(0.01)
    for name in new.keys() - set(classify):
        assert torch.equal(new[name], old[name]), name


def test_the_account_names_what_was_kept_what_is_new_and_what_was_left(source, fresh):
    account = adopt_weights(fresh, NEW, source)
    assert "kept   2: cat, dog\n" in account
    assert "new    1: comet\n" in account and account.endswith("left   1: toothbrush")
    weights = sum(v.numel() for n, v in fresh.state_dict().items() if ".classify." not in n)
    assert float(re.search(r"taken +(\S+) million", account)[1]) == round(weights / 1e6, 2)


def test_names_that_occur_twice_are_nobodys():
    """COCO's 91 outputs have eleven that are called N/A; no category of that name has an output."""
    small = dict(backbone="tiny", d_model=32, n_heads=2, n_encoder_layers=0, n_decoder_layers=1,
                 d_ffn=8, n_queries=3)  # fmt: skip
    coco = Detector(DeformableDETR(DeformableDETRConfig(**small)), coco_categories(91))
    model = DeformableDETR(DeformableDETRConfig(**small, num_classes=2))
    before = model.decoder.heads[0].classify.weight[0].clone()
    account = adopt_weights(model, {1: "N/A", 2: "toothbrush"}, coco)
    rows = model.decoder.heads[0].classify.weight
    assert torch.equal(rows[0], before)
    assert torch.equal(rows[1], coco.model.decoder.heads[0].classify.weight[90])
    assert "kept   1: toothbrush\n" in account and "new    1: N/A\n" in account
    assert "left   80: N/A, person, bicycle" in account


def test_training_goes_on_from_a_checkpoint(build, shapes_folder, tmp_path, capsys):
    save(tmp_path / "before.pt", build(categories={3: "star", 9: "owl"}, look_forward="twice"))
    config = TrainConfig(
        data=str(shapes_folder), start_from=tmp_path / "before.pt", out=tmp_path / "run", steps=1,
        batch=2, device="cpu", size=build().size,
    )  # fmt: skip
    train(config)
    out = capsys.readouterr().out
    assert "kept   1: star\n" in out and "left   1: owl\n" in out and "new    5: circle" in out
    assert f"model    {tmp_path / 'before.pt'}, " in out
    after = load(tmp_path / "run" / "checkpoint.pt")
    assert after.model.config.num_classes == 6 and after.model.config.d_model == 64
    assert after.model.config.look_forward == "twice"  # the checkpoint's


def test_what_does_not_go_together_is_said(build, tmp_path):
    with pytest.raises(ValueError, match="--start-from and --preset do not go together"):
        TrainConfig(steps=1, preset="r50", start_from=tmp_path / "a.pt")
    with pytest.raises(ValueError, match="--start-from and --imagenet do not go together"):
        TrainConfig(steps=1, imagenet=True, start_from=tmp_path / "a.pt")
    with pytest.raises(ValueError, match="no checkpoint at"):
        build_detector(TrainConfig(steps=1, start_from=tmp_path / "a.pt"), {1: "a"})


def test_a_detr_keeps_its_no_object():
    small = dict(backbone="tiny", d_model=32, n_heads=2, n_encoder_layers=0, n_decoder_layers=1,
                 d_ffn=8, n_queries=3)  # fmt: skip
    source = Detector(DETR(DETRConfig(**small, num_classes=2)), {1: "cat", 2: "dog"})
    model = DETR(DETRConfig(**small, num_classes=3))
    before = model.classify.weight[1].clone()
    adopt_weights(model, NEW, source)
    old, rows = source.model.classify.weight, model.classify.weight
    assert torch.equal(rows[[0, 2, 3]], old[[1, 0, 2]])  # dog, cat, no object
    assert torch.equal(rows[1], before)  # comet
