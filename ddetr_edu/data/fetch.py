"""Files over a network that fails now and then: tried again, checked, or read only in part."""

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
from typing import BinaryIO

from ddetr_edu.data.coco import DataError

ATTEMPTS = 6
BELIEVED = 3  # times that a source has to say that it has no such file, or send it damaged
PAUSE = 0.5  # seconds before the second attempt; doubled before each one after it
TIMEOUT = 20.0  # seconds without a byte after which an attempt is given up
SLOWEST = 1000  # bytes a second; an answer that comes more slowly is given up too
BLOCK = 4 << 20  # bytes of a remote file that are fetched at a time


class FetchError(OSError):
    """What could not be fetched now; at another time it may work."""


class Missing(FetchError):
    """What the source says it does not have."""


class Source:
    """A web server, by the address that everything on it begins with. Threads may share one.

    Raises: ValueError unless the address begins with http:// or https://.
    """

    def __init__(self, url: str):
        if not re.match(r"https?://[^/]", url):
            raise ValueError(f"{url!r} is no address to fetch from; give one that begins http://")
        self.url = url.rstrip("/")
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let every thread that is fetching give up at its next chance."""
        self._stopped.set()

    def get(self, path: str, check: Callable[[bytes], object] = lambda content: None) -> bytes:
        """A whole file that `check` accepts. Up to ATTEMPTS tries, with growing pauses between.

        check: raises DataError for a content that cannot be right
        Raises: Missing if the source has no such file, DataError if `check` kept refusing it,
            FetchError for everything that may be better at another time.
        """

        def attempt(url: str) -> bytes:
            _, _, content = self._answer(url, {})
            check(content)
            return content

        return self._retry(path, attempt)

    def get_part(self, path: str, first: int, count: int) -> tuple[bytes, int]:
        """Up to `count` bytes of a file from byte `first` on, and the file's size.

        A server that knows no parts gives the whole file instead.
        Raises: as `get` does.
        """

        def attempt(url: str) -> tuple[bytes, int]:
            last = first + count - 1
            status, headers, content = self._answer(url, {"Range": f"bytes={first}-{last}"})
            if status == 200:
                return content, len(content)
            given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", ""))
            start, end, size = map(int, given.groups()) if given else (-1, -1, -1)
            if (start, end) != (first, min(last, size - 1)) or len(content) != end - start + 1:
                raise ConnectionError("another part came than was asked for")
            return content, size

        return self._retry(path, attempt)

    def _retry(self, path: str, attempt: Callable):
        url = f"{self.url}/{path}"
        troubles = []
        for n in range(ATTEMPTS):
            if n and self._stopped.wait(PAUSE * 2 ** (n - 1)):
                break
            try:
                return attempt(url)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code in (403, 404, 410):  # 403 is how S3 says that there is none
                    troubles.append(Missing(f"{url} is not there (HTTP {error.code})"))
                    if sum(isinstance(t, Missing) for t in troubles) == BELIEVED:
                        raise troubles[-1] from None
                    continue
                troubles.append(f"HTTP {error.code} {error.reason}")
                if error.code < 500 and error.code not in (408, 429):
                    break  # our own mistake, and asking again will not mend it
            except (OSError, http.client.HTTPException, DataError) as error:
                reason = getattr(error, "reason", error)  # urllib wraps the cause
                troubles.append(reason)
                if isinstance(reason, socket.gaierror):
                    break  # no such host, or no network at all
        damaged = [t for t in troubles if isinstance(t, DataError)]
        if len(damaged) >= BELIEVED:
            raise damaged[-1]
        said = getattr(troubles[-1], "strerror", None) or troubles[-1]
        raise FetchError(
            f"{url} cannot be fetched ({said}); see whether the network is there, "
            "then run the same command again"
        )

    def _answer(self, url: str, headers: dict) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and content of one request. Raises: OSError, HTTPException."""
        request = urllib.request.Request(url, headers={"User-Agent": "ddetr-edu", **headers})
        started = time.monotonic()
        content = bytearray()
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            promised = response.length
            while chunk := response.read1(1 << 16):
                content += chunk
                seconds = time.monotonic() - started
                if seconds > TIMEOUT and len(content) < SLOWEST * seconds:
                    raise TimeoutError(f"slower than {SLOWEST} bytes a second")
                if self._stopped.is_set():
                    raise ConnectionAbortedError("stopped")
            if promised is not None and len(content) != promised:
                raise ConnectionError(f"cut off after {len(content)} of {promised} bytes")
            return response.status, response.headers, bytes(content)


def open_remote(source: Source, path: str, blocks: Path) -> BinaryIO:
    """A file on a server, to be read like one on disk; only what is read is fetched.

    blocks: folder that keeps what was fetched, so that an interrupted read can go on
    Raises: as `Source.get` does, also while reading.
    """
    start, size = source.get_part(path, 0, 1)
    if len(start) == size:  # the server knows no parts, and has sent the whole of it
        return io.BytesIO(start)
    return io.BufferedReader(RemoteFile(source, path, size, blocks))  # which reads across blocks


class RemoteFile(io.RawIOBase):
    """A remote file of known size, fetched a block at a time into a folder."""

    def __init__(self, source: Source, path: str, size: int, blocks: Path):
        self._source, self._path, self._size, self._blocks = source, path, size, blocks
        self._position = 0
        self._number, self._content = -1, b""  # the block that was read last
        blocks.mkdir(parents=True, exist_ok=True)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer) -> int:
        if self._position >= self._size:
            return 0
        number, start = divmod(self._position, BLOCK)
        piece = self._block(number)[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _block(self, number: int) -> bytes:
        if number != self._number:
            file = self._blocks / f"{BLOCK}-{number:05d}"
            if not file.is_file():
                content, _ = self._source.get_part(self._path, number * BLOCK, BLOCK)
                write_whole(file, content, self._blocks)
            self._number, self._content = number, file.read_bytes()
        return self._content


def write_whole(file: Path, content: bytes, unfinished: Path) -> None:
    """Write a file so that it is there whole or not at all.

    unfinished: folder on the same disk, where it grows
    """
    partial = unfinished / f"{file.name}.partial"
    partial.write_bytes(content)
    os.replace(partial, file)
