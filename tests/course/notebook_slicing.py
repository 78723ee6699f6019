"""Which cells of a lesson its exercises need: the others need not run to try answers."""

import ast
import re
from collections.abc import Iterator

INNER = (
    ast.FunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)


def _read_names(tree: ast.AST) -> set[str]:
    """The names that code reads, inside functions as well; x += 1 reads x."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.AugAssign):
            names.add(_root(node.target) or "")
    return names


def _outer_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of code outside functions and comprehensions, whose variables are their own."""
    yield node
    if not isinstance(node, INNER):
        for child in ast.iter_child_nodes(node):
            yield from _outer_nodes(child)


def _bound_names(tree: ast.AST) -> set[str]:
    """The names that code gives a new value: x = 1, for x in y, def x, import x."""
    names = set()
    for node in _outer_nodes(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


def _root(node: ast.expr) -> str | None:
    """x of x, x.y, x[y] and x.y(z)."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def changed_names(tree: ast.AST) -> set[str]:
    """The names whose values code gives or may change: x = 1, import x, x.y = 1, x.sort().

    Calls of functions, f(x), are taken to change nothing. Cells of lessons are written so.
    """
    changed = _bound_names(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ctx=ast.Store()) | ast.Subscript(ctx=ast.Store()):
                changed.add(_root(node) or "")
            case ast.Expr(value=ast.Call(func=ast.Attribute() as method)):  # x.sort(), not f(x)
                changed.add(_root(method) or "")
    return changed


def needed_cells(sources: list[str]) -> list[int]:
    """The cells that depend on an answer, my_..., and those whose values these depend on.

    Args:
        sources: The code cells of a lesson, in order.

    Returns:
        The indices of the cells that must run, so that those which depend on an answer do what
        they do when all cells run.
    """
    trees = [ast.parse(source) for source in sources]
    modules = {
        (alias.asname or alias.name).split(".")[0]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    read = [_read_names(tree) for tree in trees]
    changed = [changed_names(tree) for tree in trees]
    for tree, source, names in zip(trees, sources, changed, strict=True):
        has_imports = any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body)
        if "seed(" not in source and not has_imports:
            names -= modules

    answers: set[str] = set()  # and what is computed from them
    wanted: set[int] = set()
    for index, source in enumerate(sources):
        if re.search(r"\bmy_", source) or read[index] & answers:
            wanted.add(index)
            answers |= changed[index]
        else:
            answers -= _bound_names(trees[index])

    names = set()
    for index in reversed(range(len(sources))):
        if index in wanted or changed[index] & names:
            wanted.add(index)
            names |= read[index]
    return sorted(wanted)
