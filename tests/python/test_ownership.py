"""An array lives until nobody has it any more, whoever made it, on whatever host."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import megalith
from megalith.exceptions import AgentError
from megalith.machine_workers import OneWorker

numpy = pytest.importorskip("numpy")

HOSTS = 2
LIMIT_S = 60.0
LENGTH = 100_000
"""Elements of a test's arrays: more than a page."""
_kept: list[Any] = []


@pytest.fixture(scope="module")
def machine() -> Iterator[megalith.Machine]:
    with megalith.machine(hosts=HOSTS, memory_per_host="32M") as made:
        yield made


@pytest.fixture
def blocks(machine: megalith.Machine) -> Callable[[], int]:
    """How many arrays there are; none before the test, once workers of the one before have ended."""
    gc.collect()
    until(lambda: machine._memory.count == 0)
    return lambda: machine._memory.count


@pytest.fixture
def workers(machine: megalith.Machine) -> Iterator[list[OneWorker]]:
    """One on each host."""
    made = [OneWorker(machine, host) for host in machine.hosts]
    yield made
    for executor in made:
        executor.kill_workers()
        executor.shutdown()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.01)


def keep(array: Any) -> None:
    _kept.append(array)


def keep_twice(array: Any) -> None:
    _kept.extend([array, array[::2]])


def keep_in_a_cycle(array: Any) -> None:
    cycle: list[Any] = [array]
    cycle.append(cycle)


def pop(_: Any = None) -> Any:
    return _kept.pop()


def drop(_: Any = None) -> None:
    _kept.clear()


def total() -> float:
    return float(_kept[-1].sum())


def make(value: float) -> Any:
    return megalith.current_machine().full(LENGTH, value)


def make_and_keep(value: float) -> None:
    keep(make(value))


def make_and_end(value: float) -> Any:
    array = make(value)
    os.kill(os.getpid(), signal.SIGKILL)
    return array


def fail_with(array: Any) -> None:
    raise LookupError(array)


def sum_when_told(flag: Any, arrays: list[Any]) -> float:
    flag[0] = 1
    until(lambda: bool(flag[0] == 2))
    return float(arrays[0].sum())


def kinds() -> list[Any]:
    here = megalith.current_machine()
    with pytest.raises(TypeError, match="Python objects"):
        here.empty(3, object)
    with pytest.raises(MemoryError, match=r"no [0-9]+ bytes of the machine's addresses"):
        here.zeros(1 << 50, "u1")
    with pytest.raises(MemoryError):
        here.zeros(1 << 62, "f8")
    return [here.empty((2, 3), "f4"), here.zeros(0), here.full(3, 7), here.array([[1, 2], [3, 4]])]


def make_in_a_child() -> str:
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            make(1)
        except AgentError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as said:
        return said.read().decode()


def add(parts: list[Any]) -> Any:
    return megalith.current_machine().array(sum(parts))


