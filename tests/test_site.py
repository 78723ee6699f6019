"""The site is built without a warning, and its pages link and load what is there."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from ddetr_edu.viz.page_ink import INK

pytest.importorskip("sphinx")

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
LOADS = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}


class Page(HTMLParser):
    """The ids of a page, what it links to, and what it loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids.add(attributes.get("id"))
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        is_loaded = tag != "link" or "stylesheet" in attributes.get("rel", "")
        if tag in LOADS and is_loaded and attributes.get(LOADS[tag]):
            self.loads.append(attributes[LOADS[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site, and its pages by path."""
    out = tmp_path_factory.mktemp("site") / "site"
    process = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "build_site.py"), "--out", str(out)],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return out, {path: Page(path) for path in out.rglob("*.html") if "_static" not in path.parts}


def test_all_lessons_are_in_it_with_their_outputs(site):
    out, _ = site
    for lesson in (ROOT / "lessons").glob("*.ipynb"):
        page = (out / "lessons" / f"{lesson.stem}.html").read_text(encoding="utf-8")
        assert 'class="cell_output' in page and "<details>" in page and "<img" in page
        text = re.sub(r"<[^>]+>", "", page)  # without the markup of each word of a command
        assert f"uv run jupyter lab lessons/{lesson.name}" in text


def test_every_link_inside_leads_somewhere(site):
    out, pages = site
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.relative_to(out)} links to {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name}: {link}"


def test_nothing_is_loaded_from_elsewhere(site):
    out, pages = site
    for path, page in pages.items():
        for link in page.loads:
            assert not urlsplit(link).netloc, f"{path.relative_to(out)} loads {link}"
    for style in out.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"url\(\s*['\"]?https?:|@import\s+['\"]https?:", text), style


def test_a_page_is_under_a_megabyte_without_its_images(site):
    _, pages = site
    assert all(path.stat().st_size < 1_000_000 for path in pages)


def test_formulas_need_no_script(site):
    out, pages = site
    lesson = out / "lessons" / "04_sampling_offsets.html"
    assert lesson.read_text(encoding="utf-8").count("<math") > 10
    assert not [load for load in pages[lesson].loads if "mathjax" in load.lower()]


def test_every_image_has_a_text_for_those_who_do_not_see_it(site):
    out, _ = site
    for path in out.rglob("*.html"):
        for image in re.findall(r"<img\b[^>]*>", path.read_text(encoding="utf-8")):
            alt = re.search(r'\balt="([^"]*)"', image)
            assert alt and not alt[1].endswith((".png", ".svg")), f"{path.name}: {image}"


def test_lessons_link_to_the_glossary_where_they_first_use_a_term(site):
    out, pages = site
    glossary = pages[out / "lessons" / "GLOSSARY.html"]
    terms = {anchor for anchor in glossary.ids if anchor and anchor.startswith("term-")}
    rows = (ROOT / "lessons" / "GLOSSARY.md").read_text(encoding="utf-8").split("\n| ")
    assert len(terms) == len([row for row in rows[1:] if not row.startswith("English")])
    linked = {}
    for path in (out / "lessons").glob("[0-9]*.html"):
        page = path.read_text(encoding="utf-8")
        found = re.findall(r'<a class="[^"]*\bterm\b[^"]*" href="GLOSSARY.html#([^"]+)"', page)
        linked[path.stem] = found
        assert len(found) == len(set(found)), path.stem
        assert terms.issuperset(found), path.stem
        for unlinked in ("pre", "code", "math", "h1", "h2", "h3", "h4"):
            for part in re.findall(rf"<{unlinked}\b.*?</{unlinked}>", page, re.DOTALL):
                assert "#term-" not in part, path.stem
    first = {"term-query", "term-box", "term-feature-map", "term-sampling-offset"}
    assert first <= set(linked["00_start_here"])
    assert {"term-pair", "term-dilated-c5-dc5"} <= set(linked["01_why_a_few_points"])
    assert "term-memory" not in linked["01_why_a_few_points"]  # there, it is the computer's
    assert "#term-" not in (out / "README.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_overflows_or_reports_an_error(site, chromium, width):
    out, pages = site
    page = chromium.new_page(viewport={"width": width, "height": 900})
    errors: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    for path in pages:
        page.goto(path.as_uri())
        over = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert over <= 0, f"{path.relative_to(out)} is {over} px too wide"
        # The theme says so of a visitor who has not chosen between light and dark yet.
        found = [error for error in errors if "invalid theme mode" not in error]
        assert not found, f"{path.relative_to(out)}: {found}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_level_aa(site, chromium, scheme):
    out, pages = site
    page = chromium.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    # One page of source stands for all, which have the same few colours.
    addresses = [path.as_uri() for path in pages if "_modules" not in path.parts]
    addresses.append((out / "_modules" / "ddetr_edu" / "detector.html").as_uri())
    addresses.append((out / "_static" / "inspector.html").as_uri())
    operation = "#ddetr_edu.attention.op.ms_deform_attn"  # the target of a link has its own colour
    addresses.append((out / "api" / "attention.html").as_uri() + operation)
    faults = []
    for address in addresses:
        page.goto(address)
        found = page.evaluate(CONTRAST)
        assert found["texts"] > 20, address
        faults += [f"{address.removeprefix(out.as_uri())}: {fault}" for fault in found["faults"]]
    page.goto((out / "lessons" / "04_sampling_offsets.html").as_uri())
    for link in ("article a.term", ".bd-sidebar-primary nav a", ".prev-next-footer a"):
        page.hover(link)
        faults += [f"under the mouse: {fault}" for fault in page.evaluate(CONTRAST)["faults"]]
    page.goto((out / "search.html").as_uri() + "?q=sampling")
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    page.wait_for_selector(".search li")
    faults += page.evaluate(CONTRAST)["faults"]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_letters_of_figures_have_the_contrast_of_level_aa(site, chromium, scheme):
    out, _ = site
    page = chromium.new_page(color_scheme=scheme)
    page.goto((out / "lessons" / "04_sampling_offsets.html").as_uri())
    image = "getComputedStyle(document.querySelector('.cell_output img'))"
    factor = float(page.evaluate(f"{image}.filter").removeprefix("brightness(").removesuffix(")"))
    letters = f"rgb({', '.join(3 * [str(255 * INK * factor)])})"
    page.evaluate(f"document.querySelector('article p').style.color = '{letters}'")
    assert not [fault for fault in page.evaluate(CONTRAST)["faults"] if "in p" in fault]


@pytest.mark.parametrize(
    ("style", "is_enough"),
    [
        ("color: #767676", True),
        ("color: #777777", False),
        ("color: #949494; font-size: 24px", True),
        ("color: #949494; font-size: 19px; font-weight: 700", True),
        ("color: #949494; font-size: 19px", False),
        ("color: #969696; font-size: 24px", False),
        ("color: rgb(0 0 0 / 0.54)", True),
        ("color: rgb(0 0 0 / 0.53)", False),
        ("opacity: 0.53", False),
        ("color: white; background: rgb(0 0 0 / 0.54)", True),
        ("color: white; background: rgb(0 0 0 / 0.53)", False),
        ("color: white; visibility: hidden", True),
    ],
)
def test_contrast_is_measured_as_wcag_defines_it(chromium, style, is_enough):
    page = chromium.new_page()
    for html in (f'<p style="{style}">text', f'<div style="{style}"><p><b>te</b>xt'):
        page.set_content(f"<body style='background: white'>{html}")
        assert (page.evaluate(CONTRAST)["faults"] == []) == is_enough
