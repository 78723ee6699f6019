"""Scenes are reproducible, in bounds, tightly boxed and visible, on disk as in memory."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from ddetr_edu.data import scenes as drawing
from ddetr_edu.data import shapes
from ddetr_edu.data.annotations import DataError
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.scenes import CATEGORIES, draw_scene
from ddetr_edu.data.shapes import Shapes, write_shapes, write_shapes_set

SHAPES_MINI = Path(__file__).parents[2] / "data" / "shapes-mini"
SCENES = 150


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(11, i) for i in range(SCENES)]


def pixels(scene):
    return np.asarray(scene.image).astype(int)


def overlap(a, b):
    """Intersection over the smaller area, written out."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return max(w, 0) * max(h, 0) / min(areas)


def alone(scene):
    """Indices of the boxes that are at least 3 px away from all others."""
    grown = scene.boxes + [-3, -3, 3, 3]
    n = len(grown)
    return [
        i for i in range(n) if all(overlap(grown[i], grown[j]) == 0 for j in range(n) if j != i)
    ]


def background(index):
    """The image before anything was painted on it."""
    rng = np.random.default_rng([11, index])
    height, width = rng.integers(160, 225, size=2)
    return drawing._background(rng, height, width).astype(int)


def paint_in_image(scene, index, i):
    """What was painted in and around box i of a scene, by comparison with the background.

    Returns the coverage (h, w) and the contrast (h, w) of the paint to the background, for pixels
    from 3 px before the box, and the (x, y) of the first of them.
    """
    x1, y1, x2, y2 = scene.boxes[i].astype(int)
    left, top = max(x1 - 3, 0), max(y1 - 3, 0)
    window = np.s_[top : y2 + 3, left : x2 + 3]
    after, before = pixels(scene)[window], background(index)[window]
    changed = after[(after != before).any(axis=2)]
    colours, counts = np.unique(changed, axis=0, return_counts=True)
    possible = colours[counts.argmax()] - before
    best = np.abs(possible).argmax(axis=2)[..., None]  # the channel where paint shows most
    possible = np.take_along_axis(possible, best, axis=2)[..., 0]
    coverage = np.take_along_axis(after - before, best, axis=2)[..., 0] / possible
    return coverage, np.abs(possible), (left, top)


def test_a_scene_depends_on_seed_and_index_only(scenes):
    for i in (SCENES - 1, 0, 7):
        again = draw_scene(11, i)
        assert np.array_equal(pixels(again), pixels(scenes[i]))
        assert np.array_equal(again.boxes, scenes[i].boxes)
        assert np.array_equal(again.labels, scenes[i].labels)
    different = {scene.image.tobytes() for scene in scenes}
    different |= {draw_scene(12, i).image.tobytes() for i in range(5)}
    assert len(different) == SCENES + 5


