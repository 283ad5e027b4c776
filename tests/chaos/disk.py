"""A disk of its own for agents and programs, small enough to be filled: a tmpfs."""

import itertools
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, final

_PREFIX: Final = "mgl-disk"
_serial = itertools.count(1)


def sweep() -> None:
    """Takes away disks whose maker was killed."""
    for path in Path("/tmp").glob(f"{_PREFIX}-*"):
        pid = path.name.split("-")[2]
        if pid.isdigit() and not Path("/proc", pid).exists():
            subprocess.run(["umount", "--lazy", str(path)], check=False, capture_output=True, timeout=20)
            with suppress(OSError):  # somebody is faster, or it holds what was written beside the mount
                path.rmdir()


@final
class Disk:
    """A mounted tmpfs of `mib` MiB."""

    def __init__(self, mib: int) -> None:
        sweep()
        self.path = Path("/tmp", f"{_PREFIX}-{os.getpid()}-{next(_serial)}")
        self.path.mkdir(mode=0o700)
        try:
            _command("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", _PREFIX, str(self.path))
        except BaseException:
            self.path.rmdir()
            raise

    @property
    def _filling(self) -> Path:
        return self.path / "filling"

    def fill(self) -> None:
        """Leaves not a byte."""
        block = bytes(1 << 20)
        with self._filling.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(block)

    def clear(self) -> None:
        """There is room again."""
        self._filling.unlink(missing_ok=True)

    def remove(self) -> None:
        """Unmounts it; those that used it have ended."""
        end = time.monotonic() + 5
        while True:
            try:
                _command("umount", str(self.path))
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                break
        self.path.rmdir()


def _command(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode != 0:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
