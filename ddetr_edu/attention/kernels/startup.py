"""Starting a compiled kernel: once per process, with a second attempt if the cache is damaged.

The CPU and the CUDA kernel share this. Each defines a `Startup` of its own, and its public
functions `unavailable_reason`, `require` and `description` ask that object.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ddetr_edu.attention.kernels.build import BuildError

T = TypeVar("T")
AnyFunction = TypeVar("AnyFunction", bound=Callable)


class Startup(Generic[T]):
    """What must happen once per process before a kernel can run; a failure is remembered too.

    Several threads may ask at once: one of them starts the kernel, and the others wait for it.

    Args:
        start: Compiles, loads and registers the kernel, and returns what its callers need. It may
            raise a BuildError.
    """

    def __init__(self, start: Callable[[], T]):
        self._start = start
        self._lock = threading.Lock()
        self._results: list[T] = []  # the one result, if the start has succeeded
        self._problem: BuildError | None = None  # the reason, if it has failed

    def unavailable_reason(self) -> BuildError | None:
        """What keeps the kernel from running here; None if nothing does. Starts it if need be."""
        if not self._results and self._problem is None:
            with self._lock:
                if not self._results and self._problem is None:
                    try:
                        self._results.append(self._start())
                    except BuildError as problem:
                        self._problem = problem
        return self._problem

    def result(self) -> T:
        """What `start` returned. Starts the kernel if need be.

        Raises:
            BuildError: If it cannot run here.
        """
        problem = self.unavailable_reason()
        if problem is not None:
            raise problem
        return self._results[0]


def load_or_recompile(load: Callable[[], T], cached: Callable[[], Path]) -> T:
    """Load a kernel; if that fails, delete it from the cache and load it once more.

    A file in the cache may be damaged, by a full disk or a crash of the system.

    Args:
        load: Finds the kernel in the cache or compiles it, and loads it.
        cached: Gives the kernel's file in the cache, whether or not it exists.

    Returns:
        What `load` returns.

    Raises:
        BuildError: If the kernel cannot be compiled, or cannot be loaded when freshly compiled.
    """
    try:
        return load()
    except BuildError:
        raise
    except Exception:  # ctypes raises OSError, and cuda.core has no base class for its errors
        cached().unlink(missing_ok=True)
    try:
        return load()
    except BuildError:
        raise
    except Exception as error:
        raise BuildError(f"the compiled kernel cannot be loaded: {error}") from None


def constant_when_traced(function: AnyFunction) -> AnyFunction:
    """Mark a function whose result torch.compile shall take as a constant instead of tracing it.

    The marked functions are plain Python that may compile and load a file, and their results stay
    the same for the whole process. This does what `torch.compiler.assume_constant_result` does,
    without importing the compiler for it.

    Args:
        function: The function to mark.

    Returns:
        The same function.
    """
    function.__dict__["_dynamo_marked_constant"] = True
    return function
