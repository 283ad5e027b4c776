"""joblib's backend ``"megalith"``: what is parallel with joblib, scikit-learn above all, on the machine's workers.

>>> import joblib, megalith
>>> with megalith.machine(hosts=2, memory_per_host="32M") as m, m.joblib():
...     joblib.Parallel()(joblib.delayed(pow)(n, 2) for n in range(4))
[0, 1, 4, 9]

or, as for any backend of joblib, by name, after :func:`register`:

>>> register()
>>> with megalith.machine(hosts=2, memory_per_host="32M"), joblib.parallel_config(backend="megalith", n_jobs=-1):
...     joblib.Parallel()(joblib.delayed(pow)(n, 3) for n in range(4))
[0, 1, 8, 27]

The machine is the one that is open in this process. Workers are kept from one call to the next, as loky's are.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, final

try:
    from joblib.parallel import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
        register_parallel_backend,
    )
except ImportError:
    raise ImportError("the backend needs joblib, which is not installed here: pip install joblib") from None

from megalith.exceptions import AgentError
from megalith.machine_workers import MachineExecutor
from megalith.machines import opened
from megalith.sharing import SHARE_OF_BUDGET, Sharer

if TYPE_CHECKING:
    from collections.abc import Callable

    from megalith.executor import Executor
    from megalith.machines import Machine

MAX_NBYTES: Final = 1 << 20
"""joblib's default: arrays from this size on are put where all workers can read them."""


def register() -> None:
    """Makes ``"megalith"`` a name that joblib knows. Needs no machine yet, and may be called again."""
    register_parallel_backend("megalith", MegalithBackend)


@final
class _Crew:
    """Workers of a machine for joblib, kept for the next call."""

    def __init__(self, machine: Machine, count: int, threads: str) -> None:
        self.sharer = Sharer(machine, machine.budget // SHARE_OF_BUDGET)
        self.plan = (count, threads)
        self.executor: Executor = MachineExecutor(
            machine, count, self.sharer, initializer=_limit_threads, initargs=(threads,)
        )


def _crew(machine: Machine, count: int, threads: str) -> _Crew:
    """The machine's crew, if it is as wanted; else a new one, and the old one goes when it has done its work."""
    crew: Any = machine.joblib_crew
    if crew is None or crew.plan != (count, threads) or not crew.executor.is_usable:
        if crew is not None:
            crew.executor.shutdown(wait=False)
        machine.joblib_crew = crew = _Crew(machine, count, threads)
    assert isinstance(crew, _Crew)
    return crew


def _limit_threads(threads: str) -> None:
    """In a worker, before it imports what has a pool of threads."""
    for name in ParallelBackendBase.MAX_NUM_THREADS_VARS:
        os.environ[name] = threads


class MegalithBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types.
    """See the module. ``joblib.parallel_config(backend="megalith", …)`` makes one.

    ``n_jobs=-1`` (the default) is a worker for each CPU of the machine's hosts. ``max_nbytes`` and ``mmap_mode`` are
    joblib's: an array of so many bytes or more that is not the machine's is copied into the machine's memory, once a
    call and not once a task; workers see it read-only with ``"r"``, and write it with ``"r+"`` and ``"w+"``.
    """

    default_n_jobs = -1
    supports_inner_max_num_threads = True
    supports_retrieve_callback = True

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers ``n_jobs`` asks for. Raises ValueError for 0, AgentError if no machine is open here."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs < 0:
            return max(sum(opened().cpus.values()) + 1 + n_jobs, 1)
        return n_jobs

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        *,
        max_nbytes: int | None = MAX_NBYTES,
        mmap_mode: str | None = "r",
        **_: Any,
    ) -> int:
        """Workers for a call; how many."""
        count = self.effective_n_jobs(n_jobs)
        if count == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        machine = opened()
        # All cores of a host, shared by its workers, as loky does it.
        each = max(1, (os.cpu_count() or 1) // count)
        self._crew = _crew(machine, count, str(self.inner_max_num_threads or each))
        # "c": each writes a copy of its own, so it must get one.
        over = max_nbytes if mmap_mode in {"r", "r+", "w+"} else None
        self._crew.sharer.begin(over, writable=mmap_mode != "r")
        self.parallel = parallel
        return count

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], None] | None = None) -> Future[Any]:
        """Has a worker call ``func()``."""
        assert self._crew is not None
        future = self._crew.executor.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The result of a call; raises what it raised."""
        return out.result()

    def terminate(self) -> None:
        """The call is over. Its workers stay for the next."""
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.sharer.end()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """A task raised: the others are ended where they are, workers and all, as loky does it."""
        if self._crew is not None:
            self._crew.executor.kill_workers()
        self.terminate()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel, **self.parallel._backend_kwargs)

    _crew: _Crew | None = None


def configured(machine: Machine, n_jobs: int, options: dict[str, Any]) -> Any:
    """What :meth:`megalith.Machine.joblib` returns."""
    from joblib import parallel_config

    if opened() is not machine:
        raise AgentError("joblib's backend uses the machine that is open, and this one is not")
    register()
    return parallel_config(backend="megalith", n_jobs=n_jobs, **options)
