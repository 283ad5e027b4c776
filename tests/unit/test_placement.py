"""Where threads start."""

from __future__ import annotations

from collections import Counter

import pytest

from megalith.exceptions import AgentError, HostsFileError
from megalith.placement import arrange, shares, starts
from megalith.report import HostFigures


def machine(*cpus: int | None) -> list[HostFigures]:
    return [HostFigures("abcdefgh"[n], 1 << 30, cpus=count) for n, count in enumerate(cpus)]


@pytest.mark.parametrize(
    ("cpus", "order"),
    [
        ([1], (0,)),
        ([2, 2], (1, 0)),
        ([2, 2, 2], (1, 2, 0)),
        ([0, 2, 2], (1, 2)),
        ([1, 3], (1, 1, 1, 0)),
        ([4, 2], (0, 1, 0)),
        ([0, 5], (1,)),
    ],
)
def test_new_threads_fill_hosts_evenly(cpus: list[int], order: tuple[int, ...]) -> None:
    assert starts(cpus) == order


def test_a_full_machine_has_a_thread_for_every_cpu() -> None:
    cpus = [16, 3, 40, 7]
    order = starts(cpus)
    threads = Counter(
        [0, *order[:-1]]
    )  # The first thread is at home, and the last new one begins the next round there.
    assert [threads[n] for n in range(4)] == cpus
    half = Counter([0, *order[:32]])
    assert all(abs(half[n] - cpus[n] / 2) <= 1 for n in range(4))


def test_local_hosts_share_the_computers_cpus() -> None:
    assert shares(8, 3) == (3, 3, 2)
    assert shares(2, 4) == (1, 1, 1, 1)
    placement = arrange(machine(8, 8, 8), threads="spread", one_computer=True)
    assert placement.cpus == (3, 3, 2)


def test_nobody_asked_for_what_cannot_pay() -> None:
    for hosts, one_computer in ((machine(4), False), (machine(4, 4), True), (machine(4, 4), True)):
        placement = arrange(hosts, threads="auto", one_computer=one_computer)
        assert not placement.spread
    assert arrange(machine(4), threads="auto", one_computer=False).why == "threads stay on a: the machine is one host"
    assert not arrange(machine(4, 4), threads="expand", one_computer=False).spread


def test_auto_starts_at_home_where_other_hosts_have_cpus() -> None:
    placement = arrange(machine(4, 8, 8), threads="auto", one_computer=False)
    assert (placement.starts, placement.cpus) == ((0,), (4, 8, 8))
    assert placement.why == "threads start on a (4 CPUs) and may move to other hosts (16 CPUs)"


def test_threads_on_some_hosts() -> None:
    placement = arrange(machine(4, 4, 4), threads="spread", threads_on=["c", "b"], one_computer=False)
    assert placement.starts == (1, 2)
    assert placement.cpus == (4, 4, 4)
    with pytest.raises(HostsFileError, match="--threads-on x: no such host; the machine has a, b"):
        arrange(machine(4, 4), threads="spread", threads_on=["x"], one_computer=False)
    with pytest.raises(HostsFileError, match="threads_on is for"):
        arrange(machine(4, 4), threads="auto", threads_on=["a"], one_computer=False)


def test_hosts_that_do_not_say_how_many_cpus_they_have() -> None:
    with pytest.raises(AgentError, match="host b does not say how many CPUs it has"):
        arrange(machine(4, None), threads="spread", one_computer=False)
    placement = arrange(machine(4, None), threads="auto", one_computer=False)
    assert not placement.spread
    assert placement.why == "threads stay on a: host b does not say how many CPUs it has"
    assert not arrange(machine(None, None), threads="expand", one_computer=False).spread


def test_an_unknown_mode() -> None:
    with pytest.raises(HostsFileError, match="it is one of expand, spread, auto"):
        arrange(machine(4), threads="sideways", one_computer=False)  # type: ignore[arg-type]
