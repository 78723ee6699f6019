"""A page in which every query, layer, level and head can be chosen with the mouse.

The page is inspector.html, inspector.css and inspector.js beside this file, put together with the
picture and the numbers into one file that needs no server and no network. widget.py shows the same
in a notebook.
"""

import base64
import html
import io
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import PIL.Image

from ddetr_edu.viz.style import as_picture

HERE = Path(__file__).parent
LARGEST_POINTS = 1_800_000  # bytes of sampling points in a page; a third more as text
LONGEST_SIDE = 1024  # px of the picture in a page; a larger one is made smaller


@dataclass
class DecoderLook:
    """What a decoder did with one picture, as arrays; K layers, Lq queries.

    Places and boxes are fractions of the picture, x to the right and y down.
    """

    references: np.ndarray  # (K, Lq, 4) (cx, cy, w, h) entering the layer; a point has w = h = 0
    boxes: np.ndarray  # (K, Lq, 4) (cx, cy, w, h) leaving it
    scores: np.ndarray  # (K, Lq) of the best class after the layer
    classes: np.ndarray  # (K, Lq) that class
    locations: np.ndarray  # (K, Lq, M, L, P, 2)
    weights: np.ndarray  # (K, Lq, M, L, P)
    lengths: np.ndarray  # (K, Lq, M, L, P) of the value vector (D,) read at each point

    def of(self, queries) -> "DecoderLook":
        """The same of some queries: their numbers, or a mask."""
        return DecoderLook(*(getattr(self, field.name)[:, queries] for field in fields(self)))


def inspector_data(
    picture, look: DecoderLook, spatial_shapes: list[tuple[int, int]], names: list[str], title: str
) -> dict:
    """All that the page draws, as plain values for JSON; about 2 MB for 300 queries of an R50.

    Places are kept in 16 bits over the range they cover, weights in 16, lengths in 8. Where the
    points of all queries would take more than 1.8 MB, only the best queries are kept, and the page
    says so.

    picture: PIL image, (3, H, W) tensor or (H, W, 3) array, without padding
    spatial_shapes: [(H, W), ...]; names: of the classes, in the order of `look.classes`
    Raises: ValueError if the levels differ in number.
    """
    n_layers, n_queries, n_heads, n_levels, n_points = look.weights.shape
    if len(spatial_shapes) != n_levels:
        raise ValueError(
            f"spatial_shapes names {len(spatial_shapes)} levels, but the look has {n_levels}"
        )
    pixels = (as_picture(picture) * 255).round().astype(np.uint8)
    height, width = pixels.shape[:2]
    bytes_of_a_query = n_layers * n_heads * n_levels * n_points * 7
    kept = min(n_queries, max(1, LARGEST_POINTS // bytes_of_a_query))
    best = np.argsort(-look.scores[-1], kind="stable")[:kept]
    return {
        "title": title,
        "picture": data_uri(pixels),
        "width": width,
        "height": height,
        "shapes": [list(map(int, shape)) for shape in spatial_shapes],
        "names": [str(name) for name in names],
        "queries": best.tolist(),  # best first
        "all_queries": n_queries,
        "look": pack_look(look.of(best)),
    }


def pack_look(look: DecoderLook) -> dict[str, dict]:
    """A look as JSON holds it, its queries before its layers."""
    types = {"locations": "uint16", "weights": "uint16", "lengths": "uint8", "classes": "uint16"}
    return {
        field.name: pack(getattr(look, field.name).swapaxes(0, 1), types.get(field.name, "float32"))
        for field in fields(look)
    }


def pack(values: np.ndarray, kind: str) -> dict:
    """An array for JSON: its little-endian numbers as base64.

    kind: "float32" as they are; "uint8" or "uint16": floats in steps, `low` and `high` being what
        the smallest and the largest step stand for. Whole numbers keep their value.
    """
    low, high = 0.0, 1.0
    if kind != "float32":
        largest = np.iinfo(kind).max
        if np.issubdtype(values.dtype, np.integer):
            high = float(largest)
        else:
            # Broken weights give broken places; a page that shows the rest is of more use.
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
    """A picture (H, W, 3) of bytes as an address that holds it, as JPEG."""
    picture = PIL.Image.fromarray(pixels)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def write_page(path: str | Path, data: dict) -> None:
    """Write `inspector_data` as one self-contained page.

    Nothing that comes from outside (names, titles) can become markup or code in it: in the data
    every < is escaped, and the script only ever makes text of it. The page may load nothing.
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
