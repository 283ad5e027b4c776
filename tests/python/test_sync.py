"""Locks and the like, used by workers on several hosts."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

import megalith

numpy = pytest.importorskip("numpy")

HOSTS = 2
WORKERS = 4
LONG_S = 60


@pytest.fixture(scope="module")
def machine() -> Iterator[megalith.Machine]:
    with megalith.machine(hosts=HOSTS, memory_per_host="32M") as made:
        yield made


@pytest.fixture
def executor(machine: megalith.Machine) -> Iterator[Any]:
    with machine.executor(WORKERS) as made:
        hosts = set(made.map(where, range(40)))
        assert len(hosts) == HOSTS
        yield made


def where(_: int) -> str:
    time.sleep(0.03)
    return os.environ["MEGALITH_CLIENT_SOCKET"]


def add_with(lock: Any, number: Any, times: int) -> None:
    for _ in range(times):
        with lock:
            before = int(number[0])
            time.sleep(0.0002)
            number[0] = before + 1


def add_to(counter: Any, times: int) -> None:
    for _ in range(times):
        counter.add(3)
        counter.add(-2)


def draw(counter: Any, times: int) -> list[int]:
    return [next(counter) for _ in range(times)]


def enter(semaphore: Any, inside: Any, seen: Any) -> None:
    with semaphore:
        seen[inside.add()] = 1
        time.sleep(0.03)
        inside.add(-1)


def pass_barrier(barrier: Any, before: Any, rounds: int) -> bool:
    right = True
    for number in range(1, rounds + 1):
        before.add()
        barrier.wait(LONG_S)
        right = right and before.value >= number * barrier.parties
        barrier.wait(LONG_S)
    return right


def take_items(condition: Any, box: Any, count: int) -> list[int]:
    """``box``: how many are in it, and they."""
    taken = []
    for _ in range(count):
        with condition:
            assert condition.wait_for(lambda: box[0] > 0, LONG_S)
            taken.append(int(box[box[0]]))
            box[0] -= 1
            condition.notify_all()
    return taken


def put_items(condition: Any, box: Any, items: list[int]) -> None:
    for item in items:
        with condition:
            assert condition.wait_for(lambda: box[0] < 3, LONG_S)
            box[0] += 1
            box[box[0]] = item
            condition.notify_all()


def wait_on(event: Any) -> bool:
    done: bool = event.wait(LONG_S)
    return done


def take_and_die(lock: Any) -> None:
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def wait_and_die(condition: Any, ready: Any) -> None:
    with condition:
        ready.set()
        threading.Timer(0.2, os._exit, (3,)).start()
        condition.wait()


def nested(lock: Any) -> bool:
    with lock, lock:
        assert lock.locked()
    other: list[bool] = []
    with lock:
        thread = threading.Thread(target=lambda: other.append(lock.acquire(blocking=False)))
        thread.start()
        thread.join()
    return other == [False]


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"])
def test_one_at_a_time(machine: megalith.Machine, executor: Any, kind: str) -> None:
    lock, number = getattr(machine, kind)(), machine.zeros(1, "i8")
    list(executor.map(add_with, [lock] * WORKERS, [number] * WORKERS, [50] * WORKERS))
    assert number[0] == WORKERS * 50


def test_a_counter_loses_nothing(machine: megalith.Machine, executor: Any) -> None:
    counter = machine.Counter(-7)
    list(executor.map(add_to, [counter] * WORKERS, [500] * WORKERS))
    assert counter.value == -7 + WORKERS * 500
    drawn = [n for numbers in executor.map(draw, [counter] * WORKERS, [300] * WORKERS) for n in numbers]
    assert sorted(drawn) == list(range(-7 + WORKERS * 500, -7 + WORKERS * 800)), "none twice, none left out"
    assert int(counter) == counter.value == -7 + WORKERS * 800
    counter.value = -(1 << 63)
    assert counter.add(-1) == (1 << 63) - 1, "it wraps around"


def test_a_semaphore_lets_so_many_in(machine: megalith.Machine, executor: Any) -> None:
    semaphore, inside, seen = machine.Semaphore(2), machine.Counter(), machine.zeros(WORKERS + 1, "i8")
    list(executor.map(enter, [semaphore] * 12, [inside] * 12, [seen] * 12))
    assert seen.tolist() == [0, 1, 1, 0, 0], "one and two at once, never three"
    assert inside.value == 0


def test_a_barrier_over_hosts(machine: megalith.Machine, executor: Any) -> None:
    barrier, before = machine.Barrier(WORKERS), machine.Counter()
    futures = [executor.submit(pass_barrier, barrier, before, 5) for _ in range(WORKERS)]
    assert all(future.result(LONG_S) for future in futures)
    assert (barrier.n_waiting, barrier.broken) == (0, False)


def test_a_condition_over_hosts(machine: megalith.Machine, executor: Any) -> None:
    condition, box = machine.Condition(), machine.zeros(5, "i8")
    takers = [executor.submit(take_items, condition, box, 10) for _ in range(2)]
    givers = [executor.submit(put_items, condition, box, list(range(start, start + 10))) for start in (0, 10)]
    for giver in givers:
        giver.result(LONG_S)
    assert sorted(item for taker in takers for item in taker.result(LONG_S)) == list(range(20))


def test_an_event_over_hosts(machine: megalith.Machine, executor: Any) -> None:
    event = machine.Event()
    waiters = [executor.submit(wait_on, event) for _ in range(WORKERS)]
    time.sleep(0.3)
    assert not any(waiter.done() for waiter in waiters)
    event.set()
    event.clear()  # Who waited is let go all the same.
    assert all(waiter.result(LONG_S) for waiter in waiters)
    assert not event.wait(0.01)


def test_its_thread_may_take_it_again(machine: megalith.Machine, executor: Any) -> None:
    lock = machine.RLock()
    assert nested(lock)
    assert executor.submit(nested, lock).result(LONG_S)


def test_who_dies_keeps_it(machine: megalith.Machine) -> None:
    lock = machine.Lock()
    with machine.executor(1) as executor, pytest.raises(BrokenProcessPool):
        executor.submit(take_and_die, lock).result(LONG_S)
    assert not lock.acquire(timeout=0.2)
    lock.release()
    assert lock.acquire(blocking=False)


def test_who_dies_waiting_holds_nobody_up(machine: megalith.Machine) -> None:
    condition, ready = machine.Condition(), machine.Event()
    with machine.executor(1) as executor, pytest.raises(BrokenProcessPool):
        executor.submit(wait_and_die, condition, ready).result(LONG_S)
    woken: Future[bool] = Future()

    def wait() -> None:
        with condition:
            woken.set_result(condition.wait(LONG_S))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    with condition:
        condition.notify_all()
    thread.join()
    assert woken.result(0)


def test_a_timeout_in_a_condition_takes_nobodys_turn(machine: megalith.Machine) -> None:
    condition, woken = machine.Condition(machine.Lock()), machine.Counter()

    def wait() -> None:
        with condition:
            woken.add(1 if condition.wait(LONG_S) else 100)

    with condition:
        assert not condition.wait(0.05)
    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    for expected in (1, 3):
        with condition:
            assert not condition.wait(0.01)
            condition.notify(expected)
        deadline = time.monotonic() + LONG_S
        while woken.value != expected and time.monotonic() < deadline:
            time.sleep(0.01)
        assert woken.value == expected
    for thread in threads:
        thread.join()


def test_what_threading_refuses(machine: megalith.Machine) -> None:
    for lock in (machine.Lock(), machine.RLock()):
        with pytest.raises(RuntimeError, match="release"):
            lock.release()
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(False, 1)
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(timeout=-2)
        with pytest.raises(OverflowError):
            lock.acquire(timeout=threading.TIMEOUT_MAX * 2)
    with pytest.raises(ValueError, match=">= 0"):
        machine.Semaphore(-1)
    with pytest.raises(ValueError, match="too many times"):
        machine.BoundedSemaphore(2).release()
    with pytest.raises(ValueError, match="parties"):
        machine.Barrier(0)
    with pytest.raises(RuntimeError, match="un-acquired"):
        machine.Condition().notify()
    with pytest.raises(TypeError, match="of the machine"):
        machine.Condition(threading.Lock())  # type: ignore[arg-type]


def test_it_travels_to_workers_alone(machine: megalith.Machine) -> None:
    lock = machine.Lock()
    with pytest.raises(RuntimeError, match="to its workers alone"):
        pickle.loads(pickle.dumps(lock))
    assert copy.copy(lock) is copy.deepcopy(lock) is lock


INTERRUPTED = """
import os, signal, threading, time
import megalith

with megalith.machine(memory_per_host="16M") as machine:
    lock = machine.Lock()
    lock.acquire()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    try:
        lock.acquire()
    except KeyboardInterrupt:
        print("interrupted", time.monotonic() - began < 5)
    lock.release()
    print(lock.acquire(timeout=1))
try:
    lock.acquire(timeout=1)
except megalith.AgentError as error:
    print("ended" in str(error))
"""


def test_interrupts_and_the_end_of_the_machine() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=LONG_S, check=False
    )
    assert done.stdout.split("\n")[:3] == ["interrupted True", "True", "True"], done.stderr
