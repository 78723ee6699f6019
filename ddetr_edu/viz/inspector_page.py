"""A page in which every query, layer, level and head can be chosen with the mouse.

The page is inspector.html, inspector.css and inspector.js of this folder, joined with the image and
the numbers into one file that needs no server and no network. widget.py shows the same in a
notebook.
"""

import base64
import html
import io
import json
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import PIL.Image

from ddetr_edu.viz.style import as_image_array

HERE = Path(__file__).parent
MAX_POINT_BYTES = 1_800_000  # of sampling points in a page; a third more as base64
MAX_SIDE = 1024  # px of the image in a page; a larger one is shrunk


@dataclass
class DecoderTrace:
    """What a decoder did with one image, as arrays, for some queries.

    Locations and boxes are fractions of the image, x to the right and y down.
    """

    references: (
        np.ndarray
    )  # (layers, Lq, 4) (cx, cy, w, h) entering the layer; a point has w = h = 0
    boxes: np.ndarray  # (layers, Lq, 4) (cx, cy, w, h) leaving it
    scores: np.ndarray  # (layers, Lq) of the best class after the layer
    classes: np.ndarray  # (layers, Lq) that class
    locations: np.ndarray  # (layers, Lq, M, L, P, 2)
    weights: np.ndarray  # (layers, Lq, M, L, P)
    value_norms: np.ndarray  # (layers, Lq, M, L, P) of the value vector (D,) read at each point

    def select(self, queries) -> "DecoderTrace":
        """Keep only some queries.

        Args:
            queries: Their numbers, in any order.

        Returns:
            Their part of the trace.
        """
        return DecoderTrace(*(getattr(self, field.name)[:, queries] for field in fields(self)))


def inspector_data(
    image, trace: DecoderTrace, spatial_shapes: list[tuple[int, int]], names: list[str], title: str
) -> dict:
    """Gather everything that the page shows, as plain values for JSON.

    It takes about 2 MB for 300 queries of an R50. Locations and weights are kept in 16 bits over
    the range they cover, value norms in 8. Where the points of all queries would take more than
    1.8 MB, only the best queries are kept, and the page says so.

    Args:
        image: PIL image, (3, H, W) tensor or (H, W, 3) array, without padding.
        trace: What the decoder did with it.
        spatial_shapes: (H, W) of each level.
        names: Of the classes, by their numbers in `trace.classes`.
        title: Of the page.

    Returns:
        The data, with the queries sorted by score; "first" is the index of the one it opens on.

    Raises:
        ValueError: If `spatial_shapes` and the trace differ in the number of levels.
    """
    n_layers, n_queries, n_heads, n_levels, n_points = trace.weights.shape
    if len(spatial_shapes) != n_levels:
        raise ValueError(
            f"spatial_shapes names {len(spatial_shapes)} levels, but the trace has {n_levels}"
        )
    pixels = (as_image_array(image) * 255).round().astype(np.uint8)
    height, width = pixels.shape[:2]
    bytes_of_a_query = n_layers * n_heads * n_levels * n_points * 7
    kept = min(n_queries, max(1, MAX_POINT_BYTES // bytes_of_a_query))
    best = np.argsort(-trace.scores[-1], kind="stable")[:kept]
    threshold, first = opening(trace.scores[-1, best], trace.boxes[-1, best])
    return {
        "title": title,
        "image": data_uri(pixels),
        "width": width,
        "height": height,
        "shapes": [list(map(int, shape)) for shape in spatial_shapes],
        "names": [str(name) for name in names],
        "queries": best.tolist(),  # best first
        "all_queries": n_queries,
        "threshold": threshold,
        "first": first,
        "trace": pack_trace(trace.select(best)),
    }


def opening(scores: np.ndarray, boxes: np.ndarray) -> tuple[float, int]:
    """Choose what is shown before anybody has chosen.

    Args:
        scores: (Lq,) after the last layer, best first.
        boxes: (Lq, 4) (cx, cy, w, h) after the last layer.

    Returns:
        The score threshold, which keeps the confident detections or, if there are none, the ten
        best; and the index of the largest box among them.
    """
    best = np.nan_to_num(scores[:10])
    threshold = 0.3 if best[0] >= 0.3 else math.floor(1000 * float(best[-1])) / 1000
    areas = np.nan_to_num(boxes[:, 2] * boxes[:, 3])
    return threshold, int(np.where(scores >= threshold, areas, -1).argmax())


def pack_trace(trace: DecoderTrace) -> dict[str, dict]:
    """Pack a trace for JSON.

    Args:
        trace: The trace.

    Returns:
        Each of its arrays as of `pack`, with the axis of queries before that of layers.
    """
    types = {
        "locations": "uint16",
        "weights": "uint16",
        "value_norms": "uint8",
        "classes": "uint16",
    }
    return {
        field.name: pack(
            getattr(trace, field.name).swapaxes(0, 1), types.get(field.name, "float32")
        )
        for field in fields(trace)
    }


def pack(values: np.ndarray, kind: str) -> dict:
    """Pack an array for JSON: its little-endian numbers as base64.

    Args:
        values: The array.
        kind: "float32" keeps the numbers as they are; "uint8" or "uint16" quantises floats.
            Integers keep their value.

    Returns:
        "shape", "kind", "bytes", and "low" and "high", which the smallest and the largest quantised
        number stand for.
    """
    low, high = 0.0, 1.0
    if kind != "float32":
        largest = np.iinfo(kind).max
        if np.issubdtype(values.dtype, np.integer):
            high = float(largest)
        else:
            # A broken model gives broken numbers; a page that shows the rest is of more use.
            values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=1e6, neginf=-1e6)
            low, high = min(0.0, values.min(initial=0)), values.max(initial=0)
            values = ((values - low) / ((high - low) or 1.0) * largest).round()
    return {
        "shape": list(values.shape),
        "kind": kind,
        "low": float(low),
        "high": float(high),
        "bytes": base64.b64encode(
            values.astype(np.dtype(kind).newbyteorder("<")).tobytes()
        ).decode(),
    }


def data_uri(pixels: np.ndarray) -> str:
    """Encode an image as a data URI, as JPEG.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        The URI.
    """
    image = PIL.Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def write_page(path: str | Path, data: dict) -> None:
    """Write `inspector_data` as one self-contained page.

    Nothing that comes from outside (names, titles) can become markup or code in it: in the data
    every < is escaped, and the script only ever turns it into text. The page may load nothing.

    Args:
        path: The file; its folder is made if needed.
        data: As of `inspector_data`.
    """
    parts = {
        "title": html.escape(data["title"]),
        "style": (HERE / "inspector.css").read_text(encoding="utf-8"),
        "script": (HERE / "inspector.js").read_text(encoding="utf-8"),
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    template = (HERE / "inspector.html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding="utf-8")