def test_what_a_worker_keeps_stays(
    machine: megalith.Machine, workers: list[OneWorker], blocks: Callable[[], int]
) -> None:
    array = machine.full(LENGTH, 3.0)
    workers[1].submit(keep_twice, array).result(LIMIT_S)
    del array
    gc.collect()
    assert blocks() == 1, "the worker has it, and counts once"
    others = [machine.full(LENGTH, 1.0) for _ in range(3)]  # Would lie there otherwise.
    assert workers[1].submit(total).result(LIMIT_S) == 3.0 * LENGTH / 2
    back = workers[1].submit(pop).result(LIMIT_S)
    assert back.tolist() == [3.0] * (LENGTH // 2), "home has it again"
    workers[1].submit(drop).result(LIMIT_S)
    del others
    gc.collect()
    back[0] = 5.0
    assert blocks() == 1
    del back
    until(lambda: blocks() == 0)


def test_what_a_worker_lets_go_of_is_freed(
    machine: megalith.Machine, workers: list[OneWorker], blocks: Callable[[], int]
) -> None:
    array = machine.full(LENGTH, 3.0)
    address = array.ctypes.data
    workers[0].submit(keep, array).result(LIMIT_S)
    del array
    assert blocks() == 1
    workers[0].submit(drop).result(LIMIT_S)
    until(lambda: blocks() == 0)
    again = machine.zeros(LENGTH)
    assert again.ctypes.data == address
    assert not again.any()


def test_a_worker_that_is_idle_tells_of_cycles(
    machine: megalith.Machine, workers: list[OneWorker], blocks: Callable[[], int]
) -> None:
    workers[0].submit(keep_in_a_cycle, machine.zeros(LENGTH)).result(LIMIT_S)
    until(lambda: blocks() == 0)


def test_arguments_live_until_the_task_is_done_and_no_longer(
    machine: megalith.Machine, workers: list[OneWorker], blocks: Callable[[], int]
) -> None:
    flag = machine.zeros(1)
    arguments = [machine.full(LENGTH, 3.0)]
    future = workers[0].submit(sum_when_told, flag, arguments)
    until(lambda: bool(flag[0] == 1))
    arguments.clear()  # The list is the task's, too: now the task alone has the array.
    other = machine.full(LENGTH, 1.0)
    flag[0] = 2
    assert future.result(LIMIT_S) == 3.0 * LENGTH
    assert blocks() == 2, "the answer is here, and the argument gone"
    assert other.sum() == LENGTH


def test_arrays_pass_from_worker_to_worker(
    machine: megalith.Machine, workers: list[OneWorker], blocks: Callable[[], int]
) -> None:
    workers[0].submit(make_and_keep, 2.0).result(LIMIT_S)
    for turn in range(20):
        giver, taker = workers[turn % 2], workers[1 - turn % 2]
        taker.submit(keep, giver.submit(pop).result(LIMIT_S)).result(LIMIT_S)
    assert workers[0].submit(total).result(LIMIT_S) == 2.0 * LENGTH
    until(lambda: blocks() == 1)
    workers[0].submit(drop).result(LIMIT_S)
    until(lambda: blocks() == 0)


def test_arrays_are_made_in_workers(
    machine: megalith.Machine, workers: list[OneWorker], blocks: Callable[[], int]
) -> None:
    empty, nothing, full, copy = workers[1].submit(kinds).result(LIMIT_S)
    assert (empty.shape, empty.dtype) == ((2, 3), numpy.float32)
    assert nothing.shape == (0,)
    assert full.tolist() == [7, 7, 7]
    assert copy.tolist() == [[1, 2], [3, 4]]
    assert blocks() == 4
    workers[1].kill_workers()
    workers[1].shutdown()
    copy[0, 0] = 9
    assert copy.sum() == 18, "they outlive who made them"
    assert workers[0].submit(numpy.sum, copy).result(LIMIT_S) == 18
    del empty, nothing, full, copy
    gc.collect()
    until(lambda: blocks() == 0)


def test_many_are_made_at_once(machine: megalith.Machine, blocks: Callable[[], int]) -> None:
    with machine.executor(4) as executor:
        parts = list(executor.map(make, range(40)))
        whole = executor.submit(add, parts).result(LIMIT_S)
    assert blocks() == 41
    assert whole.tolist() == [float(sum(range(40)))] * LENGTH
    del parts, whole
    gc.collect()
    until(lambda: blocks() == 0)


def test_a_worker_that_is_killed_has_nothing(
    machine: megalith.Machine, workers: list[OneWorker], blocks: Callable[[], int]
) -> None:
    array = machine.full(LENGTH, 3.0)
    workers[0].submit(keep, array).result(LIMIT_S)
    workers[0].submit(make_and_keep, 4.0).result(LIMIT_S)
    workers[1].submit(keep, array).result(LIMIT_S)
    del array
    gc.collect()
    assert blocks() == 2
    with pytest.raises(BrokenProcessPool):
        workers[0].submit(make_and_end, 5.0).result(LIMIT_S)
    until(lambda: blocks() == 1)
    assert workers[1].submit(total).result(LIMIT_S) == 3.0 * LENGTH, "the other has what it had"


def test_a_worker_that_cannot_end_keeps_what_it_may_still_write(
    machine: megalith.Machine, workers: list[OneWorker], blocks: Callable[[], int]
) -> None:
    pid = workers[0].submit(os.getpid).result(LIMIT_S)
    workers[0].submit(keep, machine.zeros(LENGTH)).result(LIMIT_S)
    os.kill(pid, signal.SIGSTOP)
    threads = Path("/proc", str(pid), "task")
    until(lambda: all(") T " in (thread / "stat").read_text() for thread in threads.iterdir()))
    try:
        workers[0].kill_workers()
        workers[0].shutdown()
        assert blocks() == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: blocks() == 0)


def test_errors_have_arrays_too(machine: megalith.Machine, workers: list[OneWorker], blocks: Callable[[], int]) -> None:
    with pytest.raises(LookupError) as caught:
        workers[0].submit(fail_with, machine.full(3, 1.0)).result(LIMIT_S)
    assert caught.value.args[0].tolist() == [1.0, 1.0, 1.0]
    del caught
    gc.collect()
    until(lambda: blocks() == 0)


