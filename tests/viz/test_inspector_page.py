"""What the inspector page holds: the numbers, in few bytes, and no code from a name."""

import base64
import io
import json
import re

import numpy as np
import PIL.Image
import pytest

from ddetr_edu.viz.inspector_page import DecoderTrace, inspector_data, pack_trace, write_page

LAYERS, LQ, M, L, P = 3, 7, 5, 2, 4
SHAPES = [(11, 13), (5, 7)]
IMAGE = np.random.default_rng(0).random((31, 43, 3))


def random_trace(layers=LAYERS, queries=LQ, heads=M, levels=L, points=P) -> DecoderTrace:
    rng = np.random.default_rng(1)
    each, of_points = (layers, queries), (layers, queries, heads, levels, points)
    return DecoderTrace(
        references=rng.random((*each, 4)),
        boxes=rng.random((*each, 4)),
        scores=rng.random(each),
        classes=rng.integers(0, 3, each),
        locations=rng.uniform(-0.7, 1.9, (*of_points, 2)),
        weights=rng.random(of_points) / (levels * points),
        value_norms=rng.random(of_points) * 9,
    )


def unpack(packed) -> np.ndarray:
    """What inspector.js does, in Python."""
    raw = np.frombuffer(base64.b64decode(packed["bytes"]), np.dtype(packed["kind"]))
    if packed["kind"] == "float32":
        return raw.reshape(packed["shape"])
    steps = {"uint8": 255, "uint16": 65535}[packed["kind"]]
    span = packed["high"] - packed["low"]
    return packed["low"] + raw.reshape(packed["shape"]) * (span / steps)


def page_of(data, folder) -> str:
    write_page(folder / "new" / "page.html", data)
    return (folder / "new" / "page.html").read_text()


def test_packed_numbers_are_accurate_and_queries_come_first():
    trace = random_trace()
    packed = pack_trace(trace)
    for name, step in (
        ("references", 1e-6),
        ("boxes", 1e-6),
        ("scores", 1e-6),
        ("classes", 1e-9),
        ("locations", 2.6 / 65535),
        ("weights", 1 / 65535),
        ("value_norms", 9 / 255),
    ):
        expected = getattr(trace, name).swapaxes(0, 1)
        assert packed[name]["shape"] == list(expected.shape)
        np.testing.assert_allclose(unpack(packed[name]), expected, rtol=0, atol=step * 0.51)


def test_the_best_queries_come_first_and_keep_their_numbers():
    trace = random_trace()
    data = inspector_data(IMAGE, trace, SHAPES, ["a", "b", "c"], "x.png")
    assert data["queries"] == np.argsort(-trace.scores[-1]).tolist() and data["all_queries"] == LQ
    boxes = unpack(data["trace"]["boxes"])  # (Lq, layers, 4)
    for index, query in enumerate(data["queries"]):
        np.testing.assert_allclose(boxes[index], trace.boxes[:, query], atol=1e-6)
    assert (data["width"], data["height"], data["shapes"]) == (43, 31, [[11, 13], [5, 7]])


def test_it_opens_on_the_largest_of_the_confident_detections_or_of_the_ten_best():
    queries = 13
    trace = random_trace(queries=queries)
    trace.scores[-1] = np.linspace(0.9, 0.1, queries)
    trace.boxes[-1, :, 2:] = 0.1
    trace.boxes[-1, 5, 2:], trace.boxes[-1, 11, 2:] = [0.2, 0.3], [0.8, 0.8]
    opens = lambda: inspector_data(IMAGE, trace, SHAPES, ["a"], "x")  # noqa: E731
    assert (opens()["threshold"], opens()["first"]) == (0.3, 5)  # query 11 has 0.17
    trace.scores[-1] /= 10
    assert opens()["threshold"] == pytest.approx(0.03) and opens()["first"] == 5
    trace.boxes[-1, 5, 2:] = 0.1
    assert opens()["first"] == 0  # of equally large ones the best
    trace.scores[-1, 1:] = np.nan
    assert opens()["first"] == 0


def test_an_r50_with_300_queries_stays_under_three_megabytes(tmp_path):
    trace = random_trace(6, 300, 8, 4, 4)
    noise = np.random.default_rng(2).random((480, 640, 3))  # no photograph takes more
    shapes = [(100, 134), (50, 67), (25, 34), (13, 17)]
    data = inspector_data(noise, trace, shapes, ["thing"] * 91, "x.png")
    assert len(data["queries"]) == 300
    assert len(page_of(data, tmp_path)) < 3_000_000


def test_of_too_many_queries_the_worst_are_left_out():
    trace = random_trace(6, 900, 8, 4, 4)
    shapes = [(9, 9)] * 4
    data = inspector_data(IMAGE, trace, shapes, ["a", "b", "c"], "x.png")
    kept = len(data["queries"])
    assert 300 <= kept < 900 == data["all_queries"]
    assert trace.scores[-1, data["queries"]].min() > np.sort(trace.scores[-1])[-kept - 1]


def test_no_name_becomes_markup_or_code(tmp_path):
    evil = "</script><img src=x onerror=alert(1)><!-- {{script}} \u2028"
    data = inspector_data(IMAGE, random_trace(), SHAPES, [evil] * 3, evil)
    page = page_of(data, tmp_path)
    assert "<img" not in page and "<!--" not in page.lower().replace("<!doctype", "")
    assert page.count("</script>") == 2 and page.count("function splat(") == 1
    content = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert content["title"] == evil and content["names"] == [evil] * 3
    script = re.sub(r'id="data">.*?</script>', "", page, flags=re.DOTALL)
    assert "innerHTML" not in script and "eval(" not in script


def test_the_page_may_load_nothing(tmp_path):
    page = page_of(inspector_data(IMAGE, random_trace(), SHAPES, ["a"], "x"), tmp_path)
    assert "default-src 'none'" in page and 'src="' not in page
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}


def test_large_images_are_shrunk_and_coordinates_stay_in_their_pixels():
    data = inspector_data(np.zeros((1500, 2100, 3), np.uint8), random_trace(), SHAPES, ["a"], "x")
    file = base64.b64decode(data["image"].split(",")[1])
    assert (data["width"], data["height"]) == (2100, 1500)
    assert max(PIL.Image.open(io.BytesIO(file)).size) == 1024


def test_nan_and_infinity_do_not_break_the_page(tmp_path):
    trace = random_trace()
    trace.locations[0, 0, 0], trace.weights[1, 1, 1] = np.nan, np.inf
    trace.scores[-1, 3] = np.nan
    page_of(inspector_data(IMAGE, trace, SHAPES, ["a"], "x"), tmp_path)


def test_levels_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="names 1 levels, but the trace has 2"):
        inspector_data(IMAGE, random_trace(), SHAPES[:1], ["a"], "x")
