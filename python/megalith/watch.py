"""What heartbeats tell of threads and pages, kept: counts since the beginning become rates, which policies look at."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from megalith.report import HostFigures, HostThreads, HotPage, ThreadFigures
from megalith.scheduler import HostView, MachineView, PageView, ThreadView

THREADS_MAX: Final = 10_000
"""Of threads that have ended, no more are remembered."""

ORDER_S: Final = 1.0
"""Within this time a thread has gone where it was told, or will not."""


class Watch:
    """See the module's text; one a run."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = cpus
        self._seen_s = time.monotonic()
        self._seconds = 0.0
        """Between the last two heartbeats."""
        self._hosts: tuple[Sequence[HostFigures], Sequence[HostFigures]] = ((), ())
        """Before, and now."""
        self._now: dict[tuple[int, int], tuple[ThreadFigures, float, tuple[float, ...]]] = {}
        """Threads that live, how much CPU each used lately, and how much of the time it waited for each host."""
        self._known: dict[tuple[int, int], ThreadFigures] = {}
        self._orders: dict[tuple[int, int], tuple[str, int, float]] = {}
        """Where threads were told to go, how often they had moved then, and when that was."""
        self._most: Counter[str] = Counter()
        self._cpu_s: dict[str, float] = {}
        self._hot: dict[tuple[str, int, int], int] = {}
        """How often a page has left a host, by host, process and address."""
        self._hot_rates: dict[tuple[int, int], float] = {}

    def take(self, now_s: float, hosts: Sequence[HostFigures], threads: Sequence[ThreadFigures]) -> float:
        """Takes in a heartbeat; returns the seconds since the one before."""
        self._seconds, self._seen_s = now_s - self._seen_s, now_s
        self._hosts = (self._hosts[1], hosts)
        self._now = {(t.pid, t.tid): (self._expected(t, now_s), self._cpu(t), self._waits(t)) for t in threads}
        self._known |= {(t.pid, t.tid): t for t in threads}
        for key in list(self._known)[: max(0, len(self._known) - THREADS_MAX)]:
            if key not in self._now:
                del self._known[key]
        self._most |= Counter(thread.host for thread in threads)
        self._orders = {key: order for key, order in self._orders.items() if key in self._now}
        self._take_hot(hosts)
        return self._seconds

    def _cpu(self, thread: ThreadFigures) -> float:
        before = self._known.get((thread.pid, thread.tid))
        used_s = max(0, thread.cpu_ms - (before.cpu_ms if before else 0)) / 1000
        self._cpu_s[thread.host] = self._cpu_s.get(thread.host, 0.0) + used_s
        return min(1.0, used_s / self._seconds) if self._seconds > 0 else 0.0

    def _waits(self, thread: ThreadFigures) -> tuple[float, ...]:
        before = self._known.get((thread.pid, thread.tid))
        # What it waited for elsewhere, before it came here, is another count.
        old = before.waited_ms if before and (before.host, before.moves) == (thread.host, thread.moves) else None
        if old is None or self._seconds <= 0:
            return ()
        names = [host.name for host in self._hosts[1]]
        new_ms = (thread.waited_ms.get(name, 0) - old.get(name, 0) for name in names)
        return tuple(min(1.0, max(0, ms) / 1000 / self._seconds) for ms in new_ms)

    def _take_hot(self, hosts: Sequence[HostFigures]) -> None:
        # A host counts how often a page has left it; both ends of a fight do.
        before = self._moves()
        self._hot |= {(host.name, page.pid, page.page): page.moves for host in hosts for page in host.hot}
        seconds = max(self._seconds, 1e-3)
        rates = {key: (count - before[key]) / seconds for key, count in self._moves().items()}
        self._hot_rates = {key: rate for key, rate in rates.items() if rate > 0}

    def _moves(self) -> Counter[tuple[int, int]]:
        """By process and address."""
        found: Counter[tuple[int, int]] = Counter()
        for (_, pid, address), count in self._hot.items():
            found[pid, address] += count
        return found

    def look(self, now_s: float) -> MachineView:
        """The machine, as a policy sees it."""
        before, now = self._hosts
        numbers = {host.name: number for number, host in enumerate(now)}
        old = {host.name: host for host in before}
        hosts = [self._host(number, host, old.get(host.name)) for number, host in enumerate(now)]
        threads = [
            ThreadView(t.pid, t.tid, t.name, numbers[t.host], cpu, t.moves, waits)
            for t, cpu, waits in self._now.values()
        ]
        hot = [PageView(pid, address, rate) for (pid, address), rate in self._hot_rates.items()]
        return MachineView(now_s, tuple(hosts), tuple(threads), tuple(hot))

    def ordered(self, pid: int, tid: int, host: int, now_s: float) -> None:
        """A thread has been told to go to a host. That counts as done for a while, because heartbeats lag behind."""
        key = pid, tid
        thread, cpu, waits = self._now[key]
        self._orders[key] = (self._hosts[1][host].name, self._known[key].moves, now_s)
        self._now[key] = (dataclasses.replace(thread, host=self._orders[key][0]), cpu, waits)

    def _expected(self, thread: ThreadFigures, now_s: float) -> ThreadFigures:
        """A thread where it was told to go, until it has moved or has had time to."""
        key = thread.pid, thread.tid
        if key not in self._orders:
            return thread
        host, moves, when_s = self._orders[key]
        if thread.moves != moves or now_s - when_s > ORDER_S:
            del self._orders[key]
            return thread
        return dataclasses.replace(thread, host=host)

    def _host(self, number: int, host: HostFigures, before: HostFigures | None) -> HostView:
        def rate(count: Callable[[HostFigures], int]) -> float:
            return 0.0 if before is None else max(0, count(host) - count(before)) / max(self._seconds, 1e-3)

        taken = rate(lambda h: (h.invalidated_pages or 0) + (h.forwarded_pages or 0))
        dwelled = rate(lambda h: h.dwelled or 0)
        came = tuple(rate(_from(other)) for other in range(len(host.pages_from)))
        return HostView(number, host.name, self._cpus[number], host.load or 0.0, taken, dwelled, came)

    def by_host(self) -> tuple[HostThreads, ...]:
        """What every host has done for the program's threads."""
        names = [host.name for host in self._hosts[1]]
        return tuple(
            HostThreads(name, cpus, self._most[name], round(self._cpu_s.get(name, 0.0), 3))
            for name, cpus in zip(names, self._cpus, strict=False)
        )

    def threads(self) -> tuple[ThreadFigures, ...]:
        """Every thread as it was last seen."""
        return tuple(self._known.values())

    def hot(self) -> tuple[HotPage, ...]:
        """The pages that were fought over, the worst first."""
        pages = [HotPage(address, pid, moves) for (pid, address), moves in self._moves().items()]
        return tuple(sorted(pages, key=lambda page: -page.moves))


def _from(other: int) -> Callable[[HostFigures], int]:
    """How many pages came from a host."""
    return lambda host: sum(host.pages_from[other : other + 1])
