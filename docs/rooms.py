"""The rooms of the library as they are in its code: a page about them, and a drawing."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def how_it_is_built() -> str:
    """The rooms of the library, which imports which, and their modules with a line about each."""
    package = ROOT / "ddetr_edu"
    modules: dict[str, list[Path]] = {}
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        if path.name not in ("__init__.py", "__main__.py"):
            modules.setdefault(inside.parts[0] if len(inside.parts) > 1 else "", []).append(path)
    lines = ["# How it is built", ""]
    lines += ["Arrows lead from a room of the library to the rooms that it imports, as its code "]
    lines += ["does; a test keeps them from going round in circles.", ""]
    lines += ["```{image} _static/rooms.svg", ":alt: The rooms and their imports", "```", ""]
    for room, paths in modules.items():
        lines += [f"## {room or 'Beside the rooms'}", "", "| module | |", "|---|---|"]
        for path in paths:
            about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            first = " ".join(about.split("\n\n")[0].split()).replace("|", "\\|")
            lines.append(f"| `{path.relative_to(package).as_posix()}` | {first} |")
        lines.append("")
    return "\n".join(lines)


def imports_of_rooms() -> dict[str, set[str]]:
    """Which rooms of the library each room imports, anywhere in its code."""
    package = ROOT / "ddetr_edu"
    imports: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room.startswith("__"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ddetr_edu."):
                imports.setdefault(room, set()).add(str(node.module).split(".")[1])
    return {room: of - {room} for room, of in imports.items()}


def draw_rooms(imports: dict[str, set[str]]) -> str:
    """An SVG of rooms, each below all that it imports.

    Args:
        imports: {room: the rooms that it imports}.

    Returns:
        The SVG. An arrow that others in a row imply is left out.
    """
    row: dict[str, int] = {}

    def depth(room: str) -> int:
        if room not in row:
            row[room] = max((1 + depth(other) for other in imports.get(room, ())), default=0)
        return row[room]

    def above(room: str) -> set[str]:
        direct = imports.get(room, set())
        return direct.union(*(above(other) for other in direct))

    for room in imports:
        depth(room)
    places = {}
    for y in range(max(row.values()) + 1):
        names = sorted(room for room in row if row[room] == y)
        for i, room in enumerate(names):
            places[room] = (40 + 720 * (2 * i + 1) / (2 * len(names)), 30 + 75 * y)
    shapes = []
    for room, (x, y) in places.items():
        direct = imports.get(room, set())
        implied = set().union(*(above(other) for other in direct))
        for other in sorted(direct - implied):
            to_x, to_y = places[other]
            shapes.append(
                f'<line x1="{x:.0f}" y1="{y - 16}" x2="{to_x:.0f}" y2="{to_y + 20}" '
                'stroke="#888" marker-end="url(#head)"/>'
            )
    for room, (x, y) in places.items():
        shapes.append(
            f'<rect x="{x - 55:.0f}" y="{y - 16}" width="110" height="32" rx="5" fill="#dce9f5" '
            f'stroke="#57799c"/><text x="{x:.0f}" y="{y + 5}" text-anchor="middle">{room}</text>'
        )
    height = 60 + 75 * max(row.values())
    head = '<path d="M0 0L8 4L0 8z" fill="#888"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {height}" '
        'font-family="sans-serif" font-size="14"><defs><marker id="head" markerWidth="8" '
        f'markerHeight="8" refX="7" refY="4" orient="auto">{head}</marker></defs>'
        + "".join(shapes)
        + "</svg>\n"
    )
