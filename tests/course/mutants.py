"""Wrong answers by the hundred: a solution with one thing changed. Do the checks reject them?

`python tests/course/mutants.py` prints how many each exercise has, and those that its check
accepts. A mutant is accepted rightly only if it computes the same: equivalents.py says why.
"""

import ast
import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

from equivalents import EQUIVALENT

from ddetr_edu.course import checks
from ddetr_edu.course.exercise import Exercise

# A mutant of `forward` runs a whole model, and there are some two thousand: too many for a test.
# An answer to `kernel` is C++, of which test_lesson_14.py has mutants.
EXERCISES: dict[str, Exercise] = {
    name: e
    for name, e in vars(checks).items()
    if isinstance(e, Exercise) and name not in ("forward", "kernel")
}
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
OTHER_NAMES = {  # what somebody could have written instead
    "ceil": ["floor", "trunc"],
    "floor": ["ceil", "round", "trunc"],
    "cos": ["sin", "tan"],
    "sin": ["cos", "tan"],
    "max": ["min", "mean"],
    "abs": ["neg", "square"],
    "sum": ["mean", "prod"],
    "values": ["indices"],
    "softmax": ["log_softmax", "sigmoid"],
    "sigmoid": ["tanh", "exp", "logsigmoid"],
    "log": ["log2", "log1p", "exp"],
    "zeros": ["ones"],
    "zeros_like": ["ones_like"],
    "stack": ["cat"],
    "int": ["float", "round"],
}


class Mutant(NamedTuple):
    """A solution with one change."""

    line: str  # the changed line
    function: Callable


def places(tree: ast.AST) -> list[tuple[ast.AST, str, int | None]]:
    """Where each node of a tree hangs: (parent, field, index in a list), always in one order."""
    found: list[tuple[ast.AST, str, int | None]] = []
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, ast.AST):
                found.append((parent, field, None))
            elif isinstance(value, list):
                found += [(parent, field, i) for i, v in enumerate(value) if isinstance(v, ast.AST)]
    return found


def node_at(parent: ast.AST, field: str, index: int | None) -> ast.AST:
    value = getattr(parent, field)
    return value if index is None else value[index]


