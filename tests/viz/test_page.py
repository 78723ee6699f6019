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


def page_data(trace=TRACE):
    image = np.random.default_rng(0).random((HEIGHT, WIDTH, 3))
    return inspector_data(image, trace, SHAPES, NAMES, "<i>x</i>.png")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def watched(tab):
    """Yield a tab. What it writes to the console or requests from the network fails the test."""
    tab.set_default_timeout(5_000)
    messages = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda r: messages.append(r.url) if r.url.startswith("http") else None)
    yield tab
    tab.close()
    assert messages == []


@pytest.fixture
def tab(browser):
    yield from watched(browser.new_page(viewport={"width": 1280, "height": 720}))


@pytest.fixture
def phone(browser):
    size = {"width": 390, "height": 720}
    yield from watched(browser.new_page(viewport=size, has_touch=True, is_mobile=True))


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


def listed(page):
    """The queries whose rows can be seen, from top to bottom."""
    rows = page.locator("[data-query]:visible").all()
    return [int(row.get_attribute("data-query")) for row in rows]


def focused(page):
    """The data attributes of the element that has the focus."""
    return page.evaluate("() => ({ ...document.activeElement.dataset })")


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
    assert listed(page) == [3, 2, 0, 4, 1, 5]  # all but query 6
    page.evaluate(
        """() => { const slider = document.querySelector("[aria-label='score threshold']");
        slider.value = 0.55; slider.dispatchEvent(new Event("input")); }"""
    )
    assert listed(page) == [3, 2] and page.locator(".box").count() == 1
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


# The keyboard: the focus stays where it was, or goes where the choice went ------------------------


@pytest.mark.parametrize("row", [{"query": "4"}, {"level": "1"}, {"head": "2"}])
def test_a_row_that_is_chosen_keeps_the_focus(page, row):
    ((panel, number),) = row.items()
    page.focus(f".row[data-{panel}='{number}']")
    page.keyboard.press("Enter")
    assert focused(page) == row
    assert page.get_attribute(f".row[data-{panel}='{number}']", "aria-pressed") == "true"
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert focused(page) == row
    page.keyboard.press("ArrowLeft")  # a key for another choice does not take it away
    assert focused(page) == row


def test_the_focus_goes_with_a_choice_made_by_a_key(page):
    page.focus(".row[data-query='0']")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    assert focused(page) == {"query": "4"}
    page.keyboard.press("Enter")  # chooses where one is, not where one was
    check(dots(page), expected(4, LAYERS - 1))
    page.click(".row[data-level='0']")
    page.keyboard.press("l")
    assert focused(page) == {"level": "1"}
    page.click(".row[data-head='0']")
    page.keyboard.press("h")
    assert focused(page) == {"head": "1"}


def test_the_list_scrolls_only_to_show_the_chosen_row(tab, tmp_path):
    trace = random_trace()
    several = DecoderTrace(*(np.concatenate([x] * 9, axis=1) for x in vars(trace).values()))
    write_page(tmp_path / "out.html", page_data(several))
    tab.goto(f"file://{tmp_path / 'out.html'}")
    top = "() => document.querySelector('.list').scrollTop"
    assert tab.evaluate(top) == 0
    tab.locator(".list .row").nth(3).click()
    assert tab.evaluate(top) == 0  # it was in view
    tab.evaluate("() => { document.querySelector('.list').scrollTop = 200; }")
    tab.click(".row[data-level='0']")
    assert tab.evaluate(top) == 200  # one may look elsewhere
    tab.keyboard.press("ArrowDown")
    assert 0 < tab.evaluate(top) < 100 and focused(tab) == {"level": "0"}


# What the page opens on, and how it names sizes ---------------------------------------------------


def test_the_page_opens_on_the_largest_of_the_detections_it_lists(tab, tmp_path):
    trace = random_trace()
    trace.boxes[-1, 4, 2:] = [0.3, 0.4]
    trace.boxes[-1, 6, 2:] = [0.9, 0.9]  # larger, but its score is below the threshold
    write_page(tmp_path / "out.html", page_data(trace))
    tab.goto(f"file://{tmp_path / 'out.html'}")
    check(dots(tab), expected(4, LAYERS - 1, trace))
    assert listed(tab) == [3, 2, 0, 4, 1, 5]


def test_sizes_of_levels_are_height_by_width_and_say_so(page):
    rows = page.locator(".row[data-level]").all()
    labels = [row.locator(":scope > :first-child").text_content() for row in rows]
    assert labels == ["all levels", "0: 11 × 13", "1: 5 × 7"]
    assert page.get_by_role("heading", name="by level (height × width)").count() == 1


