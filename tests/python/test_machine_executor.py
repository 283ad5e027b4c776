"""Workers on several hosts, and arrays that all of them write."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

import megalith

numpy = pytest.importorskip("numpy")

MIB = 1 << 20
HOSTS = 3


@pytest.fixture
def machine() -> Iterator[megalith.Machine]:
    with megalith.machine(hosts=HOSTS, memory_per_host="32M") as made:
        yield made


def where(_: int = 0) -> str:
    time.sleep(0.05)  # So that one worker does not take all.
    return os.environ["MEGALITH_CLIENT_SOCKET"]


def fill(part: Any, seed: int) -> int:
    part[:] = numpy.random.default_rng(seed).integers(0, 1 << 60, len(part))
    return os.getpid()


def add_one(numbers: Any) -> Any:
    numbers += 1
    return numbers[::-2]


def test_workers_fill_what_no_host_could_hold(machine: megalith.Machine) -> None:
    length, parts = 48 * MIB // 8, 6
    array = machine.empty(length, "i8")
    pieces = numpy.split(array, parts)
    with machine.executor(HOSTS) as executor:
        assert len(set(executor.map(where, range(20)))) == HOSTS, "a worker on each host"
        assert os.getpid() not in set(executor.map(fill, pieces, range(parts)))
    expected = numpy.concatenate(
        [numpy.random.default_rng(seed).integers(0, 1 << 60, length // parts) for seed in range(parts)]
    )
    assert numpy.array_equal(array, expected)
    array.sort()
    expected.sort()
    assert numpy.array_equal(array, expected)


def test_arrays_travel_as_addresses(machine: megalith.Machine) -> None:
    array = machine.array(numpy.arange(12.0).reshape(3, 4))
    with machine.executor(1) as executor:
        seen = executor.submit(add_one, array[1]).result(timeout=60)
        assert array[1].tolist() == [5, 6, 7, 8]
        assert seen.tolist() == [8, 6]
        seen[0] = 100
        assert array[1, 3] == 100, "the result is a view of the same bytes"
        array.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            executor.submit(add_one, array).result(timeout=60)
        own = numpy.zeros(3)
        assert executor.submit(add_one, own).result(timeout=60).tolist() == [1, 1]
        assert own.tolist() == [0, 0, 0], "others are copied"


def test_a_task_keeps_its_arrays(machine: megalith.Machine) -> None:
    with machine.executor(1) as executor:
        futures = [executor.submit(add_one, machine.zeros(1000)) for _ in range(20)]
        gc.collect()
        assert all(future.result(timeout=60).tolist() == [1.0] * 500 for future in futures)


def test_a_worker_that_dies_breaks_the_executor_alone(machine: megalith.Machine) -> None:
    array = machine.full(1000, 7)
    with machine.executor(1) as executor:
        pid = executor.submit(os.getpid).result(timeout=60)
        future = executor.submit(signal.pause)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool, match="host"):
            future.result(timeout=60)
    with machine.executor(1) as executor:
        assert executor.submit(add_one, array).result(timeout=60).sum() == 4000


def test_a_closed_machine_has_no_workers() -> None:
    with megalith.machine(hosts=1, memory_per_host="32M") as machine:
        executor = machine.executor(1)
        pid = executor.submit(os.getpid).result(timeout=60)
    with pytest.raises(megalith.AgentError, match="the machine is closed"):
        machine.executor()
    with pytest.raises(BrokenProcessPool):
        executor.submit(os.getpid).result(timeout=60)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
