"""Real data has faults: what is sound is used, and a sentence says what was left out."""

import io
import json
import pickle
import pickletools
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from test_coco import H, W, average_precision, example, perfect_detections, pixels, write

from ddetr_edu.cli.main import main
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.entries import parse_number, parse_whole
from ddetr_edu.data.faults import DataError, counted, printable
from ddetr_edu.data.image_files import read_header
from ddetr_edu.data.images import to_rgb
from ddetr_edu.data.validate import validate_dataset


def add_box(data, box, **values):
    number = len(data["annotations"])
    entry = {"id": 100 + number, "image_id": 7, "category_id": 4, "bbox": box}
    data["annotations"].append(entry | values)


def open_faulty(tmp_path, data, capsys):
    """The data set, and what was said on stderr."""
    capsys.readouterr()
    dataset = CocoDetection(write(tmp_path, data), "train")
    said = capsys.readouterr().err
    assert said.strip() == dataset.faults
    return dataset, said


def validation(folder) -> str:
    return "\n".join(report.text() for report in validate_dataset(folder))


# Boxes -------------------------------------------------------------------------------------------

LEFT_OUT = [
    ([3, 4, 0, 0], "1 box of no width or height"),
    ([3, 4, 5, 0.0], "1 box of no width or height"),
    ([3, 4, -5, 5], "1 box of no width or height"),
    ([20, 4, 2e-5, 5], "1 box thinner than a pixel can show"),
    ([20, 4, 5, 1e-30], "1 box thinner than a pixel can show"),
    ([W - 1e-6, 4, 9, 5], "1 box thinner than a pixel can show"),
    ([W + 1, 4, 9, 5], "1 box outside the image"),
    ([-9, 4, 9, 5], "1 box outside the image"),
    ([1e300, 4, 9, 5], "1 box outside the image"),
    ([0.2, 0.3, 0.4, 0.5], "1 box in the first pixel, like fractions of the image"),
    ([3, 4, float("nan"), 5], "1 box without four finite numbers"),
    ([3, 4, float("inf"), 5], "1 box without four finite numbers"),
    ([3, 4, 10**400, 5], "1 box without four finite numbers"),
    ([3, 4, 5], "1 box without four finite numbers"),
    (None, "1 box without four finite numbers"),
]


@pytest.mark.parametrize("box, said", LEFT_OUT)
def test_a_box_that_cannot_be_used_is_left_out_and_named(tmp_path, capsys, box, said):
    data = example()
    add_box(data, box)
    dataset, err = open_faulty(tmp_path, data, capsys)
    assert err.count("\n") == 1 and f"left out {said};" in err
    assert len(dataset) == 3 and len(dataset.ground_truth().anns) == 4
    for _, target in dataset:
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        assert (x1 < x2).all() and (y1 < y2).all()
    assert average_precision(dataset.ground_truth(), perfect_detections(dataset)) == 1.0
    assert "annotation 104 " in validation(tmp_path)
    with pytest.raises(DataError, match="annotation 104 "):
        CocoDetection(tmp_path, "train", strict=True)


def test_a_sound_data_set_is_opened_in_silence(tmp_path, capsys):
    dataset, said = open_faulty(tmp_path, example(), capsys)
    assert said == dataset.faults == ""


def test_faults_are_counted_in_one_sentence_and_all_are_named(tmp_path, capsys):
    data = example()
    for _ in range(5):
        add_box(data, [3, 4, 0, 0])
        add_box(data, [30, 20, 10, 10])
    add_box(data, [W - 10, 4, 20, 5])
    _, said = open_faulty(tmp_path, data, capsys)
    assert said == (
        f"{tmp_path}/annotations/instances_train.json: left out 5 boxes of no width or height; "
        f"clipped 1 box partly outside the image; ddetr data validate {tmp_path} says which\n"
    )
    report = validation(tmp_path)
    assert all(f"annotation {i} " in report for i in (104, 106, 108, 110, 112, 114))


def test_a_box_that_is_half_outside_is_clipped_for_training_and_evaluation(tmp_path, capsys):
    data = example()
    add_box(data, [W - 10, -4, 20, 9], area=180)
    dataset, said = open_faulty(tmp_path, data, capsys)
    assert "clipped 1 box partly outside the image" in said
    assert dataset[0][1]["boxes"][-1].tolist() == [W - 10, 0, W, 5]
    truth = [a for a in dataset.ground_truth().anns.values() if a["bbox"][0] == W - 10]
    assert truth[0]["bbox"] == [W - 10, 0, 10, 5] and truth[0]["area"] == 50
    assert average_precision(dataset.ground_truth(), perfect_detections(dataset)) == 1.0


