"""What a run does beside waiting while its threads may be on several hosts: it keeps the view fresh, asks the policy
where threads are to go, passes its orders on, and remembers them for the report.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from megalith.exceptions import AgentError
from megalith.folder import sweep, temporary
from megalith.placement import Placement, Spread
from megalith.processes import name_of
from megalith.report import Decision, HostFigures, HotPage, SpreadFigures, ThreadFigures
from megalith.scheduler import MachineView, Move, Policy
from megalith.tell import tell
from megalith.view import View
from megalith.watch import Watch

DECISIONS_MAX: Final = 1000
HOT_MAX: Final = 20
VIEW_PREFIX: Final = "megalith-view-"

Order = Callable[[int, int, int], None]
"""Orders thread (process, tid) to a host."""


class Spreading:
    """Spread mode of one run; made by :func:`spreading`."""

    def __init__(self, placement: Placement, view: View, told: Spread, policy: Policy | None, *, explain: bool) -> None:
        self.told = told
        """What the runtime is told."""
        self._placement = placement
        self._view = view
        self._policy = policy
        self._explain = explain
        self._stale = False
        """Whether it was said that the view is not fresh."""
        self._watch = Watch(placement.cpus)
        interval: float | None = getattr(policy, "interval_s", None)
        self._interval_s = interval
        self._due_s = float("inf") if policy is None or interval is None else time.monotonic() + interval
        self._began_s = time.monotonic()
        self._decisions: deque[Decision] = deque(maxlen=DECISIONS_MAX)
        self._decided = 0
        self._names: dict[int, str] = {}
        """Of processes that have hot pages, while they live."""

    def see(self, hosts: Sequence[HostFigures], threads: Sequence[ThreadFigures]) -> tuple[HostFigures, ...]:
        """Takes in what a heartbeat brings; returns the hosts' figures with their threads counted."""
        now_s = time.monotonic()
        # Hosts of one computer each report the load of all its CPUs, and have a part of them.
        parts = [cpus / host.cpus if host.cpus else 1.0 for host, cpus in zip(hosts, self._placement.cpus, strict=True)]
        ours = [
            dataclasses.replace(host, load=(host.load or 0.0) * part) for host, part in zip(hosts, parts, strict=True)
        ]
        self._refresh(ours, self._watch.take(now_s, ours, threads))
        pids = {page.pid for host in hosts for page in host.hot}
        self._names |= {pid: name for pid in pids if (name := name_of(pid)) != "?"}
        if self._policy is not None and self._interval_s is None:
            self._due_s = now_s
        here = Counter(thread.host for thread in threads)
        return tuple(dataclasses.replace(host, threads=here[host.name]) for host in hosts)

    def _refresh(self, hosts: Sequence[HostFigures], seconds: float) -> None:
        try:
            self._view.refresh(hosts, seconds)
        # A full disk is no reason to lose a run: the program sees older figures until there is room.
        except OSError as error:
            if not self._stale:
                tell(f"megalith: the machine that the program sees is not kept up to date: {error.strerror}")
            self._stale = True

    def due_in_s(self) -> float:
        """When :meth:`act` is to be called; infinite if there is nothing to decide."""
        return max(0.0, self._due_s - time.monotonic())

    def act(self, order: Order) -> None:
        """Has the policy decide, if it is time to, and passes its orders on."""
        now_s = time.monotonic()
        if self._policy is None or now_s < self._due_s:
            return
        self._due_s = float("inf") if self._interval_s is None else now_s + self._interval_s
        view = self._watch.look(now_s)
        try:
            moves = [move for move in self._policy.decide(view) if self._makes_sense(view, move)]
        # A policy is somebody's own code; a program that has run for days shall not end with its mistakes.
        except Exception as error:
            tell(f"megalith: the policy failed, threads stay where they are: {type(error).__name__}: {error}")
            self._policy, self._due_s = None, float("inf")
            return
        for move in moves:
            order(move.pid, move.tid, move.host)
            self._watch.ordered(move.pid, move.tid, move.host, now_s)
            self._remember(now_s, view, move)

    def _makes_sense(self, view: MachineView, move: Move) -> bool:
        if not 0 <= move.host < len(view.hosts):
            raise ValueError(f"there is no host {move.host}")
        # A thread that is not there may have ended; one that is where it shall be need not be told.
        return any((t.pid, t.tid) == (move.pid, move.tid) and t.host != move.host for t in view.threads)

    def _remember(self, now_s: float, view: MachineView, move: Move) -> None:
        (thread,) = [t for t in view.threads if (t.pid, t.tid) == (move.pid, move.tid)]
        source, target = view.hosts[thread.host].name, view.hosts[move.host].name
        at_s = round(now_s - self._began_s, 3)
        self._decisions.append(Decision(at_s, move.pid, move.tid, thread.name, source, target, move.why))
        self._decided += 1
        if self._explain:
            tell(f"megalith: {at_s:.1f} s: thread {move.tid} ({thread.name}) {source} → {target}: {move.why}")

    def figures(self, program: Path | None = None) -> SpreadFigures:
        """For the report; the variables of ``program`` are looked up, if one is given."""
        hot = self._watch.hot()[:HOT_MAX]
        if program is not None:
            hot = tuple(
                dataclasses.replace(page, what=what)
                for page, what in zip(hot, self._look_up(hot, program), strict=True)
            )
        return SpreadFigures(
            asked=self._placement.threads,
            hosts=self._watch.by_host(),
            threads=self._watch.threads(),
            decisions=tuple(self._decisions),
            decisions_dropped=self._decided - len(self._decisions),
            hot=hot,
        )

    def _look_up(self, hot: Sequence[HotPage], program: Path) -> Iterator[str]:
        from megalith.symbols import Symbols, region

        # A process may have become another program; its name tells, as far as the kernel keeps it.
        ours = {pid for pid, name in self._names.items() if name == program.name[:15]}
        symbols = Symbols(program) if ours else None
        for page in hot:
            yield symbols.what(page.page) if symbols and page.pid in ours else region(page.page)


@contextmanager
def spreading(
    placement: Placement,
    hosts: Sequence[HostFigures],
    private: Path | None,
    policy: Policy | None,
    *,
    explain: bool,
) -> Iterator[Spreading | None]:
    """Spread mode for the length of a run, or ``None`` if threads stay at home.

    The view lies in ``private``, a directory that goes away with the run, or where temporary files do.
    """
    if private is None:
        sweep(VIEW_PREFIX)
    if not placement.spread:
        yield None
        return
    with ExitStack() as cleanup:
        try:
            folder = private / "view" if private is not None else cleanup.enter_context(temporary(VIEW_PREFIX))
            folder.mkdir(mode=0o700, exist_ok=True)
            view = View(folder, placement.cpus, hosts)
        except OSError as error:
            where = private or tempfile.gettempdir()
            raise AgentError(
                f"what the program is to see of the machine has no place in {where}: {error.strerror}"
            ) from None
        told = Spread(placement.starts, placement.cpus, folder)
        yield Spreading(placement, view, told, policy, explain=explain)
