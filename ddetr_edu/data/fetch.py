"""Downloading over an unreliable network: with retries and checks, and parts of files."""

import http.client
import io
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from ddetr_edu.data.faults import DataError
from ddetr_edu.files import atomic_write

MAX_ATTEMPTS = 6  # for each file
MAX_NOT_FOUND = 3  # answers that there is no such file, or damaged ones, until we believe it
BACKOFF_SECONDS = 0.5  # before the second attempt; doubled before each later one
TIMEOUT = 20.0  # seconds without a byte after which an attempt is given up
MIN_BYTES_PER_SECOND = 1000  # a slower answer is given up, too
BLOCK_SIZE = 4 << 20  # bytes of a remote file that are fetched at a time

T = TypeVar("T")


class FetchError(OSError):
    """Something cannot be fetched now; later it may work."""


class NotFound(FetchError):
    """The source says that it does not have the file."""


class Source:
    """A web server, or a folder on one. Threads may share it.

    Args:
        url: What the address of every file begins with.

    Raises:
        ValueError: Unless the address begins with http:// or https://.
    """

    def __init__(self, url: str):
        if not re.match(r"https?://[^/]", url):
            raise ValueError(f"{url!r} is not a web address; give one that begins with http://")
        self.url = url.rstrip("/")
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let every thread that is fetching give up as soon as possible."""
        self._stopped.set()

    def get(self, path: str, check: Callable[[bytes], object] = lambda content: None) -> bytes:
        """Fetch a whole file, in up to MAX_ATTEMPTS attempts with growing pauses between them.

        Args:
            path: The file, relative to the source's address.
            check: Raises DataError for a content that cannot be right.

        Returns:
            The content, which `check` has accepted.

        Raises:
            NotFound: If the source has no such file.
            DataError: If `check` rejected the content repeatedly.
            FetchError: For everything that may work later.
        """

        def attempt(url: str) -> bytes:
            _, _, content = self._request(url, {})
            check(content)
            return content

        return self._retry(path, attempt)

    def get_range(self, path: str, start: int, count: int) -> tuple[bytes, int]:
        """Fetch a part of a file.

        Args:
            path: The file, relative to the source's address.
            start: Its first byte.
            count: The number of bytes; fewer are returned at the end of the file.

        Returns:
            The bytes and the size of the whole file. A server that does not support ranges sends
            the whole file instead.

        Raises:
            NotFound: If the source has no such file.
            FetchError: For everything that may work later.
        """

        def attempt(url: str) -> tuple[bytes, int]:
            last = start + count - 1
            status, headers, content = self._request(url, {"Range": f"bytes={start}-{last}"})
            if status == 200:
                return content, len(content)
            match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", ""))
            first, end, size = map(int, match.groups()) if match else (-1, -1, -1)
            if (first, end) != (start, min(last, size - 1)) or len(content) != end - first + 1:
                raise ConnectionError("the server sent another range than was asked for")
            return content, size

        return self._retry(path, attempt)

    def _retry(self, path: str, attempt: Callable[[str], T]) -> T:
        url = f"{self.url}/{path}"
        errors: list[Exception] = []
        for n in range(MAX_ATTEMPTS):
            if n and self._stopped.wait(BACKOFF_SECONDS * 2 ** (n - 1)):
                break
            try:
                return attempt(url)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code in (403, 404, 410):  # S3 answers 403 if there is no such file
                    errors.append(NotFound(f"{url} does not exist (HTTP {error.code})"))
                    if sum(isinstance(e, NotFound) for e in errors) == MAX_NOT_FOUND:
                        raise errors[-1] from None
                    continue
                errors.append(FetchError(f"HTTP {error.code} {error.reason}"))
                if error.code < 500 and error.code not in (408, 429):
                    break  # the request itself is wrong, so repeating it does not help
            except (OSError, http.client.HTTPException, DataError) as error:
                reason = getattr(error, "reason", None)  # urllib wraps the cause
                errors.append(reason if isinstance(reason, Exception) else error)
                if isinstance(reason, socket.gaierror):
                    break  # no such host, or no network at all
        damaged = [error for error in errors if isinstance(error, DataError)]
        if len(damaged) >= MAX_NOT_FOUND:
            raise damaged[-1]
        cause = getattr(errors[-1], "strerror", None) or errors[-1]
        raise FetchError(
            f"{url} cannot be fetched ({cause}); check the network connection, "
            "then run the same command again"
        )

    def _request(self, url: str, headers: dict) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and content of one answer. Raises OSError or HTTPException."""
        request = urllib.request.Request(url, headers={"User-Agent": "ddetr-edu", **headers})
        started = time.monotonic()
        content = bytearray()
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            expected_length = response.length
            while chunk := response.read1(1 << 16):
                content += chunk
                seconds = time.monotonic() - started
                if seconds > TIMEOUT and len(content) < MIN_BYTES_PER_SECOND * seconds:
                    raise TimeoutError(f"slower than {MIN_BYTES_PER_SECOND} bytes a second")
                if self._stopped.is_set():
                    raise ConnectionAbortedError("stopped")
            if expected_length is not None and len(content) != expected_length:
                raise ConnectionError(f"cut off after {len(content)} of {expected_length} bytes")
            return response.status, response.headers, bytes(content)


def open_remote(source: Source, path: str, blocks: Path) -> BinaryIO:
    """Open a file on a server for reading; only the parts that are read are fetched.

    Args:
        source: The server.
        path: The file, relative to the source's address.
        blocks: The folder for the parts that were fetched, so that an interrupted read can resume.

    Returns:
        A binary file that supports seeking. Its methods raise what `Source.get_range` raises.

    Raises:
        NotFound: If the source has no such file.
        FetchError: For everything that may work later.
    """
    first_byte, size = source.get_range(path, 0, 1)
    if len(first_byte) == size:  # the server does not support ranges and has sent the whole file
        return io.BytesIO(first_byte)
    return io.BufferedReader(RemoteFile(source, path, size, blocks))  # which reads across blocks


class RemoteFile(io.RawIOBase):
    """A remote file of known size, fetched block by block into a folder.

    Args:
        source: The server.
        path: The file, relative to the source's address.
        size: Its size in bytes.
        blocks: The folder for the blocks; it is created if needed.
    """

    def __init__(self, source: Source, path: str, size: int, blocks: Path):
        self._source, self._path, self._size, self._blocks = source, path, size, blocks
        self._position = 0
        self._number, self._content = -1, b""  # of the block that was read last

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The current position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Change the position.

        Args:
            offset: In bytes.
            whence: What it is relative to, as in `io.IOBase.seek`.

        Returns:
            The new position.
        """
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer) -> int:
        """Read up to the end of the current block into a buffer.

        Args:
            buffer: A writable bytes-like object.

        Returns:
            The number of bytes; 0 at the end of the file.
        """
        if self._position >= self._size:
            return 0
        number, start = divmod(self._position, BLOCK_SIZE)
        part = self._block(number)[start : start + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _block(self, number: int) -> bytes:
        if number != self._number:
            file = self._blocks / f"{BLOCK_SIZE}-{number:05d}"
            if not file.is_file():
                content, _ = self._source.get_range(self._path, number * BLOCK_SIZE, BLOCK_SIZE)
                atomic_write(file, content)
            self._number, self._content = number, file.read_bytes()
        return self._content
