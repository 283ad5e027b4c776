"""The whole machine from an ordinary interpreter: real agents, real memory."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

import megalith
from megalith.exceptions import AgentError

numpy = pytest.importorskip("numpy")

MIB = 1 << 20


@pytest.fixture
def machine() -> Iterator[megalith.Machine]:
    with megalith.machine(hosts=2, memory_per_host="32M") as made:
        yield made


def in_another(code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def test_arrays_larger_than_a_host(machine: megalith.Machine) -> None:
    dice = numpy.random.default_rng(1)
    here = dice.integers(0, 1 << 60, 40 * MIB // 8)
    array = machine.array(here)
    assert type(array) is numpy.ndarray
    array.sort()
    here.sort()
    assert numpy.array_equal(array, here)
    assert "1 array>" in repr(machine)
    shown = machine._repr_html_()
    assert all(name in shown for name in machine.hosts)


def test_arrays_are_as_asked_for(machine: megalith.Machine) -> None:
    zeros = machine.zeros((3, 5), "f4")
    assert zeros.shape == (3, 5)
    assert zeros.dtype == numpy.float32
    assert not zeros.any()
    assert machine.full(4, 7).tolist() == [7, 7, 7, 7]
    assert machine.array([[1, 2], [3, 4]]).sum() == 10
    assert machine.zeros(0).shape == (0,)
    assert machine.zeros((), "u1").shape == ()
    record = machine.zeros(2, [("a", "i8"), ("b", "f8")])
    record["a"] = 5
    assert record.tolist() == [(5, 0.0), (5, 0.0)]
    with pytest.raises(TypeError, match="Python objects"):
        machine.zeros(3, object)
    with pytest.raises(ValueError, match="negative"):
        machine.zeros(-1)
    with pytest.raises(MemoryError):
        machine.zeros(1 << 50, "u1")


def test_what_is_freed_is_zeros_again(machine: megalith.Machine) -> None:
    array = machine.full(MIB, 7, "u1")
    view = array[100:200]
    address = array.ctypes.data
    del array
    gc.collect()
    assert view.sum() == 700, "a view keeps it"
    del view
    gc.collect()
    again = machine.zeros(MIB, "u1")
    assert again.ctypes.data == address
    assert not again.any()


def test_a_closed_machine_is_closed() -> None:
    machine = megalith.machine(hosts=1, memory_per_host="32M")
    array = machine.zeros(10)
    machine.close()
    machine.close()
    assert "closed" in repr(machine)
    with pytest.raises(AgentError, match="the machine is closed"):
        machine.zeros(3)
    with pytest.raises(AgentError, match="one machine at a time"):
        megalith.machine(hosts=1, memory_per_host="32M")
    del array
    gc.collect()
    with megalith.machine(hosts=1, memory_per_host="32M") as another:
        assert not another.zeros(10).any()


def test_a_child_has_no_such_memory_and_harms_nobody(machine: megalith.Machine) -> None:
    array = machine.full(10, 7)
    child = os.fork()
    if child == 0:
        os._exit(int(machine._space.is_open))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert array.sum() == 70


def test_who_touches_what_has_ended_says_so() -> None:
    ended = in_another("""
        import megalith
        machine = megalith.machine(hosts=1, memory_per_host="32M")
        array = machine.zeros(10)
        machine.close()
        array.sum()
    """)
    assert ended.returncode == -signal.SIGBUS
    assert "has touched the memory of a machine that has ended" in ended.stderr


def test_exhausted_memory_ends_the_process_that_waits_for_it() -> None:
    ended = in_another("""
        import megalith, numpy
        machine = megalith.machine(hosts=1, memory_per_host="16M")
        machine.array(numpy.random.default_rng(1).integers(0, 1 << 60, 8 << 20))
    """)
    assert ended.returncode == -signal.SIGBUS
    assert "has touched the memory of a machine that has ended" in ended.stderr


def test_nothing_is_left_behind_at_exit() -> None:
    ended = in_another("""
        import megalith
        machine = megalith.machine(hosts=2, memory_per_host="32M")
        machine.full(1000, 1)
        print(machine)
    """)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_machine_has_the_hosts_that_it_has(machine: megalith.Machine) -> None:
    assert machine.hosts == ("host1", "host2")
    with pytest.raises(AgentError, match="no host c; it has host1, host2"):
        machine.start_worker("c")
    with pytest.raises(AgentError, match="no such host"):
        machine.start_worker(2)
