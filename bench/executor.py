"""What a task costs, on ours and on others: `python bench/executor.py [--quick]` prints a table.

10,000 small tasks, each by itself and in batches; a task and its result one at a time; a large array as argument and
as result; on `Executor`, `ProcessPoolExecutor`, joblib's loky, Dask and Ray, interleaved, all with as many workers as
there are CPUs, on this computer alone. Peers that are not installed (`pip install -r bench/requirements.txt`) are named
and left out, and `-` is what a peer has no word for. A ratio is a peer's time divided by ours.

Who passes a large array through shared memory or a file (joblib, Ray) reads here what is already on this computer; to
another host it would have to be copied, as the others do at once.
"""

import argparse
import importlib
import json
import operator
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor as AnyExecutor
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from conditions import Steal, interleaved
from megalith.executor import Executor

np: Any = importlib.import_module("numpy")  # Not among what `make lint` needs.
OURS = "megalith"
WORKERS = len(os.sched_getaffinity(0))


def filled(size: int) -> Any:
    """A task whose result is large."""
    return np.full(size, 7, dtype=np.uint8)


def last(array: Any) -> int:
    """A task whose argument is: it looks at the array's end alone."""
    return int(array[-1])


@dataclass(frozen=True)
class Peer:
    """How one of them does each of the things that are measured."""

    each: Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
    """As `map`, one task for each argument."""
    one: Callable[[Callable[[Any], Any], Any], Any]
    """One task, and its result."""
    batched: Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]] | None = None
    """As `each`, many arguments in one task."""


@contextmanager
def futures(made: AnyExecutor) -> Iterator[Peer]:
    """What has the standard interface."""
    with made as executor:
        yield Peer(
            lambda fn, args: list(executor.map(fn, args)),
            lambda fn, arg: executor.submit(fn, arg).result(),
            lambda fn, args: list(executor.map(fn, args, chunksize=len(args) // (4 * WORKERS))),
        )


@contextmanager
def loky() -> Iterator[Peer]:
    """As joblib's users call it; large arrays go through files that workers map, which is joblib's way."""
    import joblib

    def through(parallel: Any, fn: Callable[[Any], Any], args: Sequence[Any]) -> list[Any]:
        return list(parallel(joblib.delayed(fn)(arg) for arg in args))

    with (
        joblib.Parallel(n_jobs=WORKERS, backend="loky", batch_size=1) as singly,
        joblib.Parallel(n_jobs=WORKERS, backend="loky", batch_size="auto") as batching,
    ):
        yield Peer(
            partial(through, singly),
            lambda fn, arg: through(singly, fn, [arg])[0],
            partial(through, batching),
        )
    joblib.externals.loky.get_reusable_executor().shutdown()


@contextmanager
def dask() -> Iterator[Peer]:
    """One process a worker, as all others here."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        yield Peer(
            lambda fn, args: client.gather(client.map(fn, args, pure=False)),
            lambda fn, arg: client.submit(fn, arg, pure=False).result(),
        )


@contextmanager
def ray() -> Iterator[Peer]:
    """With an object store that holds what is measured."""
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, object_store_memory=2 << 30)
    try:
        remote = ray.remote(lambda fn, arg: fn(arg))
        yield Peer(
            lambda fn, args: list(ray.get([remote.remote(fn, arg) for arg in args])),
            lambda fn, arg: ray.get(remote.remote(fn, arg)),
        )
    finally:
        ray.shutdown()


def peers(stack: ExitStack) -> dict[str, Peer]:
    """All that are here, started and warm."""
    made = {
        OURS: lambda: futures(Executor(WORKERS)),
        "ProcessPool": lambda: futures(ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"))),
        "loky": loky,
        "dask": dask,
        "ray": ray,
    }
    found = {}
    for name, make in made.items():
        try:
            found[name] = stack.enter_context(make())
        except ImportError as error:
            print(f"{name}: not installed ({error})", file=sys.stderr)
    for peer in found.values():
        peer.each(operator.neg, range(200))
    return found


def works(*, quick: bool) -> dict[str, Callable[[Peer], bool | None]]:
    """What is measured; each says whether the result is right, or `None`: the peer has no word for it."""
    small, turns, size = (2_000, 50, 32 << 20) if quick else (10_000, 200, 256 << 20)
    array = np.zeros(size, dtype=np.uint8)
    array[-1] = 9

    def many(peer: Peer) -> bool:
        return bool(peer.each(operator.neg, range(small))[-1] == 1 - small)

    def in_batches(peer: Peer) -> bool | None:
        return None if peer.batched is None else bool(peer.batched(operator.neg, range(small))[-1] == 1 - small)

    def in_turn(peer: Peer) -> bool:
        return all(peer.one(operator.neg, number) == -number for number in range(turns))

    def argument(peer: Peer) -> bool:
        return bool(peer.one(last, array) == 9)

    def arguments(peer: Peer) -> bool:
        return peer.each(last, [array] * WORKERS) == [9] * WORKERS

    def result(peer: Peer) -> bool:
        return bool(peer.one(filled, size)[-1] == 7)

    mib = size >> 20
    return {
        f"{small} small tasks": many,
        f"{small} in batches": in_batches,
        f"{turns} tasks in turn": in_turn,
        f"{mib} MiB as argument": argument,
        f"{mib} MiB to every worker": arguments,
        f"{mib} MiB as result": result,
    }


def timed(work: Callable[[Peer], bool | None], peer: Peer) -> float | None:
    """Seconds. Raises `ValueError` for a wrong result."""
    began = time.perf_counter()
    right = work(peer)
    if right is None:
        return None
    if not right:
        raise ValueError("a result is wrong")
    return time.perf_counter() - began


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, less in each")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures to FILE, too")
    arguments = parser.parse_args(words)
    data: dict[str, Any] = {
        "machine": f"{WORKERS} CPUs, Linux {platform.release()}, Python {platform.python_version()}"
    }
    with ExitStack() as stack:
        found = peers(stack)
        steal = Steal()
        data["seconds"] = {
            name: interleaved(
                {key: partial(timed, work, peer) for key, peer in found.items()},
                2 if arguments.quick else 3,
            )
            for name, work in works(quick=arguments.quick).items()
        }
        data["steal_percent"] = round(steal.percent(), 1)
    print(f"{data['machine']}; {data['steal_percent']} % of CPU time stolen")
    print(f"{'seconds (and ratio to ours)':28}" + "".join(f"{name:>20}" for name in found))
    for name, seconds in data["seconds"].items():
        ours = seconds[OURS]
        shown = ["-" if value is None else f"{value:.3f} ({value / ours:.1f}×)" for value in seconds.values()]
        print(f"{name:28}" + "".join(f"{text:>20}" for text in shown))
    if arguments.json:
        arguments.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
