"""The whole machine as ``/proc`` and ``/sys`` would show it: a folder of files that a program in spread mode sees
in place of the home host's own (docs/spread.md, "machine"), so that nproc, lscpu, free, numactl and lstopo tell of
all hosts.

Every host is a NUMA node, as far from the others as :mod:`megalith.distance` says, and a processor package; its CPUs
are numbered behind those of the hosts before it. A host tells how many CPUs it has, not how these hang together, so
each is a core of its own. What a processor can do is copied from the home host: threads go only where it is the same.

Written once: ``proc/cpuinfo``, the trees ``cpu`` and ``node`` of ``sys/devices/system``, and a cpuset. Written with
every heartbeat, each at one stroke (rename(2)): ``proc/meminfo``, ``proc/stat``, ``sysinfo`` (bytes in all, and free),
and ``meminfo`` and ``numastat`` of each node.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from megalith import topology
from megalith.distance import distances
from megalith.report import HostFigures
from megalith.sizes import PAGE_BYTES

KB: Final = 1024
TICKS: Final = os.sysconf("SC_CLK_TCK")

CPUINFO, MEMINFO, STAT, SYSINFO = "proc/cpuinfo", "proc/meminfo", "proc/stat", "sysinfo"
NODES: Final = "sys/devices/system/node"


@dataclass(frozen=True, slots=True)
class Source:
    """Where the home host's own files are."""

    root: Path = Path("/")

    def read(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8", errors="replace")


class View:
    """The files of one machine, in ``directory``, which is there and empty."""

    def __init__(
        self, directory: Path, cpus: Sequence[int], hosts: Sequence[HostFigures], source: Source | None = None
    ) -> None:
        self._directory = directory
        self._cpus = tuple(cpus)
        self._source = source or Source()
        self._times = _Times(self._cpus)
        (directory / "proc").mkdir()
        self._put(CPUINFO, cpuinfo(self._source.read(CPUINFO), self._cpus))
        topology.write(directory, self._cpus, distances([host.rtt_us for host in hosts]), self._source.root)
        self.refresh(hosts, 0.0)

    def refresh(self, hosts: Sequence[HostFigures], seconds: float) -> None:
        """Shows the hosts' new figures, ``seconds`` after the last ones."""
        self._times.add(hosts, seconds)
        total, free = sum(h.budget for h in hosts), sum(_free(h) for h in hosts)
        self._put(SYSINFO, f"{total} {free}\n")
        self._put(MEMINFO, meminfo(hosts))
        self._put(STAT, self._times.stat(self._source.read(STAT)))
        for number, host in enumerate(hosts):
            self._put(f"{NODES}/node{number}/meminfo", node_meminfo(number, host))
            self._put(f"{NODES}/node{number}/numastat", numastat(host))

    def _put(self, path: str, text: str) -> None:
        # Written beside the tree that programs see, so that none finds half a file or lists a strange one.
        new = self._directory / ".new"
        new.write_text(text, encoding="utf-8")
        new.replace(self._directory / path)


def cpuinfo(home: str, cpus: Sequence[int]) -> str:
    """/proc/cpuinfo of all hosts, made of the home host's entries."""
    entries = [entry for entry in home.split("\n\n") if entry.startswith("processor")]
    shown: list[str] = []
    for package, count in enumerate(cpus):
        for core in range(count):
            number = len(shown)
            ours = {
                "processor": number,
                "physical id": package,
                "siblings": count,
                "core id": core,
                "cpu cores": count,
                "apicid": number,
                "initial apicid": number,
            }
            lines = entries[core % len(entries)].splitlines()
            shown.append("\n".join(_renumbered(line, ours) for line in lines) + "\n")
    return "\n".join(shown) + "\n"


def _renumbered(line: str, ours: dict[str, int]) -> str:
    name, colon, _ = line.partition(":")
    value = ours.get(name.strip())
    return line if value is None else f"{name}{colon} {value}"


def meminfo(hosts: Sequence[HostFigures]) -> str:
    """/proc/meminfo of the machine: what the hosts lend and hold. Swap, page cache and slabs are no part of it."""
    total, free = sum(h.budget for h in hosts), sum(_free(h) for h in hosts)
    mapped, stowed = sum(h.mapped for h in hosts), sum(h.stowed for h in hosts)
    amounts = {
        "MemTotal": total,
        "MemFree": free,
        "MemAvailable": free,
        "Active": mapped,
        "Inactive": stowed,
        "Active(anon)": mapped,
        "Inactive(anon)": stowed,
        "AnonPages": mapped + stowed,
        "Mapped": mapped,
        "CommitLimit": total,
        "Committed_AS": total - free,
    }
    names = (
        *("MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active", "Inactive"),
        *("Active(anon)", "Inactive(anon)", "Active(file)", "Inactive(file)", "Unevictable", "Mlocked"),
        *("SwapTotal", "SwapFree", "Dirty", "Writeback", "AnonPages", "Mapped", "Shmem", "KReclaimable", "Slab"),
        *("SReclaimable", "SUnreclaim", "KernelStack", "PageTables", "CommitLimit", "Committed_AS"),
    )
    lines = [f"{name + ':':<16}{amounts.get(name, 0) // KB:>8} kB" for name in names]
    lines += [f"{f'HugePages_{name}:':<16}{0:>8}" for name in ("Total", "Free", "Rsvd", "Surp")]
    return "\n".join([*lines, f"{'Hugepagesize:':<16}{2048:>8} kB"]) + "\n"


def node_meminfo(number: int, host: HostFigures) -> str:
    """A node's meminfo in /sys."""
    amounts = {
        "MemTotal": host.budget,
        "MemFree": _free(host),
        "MemUsed": host.budget - _free(host),
        "Active": host.mapped,
        "Inactive": host.stowed,
        "FilePages": 0,
        "Mapped": host.mapped,
        "AnonPages": host.mapped + host.stowed,
        "Shmem": 0,
        "Slab": 0,
    }
    lines = [f"Node {number} {name + ':':<15} {amount // KB:>8} kB" for name, amount in amounts.items()]
    lines += [f"Node {number} {f'HugePages_{name}:':<15} {0:>5}" for name in ("Total", "Free", "Surp")]
    return "\n".join(lines) + "\n"


def numastat(host: HostFigures) -> str:
    """A node's numastat: pages first touched here, and those that came and went for want of room elsewhere and here."""
    counts = {
        "numa_hit": host.faults.first_touch,
        "numa_miss": host.received_pages,
        "numa_foreign": host.handed_over_pages,
        "interleave_hit": 0,
        "local_node": host.faults.first_touch,
        "other_node": host.received_pages,
    }
    return "".join(f"{name} {count}\n" for name, count in counts.items())


def _free(host: HostFigures) -> int:
    free = max(0, host.budget - host.held)
    return free - free % PAGE_BYTES


class _Times:
    """CPU time of every host, in ticks since the run began; its CPUs share it evenly."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = cpus
        self._busy = [0.0] * len(cpus)
        self._idle = [0.0] * len(cpus)

    def add(self, hosts: Sequence[HostFigures], seconds: float) -> None:
        for number, (host, cpus) in enumerate(zip(hosts, self._cpus, strict=True)):
            load = min(float(cpus), host.load or 0.0)
            self._busy[number] += load * seconds * TICKS
            self._idle[number] += (cpus - load) * seconds * TICKS

    def stat(self, home: str) -> str:
        """/proc/stat: our CPUs, and for the rest (time of boot, context switches) what the home host says."""
        rest = [line for line in home.splitlines() if not line.startswith("cpu")]
        ours = [_cpu_line("cpu ", sum(self._busy), sum(self._idle))]
        for busy, idle, cpus in zip(self._busy, self._idle, self._cpus, strict=True):
            ours += [_cpu_line(f"cpu{len(ours) - 1 + n}", busy / cpus, idle / cpus) for n in range(cpus)]
        return "\n".join([*ours, *rest]) + "\n"


def _cpu_line(name: str, busy: float, idle: float) -> str:
    return f"{name} {round(busy)} 0 0 {round(idle)} 0 0 0 0 0 0"
