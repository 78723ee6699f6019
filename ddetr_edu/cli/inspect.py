"""`ddetr inspect`."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ddetr_edu.cli.common import CHECKPOINT, output_path, write_figure


def run(
    image: Positional[Path],
    query: int | None = None,
    layer: int = -1,
    by: Literal["level", "head"] = "level",
    checkpoint: Path = CHECKPOINT,
    out: Path | None = None,
    html: Path | None = None,
) -> None:
    """Draw where one query samples: its reference point, sampling points and attention weights.

    All queries, layers, levels and heads in one page:  ddetr inspect IMAGE --html out.html

    Args:
        image: Any image that Pillow reads.
        query: The number of the decoder query, from 0; that of the best detection if not given.
        layer: The decoder layer, from 0; -1 is the last.
        by: One panel for each level, or for each head.
        checkpoint: A checkpoint of a Deformable DETR, of any kind that `ddetr convert` takes.
        out: The PNG to write, or a folder for it; runs/inspect if not given. In a folder it is
            named as the image, with a number if there is one of that name already.
        html: Also write an interactive page for the browser; a file or a folder, alike.
    """
    from ddetr_edu.analysis.inspector import InspectorSession
    from ddetr_edu.analysis.trace import trace
    from ddetr_edu.checkpoints.io import load

    folder = Path("runs/inspect")
    path = output_path(out, folder, image)
    page = None if html is None else output_path(html, folder, image, ".html")
    traced = trace(load(checkpoint), image, layers="decoder*")
    try:
        lines = traced.describe_sampling_points(query, layer, by)
    except ValueError as error:  # "query 7 does not exist; ...": name the option
        raise ValueError(f"--{error}") from None
    print("\n".join(lines))
    figure, _ = traced.sampling_points(query, layer, by)
    write_figure(figure, path)
    if page is not None:
        InspectorSession(traced).write(page)
        print(f"wrote {page}, {page.stat().st_size / 1e6:.1f} MB: open it in a browser")
