"""Statistics of a data set, compared with numbers counted by hand or in another way."""

import re

import numpy as np
from test_coco import H, W, example, write

from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.scenes import draw_scene
from ddetr_edu.data.shapes import Shapes
from ddetr_edu.data.statistics import compute_statistics, table


def test_numbers_of_an_example(tmp_path):
    stats = compute_statistics(CocoDetection(write(tmp_path, example()), "train"))
    assert stats.sizes.tolist() == [[H, W]] * 3
    assert stats.counts.tolist() == [2, 0, 1] and stats.crowds == 1
    assert sorted(stats.areas) == [15, 345, H * W]
    assert sorted(stats.labels) == [4, 4, 90]
    assert stats.by_size() == (2, 1, 0)


def test_statistics_of_generated_scenes():
    stats, scenes = compute_statistics(Shapes(9, seed=4)), [draw_scene(4, i) for i in range(9)]
    assert stats.counts.tolist() == [len(scene.labels) for scene in scenes]
    np.testing.assert_array_equal(stats.labels, np.concatenate([s.labels for s in scenes]))
    x1, y1, x2, y2 = np.concatenate([s.boxes for s in scenes]).T
    np.testing.assert_array_equal(stats.areas, (x2 - x1) * (y2 - y1))
    assert sum(stats.by_size()) == len(stats.areas)


def test_the_size_limits_are_those_of_coco():
    stats = compute_statistics(Shapes(1, seed=0))
    areas = np.array([1, 1023.9, 1024, 9215.9, 9216, 1e6])
    assert type(stats)(stats.sizes, stats.counts, areas, areas, {}, 0).by_size() == (2, 2, 2)


def test_the_table_shows_the_numbers(tmp_path):
    stats = compute_statistics(CocoDetection(write(tmp_path, example()), "train"))
    empty = example() | {"images": [], "annotations": []}
    none = compute_statistics(CocoDetection(write(tmp_path, empty, "val"), "val"))
    text = table({"train": stats, "val": none})
    rows = [re.split("  +", line.strip()) for line in re.sub(r"\( *", "(", text).splitlines()]
    assert rows[0] == ["train", "val"]
    for row in (
        ["images", "3", "0"],
        ["without an object", "1", "0"],
        ["objects", "3", "0"],
        ["width x height, median", "53 x 37", "-"],
        ["small, below 32 x 32", "2 (67%)", "0 (0%)"],
        ["per image, mean", "1", "-"],
        ["per image, maximum", "2", "-"],
        ["crowds", "1", "0"],
        ["aeroplane", "2 (67%)", "0 (0%)"],
        ["toothbrush", "1 (33%)", "0 (0%)"],
    ):
        assert row in rows
    assert text.index("aeroplane") < text.index("toothbrush")


def test_the_columns_of_the_table_are_aligned_in_any_script(tmp_path):
    data = example()
    data["categories"][0]["name"], data["categories"][1]["name"] = "红细胞", "line\nbreak\te\u0301"
    stats = compute_statistics(CocoDetection(write(tmp_path, data), "train"))
    lines = table({"train": stats}).splitlines()
    first, second = lines[-2:]
    assert "  line break e\u0301" in first and "红细胞" in second
    assert len(first) - 1 == len(second) + 3  # an accent takes no column, and these signs take two


def test_columns_are_aligned(tmp_path):
    text = table({"train": compute_statistics(CocoDetection(write(tmp_path, example()), "train"))})
    assert len({len(line) for line in text.splitlines()}) == 1  # columns are aligned
