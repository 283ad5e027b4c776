"""How much memory this process may still take, by the kernel's and its control group's account."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from megalith.sizes import PAGE_BYTES, ByteCount

_LOCAL_SHARE: Final = 0.75
"""Of what is available, how much local hosts take together; the rest is for the kernel, the page cache
and whatever else runs here."""


def meminfo() -> dict[str, int]:
    """/proc/meminfo, in bytes."""
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words:
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


def cgroup_room() -> ByteCount | None:
    """What the memory control group of this process leaves, counting its ancestors; ``None``: no limit."""
    rooms = [room for limit, usage in _cgroup_files() if (room := _room(limit, usage)) is not None]
    return ByteCount(min(rooms)) if rooms else None


def available() -> ByteCount:
    """What can be taken without swapping or being killed for it."""
    kernel = meminfo()["MemAvailable"]
    room = cgroup_room()
    return ByteCount(kernel if room is None else min(kernel, room))


def local_budget(hosts: int) -> ByteCount:
    """The memory that each of ``hosts`` hosts on this computer gets when nobody says."""
    share = int(available() * _LOCAL_SHARE) // hosts
    return ByteCount(share - share % PAGE_BYTES)


def _cgroup_files() -> list[tuple[Path, Path]]:
    """(limit, usage) of the process's memory group and all groups above it."""
    found: list[tuple[Path, Path]] = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            top, names = Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif controllers == "":
            top, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        else:
            continue
        group = top / path.lstrip("/")
        while group.is_relative_to(top):
            found.append((group / names[0], group / names[1]))
            group = group.parent
    return found


def _room(limit: Path, usage: Path) -> int | None:
    try:
        most, used = limit.read_text().strip(), int(usage.read_text())
    except (OSError, ValueError):
        return None  # No such group here, or the root, which has no limit.
    if most == "max" or int(most) >= 1 << 62:
        return None
    return max(0, int(most) - used)
