"""What a lock of workers costs, ours and others': `python bench/sync.py [--quick]` prints a table.

*alone*: one worker takes and gives back a lock that nobody else wants, and so on; *contended*: all workers do, the same
lock; microseconds for each time, of all workers together. *counted*: all workers add to one counter, ours an atomic
word, the others' a number under a lock. With `multiprocessing`'s locks (semaphores of the kernel's), a manager's (a
process that is asked), and ours on a machine of one host and of two; interleaved, as many workers each, which are told
to begin at one moment.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor as AnyExecutor
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import megalith
from conditions import Steal

FLOOR = "multiprocessing"
MEASURES = ("alone", "contended", "counted")
BEGIN_S = 0.2
"""From when workers are told until all begin."""

Took = tuple[float, float]
"""When a worker began and ended, as `time.monotonic` has it, which processes of a computer share."""


@dataclass(frozen=True)
class Way:
    """One of those that are compared, its workers started."""

    executor: AnyExecutor
    lock: Any
    """What is passed to workers; `None`: they have it."""
    count: Callable[..., Took]
    counter: Any
    counted: Callable[[], int]
    """What the counter has come to."""


_inherited: list[Any] = []


def inherit(*things: Any) -> None:
    """What cannot be passed in a task is given to a worker when it begins."""
    _inherited.extend(things)


def take(lock: Any, begin: float, times: int) -> Took:
    """Takes a lock and gives it back."""
    lock = _inherited[0] if lock is None else lock
    acquire, release = lock.acquire, lock.release
    time.sleep(max(0.0, begin - time.monotonic()))
    begun = time.monotonic()
    for _ in range(times):
        acquire()
        release()
    return begun, time.monotonic()


def add_inherited(nothing: None, begin: float, times: int) -> Took:
    """Adds to what the worker was given."""
    del nothing
    value = _inherited[1]
    lock = value.get_lock()
    time.sleep(max(0.0, begin - time.monotonic()))
    begun = time.monotonic()
    for _ in range(times):
        with lock:
            value.value += 1
    return begun, time.monotonic()


def add_managed(things: tuple[Any, Any], begin: float, times: int) -> Took:
    """Adds to a manager's number."""
    lock, value = things
    time.sleep(max(0.0, begin - time.monotonic()))
    begun = time.monotonic()
    for _ in range(times):
        with lock:
            value.value += 1
    return begun, time.monotonic()


def add_ours(counter: Any, begin: float, times: int) -> Took:
    """Adds to ours."""
    add = counter.add
    time.sleep(max(0.0, begin - time.monotonic()))
    begun = time.monotonic()
    for _ in range(times):
        add(1)
    return begun, time.monotonic()


@contextmanager
def inherited(workers: int) -> Iterator[Way]:
    """The standard library's."""
    context = get_context("spawn")
    lock, value = context.Lock(), context.Value("q", 0)
    with ProcessPoolExecutor(workers, context, inherit, (lock, value)) as executor:
        yield Way(executor, None, add_inherited, None, lambda: int(value.value))


@contextmanager
def managed(workers: int) -> Iterator[Way]:
    """A manager's."""
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(workers, context) as executor:
        value = manager.Value("q", 0)
        yield Way(executor, manager.Lock(), add_managed, (manager.Lock(), value), lambda: int(value.value))


@contextmanager
def ours(hosts: int, workers: int) -> Iterator[Way]:
    """A machine of so many hosts."""
    with megalith.machine(hosts=hosts, memory_per_host="64M") as machine, machine.executor(workers) as executor:
        counter = machine.Counter()
        yield Way(executor, machine.Lock(), add_ours, counter, lambda: counter.value)


MAKERS: dict[str, Callable[[int], Any]] = {
    FLOOR: inherited,
    "a manager": managed,
    "megalith 1": partial(ours, 1),
    "megalith 2": partial(ours, 2),
}


def each_us(way: Way, work: Callable[..., Took], thing: Any, workers: int, times: int) -> float:
    """Microseconds a time, of so many workers together."""
    begin = time.monotonic() + BEGIN_S
    futures = [way.executor.submit(work, thing, begin, times) for _ in range(workers)]
    took = [future.result() for future in futures]
    seconds = max(ended for _, ended in took) - min(begun for begun, _ in took)
    return seconds / (times * workers) * 1e6


def measure(way: Way, workers: int, times: int) -> dict[str, float]:
    """All of it, once. Raises `ValueError` if additions were lost."""
    each_us(way, take, way.lock, workers, 10)  # All workers are there then.
    figures = {
        "alone": each_us(way, take, way.lock, 1, times),
        "contended": each_us(way, take, way.lock, workers, times),
        "counted": each_us(way, way.count, way.counter, workers, times),
    }
    if way.counted() != workers * times:
        raise ValueError(f"additions were lost: {way.counted()} of {workers * times}")
    return figures


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, less in it")
    parser.add_argument("--workers", type=int, default=max(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures to FILE, too")
    arguments = parser.parse_args(words)
    rounds, times = (1, 1_000) if arguments.quick else (5, 5_000)
    cpus = len(os.sched_getaffinity(0))
    data: dict[str, Any] = {
        "machine": f"{cpus} CPUs, Linux {platform.release()}, Python {platform.python_version()}",
        "load_average": round(os.getloadavg()[0], 2),
        "workers": arguments.workers,
    }
    steal = Steal()
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in MAKERS}
    for _ in range(rounds):
        for name, make in MAKERS.items():
            with make(arguments.workers) as way:
                seen[name].append(measure(way, arguments.workers, times))
            del way  # A machine's words, of which none may be left when the next one is made.
    data["us"] = figures = {
        name: {key: median(found[key] for found in all_found) for key in MEASURES} for name, all_found in seen.items()
    }
    data["steal_percent"] = round(steal.percent(), 1)
    print(
        f"{data['machine']}; load average before: {data['load_average']}; {data['steal_percent']} % of CPU time "
        f"stolen; {arguments.workers} workers; medians of {rounds} rounds, in turn\n"
    )
    print("| | " + " | ".join(MEASURES) + " |\n" + "|---" * (len(MEASURES) + 1) + "|")
    for name, found in figures.items():
        texts = [f"{found[key]:.2f} µs ({found[key] / figures[FLOOR][key]:.1f}×)" for key in MEASURES]
        print(f"| {name} | " + " | ".join(texts) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
