"""A figure in a notebook: sharp, transparent, readable on a white page and on a dark one."""

import io

import numpy as np
import PIL.Image
import pytest
from matplotlib.colors import to_rgba

from ddetr_edu import viz
from ddetr_edu.viz.page_ink import INK, draw_for_page, to_ink
from ddetr_edu.viz.small_png import small_png
from ddetr_edu.viz.style import COLOURS, NotebookFigure

PAGES = (255, 0x11)  # white, and JupyterLab's dark page


def shown(figure):
    """(H, W, 4), 0 to 255, as a notebook shows it."""
    data, _ = figure._repr_png_()
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGBA")).astype(float)


def on_page(pixels, page):
    opacity = pixels[..., 3:] / 255
    return pixels[..., :3] * opacity + page * (1 - opacity)


def luminance(colour):
    """Of colours (..., 3), 0 to 255: WCAG's relative luminance."""
    part = np.asarray(colour) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    low, high = np.sort([luminance(one), luminance(other)], axis=0)
    return (high + 0.05) / (low + 0.05)


def empty_figure():
    """Without axes, labels or anything else."""
    figure = NotebookFigure(3, 2)
    figure.set_layout_engine("none")
    return figure, figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])


def test_twice_the_pixels_at_the_figures_own_width():
    figure = NotebookFigure(3.7, 2.3)
    data, metadata = figure._repr_png_()
    with PIL.Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (592, 368) and metadata == {"width": 296}


def test_ink_can_be_read_on_both_pages():
    for page in PAGES:
        assert contrast([255 * INK] * 3, [page] * 3) > 4.3


@pytest.mark.parametrize("text_is", ["a text", "a line", "an edge", "a tick"])
def test_what_is_black_on_the_page_becomes_ink(text_is):
    figure, axis = empty_figure()
    if text_is == "a text":
        axis.text(0.5, 0.5, "███", ha="center")
    elif text_is == "a line":
        axis.plot([0, 1], [0, 1], color="black", lw=4)
    elif text_is == "an edge":
        axis.plot(0.5, 0.5, "o", mfc="none", mec="black", mew=4, ms=30)
    else:
        axis.set_frame_on(True)
        axis.spines[:].set_linewidth(4)
    pixels = shown(figure)
    solid = pixels[pixels[..., 3] > 250]
    assert len(solid) > 50 and (np.abs(solid[:, :3] - 255 * INK) <= 3).all()
    assert (pixels[pixels[..., 3] == 0] == 0).all()


def test_the_page_shows_through_and_no_veil_is_left():
    figure, _ = viz.plot_weights(np.random.default_rng(0).random((5, 2, 3)), title="a title")
    pixels = shown(figure)
    for corner in (pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]):
        assert corner[3] == 0
    assert (pixels[..., 3] == 0).mean() > 0.1


def test_white_leaves_a_hole_and_grey_is_ink_that_covers_less():
    white, grey, black = (np.array([[[level] * 3 + [1.0]]]) for level in (1, 0.5, 0))
    assert to_ink(white)[0, 0, 3] == 0
    np.testing.assert_allclose(to_ink(black)[0, 0], [INK, INK, INK, 1])
    np.testing.assert_allclose(to_ink(grey)[0, 0], [INK, INK, INK, np.sqrt(0.5)])
    half = np.array([[[0, 0, 0, 0.5]]])  # the edge of a letter
    np.testing.assert_allclose(to_ink(half)[0, 0], [INK, INK, INK, 0.5])


