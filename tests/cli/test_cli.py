"""The command line: what it writes and prints, and that an error is one line."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from small import small_detector

import ddetr_edu
from ddetr_edu.checkpoints.io import load, save
from ddetr_edu.cli.main import main
from ddetr_edu.data.shapes import write_shapes_set
from ddetr_edu.detector import Detector
from ddetr_edu.models.config import DeformableDETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.training import loop

SMALL_IMAGES = ["--image-size.short-side", "64", "--image-size.long-side", "96"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set, a checkpoint of an untrained detector, and images: all that the commands need."""
    root = tmp_path_factory.mktemp("cli")
    write_shapes_set(root / "shapes", train=4, val=2, seed=1)
    detector = small_detector()
    save(root / "c.pt", detector)
    Image.effect_noise((97, 61), 90).save(root / "noise.png")
    (root / "text.png").write_text("no image")
    (root / "text.pt").write_text("no checkpoint")
    return root


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """run("eval --data {folder}/shapes") -> exit code, output, errors; in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(line):
        code = main([word.format(folder=folder) for word in line.split()])
        out, err = capsys.readouterr()
        return code, out, err

    return call


# What works -------------------------------------------------------------------------------------


def test_the_version_is_that_of_the_package(run):
    code, out, err = run("--version")
    assert (code, out, err) == (0, f"ddetr-edu {ddetr_edu.__version__}\n", "")


@pytest.mark.parametrize(
    "model", ["", "--preset tiny_two_stage --denoising 2 --look-forward twice "]
)
def test_train_then_eval_then_predict_then_inspect(run, tmp_path, model):
    code, out, _ = run(
        "train --data {folder}/shapes --steps 2 --batch-size 2 --device cpu "
        + model
        + " ".join(SMALL_IMAGES)
    )
    assert code == 0 and "done after 2 steps" in out and "Average Precision" in out
    left = {p.name for p in (tmp_path / "runs" / "train").iterdir()}
    assert left == {"checkpoint.pt", "best.pt", "metrics.jsonl", "config.json", "curves.png"}

    # finds the checkpoint by itself
    code, out, err = run("eval --data {folder}/shapes --per-category --workers 0")
    assert code == 0 and out.count("Average Precision") == 6 and "AP_L\n" in out
    assert "2 images: AP 0.0" in out and "Traceback" not in err

    code, out, err = run("predict {folder}/noise.png --threshold 0.0")
    assert code == 0 and "100 objects at or above 0" in out and len(out.splitlines()) == 102
    assert is_png(tmp_path / "runs/predict/noise.png") and err == ""

    code, out, err = run("inspect {folder}/noise.png --query 3")
    assert code == 0 and out.startswith("query 3, decoder layer 2:") and err == ""
    assert is_png(tmp_path / "runs/inspect/noise.png")


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


def test_predict_prints_what_the_detector_finds_and_writes_where_told(run, tmp_path):
    code, out, _ = run(
        "predict {folder}/noise.png --checkpoint {folder}/c.pt --threshold 0 --out new/a.png"
    )
    assert code == 0 and is_png(tmp_path / "new" / "a.png") and "wrote new/a.png" in out
    assert "42 objects" in out  # 7 queries of 6 classes
    rows = out.splitlines()[:42]
    scores = [float(row.split()[1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {row.split()[0] for row in rows} == {
        "circle",
        "square",
        "triangle",
        "star",
        "ring",
        "cross",
    }
    code, out, _ = run("predict {folder}/noise.png --checkpoint {folder}/c.pt")
    assert code == 0 and "0 objects at or above 0.5" in out


def test_predict_takes_several_images(run, folder, tmp_path):
    Image.open(folder / "noise.png").rotate(90, expand=True).save(tmp_path / "turned.png")
    line = f"predict {{folder}}/noise.png turned.png {WITH} --threshold 0 --top 3"
    code, out, _ = run(line)
    assert code == 0 and out.count("3 objects at or above 0") == 2 and "turned.png:\n" in out
    assert is_png(tmp_path / "runs/predict/noise.png")
    assert is_png(tmp_path / "runs/predict/turned.png")
    code, out, _ = run(f"{line} --out drawn")
    assert code == 0 and {p.name for p in (tmp_path / "drawn").iterdir()} == {
        "noise.png",
        "turned.png",
    }


@pytest.fixture(scope="module")
def resnet(folder):
    """A small detector with a ResNet, which others can hold as well."""
    torch.manual_seed(0)
    config = DeformableDETRConfig(
        num_classes=2,
        backbone="resnet18",
        d_model=32,
        n_heads=2,
        n_levels=1,
        n_encoder_layers=1,
        n_decoder_layers=2,
        d_ffn=16,
        n_queries=7,
    )
    detector = Detector(DeformableDETR(config), {2: "owl", 5: "star"}, ResizeConfig(64, 96))
    save(folder / "resnet.pt", detector)
    return detector


def test_convert_to_each_and_back_again(run, resnet, tmp_path):
    for source, to, out in [
        ("{folder}/resnet.pt", "official", "a.pth"),
        ("a.pth", "huggingface", "b"),
        ("b", "ours", "c.pt"),
    ]:
        code, said, _ = run(f"convert {source} --to {to} --out {out}")
        assert code == 0 and f"wrote {out}: DeformableDETR, resnet18, 7 queries, 2 classes" in said
    back = load(tmp_path / "c.pt")
    assert back.categories == resnet.categories and back.model.config == resnet.model.config
    state = back.model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in resnet.model.state_dict().items())
    code, out, _ = run("predict {folder}/noise.png --checkpoint b --threshold 0")
    assert code == 0 and "14 objects" in out and "owl" in out


def test_inspect_takes_the_best_query_any_layer_and_either_panel(run):
    line = "inspect {folder}/noise.png --checkpoint {folder}/c.pt"
    code, out, _ = run(f"{line} --layer 0 --by head")
    heading = out.splitlines()[0]
    assert code == 0 and heading.startswith("query ") and ", decoder layer 0: " in heading
    assert 0 < float(heading.split(", ")[-1]) < 1  # the score
    heads = [row for row in out.splitlines() if row.startswith("head")]
    assert len(heads) == 2 and all("8 points, 50% of the weight" in row for row in heads)
    code, out, _ = run(f"{line} --query 5 --layer -2")
    assert code == 0 and out.startswith("query 5, decoder layer 0")
    levels = [row for row in out.splitlines() if row.startswith("level")]
    assert len(levels) == 2 and all("8 points, 50% of the weight" in row for row in levels)


def test_eval_writes_a_report(run, tmp_path):
    line = f"eval {WITH} --data {{folder}}/shapes --workers 0 --report out --threshold 0"
    code, out, _ = run(line)
    assert code == 0 and "Average Precision" in out and " correct, " in out
    assert all(is_png(image) for image in (tmp_path / "out").glob("*.png"))
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert sum(numbers["counts"].values()) - numbers["counts"]["missed"] == 2 * 42


def test_eval_of_the_first_images_only(run):
    code, out, _ = run("eval --checkpoint {folder}/c.pt --data {folder}/shapes --first 1")
    assert code == 0 and "1 images:" in out


def test_data_shapes_then_data_validate(run, tmp_path):
    code, out, _ = run("data shapes --out mine --train 3 --val 1 --seed 5")
    assert code == 0 and "wrote 3 + 1 images" in out
    assert len(list((tmp_path / "mine" / "train").iterdir())) == 3
    code, out, _ = run("data validate mine")
    assert code == 0 and "train: 3 images" in out and "val: 1 images" in out
    assert "6 categories: no errors" in out
    code, out, err = run("data stats mine")
    assert code == 0 and "triangle" in out and err == ""
    assert is_png(tmp_path / "runs/stats/mine.png")


def test_data_validate_reports_every_error_and_ends_with_their_number(run, tmp_path):
    run("data shapes --out mine --train 3 --val 1 --seed 5")
    (tmp_path / "mine" / "train" / "000002.png").unlink()
    (tmp_path / "mine" / "val" / "000001.png").write_text("no image")
    code, out, err = run("data validate mine")
    assert code == 1 and out.count(": 1 error\n") == 2
    assert "000002.png, which does not exist" in out and "000001.png cannot be read" in out
    assert err.splitlines()[-1].endswith("mine has 2 errors; the report says where, and what to do")


def test_gallery_writes_a_page_and_its_images(run, tmp_path):
    code, out, err = run(f"gallery {{folder}}/noise.png {{folder}}/noise.png {WITH} --out docs/all")
    assert code == 0 and err == "" and out.splitlines()[-1] == "wrote docs/all.md"
    page = (tmp_path / "docs/all.md").read_text()
    images = sorted((tmp_path / "docs/all").iterdir())
    assert len(images) == 12 and all(is_png(p) for p in images)  # one stage has no proposals
    assert all(f"(all/{p.name})" in page for p in images) and "proposals" not in page
    assert "the model `c.pt` at work on noise.png" in page and str(tmp_path) not in page
    code, _, err = run(f"gallery nothing.png {WITH}")
    assert code == 1 and "there is no image at nothing.png" in err


def test_a_detr_trains_evaluates_and_predicts_but_has_no_points_to_inspect(run, tmp_path):
    code, out, _ = run(
        "train --data {folder}/shapes --preset detr_tiny --steps 2 --batch-size 2 --device cpu "
        + " ".join(SMALL_IMAGES)
    )
    assert code == 0 and "detr_tiny: 2.19 million" in out
    code, out, _ = run("eval --data {folder}/shapes")
    assert code == 0 and "2 images: AP" in out
    code, out, _ = run("predict {folder}/noise.png --threshold 0")
    assert code == 0 and "60 objects" in out  # one detection for each query
    code, _, err = run("inspect {folder}/noise.png")
    assert code == 1 and len(err.splitlines()) == 1 and "a DETR, which has no sampling" in err


def test_doctor(run):
    code, out, err = run("doctor")
    assert code == 0 and "attention" in out and "grid_sample" in out and err == ""


@pytest.mark.parametrize(
    "line, words",
    [
        (
            "--help",
            [
                "doctor",
                "train",
                "eval",
                "predict",
                "inspect",
                "gallery",
                "animate",
                "convert",
                "export",
            ],
        ),
        ("convert --help", ["--to", "official", "huggingface", "ours", "--out"]),
        ("data --help", ["shapes", "coco", "validate", "stats"]),
        ("train --help", ["--minutes", "--steps", "--optim.lr", "--overfit", "--resume"]),
        ("inspect --help", ["--query", "--layer", "--by", "number of the decoder query"]),
    ],
)
def test_help_names_what_there_is(capsys, line, words):
    with pytest.raises(SystemExit) as end:
        main(line.split())
    assert not end.value.code
    out = capsys.readouterr().out
    assert all(word in out for word in words)


# What does not ----------------------------------------------------------------------------------

WITH = "--checkpoint {folder}/c.pt"


@pytest.mark.parametrize(
    "line, message",
    [
        ("", "doctor, train, eval, predict, inspect, gallery, animate, convert, export"),
        ("data", "shapes, coco, convert, split, validate, stats"),
        ("fly", "fly"),
        ("data fly", "fly"),
        ("doctor --loud", "--loud"),
        ("train --nope 3", "--nope"),
        ("train --steps many", "--steps"),
        ("train", "give --minutes or --steps"),
        ("train --minutes 1 --steps 2", "only one of them"),
        ("train --epochs 1", "generated scenes are endless"),
        ("train --steps 1 --precision int8", "--precision"),
        ("train --steps 0", "--steps is 0"),
        ("train --steps 1 --data nowhere", "nowhere is not a COCO data set"),
        ("train --steps 1 --data {folder}/shapes --preset r51", "tiny, .* detr_r50"),
        ("train --steps 1 --data {folder}/shapes --device abacus", 'device "abacus"'),
        (
            "train --steps 1 --data {folder}/shapes --imagenet",
            "--imagenet needs a backbone with pretrained",
        ),
        ("train --steps 1 --start-from gone.pt", "there is no checkpoint at gone.pt"),
        ("train --steps 1 --start-from {folder}/c.pt --preset r50", "exclude each other"),
        ("train --steps 1 --augmentation official", "--augmentation has no effect here"),
        ("train --steps 1 --data {folder}/shapes --overfit 2 --augmentation light", "no effect"),
        ("train --steps 1 --data {folder}/shapes --preset r50 --look-forward twice", "r50_refine"),
        ("train --minutes inf", "--minutes is inf"),
        ("train --steps 1 --data {folder}/shapes --overfit 9", "first 9 cannot be taken"),
        ("train --steps 1 --data {folder}/shapes --image-size.short-side 0", "short_side"),
        ("train --steps 1 --data {folder}/shapes --out {folder}/text.pt", "text.pt"),
        ("eval", "there is no checkpoint at runs/train/checkpoint.pt"),
        ("eval --checkpoint {folder}/text.pt", "text.pt is not a checkpoint"),
        ("eval --checkpoint {folder}/noise.png", "noise.png is not a checkpoint"),
        (f"eval {WITH} --data nowhere", "nowhere is not a COCO data set"),
        (f"eval {WITH} --data {{folder}}/shapes --split test", "no split 'test'"),
        (f"eval {WITH} --data {{folder}}/shapes --batch-size 0", "batch_size is 0"),
        (f"eval {WITH} --data {{folder}}/shapes --batch-size -1", "batch_size is -1"),
        (f"eval {WITH} --data {{folder}}/shapes --report {{folder}}/text.png", "text.png"),
        (f"eval {WITH} --data {{folder}}/shapes --first 0", "first 0 cannot be taken"),
        ("predict", "predict takes the path of an image"),
        (f"predict {{folder}}/noise.png noise.png {WITH}", "have the same name"),
        (f"predict {{folder}}/noise.png {WITH} --top 0", "top_k is 0"),
        ("convert {folder}/c.pt --to onnx --out a", "--to"),
        ("convert {folder}/c.pt --out a", "--to"),
        ("convert {folder}/c.pt --to official --out a.pth", "tiny backbone exists in this library"),
        ("convert {folder}/c.pt --to huggingface --out a", "tiny backbone exists in this library"),
        ("convert {folder}/c.pt --to ours --out {folder}/text.pt", "text.pt exists already"),
        ("convert {folder}/text.pt --to ours --out a.pt", "text.pt is not a checkpoint"),
        ("export gone.pt --out a.onnx", "there is no checkpoint at gone.pt"),
        ("export {folder}/c.pt", "--out"),
        ("convert gone.pt --to ours --out a.pt", "there is no checkpoint at gone.pt"),
        ("convert {folder}/shapes --to ours --out a.pt", "there is no checkpoint at"),
        (f"predict nothing.png {WITH}", "there is no image at nothing.png"),
        (f"predict {{folder}}/text.png {WITH}", "text.png cannot be read as an image"),
        (f"predict {{folder}}/noise.png {WITH} --out a.xyz", "xyz"),
        (f"predict {{folder}}/noise.png {WITH} --out {{folder}}/text.png/a.png", "text.png"),
        ("predict {folder}/noise.png --checkpoint gone.pt", "there is no checkpoint at gone.pt"),
        (f"inspect {{folder}}/noise.png {WITH} --query 7", "--query 7 does not exist; .* 0 to 6"),
        (f"inspect {{folder}}/noise.png {WITH} --query -1", "--query -1 does not exist"),
        (f"inspect {{folder}}/noise.png {WITH} --layer 2", "--layer 2 does not exist; .* 0 to 1"),
        (f"inspect {{folder}}/noise.png {WITH} --layer -3", "--layer -3 does not exist"),
        (f"inspect {{folder}}/noise.png {WITH} --by point", "--by"),
        ("data validate nowhere", "nowhere is not a COCO data set"),
        ("data stats nowhere", "nowhere is not a COCO data set"),
        ("data coco --images 0", "--images is 0"),
        ("data coco --choose best", "--choose"),
        ("data shapes --out {folder}/shapes", "shapes"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(run, line, message):
    code, _, err = run(line)
    assert code == 1
    assert len(err.splitlines()) == 1 and err.startswith("ddetr")
    assert not [part for part in ("Traceback", "Error:", "╭", "│") if part in err]
    for part in message.split(" .* "):
        assert part in err


def test_a_set_without_images_is_one_line(run, tmp_path):
    (tmp_path / "empty" / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / "empty" / split).mkdir()
        (tmp_path / "empty" / "annotations" / f"instances_{split}.json").write_text(
            json.dumps({"images": [], "annotations": [], "categories": []})
        )
    for line in ("train --steps 1 --data empty --device cpu", f"eval {WITH} --data empty"):
        code, _, err = run(line)
        assert code == 1 and len(err.splitlines()) == 1 and "has no image" in err


def test_other_categories_are_one_line(run, tmp_path):
    run("data shapes --out mine --train 1 --val 1")
    file = tmp_path / "mine" / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"star"', '"comet"'))
    code, _, err = run(f"eval {WITH} --data mine")
    assert code == 1 and len(err.splitlines()) == 1 and "(comet)" in err


def test_ctrl_c_is_one_line_too(run, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddetr_edu.evaluation.coco_metrics.evaluate", interrupted)
    code, _, err = run(f"eval {WITH} --data {{folder}}/shapes")
    assert code == 130 and err == "ddetr: interrupted\n"


def test_a_training_that_was_stopped_says_how_to_resume(run, monkeypatch):
    real = loop.train_step

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        return real(*args)

    line = "train --data {folder}/shapes --steps 2 --batch-size 2 --device cpu " + " ".join(
        SMALL_IMAGES
    )
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted)
        code, _, err = run(line)
    assert code == 130
    last = err.splitlines()[-1]
    assert last.startswith("ddetr: stopped after 1 steps") and "--resume" in last
    code, out, _ = run(f"{line} --resume")
    assert code == 0 and "after step 1" in out and "done after 2 steps" in out


def test_a_full_disk_is_one_line(run, monkeypatch):
    def full(content, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    code, _, err = run(
        "train --data {folder}/shapes --steps 1 --batch-size 2 --device cpu --workers 0"
    )
    last = err.splitlines()[-1]
    assert code == 1 and last.startswith("ddetr: ") and "checkpoint.pt could not be written" in last
    assert "No space left" in last


# As a program -----------------------------------------------------------------------------------


def program(arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "ddetr_edu", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_python_m_does_the_same(folder, tmp_path):
    done = program(["data", "validate", str(folder / "shapes")], tmp_path)
    assert done.returncode == 0 and "no errors" in done.stdout


def test_a_diverging_run_ends_in_one_line_of_its_own(folder, tmp_path):
    done = program(
        [
            "train",
            "--data",
            str(folder / "shapes"),
            "--steps",
            "20",
            "--batch-size",
            "2",
            "--device",
            "cpu",
            "--optim.lr",
            "1e30",
            *SMALL_IMAGES,
        ],
        tmp_path,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]  # not at the end of the progress bar
    assert last.startswith("ddetr: at step 2 the loss is nan")
