"""Fine-tuning on other categories: a category keeps its output by name, whatever its label."""

import re

import pytest
import torch

from ddetr_edu.checkpoints.io import load, save
from ddetr_edu.checkpoints.official import coco_categories
from ddetr_edu.checkpoints.transfer import adopt_parameters
from ddetr_edu.detector import Detector
from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR
from ddetr_edu.training.config import TrainConfig
from ddetr_edu.training.loop import train
from ddetr_edu.training.prepare import build_detector

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
    adopt_parameters(fresh, NEW, source)
    old, new = source.model.state_dict(), fresh.state_dict()
    class_head = [name for name in new if ".class_head." in name]
    assert len(class_head) == 2 * 3  # weight and bias of two layers and of the first stage
    for name in class_head:
        if name.startswith("queries."):
            assert torch.equal(new[name][0], old[name][0])  # "object"
            assert torch.equal(new[name][1:], before[name][1:])
            continue
        assert torch.equal(new[name][0], old[name][1])  # dog
        assert torch.equal(new[name][2], old[name][0])  # cat
        assert torch.equal(new[name][1], before[name][1])  # comet
    assert before["decoder.heads.0.class_head.bias"][1].sigmoid() == pytest.approx(0.01)
    for name in new.keys() - set(class_head):
        assert torch.equal(new[name], old[name]), name


def test_where_the_encoder_tells_categories_apart_its_outputs_follow_their_names(build):
    options = dict(two_stage=True, tokens_as_content=True)
    source = build(**options)
    fresh = build(seed=1, categories=NEW, **options).model
    name = "queries.heads.class_head.weight"
    before = fresh.state_dict()[name].clone()
    adopt_parameters(fresh, NEW, source)
    old, new = source.model.state_dict()[name], fresh.state_dict()[name]
    assert torch.equal(new[[0, 2]], old[[1, 0]])  # dog, cat
    assert torch.equal(new[1], before[1])  # comet


def test_the_summary_names_kept_new_and_dropped_categories(source, fresh):
    summary = adopt_parameters(fresh, NEW, source)
    assert "kept     2: cat, dog\n" in summary
    assert "new      1: comet\n" in summary and summary.endswith("dropped  1: toothbrush")
    n_parameters = sum(v.numel() for n, v in fresh.state_dict().items() if ".class_head." not in n)
    assert float(re.search(r"copied +(\S+) million", summary)[1]) == round(n_parameters / 1e6, 2)


def test_names_that_occur_twice_are_not_matched():
    """COCO's 91 outputs have eleven that are called N/A; no category of that name has an output."""
    small = dict(
        backbone="tiny",
        d_model=32,
        n_heads=2,
        n_encoder_layers=0,
        n_decoder_layers=1,
        d_ffn=8,
        n_queries=3,
    )
    coco = Detector(DeformableDETR(DeformableDETRConfig(**small)), coco_categories(91))
    model = DeformableDETR(DeformableDETRConfig(**small, num_classes=2))
    before = model.decoder.heads[0].class_head.weight[0].clone()
    summary = adopt_parameters(model, {1: "N/A", 2: "toothbrush"}, coco)
    rows = model.decoder.heads[0].class_head.weight
    assert torch.equal(rows[0], before)
    assert torch.equal(rows[1], coco.model.decoder.heads[0].class_head.weight[90])
    assert "kept     1: toothbrush\n" in summary and "new      1: N/A\n" in summary
    assert "dropped  80: N/A, person, bicycle" in summary


def test_fine_tuning_starts_from_a_checkpoint(build, shapes_folder, tmp_path, capsys):
    save(tmp_path / "before.pt", build(categories={3: "star", 9: "owl"}, look_forward="twice"))
    config = TrainConfig(
        data=str(shapes_folder),
        start_from=tmp_path / "before.pt",
        out=tmp_path / "run",
        steps=1,
        batch_size=2,
        device="cpu",
        image_size=build().resize,
    )
    train(config)
    out = capsys.readouterr().out
    assert (
        "kept     1: star\n" in out and "dropped  1: owl\n" in out and "new      5: circle" in out
    )
    assert f"model    {tmp_path / 'before.pt'}: " in out
    after = load(tmp_path / "run" / "checkpoint.pt")
    assert after.model.config.num_classes == 6 and after.model.config.d_model == 64
    assert after.model.config.look_forward == "twice"  # the checkpoint's


def test_options_that_contradict_each_other_are_refused(build, tmp_path):
    with pytest.raises(ValueError, match="--start-from and --preset exclude each other"):
        TrainConfig(steps=1, preset="r50", start_from=tmp_path / "a.pt")
    with pytest.raises(ValueError, match="--start-from and --imagenet exclude each other"):
        TrainConfig(steps=1, imagenet=True, start_from=tmp_path / "a.pt")
    with pytest.raises(ValueError, match="no checkpoint at"):
        build_detector(TrainConfig(steps=1, start_from=tmp_path / "a.pt"), {1: "a"})


def test_a_detr_keeps_its_no_object():
    small = dict(
        backbone="tiny",
        d_model=32,
        n_heads=2,
        n_encoder_layers=0,
        n_decoder_layers=1,
        d_ffn=8,
        n_queries=3,
    )
    source = Detector(DETR(DETRConfig(**small, num_classes=2)), {1: "cat", 2: "dog"})
    model = DETR(DETRConfig(**small, num_classes=3))
    before = model.class_head.weight[1].clone()
    adopt_parameters(model, NEW, source)
    old, rows = source.model.class_head.weight, model.class_head.weight
    assert torch.equal(rows[[0, 2, 3]], old[[1, 0, 2]])  # dog, cat, no object
    assert torch.equal(rows[1], before)  # comet
