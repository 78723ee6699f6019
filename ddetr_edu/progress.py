"""Progress bars that suit a terminal, a notebook and a log file."""

import re
import sys
from typing import TextIO

from tqdm.auto import tqdm

LOG_INTERVAL = 30  # seconds between two lines in a log file
ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # moves the cursor; a file has none


def progress(iterable=None, **options) -> tqdm:
    """A tqdm bar; where stderr is no terminal, it prints a whole line every LOG_INTERVAL seconds.

    Args:
        iterable: What to iterate over and count; None to call `update` instead.
        **options: Passed on to tqdm.

    Returns:
        The bar, which is also the iterator.
    """
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        intervals = {"mininterval": LOG_INTERVAL, "maxinterval": 2 * LOG_INTERVAL}
        # A bar that vanishes at its end would leave its beginning as the last line.
        options = {"ncols": 80, **intervals, **options, "leave": True}
        options["file"] = WholeLines(sys.stderr)
    return tqdm(iterable, **options)


class WholeLines:
    """A text file in which each update of a bar becomes a line, instead of replacing the last.

    Args:
        file: Where the lines go.
    """

    def __init__(self, file: TextIO):
        self.file = file

    def write(self, text: str) -> None:
        """Write what the text shows, as one line; nothing if it only moves the cursor."""
        if line := ESCAPE_SEQUENCE.sub("", text).strip():
            self.file.write(f"{line}\n")

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()
