"""One run at a time in a folder: two would overwrite each other's files."""

import errno
from pathlib import Path


class FolderLock:
    """A lock that the operating system takes away when its process ends, however that ends.

    Where there are no such locks (Windows, some network file systems), nothing is locked.

    Args:
        folder: The folder, which must exist.

    Raises:
        ValueError: If another process holds the lock.
    """

    def __init__(self, folder: Path):
        self.path = folder / ".lock"
        self._file = self.path.open("w")
        try:
            import fcntl  # Windows has none

            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                self._file.close()
                raise ValueError(
                    f"another run is writing to {folder} at this moment; choose another --out, or "
                    "wait for its end"
                ) from None

    def release(self) -> None:
        """Let others have the folder."""
        self.path.unlink(missing_ok=True)
        self._file.close()
