"""Everything at once, from a seed: every future ends, with its own result, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from concurrent.futures import Future, wait
from typing import Any

import pytest

from megalith.executor import Executor, WorkerLost


def work(number: int, seconds: float, size: int, fails: bool) -> tuple[int, bytes]:
    if seconds:
        time.sleep(seconds)
    if fails:
        raise LookupError(number)
    return number, bytes([number % 251]) * size


def slow_pid(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def submit_all(executor: Executor, seed: int, count: int, found: list[tuple[int, bool, Future[Any]]]) -> None:
    """Tasks that take nothing, a little or long, in runs of a kind; results small and large; some are cancelled."""
    choose = random.Random(seed)
    kind = 0.0
    for number in range(count):
        if choose.random() < 0.02:
            kind = choose.choice([0.0, 0.0, 0.0, 0.001, 0.02])
        seconds = 0.1 if choose.random() < 0.002 else kind
        size = choose.choice([0, 10, 1000, 300_000]) if choose.random() < 0.05 else 3
        fails = choose.random() < 0.05
        future = executor.submit(work, number, seconds, size, fails)
        found.append((number, fails, future))
        if choose.random() < 0.03:
            choose.choice(found)[2].cancel()
        if choose.random() < 0.01:
            time.sleep(0.005)


def check(number: int, fails: bool, future: Future[Any]) -> None:
    if future.cancelled():
        return
    error = future.exception(0)
    if fails:
        assert isinstance(error, LookupError)
        assert error.args == (number,)
    else:
        result = future.result(0)
        assert result[0] == number
        assert set(result[1]) <= {number % 251}


def preferred(fn: Any, args: tuple[Any, ...], kwargs: Any) -> str | None:
    hosts = (None, "a", "b", "elsewhere")
    return hosts[args[0] // 7 % 4]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "more", [{}, {"max_tasks_per_child": 150}, {"locality": preferred}], ids=["plain", "replaced", "placed"]
)
def test_every_future_has_its_own_result(seed: int, more: dict[str, Any]) -> None:
    found: list[list[tuple[int, bool, Future[Any]]]] = [[], []]
    with Executor(hosts={"a": 2, "b": 1}, **more) as executor:
        threads = [
            threading.Thread(target=submit_all, args=(executor, seed * 10 + i, 800, part))
            for i, part in enumerate(found)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        futures = [future for part in found for _, _, future in part]
        assert not wait(futures, timeout=120).not_done, f"seed {seed}"
    for part in found:
        assert len(part) == 800
        for number, fails, future in part:
            check(number, fails, future)


@pytest.mark.parametrize("seed", range(4))
def test_every_future_ends_when_a_worker_dies_at_any_moment(seed: int) -> None:
    choose = random.Random(seed)
    found: list[tuple[int, bool, Future[Any]]] = []
    pids: list[int] = []

    def kill() -> None:
        time.sleep(choose.uniform(0.0, 0.4))
        os.kill(choose.choice(pids), signal.SIGKILL)

    with Executor(3) as executor:
        pids += set(executor.map(slow_pid, range(9)))
        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(WorkerLost, match="SIGKILL"):
            submit_all(executor, seed, 100_000, found)
        killer.join(10)
        assert not wait([future for _, _, future in found], timeout=60).not_done, f"seed {seed}"
    for number, fails, future in found:
        if not future.cancelled() and isinstance(future.exception(), WorkerLost):
            continue
        check(number, fails, future)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
