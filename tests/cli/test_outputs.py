"""Where predict and inspect write, and what commands do with a model or a number that is wrong."""

import io
import json
import math
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from small import NAMES, small_detector

from ddetr_edu.checkpoints.io import load, save
from ddetr_edu.cli.common import output_path
from ddetr_edu.cli.main import main
from ddetr_edu.data.shapes import held_out_scenes, write_shapes_set
from ddetr_edu.detector import Detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set, an image, and checkpoints: a sound one, one with a NaN, one of other names."""
    root = tmp_path_factory.mktemp("outputs")
    write_shapes_set(root / "shapes", train=2, val=2, seed=1)
    detector = small_detector()
    save(root / "c.pt", detector)
    swapped = dict(enumerate([NAMES[1], NAMES[0], *NAMES[2:]], start=1))
    save(root / "swapped.pt", Detector(detector.model, swapped, detector.resize))
    chinese = {**detector.categories, 1: "猫"}
    save(root / "chinese.pt", Detector(detector.model, chinese, detector.resize))
    with torch.no_grad():
        detector.model.decoder.layers[0].ffn.linear1.weight[0, 0] = math.nan
    save(root / "nan.pt", detector)
    Image.effect_noise((97, 61), 90).save(root / "noise.png")
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


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


WITH = "--checkpoint {folder}/c.pt"


@pytest.mark.parametrize("command", ["predict", "inspect"])
@pytest.mark.parametrize("out", ["old", "old/", "new", "new/deep", "v1.2"])
def test_a_folder_is_written_into_and_nothing_beside_it(run, tmp_path, command, out):
    (tmp_path / "old").mkdir()
    (tmp_path / "v1.2").mkdir()
    code, text, err = run(f"{command} {{folder}}/noise.png {WITH} --out {out}")
    assert (code, err) == (0, "")
    path = f"{out.rstrip('/')}/noise.png"
    assert files(tmp_path) == [path] and f"wrote {path}" in text


@pytest.mark.parametrize("command", ["predict", "inspect"])
@pytest.mark.parametrize("option", ["", " --out drawn"])
def test_three_runs_leave_three_files(run, tmp_path, command, option):
    for _ in range(3):
        code, text, _ = run(f"{command} {{folder}}/noise.png {WITH}{option}")
        assert code == 0
    folder = tmp_path / ("drawn" if option else f"runs/{command}")
    assert files(folder) == ["noise-2.png", "noise-3.png", "noise.png"]
    assert "noise-3.png" in text


def test_a_page_may_go_into_a_folder_as_well(run, tmp_path):
    (tmp_path / "pages").mkdir()
    for _ in range(2):
        code, text, _ = run(f"inspect {{folder}}/noise.png {WITH} --out a.png --html pages")
        assert code == 0
    assert files(tmp_path) == ["a.png", "pages/noise-2.html", "pages/noise.html"]


def test_the_image_itself_is_never_written_over(run, folder, tmp_path):
    (tmp_path / "noise.png").write_bytes((folder / "noise.png").read_bytes())
    before = (tmp_path / "noise.png").read_bytes()
    for command in ("predict", "inspect"):
        code, _, err = run(f"{command} noise.png {WITH} --out ./noise.png")
        assert code == 1 and "is the image itself" in err
        code, _, err = run(f"{command} noise.png {WITH} --out .")
        assert code == 0
    assert (tmp_path / "noise.png").read_bytes() == before
    assert files(tmp_path) == ["noise-2.png", "noise-3.png", "noise.png"]


def test_several_images_need_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"--out a\.png is the name of one file"):
        output_path(Path("a.png"), tmp_path, tmp_path / "b.png", several=True)


@pytest.mark.parametrize("threshold", ["2", "nan", "-1", "inf"])
@pytest.mark.parametrize(
    "command",
    [
        "predict {folder}/noise.png --checkpoint {folder}/c.pt",
        "eval --data {folder}/shapes --checkpoint {folder}/c.pt --report r",
        "gallery {folder}/noise.png --checkpoint {folder}/c.pt --out g",
        "animate {folder} {folder}/noise.png",
    ],
)
def test_a_threshold_that_no_score_can_have_is_refused(run, tmp_path, command, threshold):
    code, _, err = run(f"{command} --threshold {threshold}")
    assert code == 1 and "the threshold is" in err and len(err.splitlines()) == 1
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "command",
    [
        "predict {folder}/noise.png --checkpoint {folder}/nan.pt",
        "inspect {folder}/noise.png --checkpoint {folder}/nan.pt",
        "inspect {folder}/noise.png --checkpoint {folder}/nan.pt --html a.html",
        "gallery {folder}/noise.png --checkpoint {folder}/nan.pt",
        "eval --data {folder}/shapes --checkpoint {folder}/nan.pt --workers 0",
    ],
)
def test_a_model_with_a_nan_gives_no_answer(run, tmp_path, command):
    code, _, err = run(command)
    assert code == 1 and "Traceback" not in err
    assert "the parameter decoder.layers.0.ffn.linear1.weight (1 of" in err.splitlines()[-1]
    assert files(tmp_path) == []


def test_swapped_category_names_are_named(run):
    code, _, err = run("eval --data {folder}/shapes --checkpoint {folder}/swapped.pt --workers 0")
    assert code == 1
    assert "category 1 (circle), which this detector was not trained for: its category 1 is" in err


def test_eval_counts_more_detections_and_explains_what_it_cannot_measure(run, folder, tmp_path):
    shutil.copytree(folder / "shapes", tmp_path / "large")
    (path,) = (tmp_path / "large").glob("annotations/*val*.json")
    content = json.loads(path.read_text())
    box = {**content["annotations"][0], "bbox": [0, 0, 100, 100], "area": 10_000}
    path.write_text(json.dumps({**content, "annotations": [box]}))
    line = f"eval --data large {WITH} --workers 0 --max-detections"
    code, out, _ = run(f"{line} 300")
    assert code == 0 and out.count("maxDets=300") == 10 and "= -1.000" in out
    assert "-1.000 stands for no number: these images have no small and no medium-sized" in out
    path.write_text(json.dumps({**content, "annotations": []}))
    code, out, _ = run(f"{line} 100")
    assert code == 0 and out.splitlines()[-1].startswith("2 images: no AP, because")
    code, _, err = run(f"{line} 5")
    assert code == 1 and "max_detections is 5" in err


def test_a_terminal_that_lacks_a_letter_shows_its_number(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    line = f"predict {folder}/noise.png --checkpoint {folder}/chinese.pt --threshold 0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where no font has it
        assert main(line.split()) == 0
    output.flush()
    assert b"\\u732b" in output.buffer.getvalue()


def test_parameters_beyond_fp16_are_not_given_away_as_infinity(folder, tmp_path):
    detector = load(folder / "c.pt")
    with torch.no_grad():
        detector.model.decoder.layers[0].ffn.linear1.weight[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"decoder\.layers\.0\.ffn\.linear1\.weight .* 65504"):
        save(tmp_path / "a.safetensors", detector)
    save(tmp_path / "a.pt", detector)
    assert files(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("name", ["c", "swapped"])
def test_the_gallery_matches_queries_with_objects_of_its_own_categories_only(
    run, tmp_path, monkeypatch, name
):
    drawn = []

    def write_gallery(out, trace, others, about):
        drawn.extend([trace, *others])
        return []

    monkeypatch.setattr("ddetr_edu.analysis.gallery.write_gallery", write_gallery)
    scenes = held_out_scenes().first(2)
    monkeypatch.setattr("ddetr_edu.data.shapes.Shapes.first", lambda self, k: scenes)
    code, out, _ = run(f"gallery --checkpoint {{folder}}/{name}.pt")
    assert code == 0 and len(drawn) == 2
    assert ("the figures of the matching are left out" in out) == (name == "swapped")
    assert all((trace.target is None) == (name == "swapped") for trace in drawn)