def test_a_scene_is_the_same_in_a_fresh_process(scenes):
    program = (
        "import hashlib; from ddetr_edu.data.scenes import draw_scene; s = draw_scene(11, 3);"
        "print(hashlib.sha256(s.image.tobytes() + s.boxes.tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    here = hashlib.sha256(scenes[3].image.tobytes() + scenes[3].boxes.tobytes()).hexdigest()
    assert printed.stdout.strip() == here, printed.stderr


def test_a_scene_draws_from_no_global_generator():
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    draw_scene(1, 1)
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert torch.equal(before[1], torch.get_rng_state())


def test_types_and_bounds(scenes):
    for scene in scenes:
        n = len(scene.labels)
        assert scene.image.mode == "RGB"
        assert 160 <= scene.image.width <= 224 and 160 <= scene.image.height <= 224
        assert scene.boxes.dtype == np.float32 and scene.boxes.shape == (n, 4) and 1 <= n <= 8
        assert scene.labels.dtype == np.int64 and set(scene.labels) <= set(CATEGORIES)
        assert (scene.boxes[:, :2] >= 0).all()
        assert (scene.boxes[:, 2:] <= [scene.image.width, scene.image.height]).all()
        longer = (scene.boxes[:, 2:] - scene.boxes[:, :2]).max(axis=1)
        assert (longer >= 8).all() and (longer <= 100).all()


def test_scenes_vary(scenes):
    assert len({scene.image.size for scene in scenes}) > SCENES // 2
    assert {len(scene.labels) for scene in scenes} == set(range(1, 9))
    counts = np.bincount(np.concatenate([scene.labels for scene in scenes]), minlength=7)
    assert counts[0] == 0 and counts[1:].min() > 0.6 * counts[1:].mean()
    sizes = np.concatenate([(s.boxes[:, 2:] - s.boxes[:, :2]).max(axis=1) for s in scenes])
    quarters = np.histogram(np.log(sizes / 8), bins=4, range=(0, np.log(100 / 8 + 1e-6)))[0]
    assert quarters.min() > 0.1 * len(sizes)  # all scales occur


def test_boxes_overlap_by_at_most_30_percent_and_some_do(scenes):
    overlaps = [
        overlap(a, b)
        for scene in scenes
        for i, a in enumerate(scene.boxes)
        for b in scene.boxes[:i]
    ]
    assert 0.2 < max(overlaps) <= 0.3


def test_boxes_are_tight_around_what_is_drawn(scenes):
    labels = set()
    for index, scene in enumerate(scenes):
        for i in alone(scene):
            coverage, _, (left, top) = paint_in_image(scene, index, i)
            inside = coverage > 0.5
            y, x = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            drawn = [left + x[0], top + y[0], left + x[-1] + 1, top + y[-1] + 1]
            assert np.abs(drawn - scene.boxes[i]).max() <= 1
            labels.add(int(scene.labels[i]))
    assert labels == set(CATEGORIES)


def test_shapes_stand_out_from_every_pixel_under_and_around_them(scenes):
    for index, scene in enumerate(scenes):
        for i in alone(scene):
            coverage, contrast, _ = paint_in_image(scene, index, i)
            near = np.pad(coverage > 0, 1)
            near = np.logical_or.reduce(
                [np.roll(near, (dy, dx), axis=(0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            )[1:-1, 1:-1]
            assert contrast[near].min() >= 90


def test_contrast_is_that_of_the_worst_pixel():
    under = np.array([[10, 200, 30], [100, 120, 50]], dtype=np.uint8)
    assert drawing.contrast(np.array([110, 130, 160]), under) == 110  # 130 and 110
    assert drawing.contrast(np.array([10, 200, 31]), under) == 1


def test_edges_are_smooth():
    circle = drawing.Shape("circle", 10, 10, 6, 0.0)
    rows, columns, distance = drawing._rasterise(circle, 20, 20)
    window = np.zeros((*distance.shape, 3), np.uint8)
    assert drawing._paint(np.random.default_rng(0), window, distance)
    brightest = window.max(axis=2) / window.max()
    assert len(np.unique(brightest)) > 4
    assert brightest.sum() == pytest.approx(np.pi * 36, rel=0.01)  # the area is preserved


@pytest.mark.parametrize(
    "name, area",
    [
        # areas of the shapes of circumradius 1, from their geometry
        ("circle", np.pi),
        ("square", 2.0),
        ("triangle", 3 * np.sqrt(3) / 4),
        ("star", 1.1226),  # the pentagram {5/2}
        ("ring", np.pi * (1 - 0.55**2)),
        ("cross", 8 * 0.32 * np.sqrt(1 - 0.32**2) - 4 * 0.32**2),
    ],
)
def test_outlines_have_the_right_area_and_extent(name, area):
    shape = drawing.Shape(name, 50.3, 49.1, 40.0, 0.7)
    centres = np.arange(0, 100, 0.125) + 0.0625
    inside = shape.distance(centres, centres[:, None]) < 0
    assert inside.sum() / 64 / 40**2 == pytest.approx(area, rel=0.005)
    x, y = centres[inside.any(axis=0)], centres[inside.any(axis=1)]
    assert np.allclose([x[0], y[0], x[-1], y[-1]], shape.extent(), atol=0.4)


def test_shapes_is_a_data_set_of_the_scenes():
    dataset = Shapes(5, seed=11)
    assert len(dataset) == 5 and len(list(dataset)) == 5
    image, target = dataset[4]
    scene = draw_scene(11, 4)
    assert isinstance(image, tv_tensors.Image) and image.dtype == torch.uint8
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(scene.image))
    assert np.array_equal(target["boxes"].numpy(), scene.boxes)
    assert np.array_equal(target["labels"].numpy(), scene.labels)
    assert target["image_id"] == 5 and target["size"] == (scene.image.height, scene.image.width)
    with pytest.raises(IndexError):
        dataset[5]


def test_a_huge_data_set_costs_nothing_until_read():
    dataset = Shapes(10**9, seed=0)
    assert len(dataset) == 10**9
    assert dataset[10**9 - 1][1]["image_id"] == 10**9


def test_shapes_first():
    first = Shapes(10, seed=3).first(4)
    assert len(first) == 4 and set(first.ground_truth().imgs) == {1, 2, 3, 4}
    with pytest.raises(DataError, match="these are 10 scenes.*ask for 1 to 10"):
        Shapes(10, seed=3).first(11)


def assert_same_target(a, b):
    assert a.keys() == b.keys()
    assert torch.equal(a["boxes"], b["boxes"]) and torch.equal(a["labels"], b["labels"])
    assert a["boxes"].dtype == b["boxes"].dtype == torch.float32
    assert a["labels"].dtype == b["labels"].dtype == torch.int64
    assert a["boxes"].canvas_size == b["boxes"].canvas_size
    assert (a["image_id"], a["size"]) == (b["image_id"], b["size"])


def test_files_and_memory_are_the_same(tmp_path):
    write_shapes(tmp_path, "tiny", count=7, seed=5)
    files, memory = CocoDetection(tmp_path, "tiny"), Shapes(7, seed=5)
    assert files.categories == memory.categories == CATEGORIES
    assert list(files.image_ids) == list(memory.image_ids)
    for (image, target), (image_, target_) in zip(files, memory, strict=True):
        assert torch.equal(image, image_)
        assert_same_target(target, target_)
    on_disk, drawn = files.ground_truth().dataset, memory.ground_truth().dataset
    assert on_disk["annotations"] == drawn["annotations"]
    assert on_disk["categories"] == drawn["categories"]


def test_writing_does_not_overwrite(tmp_path):
    write_shapes(tmp_path, "val", count=1, seed=0)
    before = (tmp_path / "annotations" / "instances_val.json").read_bytes()
    with pytest.raises(FileExistsError, match="already has a split 'val'; choose another folder"):
        write_shapes(tmp_path, "val", count=2, seed=1)
    with pytest.raises(FileExistsError, match="already has a split 'val'"):
        write_shapes_set(tmp_path, train=1, val=1)
    assert not (tmp_path / "train").exists()  # checked before anything was written
    assert (tmp_path / "annotations" / "instances_val.json").read_bytes() == before


def test_writing_no_image_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="0 images were asked for in val; ask for at least 1"):
        write_shapes(tmp_path, "val", count=0, seed=0)


def test_an_interrupted_write_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    def interrupted(seed, index):
        if index == 2:
            raise KeyboardInterrupt
        return draw_scene(seed, index)

    monkeypatch.setattr(shapes, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path, "train", count=4, seed=0)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    monkeypatch.undo()
    write_shapes(tmp_path, "train", count=4, seed=0)
    assert len(CocoDetection(tmp_path, "train")) == 4


def test_shapes_mini_is_what_the_program_writes(tmp_path):
    write_shapes_set(tmp_path)
    for split, count in (("train", 96), ("val", 32)):
        made, kept = (
            f / "annotations" / f"instances_{split}.json" for f in (tmp_path, SHAPES_MINI)
        )
        assert json.loads(made.read_text()) == json.loads(kept.read_text())
        names = sorted(p.name for p in (tmp_path / split).iterdir())
        assert len(names) == count
        assert names == sorted(p.name for p in (SHAPES_MINI / split).iterdir())
        for name in names:
            with (
                Image.open(tmp_path / split / name) as a,
                Image.open(SHAPES_MINI / split / name) as b,
            ):
                assert np.array_equal(np.asarray(a), np.asarray(b)), f"{split}/{name} differs"


def test_shapes_mini_is_small_and_its_splits_differ():
    files = [p for p in SHAPES_MINI.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 1_500_000
    train, val = (Shapes(n, s) for n, s in ((96, 0), (32, shapes.VAL_SEED_OFFSET)))
    images = [image.numpy().tobytes() for dataset in (train, val) for image, _ in dataset]
    assert len(set(images)) == 128
    for split in ("train", "val"):
        labels = torch.cat([target["labels"] for _, target in CocoDetection(SHAPES_MINI, split)])
        assert set(labels.tolist()) == set(CATEGORIES)


def test_category_ids_count_from_1():
    assert list(CATEGORIES) == [1, 2, 3, 4, 5, 6]
    assert list(CATEGORIES.values()) == ["circle", "square", "triangle", "star", "ring", "cross"]
