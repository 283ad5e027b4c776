"""The policy that runs when nobody chose another: threads fill idle CPUs, and come together where they fight.

For each host it reckons how many CPUs are wanted there: one for each *busy* thread (one that gets at least half of
what it could), and whatever else loads the host. Then, in this order:

1. Threads of a process that *fight* (they are on several hosts, they wait, and pages that hosts take from each other
   explain it) are gathered on one host.
2. A process that is spread and gets no more CPU time than before comes home: spreading does not pay.
3. A process whose threads home has had room for, all of them, for a while comes home: calls are cheaper there. Those
   that are with their data stay.
4. A thread that waits for pages of other hosts, most of them of one, goes there, if that one has a CPU with time left.
   Pages that go back there as soon as they have come are nobody's data: they are fought over, or shared and worth it
   (rules 1, 2).
5. Where more CPUs are wanted than a host has, busy threads go to hosts with idle ones.

Against restlessness: a want must be seen twice; no thread is ordered about more than once in `STILL_S`; a process that
was gathered is let alone for a time that doubles every time, up to `PATIENCE_S_MAX`, and so does the time of rule 3. A
host to which threads do not go when told (its CPU may differ) is told no more. A thread that waits at its data no less
than before is let alone likewise: its data are everywhere.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from megalith.scheduler import HOME, HostView, MachineView, Move, ThreadView, by_process

STILL_S: Final = 3.0
"""A thread that has been ordered somewhere stays at least so long, and so long is waited before a result is judged."""
PATIENCE_S: Final = 20.0
PATIENCE_S_MAX: Final = 600.0
ROOM_S: Final = 10.0
"""Home has room for all for so long before threads come home."""
PAYS: Final = 1.1
"""A spread process must get so many times the CPU time that it got at home."""
ACTIVE: Final = 0.05
"""A thread that uses less of a CPU, and waits for pages no longer than that either, sleeps."""
PAGE_S: Final = 100e-6
"""What a page that is taken costs who wants it back. Measured: 60 to 150 µs."""
DWELL_S: Final = 200e-6
"""What waiting for a page that has only just come costs (crates/agent, `dwell.rs`)."""
WAITS: Final = 0.3
"""A thread that waits for pages of other hosts so much of its time is taken to them."""
ROOM: Final = 0.75
"""So much of a CPU must be idle where a thread goes that wants one: something always runs, an agent at least."""
IDLE: Final = 0.25
"""And so much where one goes to its data: a part of what works there now does so to send it pages."""
TO_AND_FRO: Final = 0.5
"""Pages are used in turn where so many are taken for each that comes."""
WARM_S: Final = 10.0
"""Its other pages follow it there: for so long it is not judged whether that paid."""
REFUSALS_MAX: Final = 3


@dataclass(slots=True)
class _Process:
    """What is remembered of a process."""

    spread_s: float | None = None
    """When threads were last sent away; ``None``: it is together."""
    before: float = 0.0
    """CPU time a second that it got when it was together, and how many of its threads were busy."""
    busy: int = 0
    not_before_s: float = float("-inf")
    patience_s: float = PATIENCE_S
    room_s: float = ROOM_S
    room_since_s: float | None = None


@dataclass(slots=True)
class _Order:
    host: int
    when_s: float


@dataclass(slots=True)
class _Follower:
    """A thread that was taken to its data."""

    host: int
    since_s: float
    waited: float
    """Of its time, before."""
    patience_s: float
    judged: bool = False
    pays: bool = True


class _Wanted:
    """CPUs wanted on every host, kept right while moves are being decided."""

    def __init__(self, view: MachineView) -> None:
        self._hosts = view.hosts
        ours = [[thread.cpu for thread in view.threads if thread.host == host.number] for host in view.hosts]
        # A thread that gets half of its fair share, or more, would take a CPU for itself.
        active = [max(1, sum(1 for cpu in cpus if cpu >= ACTIVE / 2)) for cpus in ours]
        self._fair = [min(1.0, host.cpus / count) for host, count in zip(view.hosts, active, strict=True)]
        self._busy = {_key(thread) for thread in view.threads if thread.cpu >= 0.5 * self._fair[thread.host]}
        self.cpus = [max(0.0, host.load - sum(ours[host.number])) for host in view.hosts]
        for thread in view.threads:
            self.cpus[thread.host] += self.is_busy(thread)

    def is_busy(self, thread: ThreadView) -> bool:
        return _key(thread) in self._busy

    def waits(self, thread: ThreadView) -> bool:
        """Whether a thread that is awake gets less than it could, and so waits for something other than a CPU."""
        return _is_awake(thread) and thread.cpu < 0.75 * self._fair[thread.host]

    def excess(self, host: int) -> float:
        return self.cpus[host] - self._hosts[host].cpus

    def move(self, thread: ThreadView, host: int, why: str) -> Move:
        """The order, taken as carried out."""
        if self.is_busy(thread):
            self.cpus[thread.host] -= 1
            self.cpus[host] += 1
        return Move(thread.pid, thread.tid, host, why)


class BalancePolicy:
    """See the module's text."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._orders: dict[tuple[int, int], _Order] = {}
        self._refusals: Counter[int] = Counter()
        self._followers: dict[tuple[int, int], _Follower] = {}
        self._drawn: Counter[tuple[tuple[int, int], int]] = Counter()
        """For how many looks in a row a thread has waited for a host's pages."""
        self._full: Counter[int] = Counter()
        """For how many looks in a row more CPUs have been wanted on a host than it has."""

    def decide(self, view: MachineView) -> list[Move]:
        """Who is to go where now."""
        self._learn(view)
        wanted = _Wanted(view)
        moves: list[Move] = []
        for pid, threads in by_process(view.threads).items():
            moves += self._together(view, self._processes.setdefault(pid, _Process()), threads, wanted)
        moves = moves or self._to_data(view, wanted) or self._fill(view, wanted)
        for move in moves:
            self._orders[move.pid, move.tid] = _Order(move.host, view.now_s)
        return moves

    def _learn(self, view: MachineView) -> None:
        """Forgets who has ended, and notes which orders were not followed."""
        there = {(thread.pid, thread.tid): thread for thread in view.threads}
        self._processes = {p: kept for p, kept in self._processes.items() if any(pid == p for pid, _ in there)}
        self._followers = {key: kept for key, kept in self._followers.items() if key in there}
        for key, order in list(self._orders.items()):
            thread = there.get(key)
            if thread is not None and view.now_s - order.when_s < STILL_S:
                continue
            del self._orders[key]
            if thread is None or order.host == HOME:
                continue
            if thread.host == order.host:
                self._refusals[order.host] = 0
            else:
                self._refusals[order.host] += 1

    def _together(self, view: MachineView, process: _Process, threads: list[ThreadView], wanted: _Wanted) -> list[Move]:
        """Rules 1 to 3, for one process."""
        away = [thread for thread in threads if thread.host != HOME]
        if not away:
            process.spread_s = process.room_since_s = None
            return []
        if process.spread_s is None:
            process.spread_s = view.now_s  # By another hand: the program's own sched_setaffinity.
        if view.now_s - process.spread_s < STILL_S:
            return []
        busy = [thread for thread in threads if wanted.is_busy(thread)]
        waiting = [thread for thread in threads if wanted.waits(thread)]
        if why := _fight(view, threads, waiting):
            moves = self._gather(view, process, waiting, _meeting_place(waiting, wanted), why, wanted)
        elif why := _no_gain(process, threads, busy):
            moves = self._gather(view, process, threads, HOME, why, wanted)
        else:
            moves = []
        return moves or self._come_home(view, process, away, wanted)

    def _gather(
        self, view: MachineView, process: _Process, threads: list[ThreadView], target: int, why: str, wanted: _Wanted
    ) -> list[Move]:
        moving = [thread for thread in threads if thread.host != target]
        if moving:
            process.not_before_s = view.now_s + process.patience_s
            process.patience_s = min(PATIENCE_S_MAX, 2 * process.patience_s)
            process.spread_s = view.now_s
        why = f"{why}; together on {view.hosts[target].name}"
        return [wanted.move(thread, target, why) for thread in moving]

    def _come_home(self, view: MachineView, process: _Process, away: list[ThreadView], wanted: _Wanted) -> list[Move]:
        """Rule 3."""
        away = [thread for thread in away if not self._is_with_its_data(thread)]
        coming = sum(map(_is_awake, away))
        if wanted.excess(HOME) + coming > 0:
            process.room_since_s = None
            return []
        if process.room_since_s is None:
            process.room_since_s = view.now_s
        if view.now_s - process.room_since_s < process.room_s:
            return []
        process.room_s = min(PATIENCE_S_MAX, 2 * process.room_s)
        process.room_since_s = None
        why = f"{view.hosts[HOME].name} has room for all threads again"
        return [wanted.move(thread, HOME, why) for thread in away]

    def _is_with_its_data(self, thread: ThreadView) -> bool:
        follower = self._followers.get(_key(thread))
        return follower is not None and follower.host == thread.host and follower.pays

    def _to_data(self, view: MachineView, wanted: _Wanted) -> list[Move]:
        """Rule 4."""
        drawn: Counter[tuple[tuple[int, int], int]] = Counter()
        moves: list[Move] = []
        for thread in view.threads:
            follower = self._followers.get(_key(thread))
            if follower is not None and not self._may_follow(view, thread, follower):
                continue
            target, waits = _drawn_to(thread)
            # Where it is, it waits for what is still to follow it; it leaves if it is no better off than before.
            least = 0.9 * follower.waited if follower and follower.pays else WAITS
            if waits < least or _key(thread) in self._orders or self._refusals[target] >= REFUSALS_MAX:
                continue
            if _used_in_turn(view.hosts[thread.host], target):
                continue
            if view.now_s < self._processes[thread.pid].not_before_s or wanted.excess(target) > -IDLE:
                continue
            mark = _key(thread), target
            drawn[mark] = self._drawn[mark] + 1
            if drawn[mark] < 2:
                continue
            patience_s = 2 * follower.patience_s if follower else PATIENCE_S
            self._followers[_key(thread)] = _Follower(target, view.now_s, waits, min(PATIENCE_S_MAX, patience_s))
            name = view.hosts[target].name
            moves.append(wanted.move(thread, target, f"it waits {waits:.0%} of its time for pages that {name} has"))
            if not wanted.is_busy(thread):
                wanted.cpus[target] += 1  # There it will be.
        self._drawn = drawn
        return moves

    def _may_follow(self, view: MachineView, thread: ThreadView, follower: _Follower) -> bool:
        """Judges, when it is time to, whether it paid to take the thread to its data; whether it may go on."""
        if view.now_s - follower.since_s < WARM_S:
            return False
        if not follower.judged:
            follower.judged = True
            follower.pays = thread.host == follower.host and sum(thread.waits) < 0.75 * follower.waited
        if follower.pays:
            follower.patience_s = PATIENCE_S
        return follower.pays or view.now_s - follower.since_s >= follower.patience_s

    def _fill(self, view: MachineView, wanted: _Wanted) -> list[Move]:
        """Rule 5."""
        moves: list[Move] = []
        targets = [host for host in view.hosts if self._refusals[host.number] < REFUSALS_MAX]
        for source in view.hosts:
            self._full[source.number] = self._full[source.number] + 1 if wanted.excess(source.number) >= 1 else 0
            if self._full[source.number] < 2:
                continue
            for thread in self._movable(view, source.number, wanted):
                target = min(targets, key=lambda host: (wanted.excess(host.number), host.number))
                if wanted.excess(source.number) < 1 or wanted.excess(target.number) > -ROOM:
                    break
                why = (
                    f"{wanted.cpus[source.number]:.0f} CPUs are wanted on {source.name}, which has {source.cpus};"
                    f" {target.name} has {-wanted.excess(target.number):.0f} idle"
                )
                self._note_spread(view, thread, wanted)
                moves.append(wanted.move(thread, target.number, why))
        return moves

    def _movable(self, view: MachineView, host: int, wanted: _Wanted) -> list[ThreadView]:
        """Busy threads of a host that may be ordered about, the best first; the first thread of a process last."""
        found = [
            thread
            for thread in view.threads
            if thread.host == host
            and wanted.is_busy(thread)
            and _key(thread) not in self._orders
            and view.now_s >= self._processes[thread.pid].not_before_s
        ]
        return sorted(found, key=lambda thread: (thread.tid == thread.pid, thread.pid, -thread.tid))

    def _note_spread(self, view: MachineView, thread: ThreadView, wanted: _Wanted) -> None:
        process = self._processes[thread.pid]
        if process.spread_s is None:
            ours = [t for t in view.threads if t.pid == thread.pid]
            process.before = sum(t.cpu for t in ours)
            process.busy = sum(map(wanted.is_busy, ours))
        process.spread_s = view.now_s
        process.room_since_s = None


