"""The inspector in a real browser. Needs a Chromium and `uv run --group browser pytest ...`."""

import shutil

import numpy as np
import pytest

from ddetr_edu.viz.inspector_page import HERE, DecoderTrace, inspector_data, pack_trace, write_page

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

LAYERS, LQ, M, L, P = 3, 7, 5, 2, 3
WIDTH, HEIGHT = 86, 62
SHAPES = [(11, 13), (5, 7)]
NAMES = ["cat", "<b>dog</b>", "cow"]

# As a plain script, whose functions can be called from here.
SCRIPT = (HERE / "inspector.js").read_text().replace("export default", "window.widget =")


def random_trace(queries=LQ) -> DecoderTrace:
    """Boxes in a row that do not overlap; query 3 is the best, query 6 the worst."""
    rng = np.random.default_rng(1)
    weights = rng.random((LAYERS, queries, M, L, P))
    boxes = np.empty((LAYERS, queries, 4))
    boxes[..., 0] = (np.arange(queries) + 0.5) / queries
    boxes[..., 1:] = [0.5, 0.08, 0.3]
    scores = np.tile([0.5, 0.4, 0.6, 0.9, 0.45, 0.35, 0.05][:queries], (LAYERS, 1))
    references = boxes * [1, 1, 0.5, 0.5]
    references[0, :, 2:] = 0  # starts as a point
    return DecoderTrace(
        references,
        boxes,
        scores,
        rng.integers(0, 3, (LAYERS, queries)),
        rng.uniform(-0.01, 1.01, (*weights.shape, 2)),
        weights / weights.sum((-1, -2), keepdims=True),
        rng.random(weights.shape) * 4,
    )


TRACE = random_trace()


def page_data():
    image = np.random.default_rng(0).random((HEIGHT, WIDTH, 3))
    return inspector_data(image, TRACE, SHAPES, NAMES, "<i>x</i>.png")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser):
    """An empty tab. What it writes to the console or requests from the network fails the test."""
    tab = browser.new_page(viewport={"width": 1280, "height": 720})
    tab.set_default_timeout(5_000)
    messages = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda r: messages.append(r.url) if r.url.startswith("http") else None)
    yield tab
    tab.close()
    assert messages == []


@pytest.fixture
def page(tab, tmp_path):
    write_page(tmp_path / "out.html", page_data())
    tab.goto(f"file://{tmp_path / 'out.html'}")
    return tab


def dots(page):
    """(head, level, point) -> the position of its dot, in pixels of the image."""
    return {
        tuple(dot["of"]): dot["at"]
        for dot in page.evaluate(
            """() => [...document.querySelectorAll(".dot")].map((dot) => ({
            of: [dot.dataset.head, dot.dataset.level, dot.dataset.point].map(Number),
            at: dot.getAttribute("transform").match(/translate\\((\\S+) (\\S+)\\)/).slice(1)
                .map(Number) }))"""
        )
    }


def expected(query, layer, trace=TRACE):
    points = trace.locations[layer, query] * [WIDTH, HEIGHT]
    return {(m, l, p): points[m, l, p] for m in range(M) for l in range(L) for p in range(P)}


def check(actual, expected):
    assert set(actual) == set(expected)
    for which, position in actual.items():
        np.testing.assert_allclose(position, expected[which], atol=0.01)


def test_the_best_query_of_the_last_layer_is_shown_first(page):
    check(dots(page), expected(3, LAYERS - 1))
    name = NAMES[TRACE.classes[-1, 3]]
    assert page.text_content("h1") == f"Query 3, decoder layer 2: {name}, 0.90"
    assert page.title() == "<i>x</i>.png" and page.locator("b, i.evil").count() == 0


def test_another_query_is_chosen_by_its_box_its_row_or_a_key(page):
    frame = page.locator(".frame").bounding_box()
    page.mouse.click(frame["x"] + frame["width"] * 0.5 / LQ, frame["y"] + frame["height"] / 2)
    check(dots(page), expected(0, LAYERS - 1))
    page.click("[data-query='4']")
    check(dots(page), expected(4, LAYERS - 1))
    page.keyboard.press("ArrowUp")  # the list is sorted by score: 3 2 0 4 1 5
    check(dots(page), expected(0, LAYERS - 1))


def test_layers_levels_and_heads_are_chosen(page):
    page.keyboard.press("ArrowLeft")
    check(dots(page), expected(3, LAYERS - 2))
    assert page.locator(".entering").count() == 1
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # there is none before the first
    check(dots(page), expected(3, 0))
    assert page.locator(".entering").count() == 0  # it starts as a point
    page.click(".row[data-level='1']")
    check(dots(page), {which: xy for which, xy in expected(3, 0).items() if which[1] == 1})
    page.click(".row[data-head='4']")
    check(
        dots(page),
        {which: xy for which, xy in expected(3, 0).items() if which[1] == 1 and which[0] == 4},
    )
    page.keyboard.press("l")  # after the last level come all of them
    page.keyboard.press("h")
    check(dots(page), expected(3, 0))


