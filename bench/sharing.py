"""What sharing an array with all workers costs, on ours and on others: `python bench/sharing.py` prints a table.

An array of 1 GiB (random numbers, which no packing shrinks) is *shared* from the process that made it; then every
worker *reads* all of it for the first time, and *again*; then they *write* it, each adding 1 to its part; then it is
*home*: the process that made it sums what they have written. And 10,000 small tasks. The ways, interleaved, as many
workers each:

    threads        one process, whose threads are the workers: nothing to share
    shared_memory  multiprocessing.shared_memory, and ProcessPoolExecutor: the kernel's own way. Ratios are to it
    loky           joblib; the array is dumped to a file of /dev/shm that all map, to be written, too
    dask           scattered to all workers; they return new parts, since what is scattered is not theirs to write
    ray            put into the object store, which is read-only: they return new parts, too
    megalith N     ours: a machine of N hosts on this computer, each lending enough for two of the arrays
    megalith 3, small   the same, each lending half of what the array takes: more than one of them must hold it

*moved* is what went over the loopback interface from sharing on until the array was home, in MiB: what another host
would have been sent. What goes through pipes, Unix sockets or shared memory is not in it, and would be in the way of a
second host. *held* is what all processes together hold when all have read, beyond what they held before, in MiB
(their proportional set sizes: a page that several map counts once).

It needs root: it runs in network and process namespaces of its own, so that nobody else's bytes are counted. Peers are
wanted in an environment of their own, with the numpy that ours has:

    python3.11 -m venv build/peers && build/peers/bin/pip install -r bench/requirements.txt
    PYTHONPATH=python build/peers/bin/python bench/sharing.py

Those that are not installed are named and left out.
"""

import argparse
import importlib
import json
import operator
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor as AnyExecutor
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from statistics import median
from typing import Any

import megalith
from conditions import Steal

np: Any = importlib.import_module("numpy")  # Not among what `make lint` needs.
FLOOR = "shared_memory"
INSIDE = "MEGALITH_BENCH_INSIDE"
TIMES = ("share", "read", "read again", "write", "home", "small tasks")
SIZES = ("moved", "held")

Figures = dict[str, float]
Found = tuple[int, float]
"""Who read the array, and its sum."""


@dataclass(frozen=True)
class Shared:
    """An array that workers have."""

    read: Callable[[], list[Found]]
    write: Callable[[], Any]
    """The array, as it is found then by who shared it."""
    free: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Way:
    """One of those that are compared, its workers started."""

    share: Callable[[Any], Shared]
    each: Callable[[Callable[[int], int], Sequence[int]], list[int]]
    """As `map`."""


# What workers do.


def total(array: Any) -> Found:
    """Reads all."""
    return os.getpid(), float(array.sum())


def add(part: Any) -> None:
    """Writes a part in place."""
    part += 1


def added(array: Any, begin: int, end: int) -> Any:
    """A part, written elsewhere."""
    return array[begin:end] + 1