def swapped(items: list) -> Iterator[list]:
    """Lists with two neighbours swapped."""
    for i in range(len(items) - 1):
        yield [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


def changed(node: ast.AST, **fields) -> ast.AST:
    new = copy.copy(node)
    for field, value in fields.items():
        setattr(new, field, value)
    return new


def other_numbers(value: float) -> set:
    if isinstance(value, int):
        return {value + 1, value - 1, -value, 2 * value} - {value}
    return {value + 0.5, value - 0.5, -value, 2 * value, 0.0, 1.0} - {value}


def alternatives(node: ast.AST, names: list[str]) -> Iterator[ast.AST | None]:
    """What else could stand in a node's place; None to leave it out."""
    match node:
        case ast.BinOp():
            yield from (changed(node, op=o()) for o in OPERATORS if not isinstance(node.op, o))
            if not isinstance(node.op, (ast.Add, ast.Mult)):  # these may be written either way
                yield changed(node, left=node.right, right=node.left)
            yield node.left
            yield node.right
        case ast.UnaryOp():
            yield node.operand
        case ast.Compare():
            for i, op in enumerate(node.ops):
                for other in COMPARISONS:
                    if not isinstance(op, other):
                        ops = [*node.ops[:i], other(), *node.ops[i + 1 :]]
                        yield changed(node, ops=ops)
        case ast.BoolOp():
            yield changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
            yield from node.values
        case ast.Constant(value=int() | float()):
            yield from (ast.Constant(value) for value in sorted(other_numbers(node.value)))
        case ast.Name(ctx=ast.Load()):
            others = names if node.id in names else OTHER_NAMES.get(node.id, [])
            yield from (changed(node, id=name) for name in others if name != node.id)
        case ast.Attribute():
            yield from (changed(node, attr=a) for a in OTHER_NAMES.get(node.attr, []))
        case ast.Tuple() | ast.List():
            yield from (changed(node, elts=elts) for elts in swapped(node.elts))
            if isinstance(node.ctx, ast.Load):
                for i in range(len(node.elts)):  # one item fewer, one item twice
                    yield changed(node, elts=[*node.elts[:i], *node.elts[i + 1 :]])
                    yield changed(node, elts=[*node.elts[: i + 1], *node.elts[i:]])
        case ast.Slice(lower=None, upper=None):
            yield changed(node, lower=ast.Constant(1))
            yield changed(node, upper=ast.Constant(-1))
            yield changed(node, step=ast.Constant(2))
        case ast.Call():
            yield from (changed(node, args=args) for args in swapped(node.args))
            for i in range(len(node.keywords)):
                yield changed(node, keywords=[*node.keywords[:i], *node.keywords[i + 1 :]])
            if isinstance(node.func, ast.Attribute):
                yield node.func.value  # the method is not called at all
            elif len(node.args) == 1:
                yield node.args[0]
        case ast.Subscript(ctx=ast.Load()):
            yield node.value
        case ast.AugAssign():
            yield from (changed(node, op=o()) for o in OPERATORS if not isinstance(node.op, o))
            yield ast.Assign([node.target], node.value)
            yield None
        case ast.Assign():
            yield None
        case ast.For():
            yield changed(node, body=[*node.body, ast.Break()])


def mutants_of(function: Callable) -> Iterator[Mutant]:
    """All variants of a function that differ in one place.

    Args:
        function: One whose source can be read.

    Yields:
        Those that compile, each once.
    """
    tree = ast.parse(inspect.getsource(function))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.body = definition.body[1:]  # the docstring is no code
    stores = (
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    )
    names = list(dict.fromkeys([*inspect.signature(function).parameters, *stores]))
    original = ast.unparse(tree)
    seen = {original}
    for k, place in enumerate(places(tree)):
        for alternative in alternatives(node_at(*place), names):
            mutant = copy.deepcopy(tree)
            parent, field, index = places(mutant)[k]
            new = ast.Pass() if alternative is None else copy.deepcopy(alternative)
            if index is None:
                setattr(parent, field, new)
            else:
                getattr(parent, field)[index] = new
            try:
                source = ast.unparse(ast.fix_missing_locations(mutant))
                if source in seen:
                    continue
                seen.add(source)
                scope = dict(function.__globals__)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", SyntaxWarning)
                    exec(compile(source, "<mutant>", "exec"), scope)
            except (SyntaxError, ValueError, TypeError):
                continue
            old, now = original.splitlines(), source.splitlines()
            lines = (b.strip() for a, b in zip(old, now, strict=False) if a != b)
            yield Mutant(next(lines, now[-1].strip()), scope[function.__name__])


class Harvest(NamedTuple):
    """What became of the mutants of one exercise."""

    tried: int
    equivalent: list[str]  # lines that are accepted, and known to compute the same
    wrong: list[str]  # lines that are accepted and should not be


def without_parentheses(line: str) -> str:
    """A line as all versions of Python write it; some put parentheses around more tuples."""
    return line.replace("(", "").replace(")", "")


def try_mutants(name: str, at_most: int | None = None) -> Harvest:
    """Check the mutants of an exercise's solution.

    Args:
        name: The exercise's name.
        at_most: If there are more, every second one is tried, or every third, and so on.

    Returns:
        How many were tried, and which were accepted.
    """
    mutants = list(mutants_of(EXERCISES[name].solution))
    if at_most:
        mutants = mutants[:: -(-len(mutants) // at_most)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mutant may divide by zero
        accepted = [m.line for m in mutants if EXERCISES[name].accepts(m.function)]
    known = {without_parentheses(line) for line in EQUIVALENT.get(name, {})}
    equivalent = [line for line in accepted if without_parentheses(line) in known]
    return Harvest(len(mutants), equivalent, [line for line in accepted if line not in equivalent])


def main() -> None:
    """Print how many there are, and all that were accepted."""
    print(f"{'exercise':20} mutants  rejected  equivalent  accepted though wrong")
    for name in EXERCISES:
        tried, equivalent, wrong = try_mutants(name)
        rejected = tried - len(equivalent) - len(wrong)
        print(f"{name:20} {tried:7}  {rejected:8}  {len(equivalent):10}  {len(wrong):21}")
        for line in wrong:
            print(f"    {line}")


if __name__ == "__main__":
    main()
