"""The inspector page as a notebook widget, in which queries can be moved."""

from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


def inspector_widget(data: dict, move: Callable[[int, float, float], dict]):
    """Make a widget that shows `inspector_data`, and calls `move` when a query is dragged.

    The data are sent when a view opens and are not part of the widget's state, so that a saved
    notebook stays small. The widget's text is the same on every run.

    Args:
        data: As of `inspector_data`.
        move: (query, x, y), with the initial reference point as fractions of the image ->
            `pack_trace` of that query alone.

    Returns:
        The widget.

    Raises:
        ValueError: If anywidget is not installed.
    """
    try:
        from anywidget import AnyWidget
    except ImportError:
        raise ValueError(
            "the widget needs a package that is not installed: pip install anywidget; or write a "
            "page with write_inspector, which needs none"
        ) from None

    class InspectorWidget(AnyWidget):
        _esm = (HERE / "inspector.js").read_text(encoding="utf-8")
        _css = (HERE / "inspector.css").read_text(encoding="utf-8")

        def __repr__(self) -> str:
            return "an inspector, which is interactive while the notebook runs"

    def answer(widget, message, buffers) -> None:
        if message.get("ready"):
            widget.send({"data": data})
        else:
            trace = move(int(message["query"]), float(message["x"]), float(message["y"]))
            widget.send({"id": message["id"], "trace": trace})

    widget = InspectorWidget()
    widget.on_msg(answer)
    return widget
