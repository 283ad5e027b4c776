"""Where a program's threads start: on its home host, or on several hosts of the machine (docs/spread.md).

Spread mode catches every system call of a program of several threads (some microseconds each), and expand mode hardly
any; so what nobody asked for is spread only where hosts have CPUs to gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Final, Literal, get_args

from megalith.exceptions import AgentError, HostsFileError
from megalith.report import HostFigures

Threads = Literal["expand", "spread", "auto"]
"""``expand``: threads stay at home. ``spread``: new threads start on all hosts and stay there. ``auto``: they start at
home, and the scheduler moves them when home's CPUs are full; where no host has CPUs to offer it is ``expand``."""

THREADS: Final[tuple[Threads, ...]] = get_args(Threads)

HOME: Final = 0

CPUS_MAX: Final = 1024
"""crates/runtime, ``spread.rs``: the longest list of CPUs that a program is shown."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What was decided before the start."""

    threads: Threads
    """As asked for."""
    cpus: tuple[int, ...]
    """CPUs of each host, home first; empty in expand mode."""
    starts: tuple[int, ...]
    """The host of the n-th new thread, and so round again; empty in expand mode."""
    why: str
    """In words."""

    @property
    def spread(self) -> bool:
        """Whether threads may leave home at all."""
        return bool(self.starts)


@dataclass(frozen=True, slots=True)
class Spread:
    """What the runtime is told in spread mode (crates/client, ``env``)."""

    starts: tuple[int, ...]
    cpus: tuple[int, ...]
    view: Path
    """A folder whose ``proc`` and ``sys`` show the whole machine."""


def arrange(
    hosts: Sequence[HostFigures], *, threads: Threads, threads_on: Sequence[str] = (), one_computer: bool
) -> Placement:
    """Decides for a machine of ``hosts``; ``one_computer`` says that they share its CPUs."""
    if threads not in THREADS:
        raise HostsFileError(f"threads={threads!r}: it is one of {', '.join(THREADS)}")
    if threads_on and threads != "spread":
        raise HostsFileError(f"threads_on is for threads='spread', not {threads!r}")
    home = hosts[HOME].name
    if threads == "expand":
        return _at_home("expand", f"threads stay on {home} (--expand)")
    if threads == "auto" and (len(hosts) == 1 or one_computer):
        what = "the machine is this computer alone" if one_computer else "the machine is one host"
        return _at_home("auto", f"threads stay on {home}: {what}")
    if silent := next((host.name for host in hosts if host.cpus is None or host.cpus < 1), None):
        unknown = f"host {silent} does not say how many CPUs it has"
        if threads == "auto":
            return _at_home("auto", f"threads stay on {home}: {unknown}")
        raise AgentError(f"{unknown}; threads can only stay at home")
    cpus = cpus_of(hosts, one_computer=one_computer)
    if sum(cpus) > CPUS_MAX:
        many = f"the hosts have {sum(cpus)} CPUs, and threads are spread over {CPUS_MAX} at most"
        if threads == "auto":
            return _at_home("auto", f"threads stay on {home}: {many}")
        raise HostsFileError(many)
    if threads == "auto":
        why = f"threads start on {home} ({cpus[HOME]} CPUs) and may move to other hosts ({sum(cpus[1:])} CPUs)"
        return Placement("auto", cpus, (HOME,), why)
    chosen = _numbers(hosts, threads_on) if threads_on else list(range(len(hosts)))
    names = ", ".join(f"{hosts[number].name} ({cpus[number]} CPUs)" for number in chosen)
    return Placement(
        "spread", cpus, starts([cpus[n] if n in chosen else 0 for n in range(len(hosts))]), f"threads start on {names}"
    )


def starts(cpus: Sequence[int]) -> tuple[int, ...]:
    """The order in which new threads fill hosts of so many CPUs, evenly; 0 CPUs: none go there.

    The program's first thread is at home and counts, so the order begins with the next one: two equal hosts get threads
    1, 0, 1, 0, ….
    """
    unit = gcd(*cpus)
    room = [count // unit for count in cpus]
    taken = [0] * len(room)
    order: list[int] = []
    first_at_home = room[HOME] > 0
    if first_at_home:
        taken[HOME] = 1
    while sum(taken) < sum(room):
        # Where a thread more leaves the fullest host least full (d'Hondt): at the end each has its room.
        best = min((n for n in range(len(room)) if taken[n] < room[n]), key=lambda n: (taken[n] + 1) / room[n])
        taken[best] += 1
        order.append(best)
    return tuple(order) + ((HOME,) if first_at_home else ())


def shares(total: int, parts: int) -> tuple[int, ...]:
    """``total`` CPUs of one computer, cut among ``parts`` local hosts; each has one at least."""
    return tuple(max(1, total // parts + (part < total % parts)) for part in range(parts))


def _at_home(threads: Threads, why: str) -> Placement:
    return Placement(threads, (), (), why)


def cpus_of(hosts: Sequence[HostFigures], *, one_computer: bool) -> tuple[int, ...]:
    """The CPUs of each host, as it says itself (one, if it does not), or its share of the computer's."""
    found = [host.cpus or 1 for host in hosts]
    return shares(found[HOME], len(hosts)) if one_computer else tuple(found)


def _numbers(hosts: Sequence[HostFigures], names: Sequence[str]) -> list[int]:
    known = [host.name for host in hosts]
    for name in names:
        if name not in known:
            raise HostsFileError(f"--threads-on {name}: no such host; the machine has {', '.join(known)}")
    return sorted({known.index(name) for name in names})