def _key(thread: ThreadView) -> tuple[int, int]:
    return thread.pid, thread.tid


def _is_awake(thread: ThreadView) -> bool:
    """One that fights hard for pages hardly gets to work."""
    return thread.cpu + sum(thread.waits) >= ACTIVE


def _drawn_to(thread: ThreadView) -> tuple[int, float]:
    """The host for whose pages a thread waits, if most of them are there, and the part of its time that it does so."""
    if not thread.waits:
        return HOME, 0.0
    waits, host = max((waits, host) for host, waits in enumerate(thread.waits))
    return host, waits if host != thread.host and waits > sum(thread.waits) / 2 else 0.0


def _used_in_turn(host: HostView, other: int) -> bool:
    """Whether the pages that come to a host from another are taken from it again."""
    came = host.came_per_s[other] if other < len(host.came_per_s) else 0.0
    return host.taken_per_s > TO_AND_FRO * came


def _meeting_place(threads: list[ThreadView], wanted: _Wanted) -> int:
    """Where threads that fight come together: where most of them are, if all have room there; else at home."""
    there = Counter(thread.host for thread in threads)
    # The first thread is best at home, and whom those fight that are all in one place is there as well.
    if len(there) == 1 or any(thread.tid == thread.pid for thread in threads):
        return HOME
    for host, count in there.most_common():
        if count > there[HOME] or wanted.excess(HOME) + len(threads) - there[HOME] > 0:
            missing = sum(1 for thread in threads if thread.host != host)
            if wanted.excess(host) + missing <= 0:
                return host
    return HOME


def _fight(view: MachineView, threads: list[ThreadView], waiting: list[ThreadView]) -> str | None:
    """Whether threads wait because hosts take pages from each other, more than they work."""
    places = [view.hosts[number] for number in sorted({thread.host for thread in threads if _is_awake(thread)})]
    useful = sum(thread.cpu for thread in waiting)
    taken = sum(host.taken_per_s for host in places)
    lost = taken * PAGE_S + sum(host.dwelled_per_s for host in places) * DWELL_S
    if len(places) < 2 or min(lost, len(waiting) - useful) <= useful / 2:
        return None
    names = " and ".join(host.name for host in places)
    return f"{names} take {taken:,.0f} pages a second from each other, for {useful:.1f} CPUs of work"


def _no_gain(process: _Process, threads: list[ThreadView], busy: list[ThreadView]) -> str | None:
    """Whether as many threads as before want CPUs, and get no more of them."""
    useful = sum(thread.cpu for thread in threads)
    if len(busy) < process.busy or useful >= PAYS * process.before:
        return None
    return f"spread, its threads get {useful:.1f} CPUs, and had {process.before:.1f} at home"
