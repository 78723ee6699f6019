"""What the inspector's page holds: the numbers, in few bytes, and nothing that a name could run."""

import base64
import json
import re

import numpy as np
import PIL.Image
import pytest

from ddetr_edu.viz.inspector import DecoderLook, inspector_data, pack_look, write_page

K, LQ, M, L, P = 3, 7, 5, 2, 4
SHAPES = [(11, 13), (5, 7)]
PICTURE = np.random.default_rng(0).random((31, 43, 3))


def random_look(layers=K, queries=LQ, heads=M, levels=L, points=P) -> DecoderLook:
    rng = np.random.default_rng(1)
    each, of_points = (layers, queries), (layers, queries, heads, levels, points)
    return DecoderLook(
        references=rng.random((*each, 4)),
        boxes=rng.random((*each, 4)),
        scores=rng.random(each),
        classes=rng.integers(0, 3, each),
        locations=rng.uniform(-0.7, 1.9, (*of_points, 2)),
        weights=rng.random(of_points) / (levels * points),
        lengths=rng.random(of_points) * 9,
    )


def unpack(packed) -> np.ndarray:
    """What inspector.js does, in other words."""
    raw = np.frombuffer(base64.b64decode(packed["bytes"]), np.dtype(packed["kind"]))
    if packed["kind"] == "float32":
        return raw.reshape(packed["shape"])
    steps = {"uint8": 255, "uint16": 65535}[packed["kind"]]
    span = packed["high"] - packed["low"]
    return packed["low"] + raw.reshape(packed["shape"]) * (span / steps)


def page_of(data, folder) -> str:
    write_page(folder / "new" / "page.html", data)
    return (folder / "new" / "page.html").read_text()


def test_the_numbers_come_back_queries_first_to_a_hair():
    look = random_look()
    packed = pack_look(look)
    for name, finest in (
        ("references", 1e-6), ("boxes", 1e-6), ("scores", 1e-6), ("classes", 1e-9),
        ("locations", 2.6 / 65535), ("weights", 1 / 65535), ("lengths", 9 / 255),
    ):  # fmt: skip
        expected = getattr(look, name).swapaxes(0, 1)
        assert packed[name]["shape"] == list(expected.shape)
        np.testing.assert_allclose(unpack(packed[name]), expected, rtol=0, atol=finest * 0.51)


def test_the_best_queries_come_first_and_keep_their_numbers():
    look = random_look()
    data = inspector_data(PICTURE, look, SHAPES, ["a", "b", "c"], "x.png")
    assert data["queries"] == np.argsort(-look.scores[-1]).tolist() and data["all_queries"] == LQ
    boxes = unpack(data["look"]["boxes"])  # (Lq, K, 4)
    for place, query in enumerate(data["queries"]):
        np.testing.assert_allclose(boxes[place], look.boxes[:, query], atol=1e-6)
    assert (data["width"], data["height"], data["shapes"]) == (43, 31, [[11, 13], [5, 7]])


def test_an_r50_with_300_queries_stays_under_three_megabytes(tmp_path):
    look = random_look(6, 300, 8, 4, 4)
    noise = np.random.default_rng(2).random((480, 640, 3))  # no photograph takes more
    shapes = [(100, 134), (50, 67), (25, 34), (13, 17)]
    data = inspector_data(noise, look, shapes, ["thing"] * 91, "x.png")
    assert len(data["queries"]) == 300
    assert len(page_of(data, tmp_path)) < 3_000_000


def test_too_many_queries_are_left_out_worst_first():
    look = random_look(6, 900, 8, 4, 4)
    shapes = [(9, 9)] * 4
    data = inspector_data(PICTURE, look, shapes, ["a", "b", "c"], "x.png")
    kept = len(data["queries"])
    assert 300 <= kept < 900 == data["all_queries"]
    assert look.scores[-1, data["queries"]].min() > np.sort(look.scores[-1])[-kept - 1]


def test_no_name_becomes_markup_or_code(tmp_path):
    evil = "</script><img src=x onerror=alert(1)><!-- {{script}} \u2028"
    data = inspector_data(PICTURE, random_look(), SHAPES, [evil] * 3, evil)
    page = page_of(data, tmp_path)
    assert "<img" not in page and "<!--" not in page.lower().replace("<!doctype", "")
    assert page.count("</script>") == 2 and page.count("function splat(") == 1
    held = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert held["title"] == evil and held["names"] == [evil] * 3
    script = re.sub(r'id="data">.*?</script>', "", page, flags=re.DOTALL)
    assert "innerHTML" not in script and "eval(" not in script


def test_the_page_may_load_nothing(tmp_path):
    page = page_of(inspector_data(PICTURE, random_look(), SHAPES, ["a"], "x"), tmp_path)
    assert "default-src 'none'" in page and 'src="' not in page
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}


def test_large_pictures_are_made_smaller_and_places_stay_in_their_pixels():
    data = inspector_data(np.zeros((1500, 2100, 3), np.uint8), random_look(), SHAPES, ["a"], "x")
    file = base64.b64decode(data["picture"].split(",")[1])
    assert (data["width"], data["height"]) == (2100, 1500)
    import io

    assert max(PIL.Image.open(io.BytesIO(file)).size) == 1024


def test_numbers_that_are_none_do_not_break_the_page(tmp_path):
    look = random_look()
    look.locations[0, 0, 0], look.weights[1, 1, 1] = np.nan, np.inf
    look.scores[-1, 3] = np.nan
    page_of(inspector_data(PICTURE, look, SHAPES, ["a"], "x"), tmp_path)


def test_levels_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="names 1 levels, but the look has 2"):
        inspector_data(PICTURE, random_look(), SHAPES[:1], ["a"], "x")