def bounds(array: Any, workers: int) -> list[tuple[int, int]]:
    """The parts' ends."""
    ends = [len(array) * number // workers for number in range(workers + 1)]
    return list(pairwise(ends))


# shared_memory's: a worker maps a block by its name, and keeps it.

_blocks: dict[str, SharedMemory] = {}


def block(name: str) -> Any:
    """A block's numbers."""
    for other in [other for other in _blocks if other != name]:
        _blocks.pop(other).close()
    if name not in _blocks:
        _blocks[name] = SharedMemory(name)
    return np.frombuffer(_blocks[name].buf, dtype=np.float64)


def total_of_block(name: str) -> Found:
    """Reads all."""
    return total(block(name))


def add_to_block(name: str, begin: int, end: int) -> None:
    """Writes a part in place."""
    add(block(name)[begin:end])


# loky's: a worker maps a file, and keeps it.

_files: dict[str, Any] = {}


def mapped(path: str) -> Any:
    """A file's array, to be written, too."""
    import joblib

    if path not in _files:
        _files.clear()
        _files[path] = joblib.load(path, mmap_mode="r+")
    return _files[path]


def total_of_file(path: str) -> Found:
    """Reads all."""
    return total(mapped(path))


def add_to_file(path: str, begin: int, end: int) -> None:
    """Writes a part in place."""
    add(mapped(path)[begin:end])


# The ways.


def mapping(executor: AnyExecutor) -> Callable[[Callable[[int], int], Sequence[int]], list[int]]:
    """Small tasks, each by itself. `bench/executor.py` has them in batches, too."""
    return lambda fn, args: list(executor.map(fn, args))


@contextmanager
def threads(workers: int, size: int) -> Iterator[Way]:
    """One process."""
    del size
    with ThreadPoolExecutor(workers) as executor:

        def share(source: Any) -> Shared:
            array = source.copy()

            def write() -> Any:
                list(executor.map(add, [array[begin:end] for begin, end in bounds(array, workers)]))
                return array

            return Shared(lambda: list(executor.map(total, [array] * workers)), write)

        yield Way(share, mapping(executor))


@contextmanager
def shared_memory(workers: int, size: int) -> Iterator[Way]:
    """The standard library's."""
    del size
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:

        def share(source: Any) -> Shared:
            memory = SharedMemory(create=True, size=source.nbytes)
            name = memory.name
            array = np.frombuffer(memory.buf, dtype=source.dtype)
            array[:] = source

            def write() -> Any:
                for future in [executor.submit(add_to_block, name, *ends) for ends in bounds(source, workers)]:
                    future.result()
                return np.frombuffer(memory.buf, dtype=source.dtype)

            def free() -> None:
                nonlocal array
                del array
                memory.unlink()
                memory.close()

            return Shared(lambda: list(executor.map(total_of_block, [name] * workers)), write, free)

        yield Way(share, mapping(executor))


@contextmanager
def loky(workers: int, size: int) -> Iterator[Way]:
    """As joblib's manual has it for arrays that workers write."""
    del size
    import joblib

    numbers = iter(range(1 << 30))
    with (
        tempfile.TemporaryDirectory(prefix="mgl-bench-", dir="/dev/shm") as folder,
        joblib.Parallel(n_jobs=workers, backend="loky", batch_size=1, max_nbytes=None) as parallel,
    ):

        def share(source: Any) -> Shared:
            path = f"{folder}/{next(numbers)}"
            joblib.dump(source, path)

            def write() -> Any:
                parallel(joblib.delayed(add_to_file)(path, *ends) for ends in bounds(source, workers))
                return joblib.load(path, mmap_mode="r")

            return Shared(
                lambda: list(parallel(joblib.delayed(total_of_file)(path) for _ in range(workers))),
                write,
                lambda: Path(path).unlink(),
            )

        yield Way(share, lambda fn, args: list(parallel(joblib.delayed(fn)(arg) for arg in args)))
    joblib.externals.loky.get_reusable_executor().shutdown()


@contextmanager
def dask(workers: int, size: int) -> Iterator[Way]:
    """One process a worker."""
    del size
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, memory_limit=0)
    with cluster, Client(cluster) as client:
        names = list(client.scheduler_info()["workers"])

        def share(source: Any) -> Shared:
            (future,) = client.scatter([source], broadcast=True, hash=False)

            def read() -> list[Found]:
                sums = [client.submit(total, future, workers=[name], pure=False) for name in names]
                found: list[Found] = client.gather(sums)
                return found

            def write() -> Any:
                places = zip(bounds(source, workers), names, strict=True)
                parts = [client.submit(added, future, *ends, workers=[name], pure=False) for ends, name in places]
                return np.concatenate(client.gather(parts))

            return Shared(read, write, future.release)

        yield Way(share, lambda fn, args: list(client.gather(client.map(fn, args, pure=False))))


@contextmanager
def ray(workers: int, size: int) -> Iterator[Way]:
    """With an object store that has room for the array and its new parts."""
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, object_store_memory=3 * size)
    try:
        totals, parts = ray.remote(total), ray.remote(added)
        small = ray.remote(lambda fn, arg: fn(arg))

        def share(source: Any) -> Shared:
            held = [ray.put(source)]
            return Shared(
                lambda: list(ray.get([totals.remote(held[0]) for _ in range(workers)])),
                lambda: np.concatenate(
                    ray.get([parts.remote(held[0], *ends) for ends in bounds(source, workers)]),
                ),
                held.clear,
            )

        yield Way(share, lambda fn, args: list(ray.get([small.remote(fn, arg) for arg in args])))
    finally:
        ray.shutdown()


@contextmanager
def ours(hosts: int, share_of_each: float, workers: int, size: int) -> Iterator[Way]:
    """A machine of so many hosts."""
    with (
        megalith.machine(hosts=hosts, memory_per_host=int(size * share_of_each)) as machine,
        machine.executor(workers) as executor,
    ):

        def share(source: Any) -> Shared:
            arrays = [machine.array(source)]

            def write() -> Any:
                parts = [arrays[0][begin:end] for begin, end in bounds(source, workers)]
                list(executor.map(add, parts))
                return arrays[0]

            return Shared(lambda: list(executor.map(total, arrays * workers)), write, arrays.clear)

        yield Way(share, mapping(executor))


MAKERS: dict[str, Callable[[int, int], Any]] = {
    "threads": threads,
    FLOOR: shared_memory,
    "loky": loky,
    "dask": dask,
    "ray": ray,
    "megalith 1": partial(ours, 1, 2),
    "megalith 2": partial(ours, 2, 2),
    "megalith 3": partial(ours, 3, 2),
    "megalith 3, small": partial(ours, 3, 0.5),
}


# Measuring.