def test_an_initializer_may_have_arrays_and_make_some(machine: megalith.Machine, blocks: Callable[[], int]) -> None:
    with machine.executor(1, initializer=keep, initargs=(machine.full(LENGTH, 6.0),)) as executor:
        gc.collect()
        assert executor.submit(total).result(LIMIT_S) == 6.0 * LENGTH
    until(lambda: blocks() == 0)
    with machine.executor(1, initializer=make_and_keep, initargs=(8.0,)) as executor:
        assert executor.submit(total).result(LIMIT_S) == 8.0 * LENGTH
    until(lambda: blocks() == 0)


def test_a_child_of_a_worker_is_refused(workers: list[OneWorker]) -> None:
    said = workers[0].submit(make_in_a_child).result(LIMIT_S)
    assert said == "this process was forked by a worker of a machine, and is none itself"


def test_the_current_machine_at_home(machine: megalith.Machine, workers: list[OneWorker]) -> None:
    assert megalith.current_machine() is machine
    assert "in a worker" in workers[0].submit(repr_of_current).result(LIMIT_S)


_named: dict[int, Any] = {}


def live(name: int, array: Any, step: str) -> Any:
    """A step of an array's life in a worker; it is full of its name, whatever happens."""
    if step == "make":
        array = megalith.current_machine().full(700, float(name))
    if array is None:
        array = _named.get(name)
    if array is not None:
        assert array.shape == (700,)
        assert (array == name).all(), f"array {name} has the bytes of another"
    if step in {"keep", "make"}:
        _named[name] = array
    elif step == "drop":
        _named.pop(name, None)
    return array if step in {"make", "give"} else None


def test_many_lives(machine: megalith.Machine, workers: list[OneWorker], blocks: Callable[[], int]) -> None:
    dice = random.Random(20261123)
    here: dict[int, Any] = {}
    running: list[tuple[int, Any]] = []
    for turn in range(1500):
        name = dice.randrange(12)
        if dice.random() < 0.2:
            here[name] = machine.full(700, float(name))
        step = dice.choice(["keep", "make", "give", "look", "drop"])
        array = here.pop(name, None) if dice.random() < 0.5 else here.get(name)
        running.append((name, dice.choice(workers).submit(live, name, array, step)))
        del array
        while len(running) > 8 or (running and turn == 1499):
            name, future = running.pop(0)
            found = future.result(LIMIT_S)
            if found is not None:
                assert (found == name).all()
                here[name] = found
            del future, found
    assert blocks() > 0
    here.clear()
    for worker in workers:
        worker.submit(drop_named).result(LIMIT_S)
    until(lambda: blocks() == 0)


def drop_named() -> None:
    _named.clear()


def repr_of_current() -> str:
    return repr(megalith.current_machine())


def in_another(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *options, "-c", textwrap.dedent(code)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


LEAK = """
    import megalith
    with megalith.machine(hosts=1, memory_per_host="32M") as m:
        small, large = m.zeros(1000, "u1"), m.zeros(3 << 20, "u1")
        gone = m.zeros(100)
        del gone
    print("on")
"""


def test_arrays_that_outlive_their_machine_are_told_of_once() -> None:
    ended = in_another(LEAK, "-W", "default")
    assert (ended.returncode, ended.stdout) == (0, "on\n")
    assert ended.stderr.count("ResourceWarning") == 1
    assert "a machine is closed while 2 arrays are referred to (3.00 MiB)" in ended.stderr
    assert "python -X tracemalloc=20 shows where each was made" in ended.stderr
    traced = in_another(LEAK, "-W", "default", "-X", "tracemalloc=20").stderr
    assert "3.00 MiB made at <string>:4, 0.98 KiB made at <string>:4" in traced
    as_error = in_another(LEAK, "-W", "error::ResourceWarning")
    assert as_error.returncode == 1
    assert as_error.stderr.count("ResourceWarning: a machine is closed") == 1


def test_scripts_as_most_are_are_quiet() -> None:
    assert in_another(LEAK).stderr == "", "as with Python's own resources"
    ended = in_another(
        """
        import megalith
        m = megalith.machine(hosts=1, memory_per_host="32M")
        array = m.zeros(1000)
        with m.executor(1) as executor:
            print(float(executor.submit(sum, array).result()))
        # At the interpreter's exit nothing is said.
        """,
        "-W", "default",
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("0.0\n", "")
