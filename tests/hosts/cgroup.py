"""A memory limit for a host: a cgroup of version 1 or 2, whichever the machine has.

Groups are made below this process's own (version 1) or at the root of the tree (version 2, where a group that
has processes may have no children).
"""

import os
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import final

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


class MemoryGroup(ABC):
    """A cgroup with a memory limit."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        path.mkdir()
        try:
            self._limit(limit_bytes)
        except BaseException:
            path.rmdir()
            raise

    @property
    def procs(self) -> Path:
        """The file that a process id is written to."""
        return self.path / "cgroup.procs"

    def enter(self) -> list[str]:
        """The words before a command that make it run in this group, as the same process."""
        return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.procs)]

    def limit(self, limit_bytes: int) -> None:
        """Changes the limit; OSError where the group uses more and the kernel can reclaim too little."""
        self._limit(limit_bytes)
        self.limit_bytes = limit_bytes

    @abstractmethod
    def _limit(self, limit_bytes: int) -> None: ...

    @abstractmethod
    def usage_bytes(self) -> int:
        """What the group uses now, page cache included."""

    @abstractmethod
    def max_usage_bytes(self) -> int:
        """The most that the group has used, page cache included."""

    @abstractmethod
    def failures(self) -> int:
        """How often usage hit the limit (and something had to be reclaimed)."""

    @abstractmethod
    def oom_kills(self) -> int:
        """How many processes the kernel killed for want of memory."""

    def remove(self, seconds: float = 5) -> None:
        """Deletes the group; its processes must have been killed, and are waited for."""
        end = time.monotonic() + seconds
        while True:
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
            else:
                return

    def _number(self, file: str) -> int:
        return int(self.path.joinpath(file).read_text(encoding="ascii"))

    def _field(self, file: str, key: str) -> int:
        for line in self.path.joinpath(file).read_text(encoding="ascii").splitlines():
            word, _, value = line.partition(" ")
            if word == key:
                return int(value)
        raise KeyError(f"no {key} in {self.path / file}")


@final
class _GroupV1(MemoryGroup):
    def _limit(self, limit_bytes: int) -> None:
        self.path.joinpath("memory.limit_in_bytes").write_text(str(limit_bytes), encoding="ascii")

    def usage_bytes(self) -> int:
        return self._number("memory.usage_in_bytes")

    def max_usage_bytes(self) -> int:
        return self._number("memory.max_usage_in_bytes")

    def failures(self) -> int:
        return self._number("memory.failcnt")

    def oom_kills(self) -> int:
        return self._field("memory.oom_control", "oom_kill")


@final
class _GroupV2(MemoryGroup):
    def _limit(self, limit_bytes: int) -> None:
        self.path.joinpath("memory.max").write_text(str(limit_bytes), encoding="ascii")
        with suppress(OSError):  # no swap in this kernel
            self.path.joinpath("memory.swap.max").write_text("0", encoding="ascii")

    def usage_bytes(self) -> int:
        return self._number("memory.current")

    def max_usage_bytes(self) -> int:
        return self._number("memory.peak")

    def failures(self) -> int:
        return self._field("memory.events", "max")

    def oom_kills(self) -> int:
        return self._field("memory.events", "oom_kill")


def why_not() -> str | None:
    """Why this process cannot make memory groups, or None if it can."""
    if os.geteuid() != 0:
        return "memory limits need root"
    if _parent() is None:
        return "no writable memory cgroup is mounted under /sys/fs/cgroup"
    return None


def make(name: str, limit_bytes: int) -> MemoryGroup:
    """Makes a group of that name and limit."""
    parent = _parent()
    if parent is None:
        raise OSError(why_not())
    kind = _GroupV1 if parent.is_relative_to(_V1) else _GroupV2
    return kind(parent / name, limit_bytes)


def groups(prefix: str) -> list[Path]:
    """Groups that this module could have made, whose names begin so."""
    parent = _parent()
    return sorted(parent.glob(f"{prefix}*")) if parent else []


def _parent() -> Path | None:
    if _V1.is_dir():
        own = _own_v1()
        parent = own if own.is_dir() else _V1
        return parent if os.access(parent, os.W_OK) else None
    controllers = _V2 / "cgroup.controllers"
    if not controllers.exists() or "memory" not in controllers.read_text(encoding="ascii").split():
        return None
    subtree = _V2 / "cgroup.subtree_control"
    if "memory" not in subtree.read_text(encoding="ascii").split():
        try:
            subtree.write_text("+memory", encoding="ascii")
        except OSError:
            return None
    return _V2


def _own_v1() -> Path:
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _V1 / path.lstrip("/")
    return _V1


def sweep(prefix: str) -> None:
    """Removes groups `prefix-PID-…` whose process is gone."""
    for path in groups(f"{prefix}-"):
        pid = path.name.removeprefix(f"{prefix}-").partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with suppress(OSError):  # a process of it is still on its way out
                path.rmdir()