@pytest.mark.parametrize("area", [-1, 0, 1e11, float("nan"), float("inf"), 10**400, "many", [5]])
def test_an_impossible_area_becomes_that_of_the_box(tmp_path, capsys, area):
    data = example()
    for annotation in data["annotations"]:
        annotation["area"] = area
    dataset, said = open_faulty(tmp_path, data, capsys)
    assert "recalculated 4 areas unlike their boxes" in said
    areas = [a["area"] for a in dataset.ground_truth().anns.values()]
    assert areas == [15, 345, 1500, H * W]
    assert average_precision(dataset.ground_truth(), perfect_detections(dataset)) == 1.0
    assert "areas unlike their boxes" in validation(tmp_path)


def test_the_area_of_a_mask_is_kept(tmp_path, capsys):
    data = example()
    data["annotations"][1]["area"] = 34.5  # a tenth of the box
    data["annotations"][0]["area"] = "16"  # pixels that are covered in part
    dataset, said = open_faulty(tmp_path, data, capsys)
    assert said == ""
    assert [a["area"] for a in dataset.ground_truth().anns.values()] == [16, 34.5, 1500, H * W]


def normalise(data, form):
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        centre = [(x + w / 2) / W, (y + h / 2) / H, w / W, h / H]
        annotation["bbox"] = {"xywh": [x / W, y / H, w / W, h / H], "cxcywh": centre}[form]


@pytest.mark.parametrize("form", ["xywh", "cxcywh"])
def test_normalised_boxes_are_refused(tmp_path, form):
    data = example()
    normalise(data, form)
    with pytest.raises(DataError, match="4 of 4 boxes .* as if they were fractions .* multiply"):
        CocoDetection(write(tmp_path, data), "train")
    assert "as if they were fractions" in validation(tmp_path)


def test_corners_are_refused(tmp_path):
    data = example()
    data["annotations"] = []
    for x in range(10, 50, 5):
        add_box(data, [x, 20, x + 3, 25])
    with pytest.raises(DataError, match=r"8 of 8 boxes leave .* \[x1, y1, x2, y2\]; .* subtract"):
        CocoDetection(write(tmp_path, data), "train")
    assert "subtract x1 from x2" in validation(tmp_path)


# Ids, numbers and names --------------------------------------------------------------------------


@pytest.mark.parametrize("form", [str, float, lambda i: f"{i}.0", lambda i: f" {i}"])
def test_ids_and_sizes_as_text_or_floats_are_understood(tmp_path, capsys, form):
    plain = CocoDetection(write(tmp_path, example()), "train")
    data = example()
    for image in data["images"]:
        image |= {key: form(image[key]) for key in ("id", "width", "height")}
    for category in data["categories"]:
        category["id"] = form(category["id"])
    for annotation in data["annotations"]:
        annotation |= {key: form(annotation[key]) for key in ("id", "image_id", "category_id")}
        annotation["bbox"] = [
            form(value) if value == int(value) else value for value in annotation["bbox"]
        ]
        annotation["iscrowd"] = form(annotation.get("iscrowd", 0))
    dataset, said = open_faulty(tmp_path, data, capsys)
    assert said == "" and validation(tmp_path).startswith("train: 3 images, 3 objects")
    assert dataset.image_ids == plain.image_ids and dataset.categories == plain.categories
    for (_, one), (_, other) in zip(dataset, plain, strict=True):
        assert torch.equal(one["boxes"], other["boxes"])
        assert torch.equal(one["labels"], other["labels"])
        assert one["size"] == other["size"] and one["image_id"] == other["image_id"]


def test_images_whose_ids_are_no_numbers_are_numbered(tmp_path, capsys):
    data = example()
    names = {30: "c-1f", 7: "a-9e", 11: "007"}
    for image in data["images"]:
        image["id"] = names[image["id"]]
    for annotation in data["annotations"]:
        annotation["image_id"] = names[annotation["image_id"]]
    dataset, said = open_faulty(tmp_path, data, capsys)
    assert said == "" and dataset.image_ids == [1, 2, 3]
    assert [len(target["boxes"]) for _, target in dataset] == [1, 2, 0]
    assert average_precision(dataset.ground_truth(), perfect_detections(dataset)) == 1.0


@pytest.mark.parametrize(
    "value, whole",
    [(7, 7), (7.0, 7), ("7", 7), ("007", 7), ("7.0", 7), ("-3", -3), (2**63 - 1, 2**63 - 1)]
    + [(v, None) for v in (7.5, "7.5", "seven", "", None, True, [7], {}, 2**63, 1e300, "9" * 30)]
    + [(v, None) for v in (float("nan"), float("inf"), "nan", "1e3", "1_000")],
)
def test_whole_numbers(value, whole):
    assert parse_whole(value) == whole


