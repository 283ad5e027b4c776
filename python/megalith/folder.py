"""A temporary folder that is taken away by its maker, or, if that is killed, by the next run.

Its maker holds a lock on it (flock(2)), which the kernel lets go of when the maker ends, however it ends. So a folder
that can be locked is nobody's. Between being made and being locked a folder looks like that, too: who has locked his
looks whether it is still there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def temporary(prefix: str) -> Iterator[Path]:
    """A private folder where temporary files go, for the length of the block.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        with suppress(FileNotFoundError):  # somebody has swept it away
            lock = _open(folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(lock, folder):
                break
            os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(prefix: str) -> None:
    """Takes away this user's folders with ``prefix`` whose makers were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        try:
            lock = _open(folder)
        except OSError:
            continue  # It is another user's, no folder, or gone.
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue  # Its maker lives.
        finally:
            os.close(lock)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there, ours = path.stat(follow_symlinks=False), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
