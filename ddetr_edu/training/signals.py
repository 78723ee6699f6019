"""Ctrl-C and SIGTERM as requests to stop, so that a checkpoint can be saved first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event; a second one stops at once.

    Python handles signals in its main thread only; in another thread the event is never set.

    Yields:
        The event that is set when a stop is requested.

    Raises:
        KeyboardInterrupt: At the second signal.
    """
    stop_requested = threading.Event()

    def handle(number, frame):
        if stop_requested.is_set():
            raise KeyboardInterrupt
        stop_requested.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop_requested
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop_requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