def test_numbers():
    assert [parse_number(v) for v in (7, 0.5, "0.5", "1e3", -0.0)] == [7, 0.5, 0.5, 1000, 0]
    for value in (True, None, [1], "x", "", 10**400, float("nan"), float("-inf"), "nan", "inf"):
        assert parse_number(value) is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": [' + "9" * 5000 + "]}", b"\xff\xfe{"])
def test_json_that_python_cannot_read_is_a_data_error(tmp_path, text):
    write(tmp_path, example())
    file = tmp_path / "annotations" / "instances_train.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match="instances_train.json cannot be read as JSON"):
        CocoDetection(tmp_path, "train")


def test_a_file_in_another_encoding_is_explained(tmp_path):
    write(tmp_path, example())
    file = tmp_path / "annotations" / "instances_train.json"
    file.write_bytes('{"images": [{"file_name": "Überbild"}]}'.encode("latin-1"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        CocoDetection(tmp_path, "train")
    file.write_bytes(json.dumps(example()).encode("utf-8-sig"))
    assert len(CocoDetection(tmp_path, "train")) == 3


NAMES = ["红细胞", "כדור", "naïve $x_1$ % & <b>", "🐕", "a\\b", 7, "lone \ud800 surrogate"]


def test_names_in_any_script_are_read_and_can_be_written(tmp_path, capsys):
    data = example()
    data["categories"] = [{"id": 4 + n, "name": name} for n, name in enumerate(NAMES)]
    data["categories"].append({"id": 90, "name": "toothbrush"})
    dataset, said = open_faulty(tmp_path, data, capsys)
    assert said == ""
    assert list(dataset.categories.values())[:6] == [str(name) for name in NAMES[:6]]
    "".join(dataset.categories.values()).encode()
    validation(tmp_path).encode()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_accent_may_be_composed_in_the_file_name_but_not_in_the_annotations(tmp_path, form):
    data = example()
    write(tmp_path, data)
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    (tmp_path / "train" / "a.png").rename(
        tmp_path / "train" / unicodedata.normalize(other, "zellé.png")
    )
    data["images"][1]["file_name"] = unicodedata.normalize(form, "zellé.png")
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(data))
    dataset = CocoDetection(tmp_path, "train")
    assert dataset.faults == "" and np.array_equal(dataset[0][0].permute(1, 2, 0), pixels())


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800.png", "", ".", "nowhere.png"])
def test_a_name_that_no_file_has_leaves_out_the_image(tmp_path, capsys, name):
    data = example()
    data["images"][2]["file_name"] = name  # of the image without objects
    dataset, said = open_faulty(tmp_path, data, capsys)
    assert dataset.image_ids == [7, 30] and "left out 1 image without a file" in said
    said.encode()


def test_ids_of_annotations_may_be_missing_or_repeated(tmp_path, capsys):
    data = example()
    data["annotations"][0]["id"] = None
    data["annotations"][1]["id"] = 9
    data["annotations"].append(data["annotations"][-1])  # a copy
    dataset, said = open_faulty(tmp_path, data, capsys)
    assert len(dataset.ground_truth().anns) == 4
    assert "kept 1 annotation without an id, 1 annotation with the id of another" in said
    assert "left out 1 annotation with the id of another" in said


def test_objects_of_unlisted_images_are_left_out_and_those_of_unlisted_categories_refused(
    tmp_path, capsys
):
    data = example()
    add_box(data, [1, 2, 3, 4], image_id=99)
    dataset, said = open_faulty(tmp_path, data, capsys)
    assert "left out 1 annotation of unlisted images" in said
    assert len(dataset.ground_truth().anns) == 4
    add_box(data, [1, 2, 3, 4], category_id=0)
    with pytest.raises(DataError, match=r"category 0, which is not listed; use one of .* 4, 90"):
        CocoDetection(write(tmp_path, data), "train")


# Image files -------------------------------------------------------------------------------------


def image_bytes(kind, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, kind, **options)
    return file.getvalue()


KINDS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_found_at_the_start_and_named(tmp_path, capsys, kind):
    data = example()
    write(tmp_path, data)
    whole = image_bytes(kind)
    (tmp_path / "train" / "a.png").write_bytes(whole)
    dataset, said = CocoDetection(tmp_path, "train"), capsys.readouterr().err
    assert said == "" and len(dataset) == 3
    (tmp_path / "train" / "a.png").write_bytes(whole[: len(whole) * 2 // 3])
    dataset, said = CocoDetection(tmp_path, "train"), capsys.readouterr().err
    assert dataset.image_ids == [11, 30]
    assert "left out 1 image with a damaged file (a.png)" in said
    assert len(dataset.ground_truth().anns) == 1
    assert "a.png cannot be read" in validation(tmp_path)


def test_only_suspicious_files_are_decoded_at_the_start(tmp_path, monkeypatch):
    for kind in ("JPEG", "PNG", "GIF"):
        (tmp_path / kind).write_bytes(image_bytes(kind))
    (tmp_path / "trailer").write_bytes(image_bytes("JPEG") + bytes(9000))  # some cameras do this
    assert read_header(tmp_path / "trailer").size == (H, W)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    for kind in ("JPEG", "PNG", "GIF"):
        assert read_header(tmp_path / kind) == ((H, W), 1)


def test_a_sentence_names_a_few_files(tmp_path, capsys):
    data = example()
    for n in range(9):
        entry = {"id": 50 + n, "file_name": f"lost{n}.png", "width": W, "height": H}
        data["images"].append(entry)
    dataset, said = open_faulty(tmp_path, data, capsys)
    assert "9 images without a file (lost0.png, lost1.png, lost2.png, and 6 more)" in said
    assert len(dataset) == 3


def test_a_data_set_of_which_nothing_is_left_is_refused(tmp_path):
    write(tmp_path, example())
    for file in (tmp_path / "train").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"no image that can be used .*3 images .*copy it again"):
        CocoDetection(tmp_path, "train")


def rotated(orientation, size, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels()).resize(size).save(file, "PNG", exif=exif, **options)
    return file.getvalue()


def with_rotation(tmp_path, orientation, size, annotated, info=None):
    data = example()
    data["images"][1] |= {"width": annotated[0], "height": annotated[1]}
    data["annotations"] = []
    add_box(data, [1, 2, 3, 4])
    write(tmp_path, data | ({"info": info} if info else {}))
    (tmp_path / "train" / "a.png").write_bytes(rotated(orientation, size))
    return tmp_path


def first_pixel_row(dataset):
    return dataset[0][0][:, 0].flatten().tolist()


def test_the_annotated_size_tells_whether_an_image_is_rotated(tmp_path):
    root = with_rotation(tmp_path, 6, (W, H), (H, W))
    dataset = CocoDetection(root, "train")
    assert dataset.faults == "" and dataset[0][0].shape == (3, W, H)
    assert np.array_equal(dataset[0][0].permute(1, 2, 0), np.rot90(pixels(), -1))


@pytest.mark.parametrize("orientation, size", [(6, (40, 40)), (3, (W, H)), (2, (W, H))])
def test_a_rotation_that_the_size_does_not_tell_is_said_and_can_be_chosen(
    tmp_path, capsys, orientation, size
):
    root = with_rotation(tmp_path, orientation, size, size)
    stored = CocoDetection(root, "train")
    assert "kept 1 image with an EXIF rotation of unknown use (a.png)" in capsys.readouterr().err
    assert f"has the EXIF orientation {orientation}" in validation(root)
    rows = {}
    for choice in ("apply", "ignore"):
        with_rotation(tmp_path, orientation, size, size, {"exif_orientation": choice})
        dataset = CocoDetection(root, "train")
        rows[choice] = first_pixel_row(dataset)
        assert dataset.faults == "" and "EXIF" not in validation(root)
    assert rows["ignore"] == first_pixel_row(stored) != rows["apply"]


def test_other_images_of_the_split_tell_how_a_square_one_is_rotated(tmp_path):
    root = with_rotation(tmp_path, 6, (40, 40), (40, 40))
    file = root / "annotations" / "instances_train.json"
    data = json.loads(file.read_text())
    data["images"][0] |= {"width": H, "height": W}  # c.png, annotated as viewers show it
    file.write_text(json.dumps(data))
    (root / "train" / "c.png").write_bytes(rotated(8, (W, H)))
    dataset = CocoDetection(root, "train")
    assert dataset.faults == ""
    expected = np.rot90(np.asarray(Image.fromarray(pixels()).resize((40, 40))), -1)
    assert np.array_equal(dataset[0][0].permute(1, 2, 0), expected)


def test_an_unknown_choice_of_orientation_is_refused(tmp_path):
    root = with_rotation(tmp_path, 6, (40, 40), (40, 40), {"exif_orientation": "yes"})
    with pytest.raises(DataError, match="'yes'; it says \"apply\""):
        CocoDetection(root, "train")


MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBX", "RGBa"]
MODES += ["La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("error")
def test_every_mode_becomes_rgb(mode):
    assert to_rgb(Image.new(mode, (4, 3))).mode == "RGB"
    assert to_rgb(Image.new(mode, (4, 3))).size == (4, 3)


@pytest.mark.filterwarnings("error")
def test_transparent_palettes_do_not_warn():
    image = Image.fromarray(pixels()).convert("P")
    expected = np.asarray(image.convert("RGB"))
    image.info["transparency"] = bytes(range(256))
    assert np.array_equal(to_rgb(image), expected)


@pytest.mark.parametrize(
    "values, dtype, expected",
    [
        ([0, 257, 65535], np.uint16, [0, 1, 255]),
        ([0, 100, 255], np.uint16, [0, 0, 0]),  # 16 bits, however dark
        ([0, 100, 255], np.int32, [0, 100, 255]),
        ([-5, 257, 65535], np.int32, [0, 1, 255]),
        ([0, 2**30, 2**31 - 1], np.int32, [0, 127, 255]),
        ([0, 0.5, 1], np.float32, [0, 127, 255]),
        ([0, 100.7, 255], np.float32, [0, 100, 255]),
        ([np.nan, np.inf, 0.5], np.float32, [0, 0, 127]),
        ([0, 0, 0], np.float32, [0, 0, 0]),
    ],
)
def test_grey_values_of_any_range(values, dtype, expected):
    image = Image.fromarray(np.array([values], dtype))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == expected


# Objects and queries -----------------------------------------------------------------------------


def crowded(n):
    data = example()
    data["annotations"] = []
    for i in range(n):
        add_box(data, [i % 40, i // 40, 5, 5])
    return data


def test_more_objects_than_queries_are_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, crowded(350))
    for command in ("validate", "stats"):
        assert main(["data", command, str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert "image 7 has 350 objects" in out and "1 with more than 300 (" in out
        assert "1 with more than 60 (tiny" in out
    assert main(["data", "validate", str(tmp_path), "--queries", "350"]) == 0
    assert "has 350 objects" not in capsys.readouterr().out


def test_a_split_of_nothing_but_crowds_is_no_training_set(tmp_path):
    data = example()
    dataset = CocoDetection(write(tmp_path, data), "train")
    dataset.require_objects()
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 1
    dataset = CocoDetection(write(tmp_path, data), "train")
    with pytest.raises(
        DataError, match="all of its 4 boxes are marked as crowds.*set iscrowd to 0"
    ):
        dataset.require_objects()
    assert "all 4 boxes are marked as crowds" in validation(tmp_path)
    data["annotations"] = []
    dataset = CocoDetection(write(tmp_path, data), "train")
    with pytest.raises(DataError, match="no object to train on; add boxes"):
        dataset.require_objects()


def test_objects_that_are_annotated_twice_are_a_warning(tmp_path):
    data = example()
    add_box(data, data["annotations"][1]["bbox"])
    assert "image 7: 2 of category 4 at [10.0, 20.0, 30.0, 11.5]" in validation(
        write(tmp_path, data)
    )


# Memory ------------------------------------------------------------------------------------------


def count_python_objects(dataset) -> int:
    """How many steps pickle takes for it, which is about the number of Python objects in it."""
    return sum(1 for _ in pickletools.genops(pickle.dumps(dataset)))


def test_annotations_are_no_python_objects(tmp_path):
    """Each worker process would end up with a copy of them, because it counts references."""
    sizes = [
        count_python_objects(CocoDetection(write(tmp_path, crowded(n)), "train")) for n in (2, 400)
    ]
    assert sizes[1] - sizes[0] < 20


def test_a_copy_of_the_data_set_is_equal(tmp_path):
    dataset = CocoDetection(write(tmp_path, example()), "train")
    copied = pickle.loads(pickle.dumps(dataset))
    assert copied.ground_truth().dataset == dataset.ground_truth().dataset
    for (image, one), (_, other) in zip(dataset, copied, strict=True):
        assert image.dtype == torch.uint8 and torch.equal(one["boxes"], other["boxes"])


# Small things ------------------------------------------------------------------------------------


def test_a_count_agrees_with_its_noun():
    assert counted(1, "boxes outside the image") == "1 box outside the image"
    assert counted(2, "boxes outside the image") == "2 boxes outside the image"
    assert counted(1, "images of another size") == "1 image of another size"


def test_a_surrogate_can_be_printed():
    assert printable("a\ud800é") == "a\\ud800é"
    assert str(DataError("\ud800")) == "\\ud800"
