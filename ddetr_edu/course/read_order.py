"""In which order loops read the values of an attention: positions in memory, and jumps among them.

Positions count numbers, not bytes, from the beginning of `value`. A cache line, the piece in which
memory is fetched, holds 16 of them in fp32.
"""

from collections.abc import Sequence

import numpy as np

LINE = 16  # numbers of fp32 in a cache line of 64 bytes
STREAMS = 8  # so many rows may be read side by side: a processor prefetches each of them

LAYOUTS = ("channels last", "channels first")
LOOPS = ("channels outside", "channels inside")


def read_positions(
    corners: Sequence[Sequence[int]],
    n_tokens: int,
    n_heads: int,
    channels: int,
    layout: str = "channels last",
    loops: str = "channels inside",
) -> np.ndarray:
    """The positions that four nested loops read, one after another.

    Args:
        corners: For each query, the tokens that it reads; all heads read the same.
        n_tokens: S.
        n_heads: M.
        channels: D.
        layout: Value as (S, M, D), "channels last", or as (M, D, S), "channels first".
        loops: Over heads, channels, queries and corners, "channels outside"; or over queries,
            heads, corners and channels, "channels inside".

    Returns:
        (reads,).
    """
    tokens = np.asarray(corners)[:, None, :, None]  # (Lq, M, corners, D)
    head = np.arange(n_heads)[:, None, None]
    channel = np.arange(channels)
    if layout == "channels last":
        positions = (tokens * n_heads + head) * channels + channel
    else:
        positions = (head * channels + channel) * n_tokens + tokens
    order = (1, 3, 0, 2) if loops == "channels outside" else (0, 1, 2, 3)
    return positions.transpose(order).ravel()


def line_changes(positions: np.ndarray) -> int:
    """How many reads are in another cache line than the read before.

    Args:
        positions: (reads,).

    Returns:
        From 0 to the number of reads less one.
    """
    return int(np.count_nonzero(np.diff(np.asarray(positions) // LINE)))


def count_jumps(positions: np.ndarray) -> int:
    """How many reads do not go on with a row: none of the last 8 was one position before.

    Rows may be read side by side, such as the four of a sampling point.

    Args:
        positions: (reads,).

    Returns:
        From 0 to the number of reads; the first one is a jump.
    """
    positions = np.asarray(positions)
    goes_on = np.zeros(len(positions), dtype=bool)
    for back in range(1, STREAMS + 1):
        goes_on[back:] |= positions[back:] == positions[:-back] + 1
    return int(np.count_nonzero(~goes_on))
