"""The rooms of the library as they are in its code: a page about them, and a drawing."""

import ast
import random
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
    lines += [
        "```{image} _static/rooms.svg",
        ":alt: The rooms as boxes, with an arrow for each import",
    ]
    lines += ["```", ""]
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
    # Whatever a room imports and does not reach through another one.
    arrows = [
        (room, other)
        for room, direct in sorted(imports.items())
        for other in sorted(direct - set().union(*(above(other) for other in direct)))
    ]
    places = {room: (x, 30 + 75 * row[room]) for room, x in choose_columns(row, arrows).items()}
    shapes = []
    for room, other in arrows:
        (x, y), (to_x, to_y) = places[room], places[other]
        shapes.append(
            f'<line x1="{x}" y1="{y - 16}" x2="{to_x}" y2="{to_y + 20}" '
            'stroke="#888" marker-end="url(#head)"/>'
        )
    for room, (x, y) in places.items():
        shapes.append(
            f'<rect x="{x - 55}" y="{y - 16}" width="110" height="32" rx="5" fill="#dce9f5" '
            f'stroke="#57799c"/><text x="{x}" y="{y + 5}" text-anchor="middle">{room}</text>'
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


def choose_columns(row: dict[str, int], arrows: list[tuple[str, str]]) -> dict[str, int]:
    """Where each room lies in its row, so that few arrows pass behind other rooms or cross.

    Args:
        row: {room: its row}.
        arrows: (the room where it starts, the room where it ends).

    Returns:
        {room: its x}, the best of many random steps, which are the same in every run.
    """
    columns = range(80, 760, 40)
    rooms = sorted(row)
    places = {}
    for y in set(row.values()):
        names = [room for room in rooms if row[room] == y]
        for i, room in enumerate(names):
            places[room] = columns[len(columns) * (2 * i + 1) // (2 * len(names))]

    def cost() -> float:
        total = 0.0
        for i, (start, end) in enumerate(arrows):
            total += abs(places[start] - places[end]) / 1000
            for room in rooms:
                if row[end] < row[room] < row[start]:
                    share = (row[room] - row[end]) / (row[start] - row[end])
                    x = places[end] + share * (places[start] - places[end])
                    total += 10 * (abs(x - places[room]) < 75)
            for other, another in arrows[:i]:
                if row[start] == row[other] and row[end] == row[another]:
                    sides = (places[start] - places[other]) * (places[end] - places[another])
                    total += sides < 0
        return total

    chance = random.Random(0)
    least = cost()
    for _ in range(4000):
        room, x = chance.choice(rooms), chance.choice(columns)
        others = (other for other in rooms if row[other] == row[room] and other != room)
        if any(abs(places[other] - x) < 140 for other in others):
            continue
        before, places[room] = places[room], x
        if cost() <= least:
            least = cost()
        else:
            places[room] = before
    return places
