"""The inspector's page as a notebook widget, whose queries can be moved."""

from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


def inspector_widget(data: dict, move: Callable[[int, float, float], dict]):
    """A widget that shows `inspector_data` and asks `move` when a query's start is dragged.

    The data travel when a view opens and are not part of the widget's state, so that a saved
    notebook stays small. The widget's text is the same on every run.

    move: (query, x, y), a fraction of the picture -> `pack_look` of that query alone, as it is then
    Raises: ValueError, in one sentence, if anywidget is not installed.
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
            return "an inspector, alive while the notebook runs"

    def answer(widget, message, buffers) -> None:
        if message.get("ready"):
            widget.send({"data": data})
        else:
            query = int(message["query"])
            look = move(query, float(message["x"]), float(message["y"]))
            widget.send({"query": query, "look": look})

    widget = InspectorWidget()
    widget.on_msg(answer)
    return widget
