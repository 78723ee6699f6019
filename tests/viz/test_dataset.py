"""The figure of a data set: its bars are shares."""

import numpy as np
import pytest

from ddetr_edu.viz import plot_dataset

CATEGORIES = {1: "cat", 5: "dog", 7: "cow"}
SPLITS = {
    "train": {"labels": [5, 5, 1, 5], "areas": [16, 1024, 1030, 9216], "counts": [0, 3, 1, 0, 0]},
    "val": {"labels": [1], "areas": [5], "counts": [1]},
}


def test_bars_are_shares():
    figure, drawn = plot_dataset(SPLITS, CATEGORIES, title="a title")
    assert drawn["train"]["labels"].tolist() == [
        5,
        1,
    ]  # the most frequent first, without the absent one
    assert drawn["train"]["categories"].tolist() == [0.75, 0.25]
    assert drawn["val"]["categories"].tolist() == [0, 1]
    for bars in drawn.values():
        assert bars["sizes"].sum() == pytest.approx(1) and bars["counts"].sum() == pytest.approx(1)
    assert drawn["train"]["counts"].tolist() == [0.6, 0.2, 0, 0.2]
    left, middle, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["dog", "cat"]
    assert [patch.get_width() for patch in left.patches] == [0.75, 0.25, 0, 1]
    values, edges, _ = middle.patches[0].get_data()
    np.testing.assert_array_equal(values, drawn["train"]["sizes"])
    # sides 4, 32, 32.1 and 96: COCO's limit between small and medium is one of the edges
    assert 32.0 in edges and values[(edges[:-1] < 32)].sum() == 0.25
    assert edges[0] <= np.sqrt(5) and edges[-1] > 96
    assert figure._repr_png_()[0].startswith(b"\x89PNG")


def test_at_most_twenty_categories_and_many_objects_per_image():
    labels = np.repeat(np.arange(1, 31), np.arange(1, 31))
    split = {
        "labels": labels,
        "areas": np.full(len(labels), 50.0),
        "counts": [0, 1, 25, len(labels)],
    }
    figure, drawn = plot_dataset({"train": split}, {i: str(i) for i in range(1, 31)})
    assert drawn["train"]["labels"].tolist() == list(range(30, 10, -1))
    assert 20 <= len(drawn["train"]["counts"]) <= 26
    assert drawn["train"]["counts"].sum() == 1


def test_no_object_is_refused():
    with pytest.raises(ValueError, match="no object to draw"):
        plot_dataset({"train": {"labels": [], "areas": [], "counts": [0]}}, CATEGORIES)
