"""Names in any script and with any character: drawn if a font has them, escaped if none does."""

import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from ddetr_edu import viz
from ddetr_edu.viz import fonts
from ddetr_edu.viz.labels import letters_of

NAMES = {
    1: "猫",
    2: "a$b$c",
    3: "собака",
    4: "$\\frac",
    5: "_hidden",
    6: "tab\tand\x00nul",
    7: "half \udcff",
    8: "two\nlines",
    9: "x" * 300,
    10: "%s {0} \\n <b>&amp;",
}


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert [str(w.message) for w in caught] == []


@pytest.fixture
def system_fonts(monkeypatch):
    """Chooses the fonts that this system seems to have."""
    cached = (fonts.family_of, fonts._system_fonts, fonts._say_which_font)
    known = list(font_manager.fontManager.ttflist)

    def choose(*paths):
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda *args, **kwargs: list(paths))
        for function in cached:
            function.cache_clear()

    yield choose
    font_manager.fontManager.ttflist[:] = known
    for function in cached:
        function.cache_clear()


@pytest.fixture
def chinese_font(tmp_path):
    """A font with a glyph for 猫 and nothing else."""
    pen = TTGlyphPen(None)
    for draw, point in zip(
        (pen.moveTo, pen.lineTo, pen.lineTo, pen.lineTo),
        ((0, 0), (0, 700), (900, 700), (900, 0)),
        strict=True,
    ):
        draw(point)
    pen.closePath()
    empty = TTGlyphPen(None).glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord("猫"): "cat"})
    builder.setupGlyf({".notdef": empty, "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Only Cats", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path / "only-cats.ttf"
    builder.save(path)
    return str(path)


def draw_boxes(names):
    boxes = np.array([[10.0 * i, 5 * i, 10 * i + 30, 5 * i + 20] for i in range(len(names))])
    return viz.plot_boxes(
        np.zeros((90, 150, 3)), boxes, list(names), [0.5] * len(names), names, "$猫 $"
    )


def test_without_a_font_a_name_is_its_label_and_an_escape_and_one_sentence_says_why(system_fonts):
    system_fonts()
    with pytest.warns(UserWarning) as caught:
        figure, drawn = draw_boxes(NAMES)
        assert figure._repr_png_()[0].startswith(b"\x89PNG")
        draw_boxes(NAMES)[0]._repr_png_()
    assert len(caught) == 1
    assert "install Noto Sans CJK (on Debian and Ubuntu: apt install fonts-noto-cjk)" in str(
        caught[0].message
    )
    assert drawn["texts"].tolist() == [
        "1 \\u732b 0.50",
        "a$b$c 0.50",
        "собака 0.50",
        "$\\frac 0.50",
        "_hidden 0.50",
        "6 tab and\\x00nul 0.50",
        "7 half \\udcff 0.50",
        "two lines 0.50",
        "x" * 39 + "… 0.50",
        "%s {0} \\n <b>&amp; 0.50",
    ]
    assert figure.axes[0].get_title() == "$\\u732b $"


def test_with_a_font_of_the_system_the_name_is_drawn(system_fonts, chinese_font, no_warnings):
    system_fonts(chinese_font)
    figure, drawn = draw_boxes({1: "猫"})
    assert drawn["texts"].tolist() == ["猫 0.50"]
    figure._repr_png_()
    (text,) = [text for text in figure.axes[0].texts if "猫" in text.get_text()]
    assert text.get_fontfamily()[-1] == "Only Cats"
    assert len(text.get_fontfamily()) == 2  # all other letters are in the usual font


def test_a_font_that_cannot_be_read_is_passed_over(system_fonts, chinese_font, tmp_path):
    (tmp_path / "a.ttf").write_text("no font")
    system_fonts(str(tmp_path / "a.ttf"), str(tmp_path / "gone.ttf"), chinese_font)
    assert fonts.readable("猫") == "猫"


def test_other_scripts_name_their_font(system_fonts):
    system_fonts()
    for text, font in (("ひ", "CJK"), ("한", "CJK"), ("हाथी", "Devanagari"), ("ሀ", "Ethiopic")):
        fonts._say_which_font.cache_clear()
        with pytest.warns(UserWarning, match=f"Noto Sans {font}"):
            assert fonts.readable(text).isascii()


def test_names_in_all_figures_of_a_data_set_and_an_evaluation(system_fonts, chinese_font):
    system_fonts(chinese_font)
    names, n = list(NAMES.values()), len(NAMES)
    random = np.random.default_rng(0)
    split = {"labels": np.repeat(list(NAMES), 3), "areas": np.full(3 * n, 900), "counts": [3] * n}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matrix = random.integers(0, 9, (n + 1, n + 1))
        confusion, drawn = viz.plot_confusion(matrix, names, title="猫 $a$")
        curves, _ = viz.plot_precision_recall(
            random.random((2, 5, 6)), [0.5, 0.75], np.linspace(0, 1, 5), names[:6], range(6, 0, -1)
        )
        dataset, _ = viz.plot_dataset({"猫": split}, NAMES, title="$x")
        image, layers = np.zeros((9, 9, 3)), np.zeros((2, 3, 4))
        matching, _ = viz.plot_matching_by_layer(
            image, layers, np.zeros((n, 4)), np.zeros((2, 3, n)), np.zeros((2, n), int), names
        )
        for figure in (confusion, curves, dataset, matching):
            assert figure._repr_png_()[0].startswith(b"\x89PNG")
    assert drawn["names"][[0, 1, 5]].tolist() == ["猫", "a$b$c", "5 tab and\\x00nul"]
    legend = [text.get_text() for text in curves.axes[1].get_legend().get_texts()]
    assert len(legend) == 6 and any("_hidden" in text for text in legend)
    ticks = [label.get_text() for label in confusion.axes[0].get_yticklabels()]
    assert "a$b$c" in ticks


def test_logarithmic_axes_keep_their_powers(no_warnings):
    figure = viz.NotebookFigure(3, 3)
    axis = figure.subplots()
    axis.plot([1, 1000], [1, 2])
    axis.set_xscale("log")
    for _ in range(2):
        figure._repr_png_()
    label = next(l for l in axis.get_xticklabels() if "mathdefault" in l.get_text())
    assert label.get_parse_math()


def test_wide_letters_take_more_room():
    assert letters_of("ab") == 2 < letters_of("猫犬")


def test_boxes_that_are_not_finite_are_refused():
    for boxes, scores in (([[0, 0, np.nan, 3]], [0.5]), ([[0, 0, 2, 3]], [np.inf])):
        with pytest.raises(ValueError, match="hold NaN or infinity"):
            viz.plot_boxes(np.zeros((9, 9, 3)), np.array(boxes), [1], scores)