# A phone ------------------------------------------------------------------------------------------


def swipe(page, start, distance):
    """Move a finger up from a position; what the browser makes of it is its own matter."""
    x, y = start
    session = page.context.new_cdp_session(page)
    touch = lambda kind, *points: session.send(  # noqa: E731
        "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [*points]}
    )
    touch("touchStart", {"x": x, "y": y})
    for step in range(1, 11):
        touch("touchMove", {"x": x, "y": y - distance * step / 10})
    touch("touchEnd")


def test_swiping_over_the_image_scrolls_the_page(phone, tmp_path):
    write_page(tmp_path / "out.html", page_data())
    phone.goto(f"file://{tmp_path / 'out.html'}")
    image = phone.locator("svg.image").bounding_box()
    swipe(phone, (image["x"] + image["width"] / 2, image["y"] + image["height"] / 2), 150)
    phone.wait_for_function("() => window.scrollY > 50")
    assert phone.evaluate("() => document.documentElement.scrollWidth") <= 390


def test_a_finger_has_room_for_everything_it_can_touch(phone, tmp_path):
    write_page(tmp_path / "out.html", page_data())
    phone.goto(f"file://{tmp_path / 'out.html'}")
    controls = phone.locator("button:visible, label").all()
    assert len(controls) == 6 + (1 + L) + (1 + M) + 4
    for control in controls:
        assert control.bounding_box()["height"] >= 44, control.text_content()
    slider = phone.locator("input[type=range]").first
    assert slider.bounding_box()["height"] >= 44


def test_names_in_the_image_can_be_read_and_are_not_cut_off(phone, tmp_path):
    trace = random_trace()
    trace.boxes[-1, 2, :2] = [0.98, 0.2]
    data = page_data(trace) | {"names": ["白细胞计数", "<b>dog</b>", "白细胞计数"]}
    write_page(tmp_path / "out.html", data)
    phone.goto(f"file://{tmp_path / 'out.html'}")
    labels = phone.locator("text.label")
    assert labels.count() >= 2
    assert min(label.bounding_box()["height"] for label in labels.all()) >= 11
    image = phone.locator("svg.image").bounding_box()
    phone.click("[data-query='2']")
    box = labels.filter(has_text="0.60").bounding_box()
    assert box["x"] + box["width"] <= image["x"] + image["width"]


def test_a_tap_on_a_dot_says_what_it_is(phone, tmp_path):
    write_page(tmp_path / "out.html", page_data())
    phone.goto(f"file://{tmp_path / 'out.html'}")
    frame = phone.locator(".frame").bounding_box()
    boxes = TRACE.boxes[-1, 3]
    inside = {  # a tap on another query's box chooses that query
        which: at
        for which, at in dots(phone).items()
        if abs(at[0] / WIDTH - boxes[0]) < 0.04 and abs(at[1] / HEIGHT - boxes[1]) < 0.15
    }
    x, y = inside[max(inside, key=lambda which: TRACE.weights[-1, 3][which])]
    phone.touchscreen.tap(
        frame["x"] + x / WIDTH * frame["width"], frame["y"] + y / HEIGHT * frame["height"]
    )
    assert "attention weight" in phone.locator(".tip:visible").text_content()


# The widget: inspector.js as a notebook runs it, with a stub in place of the kernel ---------------


def show_widget(tab):
    style = f"<style>{(HERE / 'inspector.css').read_text()}</style>"
    view = '<meta name=viewport content="width=device-width">'
    below = "<div style='height: 2000px'></div>"
    tab.set_content(f"{view}{style}<div id=here></div>{below}<script>{SCRIPT}</script>")
    tab.evaluate(
        """() => { window.sent = [];
        window.model = { on: (_, receive) => { window.receive = receive; }, off() {},
                         send: (message) => window.sent.push(message) };
        window.widget.render({ model: window.model, el: document.getElementById("here") }); }"""
    )
    assert tab.evaluate("sent") == [{"ready": True}]
    tab.evaluate("(data) => receive({ data })", page_data())


def place(tab, x, y):
    """A position of the image, in fractions of it, as pixels of the window."""
    frame = tab.locator(".frame").bounding_box()
    return frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]


def drag(tab, start, end):
    tab.mouse.move(*place(tab, *start))
    tab.mouse.down()
    tab.mouse.move(*place(tab, *end))


def answer(tab, number, trace):
    """What the kernel sends for the request of this number, from 1."""
    request = tab.evaluate("sent")[number]
    tab.evaluate("(message) => receive(message)", {"id": request["id"], "trace": pack_trace(trace)})


@pytest.fixture
def widget(tab):
    show_widget(tab)
    return tab


