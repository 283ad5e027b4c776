"""``sys/devices/system/cpu`` and ``sys/devices/system/node`` of a machine: each host a package and a NUMA node.

And the cpuset that every control group shows: all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

CPU: Final = "sys/devices/system/cpu"
NODE: Final = "sys/devices/system/node"
CGROUP: Final = "sys/fs/cgroup"
"""The runtime shows the two files here in place of those of any control group, of version 1 or 2."""

_CACHE_FACTS: Final = (
    "level",
    "type",
    "size",
    "coherency_line_size",
    "number_of_sets",
    "physical_line_partition",
    "ways_of_associativity",
)


def write(directory: Path, cpus: Sequence[int], distances: Sequence[Sequence[int]], source: Path) -> None:
    """Writes the tree under ``directory`` for hosts of ``cpus`` CPUs, so far from each other as row and column of
    ``distances`` say; the home host's ``sys`` is in ``source``.
    """
    nodes = _numbered(cpus)
    total = sum(cpus)
    caches = _caches(source / CPU)
    whole = range(total)
    _files(
        directory / CPU,
        {
            "online": cpu_list(whole),
            "possible": cpu_list(whole),
            "present": cpu_list(whole),
            "offline": "",
            "isolated": "",
            "kernel_max": str(total - 1),
        },
    )
    for node, numbers in enumerate(nodes):
        for core, number in enumerate(numbers):
            cpu = directory / CPU / f"cpu{number}"
            _files(cpu / "topology", _topology(node, core, number, numbers, total))
            for index, (facts, by_all) in enumerate(caches):
                sharers = numbers if by_all else range(number, number + 1)
                shared = {
                    "id": str(node if by_all else number),
                    "shared_cpu_list": cpu_list(sharers),
                    "shared_cpu_map": cpu_mask(sharers, total),
                }
                _files(cpu / "cache" / f"index{index}", facts | shared)
            (cpu / f"node{node}").symlink_to(f"../../node/node{node}")
    everywhere = cpu_list(range(len(cpus)))
    names = ("online", "possible", "has_cpu", "has_memory", "has_normal_memory")
    _files(directory / NODE, dict.fromkeys(names, everywhere))
    _files(directory / CGROUP, {"cpuset.cpus": cpu_list(whole), "cpuset.mems": everywhere})
    for node, numbers in enumerate(nodes):
        path = directory / NODE / f"node{node}"
        facts = {
            "cpulist": cpu_list(numbers),
            "cpumap": cpu_mask(numbers, total),
            "distance": " ".join(map(str, distances[node])),
        }
        _files(path, facts)
        for number in numbers:
            (path / f"cpu{number}").symlink_to(f"../../cpu/cpu{number}")


def cpu_list(numbers: Iterable[int]) -> str:
    """``0-3,8``, as the kernel writes sets."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def cpu_mask(numbers: Iterable[int], total: int) -> str:
    """``ff,ffffffff``: the same as a mask, 32 bits a word, as wide as ``total`` CPUs need."""
    bits = sum(1 << number for number in numbers)
    words = [bits >> shift & 0xFFFF_FFFF for shift in range(0, total, 32)]
    digits = (total - 1) % 32 // 4 + 1
    first, *rest = reversed(words)
    return ",".join([f"{first:0{digits}x}", *(f"{word:08x}" for word in rest)])


def _numbered(cpus: Sequence[int]) -> list[range]:
    found: list[range] = []
    first = 0
    for count in cpus:
        found.append(range(first, first + count))
        first += count
    return found


def _topology(node: int, core: int, number: int, host: range, total: int) -> dict[str, str]:
    alone = range(number, number + 1)
    facts = {"physical_package_id": str(node), "die_id": "0", "core_id": str(core)}
    for name, numbers in (
        ("thread_siblings", alone),
        ("core_cpus", alone),
        ("core_siblings", host),
        ("die_cpus", host),
        ("package_cpus", host),
    ):
        facts |= {name: cpu_mask(numbers, total), f"{name}_list": cpu_list(numbers)}
    return facts


def _caches(home: Path) -> list[tuple[dict[str, str], bool]]:
    """The caches of the home host's first CPU, and whether each serves more than one core."""
    core = _read(home / "cpu0" / "topology" / "thread_siblings_list")
    found: list[tuple[dict[str, str], bool]] = []
    index = 0
    while (cache := home / "cpu0" / "cache" / f"index{index}").is_dir():
        facts = {name: text for name in _CACHE_FACTS if (text := _read(cache / name)) is not None}
        found.append((facts, _read(cache / "shared_cpu_list") not in (core, None)))
        index += 1
    return found


def _read(path: Path) -> str | None:
    """A fact that not every kernel or hypervisor tells."""
    try:
        return path.read_text(encoding="ascii").rstrip("\n")
    except OSError:
        return None


def _files(directory: Path, texts: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / name).write_text(text + "\n", encoding="ascii")
