"""A kernel for one lesson: runs code as a notebook does, with a limit of time."""

import os
import queue
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

INTERRUPTS = 10  # one a second, before a kernel that does not answer is ended
POLL = 0.5  # seconds between two looks at whether the kernel is alive


class KernelStopped(RuntimeError):
    """The kernel runs no more code; the message says why."""


class CellError(NamedTuple):
    """Why a cell did not run to its end."""

    timed_out: bool
    message: str  # one line


class LessonKernel:
    """A kernel with its own process, closed at the end of a `with` block.

    The user's data folder is a temporary one in it, so that checks record no progress.

    Args:
        folder: In which the code runs.

    Raises:
        ValueError: If no kernel can be started.
    """

    def __init__(self, folder: Path):
        from jupyter_client.manager import start_new_kernel

        self._data = tempfile.TemporaryDirectory(prefix="ddetr-", ignore_cleanup_errors=True)
        try:
            self._manager, self._client = start_new_kernel(
                cwd=str(folder),
                env={**os.environ, "XDG_DATA_HOME": self._data.name},
                # What it does not send as a message must not get between the lines of a report.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except Exception as error:  # of many kinds, among them RuntimeError and NoSuchKernel
            self._data.cleanup()
            raise ValueError(f"no notebook kernel could be started: {error}") from error

    def __enter__(self) -> "LessonKernel":
        return self

    def __exit__(self, *exception) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._data.cleanup()

    def execute(self, source: str, seconds: float) -> CellError | None:
        """Run a cell. What it prints or draws is thrown away.

        Args:
            source: The cell's code.
            seconds: After which it is interrupted.

        Returns:
            None if it ran to its end.

        Raises:
            KernelStopped: If the kernel died, or could not be interrupted.
        """
        request = self._client.execute(source, allow_stdin=False, stop_on_error=False)
        reply = self._wait(request, seconds)
        if reply is None:
            for _ in range(INTERRUPTS):  # one that comes before the cell begins has no effect
                self._manager.interrupt_kernel()
                if self._wait(request, 1.0) is not None:
                    return CellError(True, f"interrupted after {seconds:g} s")
            self._manager.shutdown_kernel(now=True)
            raise KernelStopped(f"it ran longer than {seconds:g} s and could not be interrupted")
        if reply["status"] == "ok":
            return None
        first_line = str(reply.get("evalue", "")).strip().split("\n")[0]
        return CellError(False, f"{reply.get('ename', reply['status'])}: {first_line}")

    def _wait(self, request: str, seconds: float) -> dict | None:
        """The reply to a request, or None if there is none in time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                message = self._client.get_shell_msg(timeout=min(POLL, left))
            except queue.Empty:
                if not self._manager.is_alive():
                    raise KernelStopped("its process ended") from None
                continue
            if message["parent_header"].get("msg_id") == request:
                return message["content"]
        return None
