"""The figure of verdicts and votes."""

import pytest

from ddetr_edu import viz

VERDICTS = {"one": {3: "holds", 1: "wrong", 7: "condition"}, "another theme": {2: "wrong"}}


def test_verdicts_and_votes_are_drawn():
    figure, drawn = viz.plot_verdicts(VERDICTS, {3: "holds", 2: "condition", 1: None})
    assert drawn["one"].tolist() == [[3, 0, 0], [1, 2, -1], [7, 1, -1]]
    assert drawn["another theme"].tolist() == [[2, 2, 1]]
    (axis,) = figure.axes
    texts = [text.get_text() for text in axis.texts]
    assert texts == ["3 holds", "holds", "1 wrong", "7 condition", "2 wrong", "condition"]
    pixels = axis.images[0].get_array()
    assert (pixels[12, 20, :3] == pixels[36, 20, :3]).all()  # a vote that agrees has its colour
    assert (pixels[84, 20, :3] != pixels[108, 20, :3]).any()
    assert pixels[36, 60, 3] == 0  # nothing where there is no vote


def test_without_votes_there_is_no_row_for_them():
    figure, _ = viz.plot_verdicts(VERDICTS, {})
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["one", "another theme"]


def test_other_words_and_no_claims_are_refused():
    with pytest.raises(ValueError, match='"true" is no verdict; the words are holds, condition'):
        viz.plot_verdicts(VERDICTS, {3: "true"})
    with pytest.raises(ValueError, match="nothing to draw"):
        viz.plot_verdicts({"one": {}}, {})
