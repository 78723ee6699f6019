"""Build the site: the lessons as they are committed, the gallery, the results and the API.

    uv run --group site python docs/build_site.py [--out build/site]

Lays out the sources in build/source, draws the rooms of the library from its imports, writes the
inspector's page of the shipped model, and runs Sphinx, whose warnings are errors. Needs no network.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

from rooms import draw_rooms, how_it_is_built, imports_of_rooms

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "source"
URL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")
FOLDERS = ("docs/gallery", "examples")
LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)\s#]+)((?:#[^)\s]*)?\))")
# The modules of each room that others use, by what they are for.
API = {
    "Attention": ("attention.op", "attention.module", "attention.offsets", "attention.locations")
    + ("attention.attention_weights", "attention.interpolation", "attention.aggregation")
    + ("attention.accelerate",),
    "Models": ("models.config", "models.deformable_detr", "models.backbone", "models.encoder")
    + ("models.queries", "models.decoder", "models.heads", "models.position", "models.detr")
    + ("models.capture",),
    "Losses": ("losses.matcher", "losses.criterion", "losses.varifocal", "losses.denoising"),
    "Detector": ("detector",),
    "Data": ("data.coco", "data.shapes", "data.scenes"),
    "Evaluation": ("evaluation.coco_metrics", "evaluation.errors"),
    "Checkpoints": ("checkpoints.io", "checkpoints.transfer", "checkpoints.shipped"),
    "Training": ("training.config", "training.loop", "training.trainer", "training.optim"),
    "Analysis": ("analysis.trace", "analysis.inspector", "analysis.animation"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    out = parser.parse_args().out
    for folder in (SOURCE, out):
        shutil.rmtree(folder, ignore_errors=True)
    lay_out()
    write_api()
    write_inspector_page()
    (SOURCE / "how_it_is_built.md").write_text(how_it_is_built(), encoding="utf-8")
    rooms = draw_rooms(imports_of_rooms())
    (SOURCE / "_static" / "rooms.svg").write_text(rooms, encoding="utf-8")

    from sphinx.cmd.build import main as sphinx

    return sphinx(["-W", "--keep-going", "-q", "-b", "html", str(SOURCE), str(out)])


def lay_out() -> None:
    """Copy all pages to where their links to each other lead, and turn other links to the web."""
    shutil.copytree(ROOT / "docs" / "site", SOURCE)
    lessons = sorted((ROOT / "lessons").glob("*.ipynb"))
    pages = [ROOT / page for page in PAGES]
    pages += [*(ROOT / "docs").glob("*.md"), *lessons, ROOT / "lessons" / "GLOSSARY.md"]
    images = [*(ROOT / "benchmarks" / "results").glob("*.png")]
    images += [path for folder in FOLDERS for path in (ROOT / folder).iterdir() if path.is_file()]
    known = {path.relative_to(ROOT).as_posix() for path in (*pages, *images)}
    for path in pages:
        target = SOURCE / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            target.write_text(with_links(text, path.parent, known), encoding="utf-8")
            continue
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = with_links("".join(cell["source"]), path.parent, known)
        notebook["cells"].insert(1, how_to_open(path.name))
        target.write_text(json.dumps(notebook), encoding="utf-8")
    for path in images:
        target = SOURCE / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    index = SOURCE / "index.md"
    names = "\n".join(f"lessons/{path.stem}" for path in lessons)
    index.write_text(index.read_text(encoding="utf-8").replace("LESSONS", names), encoding="utf-8")


def how_to_open(lesson: str) -> dict:
    """A cell that says how to work on a lesson, for those who read it on the site."""
    command = f"`uv run jupyter lab lessons/{lesson}`"
    text = (
        f":::{{tip}}\nTo do this lesson rather than read it, open it in JupyterLab: {command}\n:::"
    )
    return {"cell_type": "markdown", "id": "open-in-jupyterlab", "metadata": {}, "source": text}


def with_links(markdown: str, folder: Path, known: set[str]) -> str:
    """Markdown whose links to files that are no page of the site lead to the repository.

    Args:
        markdown: The text.
        folder: The folder of its file.
        known: The files of the site, relative to the repository.

    Returns:
        The text with other links.
    """

    def replace(link: re.Match) -> str:
        path = Path(os.path.normpath(folder / link[2])).relative_to(ROOT)
        if path.as_posix() in known:
            return link[0]
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{link[1]}{URL['Repository']}/{kind}/main/{path.as_posix()}{link[3]}"

    return LINK.sub(replace, markdown)


def write_api() -> None:
    """A page for each room, from the docstrings."""
    folder = SOURCE / "api"
    folder.mkdir()
    for room, modules in API.items():
        parts = [room, "=" * len(room), ""]
        for name in modules:
            full = f"ddetr_edu.{name}"
            parts += [name, "-" * len(name), "", f"In `{full}`:", ""]
            parts += [f".. automodule:: {full}", "   :members:", ""]
        (folder / f"{room.lower()}.rst").write_text("\n".join(parts), encoding="utf-8")
    names = [f"   {room.lower()}" for room in API]
    index = ["API", "===", ""]
    index += ["What `import ddetr_edu as dd` offers by itself:", "", *offered(), ""]
    index += [".. toctree::", "   :maxdepth: 1", "", *names, ""]
    (folder / "index.rst").write_text("\n".join(index), encoding="utf-8")


def offered() -> list[str]:
    """A list of the names in `ddetr_edu.__all__`, each with a link."""
    import ddetr_edu

    lines = []
    for name in ddetr_edu.__all__:
        thing = getattr(ddetr_edu, name)
        summary = (thing.__doc__ or "").strip().splitlines()[0]
        role = "class" if isinstance(thing, type) else "func"
        lines.append(f"- :py:{role}:`{thing.__module__}.{thing.__name__}`: {summary}")
    return lines


def write_inspector_page() -> None:
    """The inspector of the shipped model on a held-out scene."""
    import ddetr_edu as dd
    from ddetr_edu.checkpoints.shipped import shipped_checkpoint

    image = ROOT / "data" / "shapes-mini" / "val" / "000002.png"
    dd.write_inspector(
        SOURCE / "_static" / "inspector.html", dd.load(shipped_checkpoint()), str(image)
    )


if __name__ == "__main__":
    sys.exit(main())
