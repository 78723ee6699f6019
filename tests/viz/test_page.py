"""The inspector in a real browser. Needs a Chromium and `uv run --group browser pytest ...`."""

import shutil

import numpy as np
import pytest

from ddetr_edu.viz.inspector import HERE, DecoderLook, inspector_data, pack_look, write_page

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

K, LQ, M, L, P = 3, 7, 5, 2, 3
WIDTH, HEIGHT = 86, 62
SHAPES = [(11, 13), (5, 7)]
NAMES = ["cat", "<b>dog</b>", "cow"]

# As a plain script, whose functions can be called from here.
SCRIPT = (HERE / "inspector.js").read_text().replace("export default", "window.widget =")


def random_look(queries=LQ) -> DecoderLook:
    """Boxes that do not overlap, in a row; query 3 is the best, query 6 the worst."""
    rng = np.random.default_rng(1)
    weights = rng.random((K, queries, M, L, P))
    boxes = np.empty((K, queries, 4))
    boxes[..., 0] = (np.arange(queries) + 0.5) / queries
    boxes[..., 1:] = [0.5, 0.08, 0.3]
    scores = np.tile([0.5, 0.4, 0.6, 0.9, 0.45, 0.35, 0.05][:queries], (K, 1))
    references = boxes * [1, 1, 0.5, 0.5]
    references[0, :, 2:] = 0  # starts as a point
    return DecoderLook(
        references, boxes, scores, rng.integers(0, 3, (K, queries)),
        rng.uniform(-0.01, 1.01, (*weights.shape, 2)),
        weights / weights.sum((-1, -2), keepdims=True), rng.random(weights.shape) * 4,
    )  # fmt: skip


LOOK = random_look()


