"""Tasks go where the arrays among their arguments were used last."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

import megalith
from megalith.near import PLACES_MAX, REMEMBERED_MAX, Near

numpy = pytest.importorskip("numpy")

MIB = 1 << 20
HOSTS = 3


@pytest.fixture(scope="module")
def machine() -> Iterator[megalith.Machine]:
    with megalith.machine(hosts=HOSTS, memory_per_host="32M") as made:
        yield made


def work(part: Any, *_: Any, **__: Any) -> str:
    part += 1
    time.sleep(0.05)  # So that each task has a worker to itself.
    return os.path.basename(os.path.dirname(os.environ["MEGALITH_CLIENT_SOCKET"]))


def begin_all(machine: megalith.Machine, executor: Any) -> None:
    """Until there is a worker on each host."""
    while len(set(executor.map(work, [machine.zeros(1) for _ in range(2 * HOSTS)]))) < HOSTS:
        pass


def test_parts_stay_where_they_are(machine: megalith.Machine) -> None:
    array = machine.zeros(12 * MIB // 8)
    parts = numpy.split(array, HOSTS)
    with machine.executor(HOSTS) as executor:
        begin_all(machine, executor)
        before = list(executor.map(work, parts))
        assert len(set(before)) == HOSTS
        owners = machine.locate(array).owners.tolist()
        for _ in range(4):
            assert list(executor.map(work, parts)) == before
        # Others among the arguments, and another order of submission, make no difference.
        shared = machine.zeros(8 * MIB // 8)
        assert list(executor.map(work, parts, [[shared]] * HOSTS)) == before
        assert list(executor.map(work, reversed(parts))) == before[::-1]
    assert machine.locate(array).owners.tolist() == owners
    assert (array == 7).all()


def test_a_place_decides(machine: megalith.Machine) -> None:
    array = machine.zeros(6 * MIB // 8)
    machine.place(array, "host2")
    with machine.executor(HOSTS) as executor:
        begin_all(machine, executor)
        # One after the other: whoever has to wait may be taken by another.
        assert {executor.submit(work, part).result() for part in numpy.split(array, 3)} == {"host2"}
        machine.place(array, "spread")
        found = [executor.submit(work, part).result() for part in numpy.split(array, 3)]
    assert found == ["host1", "host2", "host3"]


def test_nobody_idles_for_it(machine: megalith.Machine) -> None:
    array = machine.zeros(6 * MIB // 8)
    machine.place(array, "host2")
    with machine.executor(HOSTS) as executor:
        list(executor.map(work, [machine.zeros(1) for _ in range(12)]))
        assert len(set(executor.map(work, numpy.split(array, 12)))) == HOSTS


def test_what_all_tasks_have_says_nothing(machine: megalith.Machine) -> None:
    near = Near()
    array = machine.zeros(MIB)
    first, second = near.begin((array,), {}), near.begin(([array],), {})
    near.used((array,), {}, "a")
    assert near.prefers(None, (array,), {}) is None
    near.end(second)
    near.end(second)
    near.used((array,), {}, "a")
    assert near.prefers(None, (), {"x": (array[::-1],)}) == "a"
    near.end(first)
    assert near.prefers(None, (array, numpy.zeros(9), 5), {}) == "a"


def test_the_most_bytes_decide(machine: megalith.Machine) -> None:
    near = Near()
    large, small = machine.zeros(4 * MIB, "u1"), machine.zeros(MIB, "u1")
    near.used((large,), {}, "a")
    near.used((small,), {}, "b")
    assert near.prefers(None, (small, large), {}) == "a"
    near.note([(large.__array_interface__["data"][0], large.__array_interface__["data"][0] + 3 * MIB)], "c")
    assert near.prefers(None, (small, large), {}) == "c"
    # Cut in another way.
    assert near.prefers(None, (large[: MIB // 2],), {}) == "c"
    assert near.prefers(None, (large[-MIB // 2 :],), {}) == "a"
    assert near.prefers(None, (machine.zeros(5),), {}) is None


def test_what_is_remembered_is_bounded(machine: megalith.Machine) -> None:
    near = Near()
    huge = machine.empty(1 << 40, "u1")
    near.used((huge,), {}, "a")
    assert 0 < len(near._last) <= PLACES_MAX
    for part in numpy.split(huge, 1 << 13):
        near.used((part,), {}, "b")
    assert len(near._last) <= REMEMBERED_MAX
    assert near.prefers(None, (part,), {}) == "b"
