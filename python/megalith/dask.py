"""Dask on a machine: ``with MegalithCluster() as cluster, Client(cluster) as client: …``

Dask's scheduler runs in this process, one of its workers in each of our own, on all hosts. Arrays of the machine travel
as addresses, as arguments, results and between workers (:mod:`megalith.dask_arrays`). The machine is the one that is
open in this process, or in ``machine``.

>>> import megalith
>>> from distributed import Client
>>> with megalith.machine(hosts=2, memory_per_host="32M"), MegalithCluster() as cluster, Client(cluster) as client:
...     client.gather(client.map(pow, range(4), [2] * 4))
[0, 1, 4, 9]
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, final

try:
    from distributed import Scheduler, Worker
    from distributed.core import Status
    from distributed.deploy.spec import ProcessInterface, SpecCluster
    from distributed.diagnostics.plugin import SchedulerPlugin
except ImportError:
    raise ImportError(
        "a Dask cluster needs distributed, which is not installed here: pip install distributed"
    ) from None

from megalith import dask_letters
from megalith.dask_arrays import travel_as_addresses
from megalith.machine_workers import OneWorker
from megalith.machines import opened

if TYPE_CHECKING:
    from megalith.machines import Machine

END_S: Final = 5.0
"""A worker that was told to close is ended after that."""


class MegalithCluster(SpecCluster):  # type: ignore[misc]  # distributed has no types.
    """A Dask cluster whose workers are on the hosts of a machine, and see its memory.

    Args:
        machine: where; the one that is open in this process where not said.
        n_workers: how many; one for each CPU of the hosts where not said. ``scale`` and ``adapt`` change it.
        threads_per_worker: threads of each that run tasks.
        memory_limit: of each worker, as for :class:`distributed.Worker`. None, where not said: the hosts' budgets bound
            the arrays, and what a worker has mapped of them is not its own.
        options: those of :class:`distributed.SpecCluster`, as ``security`` and ``asynchronous``.

    Scheduler and workers listen on the hosts' own addresses alone, each on a port of its own; there is no dashboard.
    Connections are in the clear unless ``security`` says otherwise.

    A task that writes into its arguments needs ``client.submit(…, pure=False)``: Dask takes one that it has seen with
    equal arguments for done. Arrays live as long as anybody has them: this process, a worker, or Dask for a task or a
    future. In a task, :func:`megalith.current_machine` makes new ones.

    Raises ImportError if distributed is not installed, AgentError if no machine is open or its workers cannot be
    started.
    """

    def __init__(
        self,
        machine: Machine | None = None,
        n_workers: int | None = None,
        *,
        threads_per_worker: int = 1,
        memory_limit: str | int | None = None,
        **options: Any,
    ) -> None:
        machine = machine or opened()
        travel_as_addresses(machine)
        each = machine.cpus
        worker = {
            "cls": _HostWorker,
            "options": {
                "places": _Places(machine, each),
                "threads": threads_per_worker,
                "memory_limit": memory_limit,
                "security": options.get("security"),
            },
        }
        count = sum(each.values()) if n_workers is None else n_workers
        address = machine.addresses[machine.hosts[0]]
        self._scratch = tempfile.TemporaryDirectory(prefix="megalith-dask-")
        scheduler = {
            "cls": Scheduler,
            "options": {
                "host": address,
                "port": 0,
                "dashboard": False,
                "dashboard_address": f"{address}:0",
                "local_directory": self._scratch.name,
                "security": options.get("security"),
                "plugins": [_NoLog()],
            },
        }
        options.setdefault("silence_logs", logging.WARNING)
        super().__init__(
            workers=dict.fromkeys(range(count), worker),
            worker=worker,
            scheduler=scheduler,
            name=options.pop("name", None) or "megalith",
            **options,
        )

    async def _close(self) -> None:
        await super()._close()
        dask_letters.discard_all()
        self._scratch.cleanup()


@final
class _NoLog(SchedulerPlugin):  # type: ignore[misc]  # distributed has no types.
    """The scheduler keeps the last thousand messages to each worker, for people, and with them the tasks' arrays."""

    def add_worker(self, scheduler: Any, worker: str) -> None:
        scheduler.stream_comms[worker].recent_message_log = deque(maxlen=0)


@final
class _Places:
    """Which host the next worker runs on: the one with the fewest for its CPUs."""

    def __init__(self, machine: Machine, each: dict[str, int]) -> None:
        self.machine = machine
        self._each = each
        self._taken: Counter[str] = Counter()

    def take(self) -> str:
        host = min(self._each, key=lambda name: (self._taken[name] + 0.5) / self._each[name])
        self._taken[host] += 1
        return host

    def give(self, host: str) -> None:
        self._taken[host] -= 1


@final
class _HostWorker(ProcessInterface):  # type: ignore[misc]  # distributed has no types.
    """A Dask worker, in a worker process of ours, as a cluster sees it."""

    def __init__(
        self, scheduler: str, *, name: object, places: _Places, threads: int, memory_limit: Any, security: Any
    ) -> None:
        super().__init__(scheduler=scheduler, name=name)
        self._places = places
        self._options = {
            "name": name, "nthreads": threads, "memory_limit": memory_limit, "security": security, "dashboard": False,
        }  # fmt: skip
        self.name = name
        self._cluster: Callable[[], Any] = lambda: None
        """The cluster puts a weak reference to itself here."""
        self._scheduler = scheduler
        self._host: str | None = None
        self._process: OneWorker | None = None
        self._served: Future[None] | None = None

    async def start(self) -> None:
        machine = self._places.machine
        self._host = self._places.take()
        self._process = OneWorker(machine, self._host)
        address = machine.addresses[self._host]
        options = self._options | {"host": address, "dashboard_address": f"{address}:0"}
        self._served = self._process.submit(_serve, self._scheduler, options)
        loop = asyncio.get_running_loop()
        self._served.add_done_callback(lambda _: _tell(loop, self._event_finished))
        await super().start()

    async def close(self) -> None:
        if self.status == Status.closed:
            return
        if self._served is not None:
            self._tell_to_close()
            with suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(asyncio.wrap_future(self._served), END_S)
        if self._process is not None:
            self._process.kill_workers()
            self._process = None
        if self._host is not None:
            self._places.give(self._host)
            self._host = None
        await super().close()

    def _tell_to_close(self) -> None:
        cluster = self._cluster()
        if cluster is None or cluster.scheduler is None:
            return
        for worker in list(cluster.scheduler.workers.values()):
            if worker.name == self.name:
                cluster.scheduler.close_worker(worker.address)


def _tell(loop: asyncio.AbstractEventLoop, finished: asyncio.Event) -> None:
    with suppress(RuntimeError):  # The loop has ended before.
        loop.call_soon_threadsafe(finished.set)


def _serve(scheduler: str, options: dict[str, Any]) -> None:
    """In a worker process: a Dask worker, until its scheduler ends it."""
    travel_as_addresses()
    # Beside the agent's socket: what a worker that was killed leaves there goes with its host, if that is a local one.
    beside = os.path.dirname(os.environ["MEGALITH_CLIENT_SOCKET"])
    with tempfile.TemporaryDirectory(prefix="dask-", dir=beside) as directory:

        async def serve() -> None:
            async with Worker(scheduler, local_directory=directory, **options) as worker:
                await worker.finished()

        asyncio.run(serve())
