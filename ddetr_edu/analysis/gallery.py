"""The gallery: every figure of one detector at work, each with a sentence on how to read it.

To add a figure, add an `Exhibit` to `EXHIBITS`.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
from matplotlib.figure import Figure

from ddetr_edu.analysis.trace import DetectionTrace, Drawn

MAX_FULL_COLOUR_BYTES = 200_000  # of a PNG; a gallery of 15 should stay below 3 MB


@dataclass(frozen=True)
class Exhibit:
    """A figure of the gallery."""

    name: str  # of its file
    title: str
    how_to_read: str  # whole sentences
    call: str  # the line of Python that draws it
    # From the trace of the image, and traces of further images; None: there is nothing to draw.
    draw: Callable[[DetectionTrace, list[DetectionTrace]], Drawn | None]


EXHIBITS = [
    Exhibit(
        "boxes",
        "Detections",
        "Each box is a detection, with its category and score. The figures below show how the "
        "model arrives at these boxes.",
        "trace.boxes()",
        lambda trace, others: trace.boxes(),
    ),
    Exhibit(
        "layers",
        "How a query finds its object",
        "Each panel is a decoder layer. The dashed box is the reference that enters the layer, the "
        "dots are the sampling points, and the solid box is the prediction, which is the next "
        "layer's reference. A dot is larger and brighter for a higher attention weight, and its "
        "shape tells the level.",
        "trace.layers(trace.largest())",
        lambda trace, others: trace.layers(trace.largest()),
    ),
    Exhibit(
        "sampling-points",
        "Sampling points by level",
        "Each panel is a level of the feature pyramid, with its pixel grid. The cross is the "
        "centre of the reference box, and the title gives the level's share of the attention "
        "weight.",
        "trace.sampling_points(trace.largest())",
        lambda trace, others: trace.sampling_points(trace.largest()),
    ),
    Exhibit(
        "heads",
        "Sampling points by head",
        "Each panel is an attention head with its points on all levels. The heads divide the "
        "object among them.",
        'trace.sampling_points(trace.largest(), by="head")',
        lambda trace, others: trace.sampling_points(trace.largest(), by="head"),
    ),
    Exhibit(
        "attention-heatmap",
        "Attention heatmap of a query",
        "The image is bright where the attention weight of the query falls. Each weight is shared "
        "out over the four pixels that bilinear interpolation reads, so what stays dark has not "
        "been read.",
        "trace.attention_heatmap(trace.largest())",
        lambda trace, others: trace.attention_heatmap(trace.largest()),
    ),
    Exhibit(
        "offset-rose",
        "Sampling offsets of the decoder's heads",
        "The area of a sector is the share of the head's attention weight in that direction, from "
        "near (pale) to far (dark). The line is the direction of the head's offsets at "
        "initialisation.",
        "trace.offset_rose()",
        lambda trace, others: trace.offset_rose(),
    ),
    Exhibit(
        "offset-rose-encoder",
        "Sampling offsets of the encoder's heads",
        "This is the same figure for the first encoder layer, over all tokens. Here distances are "
        "measured in pixels of the level that a point lies on.",
        'trace.offset_rose("encoder.layers.0.self_attn")',
        lambda trace, others: trace.offset_rose("encoder.layers.0.self_attn"),
    ),
    Exhibit(
        "token",
        "Sampling points of an encoder token",
        "The small dashed square is the token's own cell, and the dots are the points, on all "
        "levels, from which it gathers its context.",
        "trace.token()",
        lambda trace, others: trace.token(),
    ),
    Exhibit(
        "proposals",
        "Proposals of the encoder",
        "Each square is a token, brighter for a higher objectness. The circled tokens become "
        "queries, and the last panel shows the boxes of the best ones.",
        "trace.proposals()",
        lambda trace, others: trace.proposals() if trace.records.proposals else None,
    ),
    Exhibit(
        "box-trajectories",
        "Box refinement",
        "Every detection starts at its circle. The thin boxes are the predictions of the earlier "
        "decoder layers, the thick box is the final one, and the dots are their centres.",
        "trace.box_trajectories()",
        lambda trace, others: trace.box_trajectories(),
    ),
    Exhibit(
        "matching",
        "Bipartite matching",
        "On the left are the numbered boxes of the objects and, dashed, those of the queries "
        "matched with them. On the right is the cost of every pair, with circles around the "
        "matched ones. No query is matched with two objects.",
        "trace.matching()",
        lambda trace, others: trace.matching() if trace.target else None,
    ),
    Exhibit(
        "matching-by-layer",
        "Bipartite matching by layer",
        "The table has a row for each object and a column for each decoder layer. Where the "
        "number changes, which is framed, another query has become the cheapest match.",
        "trace.matching_by_layer()",
        lambda trace, others: trace.matching_by_layer() if trace.target else None,
    ),
    Exhibit(
        "level-usage",
        "Level usage by object size",
        "Each mark is the share of attention weight that the query of a detected object gives to "
        "a level, and the lines are means. Where a line rises, larger objects use more of that "
        "level.",
        "trace.level_usage_by_size(*others)",
        lambda trace, others: trace.level_usage_by_size(*others),
    ),
    Exhibit(
        "out-of-bounds",
        "Sampling outside the image",
        "Colour beyond the frame is attention weight on points outside the image, where only zeros "
        "are read. The table gives the share of the weight that each layer loses this way, by "
        "level.",
        "trace.out_of_bounds()",
        lambda trace, others: trace.out_of_bounds(),
    ),
    Exhibit(
        "statistics",
        "Statistics of every attention",
        "The histograms show how far the queries sample and how many points effectively count, and "
        "the bars show how much of the weight is outside the image. The short lines are single "
        "heads. Warnings about dead heads, collapsed weights and runaway offsets are listed below.",
        "trace.statistics()",
        lambda trace, others: trace.statistics(),
    ),
]


def write_gallery(
    out: Path, trace: DetectionTrace, others: list[DetectionTrace], about: str
) -> list[Path]:
    """Write every exhibit as PNG into a folder, and a page that shows them: docs/gallery and .md.

    Exhibits for which there is nothing to draw are left out: the proposals of a one-stage model,
    and the matching if the trace has no `target`.

    Args:
        out: The folder; the page has its name, with the ending .md.
        trace: The trace to draw.
        others: Traces of further images, for figures of many images.
        about: Sentences for the top of the page that name the model and the image.

    Returns:
        The files written, the page last.
    """
    out = out.absolute() if not out.name else out  # "." has no name of its own
    out.mkdir(parents=True, exist_ok=True)
    page = [
        "# Gallery",
        "",
        about,
        "",
        "Each figure is drawn by one call, which also returns the numbers that it shows:",
        "",
        "```python",
        'trace = dd.trace(dd.load("checkpoint.pt"), "image.png")',
        "figure, data = trace.layers()",
        "```",
    ]
    files = []
    for exhibit in EXHIBITS:
        drawn = exhibit.draw(trace, others)
        if drawn is None:
            continue
        files.append(out / f"{exhibit.name}.png")
        save_small(drawn[0], files[-1])
        link = f"![{exhibit.title}]({out.name}/{files[-1].name})"
        page += ["", f"## {exhibit.title}", "", link, "", f"{exhibit.how_to_read} `{exhibit.call}`"]
    files.append(out.with_name(f"{out.name}.md"))
    files[-1].write_text("\n".join(page) + "\n", encoding="utf-8")
    return files


def save_small(figure: Figure, path: Path) -> None:
    """Write a figure as PNG without empty margins; a large one, as of photographs, in 256 colours.

    Args:
        figure: The figure.
        path: The file.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight", pad_inches=0.08)
    full = PIL.Image.open(buffer).convert("RGB")
    if buffer.tell() > MAX_FULL_COLOUR_BYTES:
        palette = full.quantize(256, PIL.Image.Quantize.MAXCOVERAGE)
        full = full.quantize(palette=palette)
    full.save(path, optimize=True)