def page_data():
    picture = np.random.default_rng(0).random((HEIGHT, WIDTH, 3))
    return inspector_data(picture, LOOK, SHAPES, NAMES, "<i>x</i>.png")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser):
    """An empty tab. Whatever it complains of, or asks the network for, fails the test."""
    tab = browser.new_page(viewport={"width": 1280, "height": 720})
    tab.set_default_timeout(5_000)
    complaints = []
    tab.on("console", lambda said: complaints.append(said.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda r: complaints.append(r.url) if r.url.startswith("http") else None)
    yield tab
    tab.close()
    assert complaints == []


@pytest.fixture
def page(tab, tmp_path):
    write_page(tmp_path / "out.html", page_data())
    tab.goto(f"file://{tmp_path / 'out.html'}")
    return tab


def dots(page):
    """(head, level, point) -> the place of its dot, in pixels of the picture."""
    return {
        tuple(found["of"]): found["at"]
        for found in page.evaluate(
            """() => [...document.querySelectorAll(".dot")].map((dot) => ({
            of: [dot.dataset.head, dot.dataset.level, dot.dataset.point].map(Number),
            at: dot.getAttribute("transform").match(/translate\\((\\S+) (\\S+)\\)/).slice(1)
                .map(Number) }))"""
        )
    }


def expected(query, layer, look=LOOK):
    places = look.locations[layer, query] * [WIDTH, HEIGHT]
    return {(m, l, p): places[m, l, p] for m in range(M) for l in range(L) for p in range(P)}


def check(found, wanted):
    assert set(found) == set(wanted)
    for which, place in found.items():
        np.testing.assert_allclose(place, wanted[which], atol=0.01)


def test_the_best_query_of_the_last_layer_is_shown_first(page):
    check(dots(page), expected(3, K - 1))
    name = NAMES[LOOK.classes[-1, 3]]
    assert page.text_content("h1") == f"{name} 0.90: where query 3 looks in decoder layer 2"
    assert page.title() == "<i>x</i>.png" and page.locator("b, i.evil").count() == 0


def test_another_query_is_chosen_by_its_box_its_row_or_a_key(page):
    place = page.locator(".frame").bounding_box()
    page.mouse.click(place["x"] + place["width"] * 0.5 / LQ, place["y"] + place["height"] / 2)
    check(dots(page), expected(0, K - 1))
    page.click("[data-query='4']")
    check(dots(page), expected(4, K - 1))
    page.keyboard.press("ArrowUp")  # the list is sorted by score: 3 2 0 4 1 5
    check(dots(page), expected(0, K - 1))


def test_layers_levels_and_heads_are_chosen(page):
    page.keyboard.press("ArrowLeft")
    check(dots(page), expected(3, K - 2))
    assert page.locator(".entering").count() == 1
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # there is none before the first
    check(dots(page), expected(3, 0))
    assert page.locator(".entering").count() == 0  # it starts as a point
    page.click(".row[data-level='1']")
    check(dots(page), {w: place for w, place in expected(3, 0).items() if w[1] == 1})
    page.click(".row[data-head='4']")
    check(dots(page), {w: place for w, place in expected(3, 0).items() if w[1] == 1 and w[0] == 4})
    page.keyboard.press("l")  # after the last level come all of them
    page.keyboard.press("h")
    check(dots(page), expected(3, 0))


def test_bars_are_shares_of_the_weight(page):
    def numbers(panel):
        rows = page.locator(f".row[data-{panel}]").all()
        return [int(row.locator(":scope > :last-child").text_content()[:-2]) for row in rows]

    weights = LOOK.weights[-1, 3]  # (M, L, P)
    shares = weights.sum((0, 2)) / M
    np.testing.assert_allclose(numbers("level"), [100, *100 * shares], atol=0.51)
    page.click(".row[data-level='0']")
    np.testing.assert_allclose(
        numbers("head"), 100 * np.array([shares[0], *weights[:, 0].sum(-1)]), atol=0.51
    )


def test_the_threshold_leaves_out_boxes_but_never_the_chosen_one(page):
    assert page.locator("[data-query]").count() == 6  # all but query 6
    page.evaluate(
        """() => { const slider = document.querySelector("[aria-label='score at least']");
        slider.value = 0.55; slider.dispatchEvent(new Event("input")); }"""
    )
    assert page.locator("[data-query]").count() == 2 and page.locator(".box").count() == 1
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")  # the last of the list stays
    check(dots(page), expected(2, K - 1))


def test_a_dot_tells_what_it_is(page):
    page.click(".row[data-level='0']")
    page.click(".row[data-head='2']")
    inside = {w: at for w, at in dots(page).items() if 5 < at[0] < 80 and 5 < at[1] < 57}
    which = max(inside, key=lambda w: LOOK.weights[-1, 3][w])  # drawn on top
    x, y = inside[which]
    place = page.locator(".frame").bounding_box()
    page.mouse.move(
        place["x"] + x / WIDTH * place["width"], place["y"] + y / HEIGHT * place["height"]
    )
    told = page.text_content(".tip")
    assert f"head {which[0]} · level {which[1]} · point {which[2]}" in told
    assert f"weight {LOOK.weights[-1, 3][which]:.4f}" in told
    assert f"x {x:.1f}, y {y:.1f} px" in told


def test_what_is_read_adds_up_to_the_weight_inside(tab):
    """`splat` against its definition: each point's four cells, as far as they exist."""
    tab.set_content(f"<script>{SCRIPT}</script>")
    points = [
        {"x": x * WIDTH, "y": y * HEIGHT, "level": l, "weight": float(LOOK.weights[-1, 3, m, l, p])}
        for m in range(M) for l in range(L) for p in range(P)
        for x, y in [LOOK.locations[-1, 3, m, l, p]]
    ]  # fmt: skip
    inside = 0
    for point in points:
        rows, columns = SHAPES[point["level"]]
        share = 1
        for place, size in ((point["x"] / WIDTH, columns), (point["y"] / HEIGHT, rows)):
            u = place * size - 0.5
            share *= sum(
                1 - abs(u - cell) for cell in (np.floor(u), np.floor(u) + 1) if 0 <= cell < size
            )
        inside += point["weight"] * share
    arguments = [points, SHAPES, 86, 62, WIDTH, HEIGHT]
    mass = tab.evaluate("(arguments) => Array.from(splat(...arguments))", arguments)
    assert 0 < inside < M and sum(mass) == pytest.approx(inside, rel=1e-4)


def test_what_is_read_is_shown_and_hidden_by_a_key(page):
    heat = "() => document.querySelectorAll('svg.picture > image')[1].getAttribute('href')"
    page.keyboard.press("r")
    assert page.evaluate(heat).startswith("data:image/png")
    page.keyboard.press("r")
    assert page.evaluate(heat) is None


@pytest.mark.parametrize("width", [560, 900, 1440])
def test_nothing_is_wider_than_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 720})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_the_widget_asks_for_its_data_and_for_a_moved_query(tab):
    """inspector.js as a notebook runs it, with a model of ours in place of the kernel."""
    style = f"<style>{(HERE / 'inspector.css').read_text()}</style>"
    tab.set_content(f"{style}<div id=here></div><script>{SCRIPT}</script>")
    tab.evaluate(
        """() => { window.sent = [];
        window.model = { on: (_, hear) => { window.hear = hear; }, off() {},
                         send: (message) => window.sent.push(message) };
        window.widget.render({ model: window.model, el: document.getElementById("here") }); }"""
    )
    assert tab.evaluate("sent") == [{"ready": True}]
    tab.evaluate("(data) => hear({ data })", page_data())
    check(dots(tab), expected(3, K - 1))

    place = tab.locator(".frame").bounding_box()
    at = lambda x, y: (place["x"] + x * place["width"], place["y"] + y * place["height"])  # noqa: E731
    tab.mouse.move(*at(3.5 / LQ, 0.5))
    tab.mouse.down()
    tab.mouse.move(*at(0.25, 0.75))
    tab.mouse.move(*at(0.75, 0.25))  # while the first question is open, the newest place waits
    asked = tab.evaluate("sent")[1:]
    assert len(asked) == 1 and asked[0]["query"] == 3
    np.testing.assert_allclose([asked[0]["x"], asked[0]["y"]], [0.25, 0.75], atol=0.01)
    answer = LOOK.of([5])
    tab.evaluate("(look) => hear({ query: 3, look })", pack_look(answer))
    check(dots(tab), expected(0, K - 1, answer))
    (_, _, later) = tab.evaluate("sent")
    np.testing.assert_allclose([later["x"], later["y"]], [0.75, 0.25], atol=0.01)
    tab.mouse.up()
    tab.click("text=back to where")
    check(dots(tab), expected(3, K - 1))