def test_bars_are_shares_of_the_weight(page):
    def numbers(panel):
        rows = page.locator(f".row[data-{panel}]").all()
        return [int(row.locator(":scope > :last-child").text_content()[:-2]) for row in rows]

    weights = TRACE.weights[-1, 3]  # (M, L, P)
    shares = weights.sum((0, 2)) / M
    np.testing.assert_allclose(numbers("level"), [100, *100 * shares], atol=0.51)
    page.click(".row[data-level='0']")
    np.testing.assert_allclose(
        numbers("head"), 100 * np.array([shares[0], *weights[:, 0].sum(-1)]), atol=0.51
    )


def test_the_threshold_hides_boxes_but_never_the_chosen_one(page):
    assert page.locator("[data-query]").count() == 6  # all but query 6
    page.evaluate(
        """() => { const slider = document.querySelector("[aria-label='score threshold']");
        slider.value = 0.55; slider.dispatchEvent(new Event("input")); }"""
    )
    assert page.locator("[data-query]").count() == 2 and page.locator(".box").count() == 1
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")  # the last of the list stays
    check(dots(page), expected(2, LAYERS - 1))


def test_a_dot_has_a_tooltip(page):
    page.click(".row[data-level='0']")
    page.click(".row[data-head='2']")
    inside = {w: at for w, at in dots(page).items() if 5 < at[0] < 80 and 5 < at[1] < 57}
    which = max(inside, key=lambda w: TRACE.weights[-1, 3][w])  # drawn on top
    x, y = inside[which]
    frame = page.locator(".frame").bounding_box()
    page.mouse.move(
        frame["x"] + x / WIDTH * frame["width"], frame["y"] + y / HEIGHT * frame["height"]
    )
    tip = page.text_content(".tip")
    assert f"head {which[0]} · level {which[1]} · point {which[2]}" in tip
    assert f"attention weight {TRACE.weights[-1, 3][which]:.4f}" in tip
    assert f"x {x:.1f}, y {y:.1f} px" in tip


def test_the_heatmap_adds_up_to_the_weight_inside(tab):
    """`splat` against its definition: each point's four cells, as far as they exist."""
    tab.set_content(f"<script>{SCRIPT}</script>")
    points = [
        {
            "x": x * WIDTH,
            "y": y * HEIGHT,
            "level": l,
            "weight": float(TRACE.weights[-1, 3, m, l, p]),
        }
        for m in range(M)
        for l in range(L)
        for p in range(P)
        for x, y in [TRACE.locations[-1, 3, m, l, p]]
    ]
    inside = 0
    for point in points:
        rows, columns = SHAPES[point["level"]]
        share = 1
        for position, size in ((point["x"] / WIDTH, columns), (point["y"] / HEIGHT, rows)):
            u = position * size - 0.5
            share *= sum(
                1 - abs(u - cell) for cell in (np.floor(u), np.floor(u) + 1) if 0 <= cell < size
            )
        inside += point["weight"] * share
    arguments = [points, SHAPES, 86, 62, WIDTH, HEIGHT]
    mass = tab.evaluate("(arguments) => Array.from(splat(...arguments))", arguments)
    assert 0 < inside < M and sum(mass) == pytest.approx(inside, rel=1e-4)


def test_the_heatmap_is_shown_and_hidden_by_a_key(page):
    heat = "() => document.querySelectorAll('svg.image > image')[1].getAttribute('href')"
    page.keyboard.press("r")
    assert page.evaluate(heat).startswith("data:image/png")
    page.keyboard.press("r")
    assert page.evaluate(heat) is None


@pytest.mark.parametrize("width", [560, 900, 1440])
def test_nothing_is_wider_than_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 720})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_the_widget_asks_for_its_data_and_for_a_moved_query(tab):
    """inspector.js as a notebook runs it, with a stub in place of the kernel."""
    style = f"<style>{(HERE / 'inspector.css').read_text()}</style>"
    tab.set_content(f"{style}<div id=here></div><script>{SCRIPT}</script>")
    tab.evaluate(
        """() => { window.sent = [];
        window.model = { on: (_, receive) => { window.receive = receive; }, off() {},
                         send: (message) => window.sent.push(message) };
        window.widget.render({ model: window.model, el: document.getElementById("here") }); }"""
    )
    assert tab.evaluate("sent") == [{"ready": True}]
    tab.evaluate("(data) => receive({ data })", page_data())
    check(dots(tab), expected(3, LAYERS - 1))

    frame = tab.locator(".frame").bounding_box()
    at = lambda x, y: (frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])  # noqa: E731
    tab.mouse.move(*at(3.5 / LQ, 0.5))
    tab.mouse.down()
    tab.mouse.move(*at(0.25, 0.75))
    tab.mouse.move(*at(0.75, 0.25))  # while the first request is open, the newest position waits
    requests = tab.evaluate("sent")[1:]
    assert len(requests) == 1 and requests[0]["query"] == 3
    np.testing.assert_allclose([requests[0]["x"], requests[0]["y"]], [0.25, 0.75], atol=0.01)
    answer = TRACE.select([5])
    tab.evaluate("(trace) => receive({ query: 3, trace })", pack_trace(answer))
    check(dots(tab), expected(0, LAYERS - 1, answer))
    (_, _, later) = tab.evaluate("sent")
    np.testing.assert_allclose([later["x"], later["y"]], [0.75, 0.25], atol=0.01)
    tab.mouse.up()
    tab.click("text=reset the query")
    check(dots(tab), expected(3, LAYERS - 1))
