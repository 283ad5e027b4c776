"""A control group with a memory limit, of either version, for the length of a measurement."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from megalith.demo.guard import Guard
from megalith.sizes import ByteCount

_TOP: Final = Path("/sys/fs/cgroup")
_SWAPPINESS: Final = "60"
"""The kernel's own default; a group made in another inherits what that has."""

# Members that are ending still count, so it may take a few attempts.
_REMOVE: Final = """
for attempt in $(seq 100); do
    [ -d "$1" ] || exit 0
    for pid in $(cat "$1/cgroup.procs"); do kill -9 "$pid"; done
    rmdir "$1" || sleep 0.05
done
"""


class CannotLimit(Exception):
    """No such group can be made; the message says why."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A group whose members may together take so much memory."""

    path: Path
    version: int

    def command(self, argv: Sequence[str]) -> list[str]:
        """``argv``, started inside the group."""
        enter = f'echo $$ > "{self.path}/cgroup.procs" && exec "$@"'
        return ["/bin/sh", "-c", enter, "megalith-demo", *argv]

    def oom_kills(self) -> int:
        """How many members the kernel has killed for want of memory."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        for line in (self.path / name).read_text().splitlines():
            key, _, count = line.partition(" ")
            if key == "oom_kill":
                return int(count)
        return 0


@contextmanager
def memory_group(limit: ByteCount) -> Iterator[MemoryGroup]:
    """Makes a group, and takes it away with whatever is left in it."""
    parent, version = _parent()
    path = parent / f"megalith-demo-{os.getpid()}"
    with Guard(_REMOVE, str(path)):
        try:
            path.mkdir()
            if version == 1:
                (path / "memory.limit_in_bytes").write_text(str(limit))
                (path / "memory.swappiness").write_text(_SWAPPINESS)
            else:
                (path / "memory.max").write_text(str(limit))
                (path / "memory.swap.max").write_text("max")
        except OSError as error:
            raise CannotLimit(f"{path}: no control group with a limit: {error.strerror}") from None
        yield MemoryGroup(path, version)


def _parent() -> tuple[Path, int]:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            own = _TOP / "memory" / path.lstrip("/")
            return (own if own.is_dir() else _TOP / "memory"), 1
    # Version 2 lets no group have both members and limited children, so ours is made at the top.
    control = _TOP / "cgroup.subtree_control"
    if control.exists() and "memory" in control.read_text().split():
        return _TOP, 2
    raise CannotLimit("no memory controller in /sys/fs/cgroup")
