"""The gallery: every picture there is of one detector at work, with a sentence on how to read it.

To add a picture, add an `Exhibit` to `EXHIBITS`.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
from matplotlib.figure import Figure

from ddetr_edu.seen import Drawn, Seen

LARGE = 200_000  # bytes of a PNG; a gallery of 13 should stay below 3 MB


@dataclass(frozen=True)
class Exhibit:
    """A picture of the gallery."""

    name: str  # of its file
    title: str
    how_to_read: str  # one sentence
    call: str  # the line that draws it
    draw: Callable[[Seen, list[Seen]], Drawn]  # of the picture looked at, and of further pictures


EXHIBITS = [
    Exhibit(
        "boxes", "What is found",
        "Each box is a detection, with its name and the score it got; everything below is about "
        "how the model came to these.",
        "seen.boxes()", lambda seen, others: seen.boxes(),
    ),
    Exhibit(
        "layers", "How a query finds its object",
        "From panel to panel the query stands at the dashed box, reads the dots (larger and more "
        "yellow counts more, the shape tells the level), and says the solid box, where the next "
        "layer begins.",
        "seen.layers(seen.largest())", lambda seen, others: seen.layers(seen.largest()),
    ),
    Exhibit(
        "sampling-points", "Sampling points, level by level",
        "The cross is where the query stands and the lines are the level's pixels; what fraction "
        "of the weight a level got stands above it.",
        "seen.sampling_points(seen.largest())",
        lambda seen, others: seen.sampling_points(seen.largest()),
    ),
    Exhibit(
        "heads", "The same, head by head",
        "Each panel is one head with its points on all levels: heads divide the object among them.",
        'seen.sampling_points(seen.largest(), by="head")',
        lambda seen, others: seen.sampling_points(seen.largest(), by="head"),
    ),
    Exhibit(
        "reading", "What a query reads",
        "The picture is lit where the weights fell, each shared out over the four pixels that "
        "bilinear sampling reads: what stays dark, this query has not read.",
        "seen.reading(seen.largest())", lambda seen, others: seen.reading(seen.largest()),
    ),
    Exhibit(
        "rose", "Where the heads of the decoder look",
        "A sector's area is the share of the head's weight in that direction, from near (pale) to "
        "far (dark); the line is where the head looked before training.",
        "seen.rose()", lambda seen, others: seen.rose(),
    ),
    Exhibit(
        "rose-encoder", "Where the heads of the encoder look",
        "The same of the encoder's first layer, over all tokens: here distances are pixels of the "
        "level a point lies on.",
        'seen.rose("encoder.layers.0.self_attn")',
        lambda seen, others: seen.rose("encoder.layers.0.self_attn"),
    ),
    Exhibit(
        "token", "An encoder token's view",
        "The small square is the token's own pixel, the dots are what it reads to learn about its "
        "surroundings, on all levels.",
        "seen.token()", lambda seen, others: seen.token(),
    ),
    Exhibit(
        "proposals", "What the encoder proposes",
        "Each square is a token, brighter where it believes in an object; ringed ones become "
        "queries, and the last panel shows the boxes of the best.",
        "seen.proposals()",
        lambda seen, others: seen.proposals() if seen.records.proposals else None,
    ),
    Exhibit(
        "paths", "The way of the boxes",
        "Every detection begins at its ring, and thin boxes become the thick one layer by layer; "
        "the dots are their centres.",
        "seen.paths()", lambda seen, others: seen.paths(),
    ),
    Exhibit(
        "matching", "The matching",
        "Left, each object's box (numbered) and that of the query it is given; right, what each "
        "pairing would cost, with the chosen ones marked: no query answers for two objects.",
        "seen.matching()",
        lambda seen, others: seen.matching() if seen.target else None,
    ),
    Exhibit(
        "matching-by-layer", "The matching, layer by layer",
        "A row for each object and a column for each decoder layer: where the number changes, "
        "another query has become the cheapest answer.",
        "seen.matching_by_layer()",
        lambda seen, others: seen.matching_by_layer() if seen.target else None,
    ),
    Exhibit(
        "levels", "Levels and sizes",
        "Each mark is the share of weight that a found object's query gave a level, the lines are "
        "means: where a line rises, larger objects read more of that level.",
        "seen.levels(*others)", lambda seen, others: seen.levels(*others),
    ),
    Exhibit(
        "outside", "Looking outside",
        "Colour beyond the frame is weight on places that do not exist and read zeros; the table "
        "says how much of its weight each layer loses so, on each level.",
        "seen.outside()", lambda seen, others: seen.outside(),
    ),
    Exhibit(
        "statistics", "Health of every attention",
        "Hills show how far the queries look, at how many points, and bars how much of it is "
        "outside, short lines being single heads; dead heads, collapsed weights and runaway "
        "offsets are named below.",
        "seen.statistics()", lambda seen, others: seen.statistics(),
    ),
]  # fmt: skip


def write_gallery(out: Path, seen: Seen, others: list[Seen], about: str) -> list[Path]:
    """Write every exhibit as PNG into a folder, and a page beside it: docs/gallery and .md.

    What is not there to be drawn is left out: the proposals of a model of one stage, the matching
    where seen.target does not say what is in the picture.

    others: further pictures, for what is counted over many
    about:  a sentence for the top of the page: which model, which picture
    Returns: the files written, the page last.
    """
    out.mkdir(parents=True, exist_ok=True)
    page = [
        "# Gallery", "", about, "",
        "Each picture is one call, and returns the numbers it drew beside the figure:", "",
        "```python",
        'seen = dd.look(dd.load("checkpoint.pt"), "picture.png")',
        "figure, data = seen.layers()",
        "```",
    ]  # fmt: skip
    files = []
    for exhibit in EXHIBITS:
        drawn = exhibit.draw(seen, others)
        if drawn is None:
            continue
        files.append(out / f"{exhibit.name}.png")
        save_small(drawn[0], files[-1])
        link = f"![{exhibit.title}]({out.name}/{files[-1].name})"
        page += ["", f"## {exhibit.title}", "", link, "", f"{exhibit.how_to_read} `{exhibit.call}`"]
    files.append(out.with_suffix(".md"))
    files[-1].write_text("\n".join(page) + "\n")
    return files


def save_small(figure: Figure, path: Path) -> None:
    """Write a figure as PNG without empty edges; a large one, as of photographs, in 256 colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight", pad_inches=0.08)
    full = PIL.Image.open(buffer).convert("RGB")
    if buffer.tell() > LARGE:
        colours = full.quantize(256, PIL.Image.Quantize.MAXCOVERAGE)
        full = full.quantize(palette=colours)
    full.save(path, optimize=True)
