"""The sentences of a check: where an answer differs, what its input was, which line raised."""

import functools
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

MAX_ERROR_LENGTH = 300  # characters; torch's longest messages list every backend it has
MAX_VALUES = 6  # a tensor with more numbers is described by its shape


def format_number(value: float, digits: int = 6) -> str:
    """Write a number for people.

    Args:
        value: Any, NaN and infinity too.
        digits: How many significant digits.

    Returns:
        NaN, inf, 19947, 0.25, ...
    """
    if value != value:
        return "NaN"
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.{digits}g}"


def wrong_numbers(expected: Tensor, actual: Tensor, tolerance: float) -> Tensor:
    """Which numbers of an answer are wrong.

    Args:
        expected: Of any shape.
        actual: Of the same shape.
        tolerance: The largest difference that counts as right.

    Returns:
        A mask of that shape. NaN is wrong, infinity is right where it was expected.
    """
    return ~((actual == expected) | ((actual - expected).abs() <= tolerance))


def describe_difference(expected: Tensor, actual: Tensor, wrong: Tensor) -> str:
    """The first wrong number with its index, and how many there are; a short list is shown whole.

    Args:
        expected: Of any shape.
        actual: Of the same shape.
        wrong: A mask of that shape, with at least one True.

    Returns:
        One line.
    """
    if expected.ndim == 1 and expected.numel() <= MAX_VALUES:
        lists = [", ".join(map(format_number, numbers.tolist())) for numbers in (expected, actual)]
        if lists[0] != lists[1]:
            return f"expected [{lists[0]}], got [{lists[1]}]"
    index = tuple(wrong.nonzero()[0].tolist())
    pair = expected[index].item(), actual[index].item()
    shown = [format_number(value) for value in pair]
    if shown[0] == shown[1]:  # they differ in a later digit
        shown = [format_number(value, 12) for value in pair]
    where = f"at {list(index)}: " if index else ""
    line = f"{where}expected {shown[0]}, got {shown[1]}"
    if wrong.numel() == 1:
        return line
    largest = format_number((actual - expected)[wrong].abs().max().item(), 3)
    count = f"{int(wrong.sum())} of {wrong.numel()} numbers are wrong"
    return f"{line}; {count}, the largest difference is {largest}"


def describe_arguments(function: Callable, arguments: tuple) -> str:
    """The arguments of a test case with their names: short values, and shapes of large tensors.

    Args:
        function: The solution, whose parameters name the arguments.
        arguments: One for each parameter.

    Returns:
        One line.
    """
    parts = []
    for name, value in zip(inspect.signature(function).parameters, arguments, strict=True):
        if isinstance(value, torch.nn.Module):
            text = f", of the type {type(value).__name__}"
        elif inspect.isfunction(value):
            text = ", a function"
        elif isinstance(value, dict) and len(value) > MAX_VALUES:
            text = f", a dictionary with {len(value)} entries"
        elif not isinstance(value, Tensor):
            text = f" = {value}"
        elif value.ndim == 0:
            text = f" = {format_number(value.item())}"
        elif value.numel() > MAX_VALUES:
            text = f" {tuple(value.shape)}"
        elif value.is_floating_point():
            text = f" = {value.round(decimals=4).tolist()}"
        else:
            text = f" = {value.tolist()}"
        parts.append(name + text)
    return ", ".join(parts)


def changed_arguments(function: Callable, before: tuple, after: tuple) -> list[str]:
    """The names of the arguments that a call changed in place.

    Args:
        function: The solution, whose parameters name the arguments.
        before: Copies made before the call.
        after: What was passed.

    Returns:
        The names, in order.
    """

    def same(old: object, new: object) -> bool:
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            return old.dtype == new.dtype and torch.equal(old, new)
        return repr(old) == repr(new)  # == of a list that now contains a tensor would raise

    names = inspect.signature(function).parameters
    return [n for n, old, new in zip(names, before, after, strict=True) if not same(old, new)]


def unwrap(answer: Callable) -> Callable:
    """What a learner wrote, without decorators that keep it, or a partial around it.

    Args:
        answer: A function, a method, a partial, or an object with `__call__`.

    Returns:
        The function, the method or the object.
    """
    while isinstance(answer, functools.partial):
        answer = answer.func
    return inspect.unwrap(answer)


def _stub() -> None:
    raise NotImplementedError


def is_untouched(answer: Callable, error: Exception) -> bool:
    """Whether a function is still the stub: it does nothing but raise.

    torch, too, raises NotImplementedError, for an operation that a type does not have; so the code
    is looked at, not the type alone.

    Args:
        answer: The learner's function.
        error: What it raised.

    Returns:
        True for a stub.
    """
    code = getattr(unwrap(answer), "__code__", None)
    return isinstance(error, NotImplementedError) and (
        code is not None
        and code.co_code == _stub.__code__.co_code
        and code.co_names == _stub.__code__.co_names
    )


def describe_error(answer: Callable, error: Exception) -> str:
    """What a learner's function raised, and the learner's own line that led to it.

    Args:
        answer: The learner's function.
        error: What it raised.

    Returns:
        One line, or two if a line of the learner's code was reached.
    """
    message = " ".join(str(error).split())
    if len(message) > MAX_ERROR_LENGTH:
        message = message[:MAX_ERROR_LENGTH] + " ..."
    said = f"{type(error).__name__}: {message}" if message else type(error).__name__
    # The functions of a notebook, in whatever cell they are, share their globals.
    answer = unwrap(answer)
    own = getattr(answer, "__globals__", None) or vars(sys.modules[type(answer).__module__])
    lines = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals is own
    ]
    if not lines:
        return f"your function raised {said}"
    code, line = lines[-1]
    file = Path(code.co_filename)
    text = linecache.getline(code.co_filename, line).strip()
    place = file.name if file.is_file() and "ipykernel" not in code.co_filename else "the cell"
    where = f"line {line} of {place}, in {code.co_name}: {text}"
    if isinstance(error, NotImplementedError) and text.startswith("raise NotImplementedError"):
        return f"`raise NotImplementedError` is still in your function; remove it\n  {where}"
    return f"your function raised {said}\n  {where}"
