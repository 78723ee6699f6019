"""The site is built without a warning, and its pages link and load what is there."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx")

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
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


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_no_page_overflows_or_reports_an_error(site, width):
    playwright = pytest.importorskip("playwright.sync_api")
    out, pages = site
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
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
        chromium.close()
