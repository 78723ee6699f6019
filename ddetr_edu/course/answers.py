"""Read what a learner's function returned: a tensor, an array, a number, or lists of these.

A right answer counts whatever its form. What is no number is refused in words, strings included:
NumPy would convert "3.5" to a number, and None to NaN.
"""

import numbers
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FP64_EPS = torch.finfo(torch.float64).eps


class NotNumbers(TypeError):
    """What was returned is not made of numbers; the message says what it is, as a noun phrase."""


class Numbers(NamedTuple):
    """The numbers that a function returned."""

    values: Tensor  # fp64, without gradient, and a copy: the function may use its buffer again
    eps: float  # the relative precision of the type they came in: 2 ** -7 for bf16


def read_numbers(result: object) -> Numbers:
    """Read a result as numbers.

    Args:
        result: What a function returned.

    Returns:
        Its numbers, and how precise they can be.

    Raises:
        NotNumbers: If there is anything else in it than numbers, or rows of different lengths.
    """
    try:
        return _read(result)
    except NotNumbers:
        raise
    except Exception as error:  # of a tensor or an array of a kind that cannot be converted
        raise NotNumbers(f"{describe(result)} that cannot be read as numbers ({error})") from error


def read_results(result: object, names: Sequence[str]) -> list[Numbers]:
    """Read what a function returned: one result, or a tuple of several.

    Args:
        result: What a function returned.
        names: One for each of several results; none if there is only one.

    Returns:
        The numbers of each result.

    Raises:
        NotNumbers: As of `read_numbers`, or if there are not as many results as names.
    """
    if not names:
        return [read_numbers(result)]
    if result is None:
        raise NotNumbers("None")
    if not isinstance(result, (tuple, list)) or len(result) != len(names):
        kind = type(result).__name__
        length = f" of length {len(result)}" if isinstance(result, (tuple, list)) else ""
        wanted = f"a tuple of {len(names)} was expected: {', '.join(names)}"
        raise NotNumbers(f"an object of the type {kind}{length}; {wanted}")
    numbers = []
    for name, item in zip(names, result, strict=True):
        try:
            numbers.append(read_numbers(item))
        except NotNumbers as error:
            raise NotNumbers(f"{error} for {name}") from None
    return numbers


def _read(result: object) -> Numbers:
    if isinstance(result, Tensor):
        return read_tensor(result)
    if isinstance(result, (np.ndarray, np.generic)):
        return read_array(np.asarray(result))
    if isinstance(result, (numbers.Real, Decimal)):
        try:
            return Numbers(torch.tensor(float(result), dtype=torch.float64), FP64_EPS)
        except OverflowError:
            raise NotNumbers("a number that is too large for floating point") from None
    if isinstance(result, Sequence) and not isinstance(result, (str, bytes)):
        return read_sequence(result)
    if hasattr(result, "__array__"):  # of another library
        return read_array(np.asarray(result))
    raise NotNumbers(describe(result))


def read_tensor(tensor: Tensor) -> Numbers:
    """Read a tensor of any type, layout or device.

    Args:
        tensor: Of any shape; it may require a gradient.

    Returns:
        Its numbers.

    Raises:
        NotNumbers: If they are complex, or the tensor has none because its device is "meta".
    """
    if tensor.is_complex():
        raise NotNumbers("a tensor of complex numbers")
    if tensor.is_meta:
        raise NotNumbers("a tensor on the device meta, which has a shape but no values")
    dense = tensor.detach().cpu() if tensor.layout == torch.strided else tensor.detach().to_dense()
    eps = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else FP64_EPS
    return Numbers(dense.to("cpu", torch.float64, copy=True), eps)


def read_array(array: np.ndarray) -> Numbers:
    """Read a NumPy array; one of Python objects is read like a list.

    Args:
        array: Of any shape.

    Returns:
        Its numbers.

    Raises:
        NotNumbers: If it holds strings, complex numbers, dates, ...
    """
    if array.dtype.kind == "O":
        return read_numbers(array.tolist())
    if array.dtype.kind not in "biuf":
        raise NotNumbers(f"an array of the type {array.dtype}")
    eps = float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else FP64_EPS
    # np.array, not astype: it gives a matrix and a masked array back as they are, too.
    return Numbers(torch.from_numpy(np.array(array, dtype=np.float64)), eps)


def read_sequence(sequence: Sequence) -> Numbers:
    """Read a list, a tuple or the like, nested or not.

    Args:
        sequence: Of numbers, tensors, arrays or further sequences.

    Returns:
        Its numbers, stacked; they are as precise as the least precise item.

    Raises:
        NotNumbers: If an item is no number, or items differ in shape.
    """
    kind = type(sequence).__name__
    items = []
    for item in sequence:
        try:
            items.append(read_numbers(item))
        except NotNumbers as error:
            if isinstance(item, (list, tuple)):
                raise
            raise NotNumbers(f"a {kind} that contains {error}") from None
    if not items:
        return Numbers(torch.zeros(0, dtype=torch.float64), FP64_EPS)
    shapes = sorted({tuple(item.values.shape) for item in items})
    if len(shapes) > 1:
        listed = " and ".join(str(shape) for shape in shapes[:3])
        raise NotNumbers(f"a {kind} whose {len(items)} items have different shapes: {listed}")
    return Numbers(torch.stack([item.values for item in items]), max(item.eps for item in items))


def describe(value: object) -> str:
    """What a value is, for somebody who expected a number.

    Args:
        value: Anything.

    Returns:
        A noun phrase: None, the string '3.5', an object of the type dict.
    """
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if callable(value):
        return f"the function {getattr(value, '__name__', value)!s}"
    if isinstance(value, complex):
        return "a complex number"
    return f"an object of the type {type(value).__name__}"
