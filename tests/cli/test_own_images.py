"""Images that were labelled with any tool go through five commands, as the README shows them."""

import pytest
from labelled_sets import as_label_studio, as_voc, as_yolo, boxes, read_split

from ddetr_edu.cli.main import main
from ddetr_edu.data.shapes import write_shapes_set

FORMATS = {"voc": as_voc, "yolo": as_yolo, "coco": as_label_studio}


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    folder = tmp_path_factory.mktemp("truth")
    write_shapes_set(folder, train=8, val=2, seed=5)
    return folder


def run(capsys, line):
    code = main(line.split())
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


@pytest.mark.parametrize("tool", FORMATS)
def test_convert_validate_train_eval_predict(tool, truth, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    FORMATS[tool](truth, tmp_path / "my-photos")
    out = run(capsys, f"data convert --from {tool} my-photos --out data/my-photos")
    assert "wrote data/my-photos, 6 categories" in out and "left out" not in out
    run(capsys, "data validate data/my-photos")  # which ends with 1 for any error
    small = "--image-size.short-side 64 --image-size.long-side 96 --batch-size 2 --device cpu"
    out = run(capsys, f"train --data data/my-photos --steps 2 {small}")
    assert "done after 2 steps" in out
    out = run(capsys, "eval --data data/my-photos --workers 0")
    assert "Average Precision" in out and "2 images: AP" in out
    image = next((tmp_path / "data" / "my-photos" / "val").iterdir())
    out = run(capsys, f"predict {image} --threshold 0")
    assert "100 objects at or above 0" in out


@pytest.mark.parametrize("tool", FORMATS)
def test_the_boxes_are_those_of_the_truth(tool, truth, tmp_path, capsys):
    FORMATS[tool](truth, tmp_path / "set")
    run(capsys, f"data convert --from {tool} {tmp_path}/set --out {tmp_path}/out")
    actual, expected = {}, {}
    for split in ("train", "val"):
        actual |= {(split, name): rows for name, rows in boxes(tmp_path / "out", split).items()}
        for name, rows in boxes(truth, split).items():
            expected[split, f"{split}_{name}" if tool == "voc" else name] = rows
    if tool == "coco":  # one file, of the truth's training images, divided at random
        actual = {name.split("-", 1)[1]: rows for (_, name), rows in actual.items()}
        expected = {name: rows for (split, name), rows in expected.items() if split == "train"}
    assert actual.keys() == expected.keys()
    for key, rows in expected.items():
        assert [row[0] for row in actual[key]] == [row[0] for row in rows]
        for one, other in zip(actual[key], rows, strict=True):
            assert one[1:] == pytest.approx(other[1:], abs=0.002)
    categories = [read_split(tmp_path / "out", split)["categories"] for split in ("train", "val")]
    assert categories[0] == categories[1] and len(categories[0]) == 6
