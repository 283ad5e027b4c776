"""The scheduler's policy on simulated machines: who ends up where, and how often anybody moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from megalith.balance import BalancePolicy
from megalith.scheduler import HostView, MachineView, Move, PageView, Policy, ThreadView

LOOK_S = 0.5
PID = 100


@dataclass
class Thread:
    """A thread of the simulation; threads of a group write to the same pages."""

    tid: int
    wants: Callable[[float], float] = lambda now_s: 1.0
    group: str = ""
    data: Callable[[float], int] | None = None
    """The host whose pages it needs; elsewhere it waits for them most of the time."""
    pid: int = PID
    host: int = 0
    moves: int = 0
    cpu: float = 0.0
    waits: tuple[float, ...] = ()
    done_s: float = 0.0


@dataclass
class Machine:
    """CPUs are shared fairly; a thread whose group is on several hosts waits for pages most of the time."""

    cpus: list[int]
    threads: list[Thread]
    refusing: set[int] = field(default_factory=set)
    strangers: dict[int, float] = field(default_factory=dict)
    """Load that is none of ours, by host."""
    now_s: float = 0.0
    orders: list[tuple[float, Move]] = field(default_factory=list)

    def run(self, policy: Policy, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            for move in policy.decide(self.look()):
                self.orders.append((self.now_s, move))
                self.carry_out(move)

    def look(self) -> MachineView:
        self.now_s += LOOK_S
        taken = [0.0] * len(self.cpus)
        came = [[0.0] * len(self.cpus) for _ in self.cpus]
        spread = {g: {t.host for t in self.threads if t.group == g} for g in {t.group for t in self.threads} - {""}}
        wants: dict[int, float] = {}
        for thread in self.threads:
            wants[thread.tid] = thread.wants(self.now_s)
            if thread.group:
                others = spread[thread.group] - {thread.host}
                for other in others:
                    came[thread.host][other] += 1500 * wants[thread.tid] / len(others)
                thread.waits = tuple(0.6 / len(others) if n in others else 0.0 for n in range(len(taken)))
                if others:
                    taken[thread.host] += 1500 * wants[thread.tid]
                    wants[thread.tid] *= 0.4
            if thread.data:
                far = thread.data(self.now_s) if thread.data(self.now_s) != thread.host else None
                thread.waits = tuple(0.7 if host == far else 0.0 for host in range(len(self.cpus)))
                wants[thread.tid] *= 1.0 if far is None else 0.3
        for host, cpus in enumerate(self.cpus):
            here = [t for t in self.threads if t.host == host]
            room = cpus - self.strangers.get(host, 0.0)
            share = min(1.0, room / max(1e-9, sum(wants[t.tid] for t in here)))
            for thread in here:
                thread.cpu = wants[thread.tid] * share
                thread.done_s += thread.cpu * LOOK_S
        load = [sum(t.cpu for t in self.threads if t.host == n) + self.strangers.get(n, 0.0) for n in range(len(taken))]
        hosts = [
            HostView(n, "abcdefgh"[n], cpus, load[n], taken[n], taken[n], tuple(came[n]))
            for n, cpus in enumerate(self.cpus)
        ]
        threads = [ThreadView(t.pid, t.tid, "worker", t.host, t.cpu, t.moves, t.waits) for t in self.threads]
        return MachineView(self.now_s, tuple(hosts), tuple(threads))

    def carry_out(self, move: Move) -> None:
        (thread,) = [t for t in self.threads if (t.pid, t.tid) == (move.pid, move.tid)]
        if move.host not in self.refusing and thread.host != move.host:
            thread.host = move.host
            thread.moves += 1

    def places(self) -> list[int]:
        return [sum(1 for t in self.threads if t.host == n) for n in range(len(self.cpus))]


def crowd(count: int, **options: object) -> list[Thread]:
    return [Thread(PID + n, **options) for n in range(count)]  # type: ignore[arg-type]


def test_a_program_that_fits_stays_at_home() -> None:
    machine = Machine([4, 4], crowd(4))
    machine.run(BalancePolicy(), 60)
    assert machine.orders == []


def test_a_full_home_fills_idle_hosts() -> None:
    machine = Machine([4, 4, 8], crowd(16))
    machine.run(BalancePolicy(), 5)
    assert machine.places() == [4, 4, 8]
    machine.run(BalancePolicy(), 60)
    assert max(t.moves for t in machine.threads) <= 1
    assert machine.threads[0].host == 0, "the first thread stays"
    assert "16 CPUs are wanted on a, which has 4; c has 8 idle" in machine.orders[0][1].why


def test_more_threads_than_cpus_leave_nobody_idle_and_then_rest() -> None:
    machine = Machine([2, 2], crowd(9))
    policy = BalancePolicy()
    machine.run(policy, 60)
    assert machine.places() == [7, 2]
    assert len(machine.orders) == 2


def test_hosts_that_strangers_load_are_left_alone() -> None:
    machine = Machine([2, 4, 4], crowd(6), strangers={1: 4.0})
    machine.run(BalancePolicy(), 30)
    assert machine.places() == [2, 0, 4]


def test_a_want_must_last() -> None:
    machine = Machine([2, 2], crowd(4, wants=lambda now_s: 1.0 if now_s % 5 == 0 else 0.0))
    machine.run(BalancePolicy(), 60)
    assert machine.orders == []


def test_fork_join_spreads_once() -> None:
    """Two seconds of one thread, eight of all of them: the workers stay where they were sent."""
    workers = [Thread(PID, lambda now_s: 1.0)]
    workers += [Thread(PID + n, lambda now_s: float(now_s % 10 >= 2)) for n in range(1, 8)]
    machine = Machine([2, 2, 4], workers)
    machine.run(BalancePolicy(), 120)
    assert machine.places() == [2, 2, 4]
    assert max(t.moves for t in machine.threads) <= 1


def test_a_pair_that_fights_is_brought_together_again() -> None:
    machine = Machine([1, 1], [Thread(PID, lambda now_s: 0.0), *(Thread(PID + n, group="g") for n in (1, 2))])
    machine.run(BalancePolicy(), 12)
    assert machine.places() == [3, 0]
    assert [move.host for _, move in machine.orders] == [1, 0]
    assert machine.orders[1][1].why == (
        "a and b take 3,000 pages a second from each other, for 0.8 CPUs of work; together on a"
    )


def test_threads_that_get_nothing_done_for_fighting_are_not_asleep() -> None:
    hosts = tuple(HostView(n, "ab"[n], 1, 0.3, 5000, 0, (0.0, 5000.0) if n == 0 else (5000.0,)) for n in (0, 1))
    apart = [ThreadView(PID, PID + n, "worker", n - 1, 0.02, 1, (0.9, 0.0) if n == 2 else (0.0, 0.9)) for n in (1, 2)]
    policy = BalancePolicy()
    moves: list[Move] = []
    for look in range(10):
        moves += policy.decide(MachineView(look * LOOK_S, hosts, tuple(apart)))
    assert [(move.tid, move.host) for move in moves] == [(PID + 2, 0)]
    assert "together on a" in moves[0].why


def test_a_pair_that_fights_meets_where_there_is_room_and_others_stay() -> None:
    threads = [*crowd(3), *(Thread(PID + n, group="g") for n in (3, 4))]
    threads[2].host = threads[4].host = 1
    machine = Machine([2, 3], threads)
    machine.run(BalancePolicy(), 10)
    assert [t.host for t in threads] == [0, 0, 1, 1, 1]
    assert len(machine.orders) == 1


def test_fights_grow_rarer() -> None:
    machine = Machine([1, 1], [Thread(PID, lambda now_s: 0.0), *(Thread(PID + n, group="g") for n in (1, 2))])
    machine.run(BalancePolicy(), 600)
    minutes = Counter(int(when_s // 120) for when_s, _ in machine.orders)
    assert minutes[0] <= 8
    assert minutes[3] + minutes[4] <= 2, minutes
    alone = Machine([1], [Thread(PID + n) for n in (1, 2)])
    alone.run(BalancePolicy(), 600)
    done, best = (sum(t.done_s for t in m.threads) for m in (machine, alone))
    assert done >= 0.9 * best, "the price of having tried"


def test_threads_go_to_their_data_and_stay() -> None:
    threads = crowd(4)
    threads[1].data = lambda now_s: 1
    threads[2].data = threads[3].data = lambda now_s: 2
    machine = Machine([4, 1, 1], threads)
    machine.run(BalancePolicy(), 120)
    assert [t.host for t in threads[:2]] == [0, 1]
    assert sorted(t.host for t in threads[2:]) == [0, 2], "there is one CPU for the two of them"
    assert len(machine.orders) == 2
    assert machine.orders[0][1].why == "it waits 70% of its time for pages that b has"


def test_nobody_follows_pages_that_are_used_in_turn() -> None:
    """What threads share goes to and fro, and is nobody's data; where that pays, they stay apart."""
    threads = [Thread(PID, lambda now_s: 0.0), *(Thread(PID + n, group="g") for n in (1, 2))]
    machine = Machine([2, 2], threads)
    threads[2].host = 1
    policy = BalancePolicy()
    machine.run(policy, 2.5)
    assert machine.orders == []
    machine.run(policy, 120)
    assert not [move.why for _, move in machine.orders if "for pages that" in move.why]


