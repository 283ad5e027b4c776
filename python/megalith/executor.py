"""``Executor``: a ``concurrent.futures.Executor`` whose workers are on many hosts.

>>> with Executor(2) as executor:
...     list(executor.map(pow, [2, 3], [5, 2]))
[32, 9]
"""

from __future__ import annotations

import atexit
import os
import socket
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from megalith.broken import WorkerLost
from megalith.chunks import chunked, flattened, run_chunk
from megalith.here import Here
from megalith.pickling import Reducer, dumps
from megalith.pool import Handed, Locality, Pool, close_all
from megalith.references import Noting
from megalith.seats import Launcher, Seat

__all__ = ["Executor", "Launcher", "Locality", "Seat", "WorkerLost"]

P = ParamSpec("P")
T = TypeVar("T")

# Our thread is a daemon, so it still serves while the interpreter waits for the user's other threads; then come we.
atexit.register(close_all)


class Executor(futures.Executor):
    """Runs calls in worker processes, as ``concurrent.futures.ProcessPoolExecutor`` does, on any number of hosts.

    Workers are started when there is work for them, and live until ``shutdown`` (or the end of a ``with``, of the
    object, or of the interpreter). A worker that dies breaks the executor: `WorkerLost`, a ``BrokenProcessPool``.
    What a task raises has its traceback as ``__cause__``. What cannot be pickled or unpickled fails its future only.

    Args:
        max_workers: how many workers at most; as many as ``hosts`` has CPUs where not said.
        initializer: called in each worker before its first task, with ``initargs``. If it raises, the executor breaks.
        initargs: its arguments.
        max_tasks_per_child: a worker that has run so many tasks is replaced by a new one.
        launcher: what starts workers; processes of this computer where not said.
        hosts: names of hosts, with the number of CPUs of each; this computer where not said. Workers are spread over
            them evenly, by their CPUs, the first ones first.
        locality: ``locality(fn, args, kwargs)`` names the host that should run a task, or returns ``None``. A worker
            of that host gets it, if one has room or can be started; else whoever has. It is called in the executor's
            own thread, once for each task. A task of ``map`` with a chunk size has the chunk in its first argument.
        reducers: how objects of these very types are pickled for workers (:mod:`megalith.pickling`).
        handed: ``handed(args, kwargs, host)`` is called, in the executor's own thread, for each task that a worker of
            that host was handed.

    Raises ``ValueError`` for numbers below one, and what pickling raises for an initializer that cannot be.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        launcher: Launcher | None = None,
        hosts: Mapping[str, int] | None = None,
        locality: Locality | None = None,
        reducers: Mapping[type, Reducer] | None = None,
        handed: Handed | None = None,
    ) -> None:
        if hosts is None:
            hosts = {socket.gethostname(): len(os.sched_getaffinity(0))}
        if not hosts or min(hosts.values()) < 1:
            raise ValueError("hosts must name at least one host, each with at least one CPU")
        if max_workers is None:
            max_workers = sum(hosts.values())
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child < 1:
                raise ValueError("max_tasks_per_child must be >= 1")
        reducers = dict(reducers or {})
        with Noting() as needed:
            pickled = dumps((initializer, initargs), reducers)
        self._pool = Pool(
            places(hosts, max_workers),
            launcher or Here(),
            pickled,
            needed,
            max_tasks_per_child,
            locality,
            reducers,
            handed,
        )
        weakref.finalize(self, self._pool.close).atexit = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for what was submitted. After ^C it does not: tasks are ended where they are.

        So it is in effect with ``ProcessPoolExecutor``, whose workers get the terminal's ^C themselves.
        """
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.kill_workers()
        self.shutdown(wait=True)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Has a worker call ``fn(*args, **kwargs)``.

        Raises ``RuntimeError`` after a shutdown and in a forked child, `WorkerLost` if the executor is broken.
        """
        return self._pool.submit(fn, args, kwargs)

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """As the builtin ``map``, in workers; results come in the order of the arguments.

        All is submitted at once, ``chunksize`` calls in one task. A call that raises, raises when its result is taken,
        and what has not begun is cancelled then, as it is when the iterator is closed. ``timeout`` seconds after the
        call ``TimeoutError`` is raised instead of waiting. Raises ``ValueError`` for a ``chunksize`` below one.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        return flattened(super().map(partial(run_chunk, fn), chunked(iterables, chunksize), timeout=timeout))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more tasks are taken; those that were are run, except that ``cancel_futures`` cancels what has not begun.

        ``wait``: returns when all is done and every worker has ended. May be called again; in a forked child, where
        nothing is the child's to end, it does nothing.
        """
        self._pool.close(cancel=cancel_futures)
        if wait:
            self._pool.join()

    @property
    def is_usable(self) -> bool:
        """Whether it takes tasks: neither shut down nor broken."""
        return self._pool.is_open

    def kill_workers(self) -> None:
        """Ends all workers at once, in the middle of their tasks, and shuts the executor down; does not wait.

        What is not done then raises `WorkerLost`. As ``ProcessPoolExecutor.kill_workers`` of Python 3.14.
        """
        self._pool.kill()


def places(hosts: Mapping[str, int], count: int) -> list[str]:
    """Where ``count`` workers run, in the order of their start: each host gets its share early and late alike.

    >>> places({"a": 2, "b": 1}, 4)
    ['a', 'b', 'a', 'a']
    """
    given = dict.fromkeys(hosts, 0)
    found = []
    for _ in range(count):
        host = min(hosts, key=lambda name: (given[name] + 0.5) / hosts[name])
        given[host] += 1
        found.append(host)
    return found