def test_what_lies_on_an_image_stays():
    figure, axis = empty_figure()
    image = np.full((20, 30, 3), 0.7)
    axis.imshow(image, extent=(0.25, 0.75, 0.25, 0.75), aspect="auto")
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.plot([0, 1], [0.5, 0.5], color="black", lw=4)
    axis.plot([0, 1], [0.6, 0.6], color="white", lw=4)
    pixels = draw_for_page(figure, scale=2)
    height, width = pixels.shape[:2]
    middle, outside = width // 2, width // 8
    np.testing.assert_array_equal(pixels[height // 2, middle], [0, 0, 0, 255])
    np.testing.assert_array_equal(pixels[round(0.4 * height), middle], [255] * 4)
    np.testing.assert_array_equal(pixels[height // 2, outside], [121, 121, 121, 255])
    assert pixels[round(0.4 * height), outside, 3] == 0
    assert (pixels[round(0.3 * height), middle, :3] // 4 == 178 // 4).all()  # 0.7, dull and opaque
    # the corners of the image, and what is next to them
    for x, inside in ((0.25, 1), (0.75, -1)):
        row, column = round(0.3 * height), round(x * width)
        assert pixels[row, column + 2 * inside, 3] == 255
        assert pixels[row, column - 3 * inside, 3] == 0


def test_a_colour_bar_stays():
    figure = NotebookFigure(3, 2)
    axis = figure.subplots()
    bar = figure.colorbar(axis.imshow([[0, 1]], cmap="gray"), ax=axis)
    pixels = draw_for_page(figure, scale=2)
    area = bar.ax.get_position()
    height, width = pixels.shape[:2]
    rows = slice(round((1 - area.y1) * height) + 4, round((1 - area.y0) * height) - 4)
    column = pixels[rows, round((area.x0 + area.x1) / 2 * width)]
    assert len(column) > 100 and (column[:, 3] == 255).all()
    assert column[0, 0] > 240 and column[-1, 0] < 15


def test_colours_stay_where_they_show_and_dark_rims_show():
    kept = np.array([[to_rgba(colour) for colour in COLOURS[:-1]]])
    np.testing.assert_allclose(to_ink(kept), kept, atol=0.08)
    rim = np.array([[[0.03, 0.05, 0.15, 1.0]]])  # a black edge that blends with a blue face
    assert contrast(255 * to_ink(rim)[0, 0, :3], [0x11] * 3) > 2.5


def test_a_file_is_the_same_after_the_notebook_has_shown_the_figure(tmp_path):
    """It is compared with a figure drawn as often: each time, the layout moves a little."""
    files = [tmp_path / "plain.png", tmp_path / "shown.png"]
    for file in files:
        figure, _ = viz.plot_weights(np.random.default_rng(0).random((5, 2, 3)), title="a title")
        if file.stem == "shown":
            figure._repr_png_()
        else:
            figure.savefig(io.BytesIO(), dpi=160)
        figure.savefig(file)
    assert files[0].read_bytes() == files[1].read_bytes()
    with PIL.Image.open(files[1]) as picture:
        assert picture.size == tuple(np.round(figure.bbox.size))
        assert picture.getpixel((0, 0)) == (255, 255, 255, 255)


def test_a_dark_figure_stays_dark():
    with viz.dark():
        figure, _ = viz.plot_weights(np.full((2, 2, 3), 1 / 6), title="a title")
    pixels = shown(figure)
    assert (pixels[..., 3] == 255).all()
    np.testing.assert_allclose(pixels[0, 0, :3], [0x16, 0x18, 0x1D], atol=2)
    assert pixels[..., :3].max() > 225


def test_the_small_png_is_close_and_small():
    """Of a figure with an image, coloured maps and texts; compared on both pages."""
    rng = np.random.default_rng(0)
    blocks = rng.random((12, 16, 3))
    weights = rng.random((2, 4, 3, 4))
    figure, _ = viz.plot_attention_heatmap(
        blocks, rng.random((2, 4, 3, 4, 2)), weights / 12, [(12, 16), (6, 8), (3, 4)]
    )
    pixels = draw_for_page(figure, scale=2)
    data = small_png(pixels)
    assert data == small_png(pixels.copy())
    usual = io.BytesIO()
    PIL.Image.fromarray(pixels).save(usual, "png", optimize=True)
    assert len(data) < 0.5 * len(usual.getvalue())
    small = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGBA")).astype(float)
    for page in PAGES:
        difference = np.abs(on_page(small, page) - on_page(pixels.astype(float), page))
        assert difference.mean() < 2.5 and np.quantile(difference, 0.99) < 14


def test_few_colours_are_kept_exactly():
    pixels = np.zeros((8, 9, 4), np.uint8)
    pixels[2:5, 3:7] = [[200, 10, 30, 255]]
    pixels[6] = [121, 121, 121, 128]
    small = PIL.Image.open(io.BytesIO(small_png(pixels))).convert("RGBA")
    np.testing.assert_allclose(np.asarray(small), pixels, atol=1)