def test_threads_whose_data_are_everywhere_are_taken_about_ever_more_rarely() -> None:
    threads = crowd(2)
    threads[1].data = lambda now_s: 1 - threads[1].host
    machine = Machine([2, 2], threads)
    machine.run(BalancePolicy(), 600)
    minutes = Counter(int(when_s // 120) for when_s, _ in machine.orders)
    assert 1 <= minutes[0] <= 6
    assert minutes[3] + minutes[4] <= 2, minutes


def test_a_thread_follows_its_data() -> None:
    threads = crowd(2)
    threads[1].data = lambda now_s: 1 if now_s < 60 else 2
    machine = Machine([2, 2, 2], threads)
    machine.run(BalancePolicy(), 50)
    assert threads[1].host == 1
    machine.run(BalancePolicy(), 50)
    assert threads[1].host == 2


def test_what_gains_nothing_comes_home() -> None:
    """Threads that another host makes no faster, though no page says why (a device, a file, the network)."""
    machine = Machine([2, 4], crowd(4))
    policy = BalancePolicy()

    def slow_away(thread: Thread) -> Callable[[float], float]:
        return lambda now_s: 1.0 if thread.host == 0 else 0.01

    for thread in machine.threads:
        thread.wants = slow_away(thread)
    machine.run(policy, 5)
    # Such threads do not even look busy where they are; the process has as many that are at home.
    machine.run(policy, 30)
    assert machine.places()[0] >= 2


def test_when_home_has_room_again_threads_come_home() -> None:
    machine = Machine([4, 4], crowd(8, wants=lambda now_s: 1.0))
    policy = BalancePolicy()
    machine.run(policy, 10)
    assert machine.places() == [4, 4]
    for thread in machine.threads[2:]:
        thread.wants = lambda now_s: 0.0
    machine.run(policy, 5)
    assert machine.places() == [4, 4], "not at once"
    machine.run(policy, 30)
    assert machine.places() == [8, 0]
    assert machine.orders[-1][1].why == "a has room for all threads again"


def test_a_host_that_takes_nobody_is_asked_no_more() -> None:
    machine = Machine([2, 4, 4], crowd(6), refusing={1})
    machine.run(BalancePolicy(), 600)
    assert machine.places() == [2, 0, 4]
    assert sum(1 for _, move in machine.orders if move.host == 1) < 30


def test_processes_are_judged_each_by_itself() -> None:
    fighters = [Thread(200, lambda now_s: 0.0, pid=200), *(Thread(200 + n, group="g", pid=200) for n in (1, 2, 3, 4))]
    machine = Machine([4, 8], [*crowd(6), *fighters])
    machine.run(BalancePolicy(), 60)
    hosts = {t.host for t in machine.threads if t.group}
    assert len(hosts) == 1
    assert sum(1 for t in machine.threads if t.pid == PID and t.host == 1) >= 2


def test_it_forgets_processes_and_threads_that_end() -> None:
    policy = BalancePolicy()
    machine = Machine([2, 2], crowd(4))
    machine.run(policy, 10)
    machine.threads.clear()
    machine.run(policy, 10)
    assert policy._processes == {}
    assert policy._orders == {}


def test_a_view_is_plain_data() -> None:
    view = MachineView(0.0, (HostView(0, "a", 1),), (), (PageView(1, 4096, 2.0),))
    assert BalancePolicy().decide(view) == []
