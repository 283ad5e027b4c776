"""Policies that users choose, and what stands between them and the agents."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import megalith.spreading
from megalith.exceptions import AgentError, PolicyError
from megalith.placement import Placement, Spread
from megalith.report import HostFigures, HotPage, ThreadFigures
from megalith.scheduler import HostView, MachineView, Move, Policy, RandomPolicy, ThreadView, load_policy
from megalith.spreading import Spreading
from megalith.view import View
from megalith.watch import Watch

VIEW = MachineView(
    0.0,
    tuple(HostView(n, "abc"[n], 2) for n in range(3)),
    tuple(ThreadView(9, tid, "w", 0) for tid in range(9, 29)),
)


def test_random_moves_are_the_same_for_a_seed() -> None:
    first, second, other = (RandomPolicy(seed=seed) for seed in (1, 1, 2))
    assert first.decide(VIEW) == second.decide(VIEW) != other.decide(VIEW)
    moves = [move for _ in range(10) for move in first.decide(VIEW)]
    assert {move.host for move in moves} == {0, 1, 2}
    assert len(moves) == 200


def test_policies_are_named_with_their_arguments() -> None:
    policy = load_policy("megalith.scheduler:Random,interval_s=0.25,seed=7")
    assert isinstance(policy, RandomPolicy)
    assert policy.interval_s == 0.25
    assert policy.decide(VIEW) == RandomPolicy(seed=7).decide(VIEW)


@pytest.mark.parametrize(
    "text", ["none", "no_such_module:X", "megalith.scheduler:None_", "megalith.scheduler:Move", "pathlib:PurePath",
             "megalith.scheduler:Random,seed=x", "megalith.scheduler:Random,speed=1"],
)  # fmt: skip
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match=f"--policy {text}: "):
        load_policy(text)


def figures(name: str, **more: float | tuple[HotPage | int, ...]) -> HostFigures:
    return HostFigures(name, 1 << 30, **more)  # type: ignore[arg-type]


def thread(tid: int, host: str, cpu_ms: int, moves: int = 0) -> ThreadFigures:
    return ThreadFigures(9, tid, "w", host, cpu_ms, moves, "started")


def test_waits_become_parts_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megalith.watch.time.monotonic", lambda: 100.0)
    watch = Watch([2, 4])
    hosts = [figures("a"), figures("b")]

    def look(now_s: float, moves: int, **waited_ms: int) -> tuple[float, ...]:
        there = dataclasses.replace(thread(9, "a", 0, moves), waited_ms=waited_ms)
        watch.take(now_s, hosts, [there])
        return watch.look(now_s).threads[0].waits

    assert look(101.0, 0, b=400) == (), "since when?"
    assert look(103.0, 0, b=1400) == (0.0, 0.5)
    assert look(104.0, 1, b=9000) == (), "it has been elsewhere"
    assert look(105.0, 1, a=100, b=9999) == (0.1, 0.999)


def test_counts_become_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megalith.watch.time.monotonic", lambda: 100.0)
    watch = Watch([2, 4])
    hosts = [figures("a", invalidated_pages=10, forwarded_pages=5, dwelled=1), figures("b", load=3.5, pages_from=(4,))]
    watch.take(101.0, hosts, [thread(9, "a", 900), thread(10, "a", 100)])
    hot = HotPage(4096, 9, 60), HotPage(8192, 9, 1)
    hosts = [
        figures("a", invalidated_pages=50, forwarded_pages=15, dwelled=3, hot=hot),
        figures("b", load=3.5, hot=(HotPage(4096, 9, 50),), pages_from=(24, 0, 6)),
    ]
    assert watch.take(103.0, hosts, [thread(9, "a", 1900), thread(10, "b", 5100, 1)]) == 2.0
    view = watch.look(103.5)
    assert view.hosts == (HostView(0, "a", 2, 0.0, 25.0, 1.0), HostView(1, "b", 4, 3.5, came_per_s=(10.0, 0.0, 3.0)))
    assert view.threads == (ThreadView(9, 9, "w", 0, 0.5, 0, (0.0, 0.0)), ThreadView(9, 10, "w", 1, 1.0, 1))
    assert {(page.address, page.moves_per_s) for page in view.hot} == {(4096, 55.0), (8192, 0.5)}
    assert [(h.host, h.cpus, h.most, h.cpu_s) for h in watch.by_host()] == [("a", 2, 2, 2.0), ("b", 4, 1, 5.0)]
    assert watch.hot() == (HotPage(4096, 9, 110), HotPage(8192, 9, 1))


def test_threads_that_ended_are_remembered_but_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megalith.watch.THREADS_MAX", 3)
    watch = Watch([1])
    for tid in range(10):
        watch.take(float(tid), [figures("a")], [thread(tid, "a", 1)])
    assert [t.tid for t in watch.threads()] == [7, 8, 9]
    assert len(watch.look(10.0).threads) == 1


class Given:
    """Decides what it was given."""

    def __init__(self, *moves: Move) -> None:
        self.moves = moves
        self.asked = 0

    def decide(self, view: MachineView) -> Sequence[Move]:
        self.asked += 1
        return self.moves


def spreading(tmp_path: Path, policy: Policy | None, *, explain: bool = False) -> Spreading:
    hosts = [figures("a"), figures("b")]
    placement = Placement("spread", (2, 2), (1, 0), "")
    view = View(tmp_path, (2, 2), hosts)
    return Spreading(placement, view, Spread((1, 0), (2, 2), tmp_path), policy, explain=explain)


def test_orders_are_passed_on_once_a_heartbeat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = Given(Move(9, 10, 1, "so"), Move(9, 9, 0, "there already"), Move(9, 77, 1, "has ended"))
    spread = spreading(tmp_path, policy, explain=True)
    orders: list[tuple[int, int, int]] = []
    spread.act(lambda *order: orders.append(order))
    assert policy.asked == 0, "nothing is known yet"
    hosts = spread.see([figures("a"), figures("b")], [thread(9, "a", 1), thread(10, "a", 1)])
    assert [host.threads for host in hosts] == [2, 0]
    assert spread.due_in_s() == 0
    for _ in range(3):
        spread.act(lambda *order: orders.append(order))
    assert orders == [(9, 10, 1)]
    assert spread.due_in_s() == float("inf")
    (decision,) = spread.figures().decisions
    assert (decision.tid, decision.source, decision.target, decision.why) == (10, "a", "b", "so")
    assert re.fullmatch(r"megalith: \d\.\d s: thread 10 \(w\) a → b: so\n", capsys.readouterr().err)


@pytest.mark.parametrize("policy", [Given(Move(9, 10, 2, "")), Given(7)])  # type: ignore[arg-type]
def test_a_policy_that_fails_is_asked_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: Given
) -> None:
    spread = spreading(tmp_path, policy)
    for _ in range(2):
        spread.see([figures("a"), figures("b")], [thread(10, "a", 1)])
        spread.act(lambda *order: pytest.fail("an order"))
    assert policy.asked == 1
    assert capsys.readouterr().err.startswith("megalith: the policy failed, threads stay where they are: ")


def test_orders_count_as_carried_out_while_heartbeats_lag_behind() -> None:
    watch = Watch([2, 2])
    hosts = [figures("a"), figures("b")]

    def place(now_s: float, *, moves: int) -> int:
        watch.take(now_s, hosts, [thread(10, "a", 1, moves)])
        return watch.look(now_s).threads[0].host

    assert place(1.0, moves=0) == 0
    watch.ordered(9, 10, 1, 1.1)
    assert watch.look(1.1).threads[0].host == 1
    assert place(1.5, moves=0) == 1, "not heard yet"
    assert place(1.6, moves=2) == 0, "it went, and came back by itself"
    watch.ordered(9, 10, 1, 1.7)
    assert place(3.0, moves=2) == 0, "it does not go"
    assert watch.threads()[0].host == "a", "the report tells what is, not what should be"


def test_a_full_disk_makes_the_view_stale_and_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run once ended with a traceback."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spread = spreading(tmp_path, None)
    monkeypatch.setattr(View, "refresh", full)
    for _ in range(3):
        (host, _) = spread.see([figures("a"), figures("b")], [thread(10, "a", 1)])
        assert host.threads == 1
    said = "megalith: the machine that the program sees is not kept up to date: No space left on device\n"
    assert capsys.readouterr().err == said


def test_no_place_for_the_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    placement = Placement("spread", (2, 2), (1, 0), "")
    made = megalith.spreading.spreading(placement, [figures("a"), figures("b")], None, None, explain=False)
    with pytest.raises(AgentError, match=f"no place in {tmp_path}/none: No such file"), made:
        pytest.fail("it has none")


def test_hosts_of_one_computer_have_a_part_of_its_load(tmp_path: Path) -> None:
    spread = spreading(tmp_path, Given())
    spread.see([figures("a", cpus=8, load=4.0), figures("b", cpus=2, load=1.0)], [])
    assert [host.load for host in spread._watch.look(1.0).hosts] == [1.0, 1.0]


def test_without_a_policy_nothing_is_ever_due(tmp_path: Path) -> None:
    spread = spreading(tmp_path, None)
    spread.see([figures("a"), figures("b")], [])
    assert spread.due_in_s() == float("inf")
