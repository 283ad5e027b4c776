"""The same program under the same memory limit, with the kernel's swap for the rest.

This is what a user has without Megalith. It needs root: for a control group with a limit, and for a swap
file. Both are taken away whatever happens.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from megalith.demo.cgroup import CannotLimit, memory_group
from megalith.demo.guard import Guard
from megalith.demo.native import measure
from megalith.sizes import ByteCount

_ROOM_ABOVE_PEAK: Final = 256 << 20
_REAL_DISK: Final = {"ext2/ext3", "ext4", "xfs", "ext2", "ext3"}


@dataclass(frozen=True, slots=True)
class Swapped:
    """One run under swap, or why there was none."""

    how: Literal["finished", "stopped", "killed", "failed", "skipped"]
    wall_s: float
    reason: str = ""

    def __str__(self) -> str:
        match self.how:
            case "finished":
                return f"{self.wall_s:.1f} s"
            case "stopped":
                return f"> {self.wall_s:.0f} s (stopped)"
            case "killed":
                return f"OOM-killed after {self.wall_s:.0f} s"
            case _:
                return self.how


def run_under_swap(
    argv: Sequence[str],
    *,
    limit: ByteCount,
    peak: ByteCount,
    limit_s: float,
    log: Path,
    environment: dict[str, str],
) -> Swapped:
    """Runs ``argv`` with ``limit`` bytes of memory and swap for the rest, for at most ``limit_s``."""
    if os.geteuid() != 0:
        return Swapped("skipped", 0.0, "a swap file and a memory limit take root")
    try:
        with _swap_file(peak + _ROOM_ABOVE_PEAK), memory_group(limit) as group:
            measured = measure(group.command(argv), log=log, environment=environment, limit_s=limit_s)
            if group.oom_kills():
                return Swapped("killed", measured.wall_s, "the kernel's OOM killer, with swap still free")
            if measured.returncode is None:
                return Swapped("stopped", measured.wall_s)
            if measured.returncode != 0:
                return Swapped("failed", measured.wall_s, f"ended with {measured.returncode}; see {log}")
            return Swapped("finished", measured.wall_s)
    except CannotLimit as error:
        return Swapped("skipped", 0.0, str(error))


@contextmanager
def _swap_file(size: int) -> Iterator[Path]:
    directory = _disk_directory(size)
    handle, name = tempfile.mkstemp(prefix="megalith-demo-", suffix=".swap", dir=directory)
    path = Path(name)
    os.close(handle)
    with Guard('"$2" "$1"; rm -f "$1"', name, _tool("swapoff")):
        with path.open("wb") as file:
            # Written, not reserved: a swap file may have no holes.
            block = bytes(1 << 20)
            for _ in range(-(-size >> 20)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        _admin("mkswap", name)
        _admin("swapon", "--priority", "32767", name)
        yield path


def _disk_directory(size: int) -> Path:
    for directory in (Path("/var/tmp"), Path.home(), Path("/")):
        found = subprocess.run(
            ["stat", "--file-system", "--format=%T", str(directory)], capture_output=True, text=True, check=False
        )
        if found.stdout.strip() in _REAL_DISK and shutil.disk_usage(directory).free > 2 * size:
            return directory
    raise CannotLimit("no room for a swap file on an ext4 or xfs disk")


def _tool(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or name


def _admin(name: str, *words: str) -> None:
    try:
        done = subprocess.run([_tool(name), *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotLimit(f"{name}: {error.strerror}") from None
    if done.returncode != 0:
        raise CannotLimit(f"{name}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
