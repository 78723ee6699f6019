"""One image under every checkpoint of a run."""

import json

import numpy as np
import PIL.Image
import pytest
import torch

import ddetr_edu as dd
from ddetr_edu.analysis.animation import checkpoints, precision_by_step
from ddetr_edu.checkpoints.io import save
from ddetr_edu.checkpoints.safe_load import CheckpointError
from ddetr_edu.cli.main import main
from ddetr_edu.models.config import ResizeConfig


def detector(seed: int) -> dd.Detector:
    torch.manual_seed(seed)
    config = dd.DeformableDETRConfig.preset(
        "tiny",
        num_classes=2,
        d_model=32,
        n_heads=2,
        n_levels=2,
        n_encoder_layers=1,
        n_decoder_layers=2,
        d_ffn=11,
        n_queries=7,
    )
    return dd.Detector(dd.DeformableDETR(config), ["cat", "dog"], ResizeConfig(64, 96)).eval()


@pytest.fixture
def run(tmp_path):
    """A run of three checkpoints, the newest of which is there under two names."""
    folder = tmp_path / "run"
    names = {
        "checkpoint-0000100.pt": 100,
        "checkpoint-0000020.pt": 20,
        "checkpoint.pt": 300,
        "checkpoint-0000300.pt": 300,
    }
    for name, step in names.items():
        save(folder / name, detector(step), step=step)
    save(folder / "best.pt", detector(1), step=7)
    lines = [{"step": 100, "loss": 1.0}, {"step": 100, "AP": 0.25}, {"step": 300, "AP": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    PIL.Image.effect_noise((43, 31), 90).convert("RGB").save(tmp_path / "noise.png")
    return folder


def test_checkpoints_are_sorted_by_step(run):
    assert [step for _, step in checkpoints(run)] == [20, 100, 300]


def test_each_frame_is_what_its_checkpoint_predicts(run):
    image = run.parent / "noise.png"
    animation, frames = dd.animate_training(run, image, threshold=0.0)
    assert [(f["step"], f["AP"]) for f in frames] == [(20, None), (100, 0.25), (300, 0.5)]
    assert len(animation.images) == 3
    for frame in frames:
        of_step = detector(frame["step"])
        with dd.capture(of_step.model.decoder) as records:
            of_step.predict(image)
        assert any(
            np.array_equal(weights, frame["weights"]) for weights in records[-1].weights[0].numpy()
        )
        assert len(frame["boxes"]) == len(frame["texts"]) == 7
        scores = [float(text.split()[1]) for text in frame["texts"]]
        assert scores == sorted(scores, reverse=True)
    assert frames[-1]["box"].tolist() == frames[-1]["boxes"][0].tolist()  # the best of the newest


def test_the_command_writes_the_animation(run, capsys):
    out = run.parent / "animations" / "a.gif"
    assert main(["animate", str(run), str(run.parent / "noise.png"), "--out", str(out)]) == 0
    assert "3 checkpoints, steps 20, 100, 300" in capsys.readouterr().out
    with PIL.Image.open(out) as animation:
        assert animation.n_frames == 3


def test_a_folder_that_is_not_a_run_ends_in_one_line(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["animate", str(tmp_path / "empty"), str(tmp_path / "noise.png")]) == 1
    assert "holds no checkpoint*.pt" in capsys.readouterr().err
    torch.save({"model": {}}, run / "checkpoint-0000007.pt")
    with pytest.raises(CheckpointError, match="does not hold its step"):
        checkpoints(run)


def test_an_ap_of_minus_1_is_no_ap(tmp_path):
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "AP": -1.0}, {"step": 3, "AP": 0.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert precision_by_step(tmp_path) == {3: 0.0}