def moved() -> float:
    """MiB that have gone over the loopback interface, which is this namespace's own."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[1]) / (1 << 20)


def held() -> float:
    """MiB of all processes here."""
    kib = 0
    for path in Path("/proc").glob("[0-9]*/smaps_rollup"):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue  # it has ended, or is a zombie
        kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def measure(way: Way, source: Any, workers: int, tasks: int) -> Figures:
    """All of it, once. Raises `ValueError` for a wrong result, or where workers did not all take part."""
    figures: Figures = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = work()
        figures[name] = time.perf_counter() - begun
        return result

    def read(name: str) -> None:
        found = timed(name, shared.read)
        if any(not np.isclose(value, before) for _, value in found):
            raise ValueError(f"{name}: a sum is wrong")
        if len({pid for pid, _ in found}) not in {1, workers} or len(found) != workers:
            raise ValueError(f"{name}: not all workers have read")

    before, before_moved, before_held = float(source.sum()), moved(), held()
    shared: Shared = timed("share", lambda: way.share(source))
    read("read")
    figures["held"] = held() - before_held
    read("read again")
    home = [timed("write", shared.write)]
    after = timed("home", lambda: float(home[0].sum()))
    figures["moved"] = moved() - before_moved
    home.clear()
    shared.free()
    if not np.isclose(after, before + len(source)):
        raise ValueError(f"what was written is not there: {after}")
    results = timed("small tasks", lambda: way.each(operator.neg, range(tasks)))
    if results[-1] != 1 - tasks:
        raise ValueError("a task's result is wrong")
    return figures


def rounds_of(names: Sequence[str], source: Any, workers: int, tasks: int, rounds: int) -> dict[str, Figures]:
    """Every way once a round, in turn; the median of each figure.

    A way is started anew each time: a process has one machine at a time, and none pays for another's idle workers.
    """
    seen: dict[str, list[Figures]] = {}
    missing: set[str] = set()
    for _ in range(rounds):
        for name in names:
            if name in missing:
                continue
            try:
                with MAKERS[name](workers, source.nbytes) as way:
                    # Warm: workers are there, and have numpy. Of what is small, since it is not this that is measured.
                    shared = way.share(source[: 1 << 12])
                    shared.read()
                    shared.write()
                    shared.free()
                    way.each(operator.neg, range(200))
                    figures = measure(way, source, workers, tasks)
            except ImportError as error:
                print(f"{name}: not installed ({error})", file=sys.stderr)
                missing.add(name)
                continue
            print(name, {key: round(value, 2) for key, value in figures.items()}, file=sys.stderr)
            seen.setdefault(name, []).append(figures)
    return {
        name: {key: median(figures[key] for figures in found) for key in (*TIMES, *SIZES)}
        for name, found in seen.items()
    }


def in_namespaces() -> None:
    """Goes on in namespaces of our own."""
    if os.environ.get(INSIDE):
        return
    if os.geteuid() != 0:
        raise SystemExit("bench/sharing.py: needs root, for namespaces of its own")
    inner = 'ip link set lo up && exec "$0" "$@"'
    words = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inner, sys.executable]
    os.execvpe(words[0], [*words, *sys.argv], {**os.environ, INSIDE: "1"})


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, of an array of 128 MiB")
    parser.add_argument("--mib", type=int, help="the array's size (default: 1024)")
    parser.add_argument("--rounds", type=int, help="default: 3")
    parser.add_argument("--workers", type=int, default=max(3, len(os.sched_getaffinity(0))))
    parser.add_argument("--only", action="append", choices=MAKERS, help="some of the ways")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures to FILE, too")
    arguments = parser.parse_args(words)
    in_namespaces()
    mib = arguments.mib or (128 if arguments.quick else 1024)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    tasks = 10_000
    source = np.random.default_rng(1).random((mib << 20) // 8)
    cpus = len(os.sched_getaffinity(0))
    versions = f"Linux {platform.release()}, Python {platform.python_version()}, numpy {np.__version__}"
    data: dict[str, Any] = {
        "machine": f"{cpus} CPUs, {versions}",
        "load_average": round(os.getloadavg()[0], 2),
        "mib": mib,
        "workers": arguments.workers,
        "rounds": rounds,
    }
    steal = Steal()
    data["figures"] = figures = rounds_of(arguments.only or list(MAKERS), source, arguments.workers, tasks, rounds)
    data["steal_percent"] = round(steal.percent(), 1)
    print(
        f"{data['machine']}; load average before: {data['load_average']}; "
        f"{data['steal_percent']} % of CPU time stolen; {mib} MiB, {arguments.workers} workers; "
        f"medians of {rounds} rounds, in turn\n"
    )
    print("| | " + " | ".join(TIMES) + " | moved | held |\n" + "|---" * (len(TIMES) + len(SIZES) + 1) + "|")
    floor = figures.get(FLOOR)
    for name, found in figures.items():
        times = [f"{found[key]:.2f} s" + (f" ({found[key] / floor[key]:.1f}×)" if floor else "") for key in TIMES]
        print(f"| {name} | " + " | ".join([*times, *(f"{found[key]:.0f} MiB" for key in SIZES)]) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