def test_the_widget_asks_for_its_data_and_for_a_moved_query(widget):
    check(dots(widget), expected(3, LAYERS - 1))
    drag(widget, (3.5 / LQ, 0.5), (0.25, 0.75))
    # While the first request is open, the newest position waits.
    widget.mouse.move(*place(widget, 0.75, 0.25))
    requests = widget.evaluate("sent")[1:]
    assert len(requests) == 1 and requests[0]["query"] == 3
    np.testing.assert_allclose([requests[0]["x"], requests[0]["y"]], [0.25, 0.75], atol=0.01)
    answer(widget, 1, TRACE.select([5]))
    check(dots(widget), expected(5, LAYERS - 1))
    (_, _, later) = widget.evaluate("sent")
    np.testing.assert_allclose([later["x"], later["y"]], [0.75, 0.25], atol=0.01)
    widget.mouse.up()
    widget.click("text=reset query 3")
    check(dots(widget), expected(3, LAYERS - 1))


@pytest.mark.parametrize("row", ["[data-query='2']", "[data-level='1']", "[data-head='2']"])
def test_the_keys_of_the_widget_work_after_a_row_is_clicked(widget, row):
    widget.click(f".row{row}")
    before = widget.text_content("h1")
    widget.keyboard.press("ArrowDown")
    assert widget.text_content("h1") != before
    widget.keyboard.press("ArrowLeft")
    assert "decoder layer 1" in widget.text_content("h1")


def test_a_query_that_was_dragged_stays_in_the_list_and_can_be_reset(widget):
    drag(widget, (3.5 / LQ, 0.5), (0.25, 0.75))
    widget.mouse.up()
    answer(widget, 1, TRACE.select([6]))  # there, its score is only 0.05
    widget.click("[data-query='2']")
    assert listed(widget) == [3, 2, 0, 4, 1, 5]
    assert "5 above" in widget.text_content(".list + label output")
    assert widget.locator("[data-query='3']").text_content().endswith("(moved)0.050")
    assert not widget.locator("text=reset query").is_visible()
    # Another one moves as well; the first stays where it was put.
    drag(widget, (2.5 / LQ, 0.5), (0.25, 0.75))
    widget.mouse.up()
    answer(widget, 2, TRACE.select([5]))
    widget.click("[data-query='3']")
    check(dots(widget), expected(6, LAYERS - 1))
    widget.click("text=reset query 3")
    check(dots(widget), expected(3, LAYERS - 1))
    assert widget.locator("[data-query='3']").text_content().endswith("0.900")
    assert not widget.locator("text=reset query").is_visible()
    widget.keyboard.press("ArrowDown")  # the button is gone, the focus is not
    check(dots(widget), expected(5, LAYERS - 1))


def test_an_answer_that_comes_late_moves_the_query_that_was_dragged(widget):
    drag(widget, (3.5 / LQ, 0.5), (0.25, 0.75))
    widget.mouse.move(*place(widget, 0.75, 0.25))  # waits for the first answer
    widget.mouse.up()
    widget.click("[data-query='2']")
    answer(widget, 1, TRACE.select([5]))
    assert [message["query"] for message in widget.evaluate("sent")[1:]] == [3, 3]
    check(dots(widget), expected(2, LAYERS - 1))
    widget.click("[data-query='3']")
    widget.click("text=reset query 3")
    answer(widget, 2, TRACE.select([6]))  # the second, which nobody waits for any more
    check(dots(widget), expected(3, LAYERS - 1))


def test_a_drag_that_was_never_answered_does_not_block_the_next(widget):
    drag(widget, (3.5 / LQ, 0.5), (0.25, 0.75))  # the kernel fails
    widget.mouse.up()
    drag(widget, (3.5 / LQ, 0.5), (0.75, 0.25))
    widget.mouse.up()
    assert len(widget.evaluate("sent")) == 3
    answer(widget, 1, TRACE.select([6]))  # late, and of a position that is no longer wanted
    check(dots(widget), expected(3, LAYERS - 1))
    answer(widget, 2, TRACE.select([5]))
    check(dots(widget), expected(5, LAYERS - 1))


def test_a_finger_drags_the_reference_point_and_scrolls_elsewhere(phone):
    show_widget(phone)
    x, y = place(phone, 3.5 / LQ, 0.5)
    swipe(phone, (x + 15, y), 80)  # a finger is not as exact as a mouse
    assert len(phone.evaluate("sent")) == 2 and phone.evaluate("window.scrollY") == 0
    swipe(phone, place(phone, 0.9, 0.9), 80)
    phone.wait_for_function("() => window.scrollY > 20")
    assert len(phone.evaluate("sent")) == 2
