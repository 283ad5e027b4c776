"""The whole machine from an ordinary Python interpreter: ``with megalith.machine(hosts=3) as m: a = m.zeros(10**9)``.

Arrays are plain ``numpy.ndarray``; their bytes lie in the machine's memory, at the same addresses on every host
(docs/python.md). numpy is the user's own.
"""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, final

from megalith import making
from megalith.exceptions import AgentError
from megalith.leaks import report
from megalith.near import Near
from megalith.placement import cpus_of
from megalith.placing import Hands
from megalith.sizes import format_size

if TYPE_CHECKING:
    import subprocess
    from concurrent.futures import Future

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from megalith import sync
    from megalith.arrays import Block
    from megalith.executor import Executor, Locality
    from megalith.keeper import Keeper
    from megalith.located import Located
    from megalith.placement import Threads
    from megalith.placing import Advice
    from megalith.references import References
    from megalith.report import HostFigures


@final
class Machine:
    """Several hosts as one machine, used from this interpreter; a context manager.

    Made by :func:`megalith.machine` and :func:`megalith.connect`. One that nobody refers to any more, nor to any of its
    arrays, is closed.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._space = keeper.space
        self._memory = keeper.memory
        self._members = keeper.place.hosts
        self._names = tuple(host.name for host in keeper.figures)
        self._total = sum(host.budget for host in keeper.figures)
        self._hands = Hands(self)
        self.near = Near()
        """Where tasks have used arrays."""
        self.executors = keeper.executors
        """Those that have workers of this machine, which end with it."""
        self.joblib_crew: object = None
        """What :mod:`megalith.joblib` keeps from one call to the next."""
        weakref.finalize(self, keeper.abandon).atexit = False
        _opened.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self._title()}>"

    def _repr_html_(self) -> str:
        from megalith.notebook import machine_html

        return machine_html(self._title(), () if self._keeper.is_asked else self.figures)

    def _title(self) -> str:
        arrays = self._memory.count
        so_many = f"{arrays} array{'s' * (arrays != 1)}"
        state = "closed" if self._keeper.is_asked else self._keeper.ended or so_many
        return f"Machine of {len(self._names)} hosts, {format_size(self._total)}: {state}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts' names; the first is home, where this process is."""
        return self._names

    @property
    def addresses(self) -> dict[str, str]:
        """The hosts' network addresses, without ports, by name."""
        return {host.name: host.address.rpartition(":")[0].strip("[]") for host in self._members}

    @property
    def cpus(self) -> dict[str, int]:
        """How many CPUs each host has for workers, by name; hosts of one computer share its CPUs."""
        counts = cpus_of(self._keeper.opened, one_computer=self._keeper.place.one_computer)
        return dict(zip(self._names, counts, strict=True))

    @property
    def budget(self) -> int:
        """Bytes that the hosts lend together."""
        return self._total

    @property
    def figures(self) -> tuple[HostFigures, ...]:
        """What each host had to say of itself in the newest sign of life, home first (docs/control.md)."""
        return self._keeper.figures

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = float) -> NDArray[Any]:
        """A new array in the machine's memory, in C order; its elements are zeros, as it happens.

        It is freed on all hosts when the last reference has gone, here and in workers. ``dtype`` holds no Python
        objects.

        Raises:
            ImportError: numpy is not installed.
            TypeError: for a ``dtype`` of objects.
            MemoryError: the addresses are used up. That the *memory* is shows when it is touched (docs/python.md).
            AgentError: the machine is closed, or has ended.
        """
        return making.empty(self._allocate, shape, dtype)

    def zeros(self, shape: int | Sequence[int], dtype: DTypeLike = float) -> NDArray[Any]:
        """As :meth:`empty`: memory that nobody has touched is zeros, and takes no room."""
        return self.empty(shape, dtype)

    def full(self, shape: int | Sequence[int], fill_value: object, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """As :func:`numpy.full`, in the machine's memory; raises as :meth:`empty`.

        >>> import megalith
        >>> with megalith.machine(hosts=1, memory_per_host="32M") as m:
        ...     print(m.full((2, 3), 7))
        [[7 7 7]
         [7 7 7]]
        """
        return making.full(self._allocate, shape, fill_value, dtype)

    def array(self, source: ArrayLike, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """A copy of an array, or of what can be made one, in the machine's memory; raises as :meth:`empty`."""
        return making.copy(self._allocate, source, dtype)

    def locate(self, array: NDArray[Any]) -> Located:
        """Which host has which page of an array of this machine, or of a view of one. Nothing moves for it.

        Hosts are asked one after the other while the machine goes on: a page that moves meanwhile may be missing.

        >>> import megalith
        >>> with megalith.machine(hosts=2, memory_per_host="32M") as m:
        ...     a = m.full(1 << 20, 1.0)
        ...     m.place(a, "spread")
        ...     print(repr(m.locate(a)))
        <Located: host1 4.00 MiB, host2 4.00 MiB>

        Raises ValueError for an array that is not in the machine's memory, AgentError if the machine is closed or has
        ended; so do the next three.
        """
        self._check()
        return self._hands.locate(array)

    def prefetch(
        self, array: NDArray[Any], host: int | str | None = None, *, write: bool = False, wait: bool = True
    ) -> Future[int]:
        """Has an array's pages come to a host, which is this one where none is named, before they are needed.

        They come to be read: as copies, or for good where their owner does not use them. With ``write`` the host owns
        them. Unless ``wait`` it returns at once. The result is how many bytes of pages were asked for. They may leave
        again when that host's memory is full.

        Raises also ValueError for a host that is not there, or whose budget is smaller.
        """
        self._check()
        return self._hands.prefetch(array, host, write=write, wait=wait)

    def place(self, array: NDArray[Any], where: int | str) -> None:
        """Moves an array's pages: ``"spread"`` gives each host one part of it, in order and by the hosts' budgets;
        ``"interleave"`` gives regions of 2 MiB to the hosts in turn; a host's name or number gives it all.

        Pages that nobody has touched are made there. Workers that use them take them away again: it is for those who
        know what comes next, and for tasks, which go to the host where their arrays are.

        Raises also ValueError for a host that is not there, or one whose budget is smaller than its part.
        """
        self._check()
        for host, extents in self._hands.place(array, where):
            self.near.note(extents, host)

    def advise(self, array: NDArray[Any], advice: Advice) -> None:
        """As :manpage:`madvise(2)`: ``"willneed"`` is :meth:`prefetch` without waiting; ``"dontneed"`` makes the array
        zeros, and frees the pages that it has to itself.

        Raises also ValueError for other advice, and for ``"dontneed"`` for a read-only array or one with gaps.
        """
        self._check()
        self._hands.advise(array, advice)

    def memory(self) -> AbstractContextManager[None]:
        """``with m.memory():`` what numpy allocates inside, in whatever call, lies in the machine's memory.

        Of this thread or task alone (it is a context variable). The arrays are plain ones and outlive the ``with``:
        each is freed with its last reference. They travel to workers as those of :meth:`empty` do.

        Raises:
            ImportError: numpy is not installed, or is older than 1.22.
            MemoryError: the addresses are used up.
            AgentError: the machine is closed, or has ended. Inside the ``with``, that is numpy's MemoryError.
        """
        self._check()
        return self._memory.heap(self.figures[0].budget // 8).used()

    def load(self, file: str | os.PathLike[str], *, max_header_size: int = 10_000) -> Any:
        """As :func:`numpy.load`, read straight into the machine's memory: an array from a ``.npy`` file.

        From a ``.npz`` file, a dictionary of all its arrays. Files of pickles, and arrays of objects, are refused.

        Raises:
            OSError: the file cannot be read.
            ValueError, EOFError: as :func:`numpy.load` with ``allow_pickle=False``.
            ImportError, MemoryError, AgentError: as :meth:`empty`.
        """
        from megalith.files import load

        self._check()
        return load(self, file, max_header_size)

    def fromfile(
        self, file: str | os.PathLike[str], dtype: DTypeLike = float, count: int = -1, *, offset: int = 0
    ) -> NDArray[Any]:
        """As :func:`numpy.fromfile` of a binary file, read straight into the machine's memory.

        ``count`` elements from byte ``offset`` on, or as many as there are, if they are fewer or ``count`` is -1.

        Raises:
            OSError: the file cannot be read.
            ValueError: for a ``dtype`` of objects, or whose elements have no bytes.
            ImportError, MemoryError, AgentError: as :meth:`empty`.
        """
        from megalith.files import fromfile

        self._check()
        return fromfile(self, file, dtype, count, offset)

    def executor(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        locality: Locality | None = None,
    ) -> Executor:
        """A :class:`concurrent.futures.Executor` with workers on all hosts; see :class:`megalith.executor.Executor`.

        ``max_workers`` is as many as the hosts have CPUs where not said. Arrays of the machine, and views of them,
        travel as addresses, in arguments and results: every worker writes the same bytes. They live as long as anybody
        has them, here or in a worker; a task makes new ones with :func:`megalith.current_machine`. A task goes where
        the arrays among its arguments were used last, or placed (:mod:`megalith.near`), unless ``locality`` says
        otherwise.

        Raises AgentError if the machine is closed or has ended, and as :class:`megalith.executor.Executor`.

        >>> import megalith
        >>> with megalith.machine(hosts=2, memory_per_host="32M") as m, m.executor() as executor:
        ...     a = m.array([[3, 1, 2], [5, 6, 4]])
        ...     list(executor.map(lambda row: row.sort(), a))
        ...     print(a.tolist())
        [None, None]
        [[1, 2, 3], [4, 5, 6]]
        """
        from megalith.machine_workers import MachineExecutor

        self._check()
        return MachineExecutor(
            self,
            max_workers,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_child=max_tasks_per_child,
            locality=locality,
        )

    # What synchronises workers is called as in a multiprocessing context.

    def Lock(self) -> sync.Lock:  # noqa: N802
        """A new lock as :class:`threading.Lock`, for workers on all hosts (:mod:`megalith.sync`).

        This and the next seven raise as :meth:`empty`, and ValueError for numbers that :mod:`threading` refuses.

        >>> import megalith
        >>> with megalith.machine(hosts=1, memory_per_host="32M") as m:
        ...     lock = m.Lock()
        ...     with lock:
        ...         print(lock.locked(), lock.acquire(blocking=False))
        True False
        """
        from megalith import sync

        return sync.make_lock(self._words)

    def RLock(self) -> sync.RLock:  # noqa: N802
        """A new lock as :class:`threading.RLock`."""
        from megalith import sync

        return sync.make_rlock(self._words)

    def Event(self) -> sync.Event:  # noqa: N802
        """A new event as :class:`threading.Event`."""
        from megalith import sync

        return sync.make_event(self._words)

    def Condition(self, lock: sync.Lock | sync.RLock | None = None) -> sync.Condition:  # noqa: N802
        """A new condition as :class:`threading.Condition`. TypeError for a lock that is none of the machine's."""
        from megalith import sync

        return sync.make_condition(self._words, lock)

    def Semaphore(self, value: int = 1) -> sync.Semaphore:  # noqa: N802
        """A new semaphore as :class:`threading.Semaphore`."""
        from megalith import sync

        return sync.make_semaphore(self._words, value, bounded=False)

    def BoundedSemaphore(self, value: int = 1) -> sync.Semaphore:  # noqa: N802
        """A new semaphore as :class:`threading.BoundedSemaphore`."""
        from megalith import sync

        return sync.make_semaphore(self._words, value, bounded=True)

    def Barrier(  # noqa: N802
        self, parties: int, action: Callable[[], None] | None = None, timeout: float | None = None
    ) -> sync.Barrier:
        """A new barrier as :class:`threading.Barrier`."""
        from megalith import sync

        return sync.make_barrier(self._words, parties, action, timeout)

    def Counter(self, value: int = 0) -> sync.Counter:  # noqa: N802
        """A new number that all add to atomically: ``counter.add(n)``, ``next(counter)``, ``counter.value``.

        >>> import megalith
        >>> with megalith.machine(hosts=2, memory_per_host="32M") as m, m.executor() as executor:
        ...     counter = m.Counter()
        ...     print(sorted(executor.map(next, [counter] * 4)), counter.value)
        [0, 1, 2, 3] 4
        """
        from megalith import sync

        return sync.make_counter(self._words, value)

    def _words(self, count: int) -> NDArray[Any]:
        return self.zeros(count, "u8")

    def joblib(self, n_jobs: int = -1, **options: Any) -> AbstractContextManager[Any]:
        """A context in which joblib, and so scikit-learn, runs on the machine's workers (:mod:`megalith.joblib`).

        ``n_jobs`` and the other options are those of :class:`joblib.parallel_config`.

        Raises ImportError if joblib is not installed, AgentError if the machine is closed or has ended.
        """
        from megalith.joblib import configured

        self._check()
        return configured(self, n_jobs, options)  # type: ignore[no-any-return]  # joblib has no types.

    def run(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        stdin: Any = None,
        input: Any = None,  # noqa: A002  (subprocess calls it so)
        stdout: Any = None,
        stderr: Any = None,
        capture_output: bool = False,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        timeout: float | None = None,
        check: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        threads: Threads = "auto",
    ) -> subprocess.CompletedProcess[Any]:
        """Runs an unmodified program on the machine's hosts, as :func:`subprocess.run` runs one on this computer.

        All is as there, what is raised too. The program has memory of its own, on the hosts whose budgets the arrays
        of this machine take from as well. ``threads`` is that of :func:`megalith.run`.

        Raises:
            FileNotFoundError, PermissionError: there is no such program, or it cannot be run.
            subprocess.CalledProcessError, subprocess.TimeoutExpired: as :func:`subprocess.run`.
            HostLost, MemoryExhausted: the program was killed for it.
            AgentError: it could not be started; the machine is closed or has ended.

        >>> import megalith
        >>> with megalith.machine(hosts=2, memory_per_host="32M") as m:
        ...     m.run(["tr", "a-z", "A-Z"], input="whole", capture_output=True, text=True).stdout
        'WHOLE'
        """
        from megalith.programs import run

        self._check()
        return run(
            self._members, args, threads, check, stdin=stdin, input=input, stdout=stdout, stderr=stderr,
            capture_output=capture_output, text=text, encoding=encoding, errors=errors, timeout=timeout, cwd=cwd,
            env=env,
        )  # fmt: skip

    def start_worker(self, host: int | str) -> socket.socket:
        """As :meth:`megalith.shared.SharedSpace.start_worker`, with the host's number or name.

        Raises AgentError where there can be no worker.
        """
        self._check()
        if isinstance(host, str):
            if host not in self._names:
                raise AgentError(f"the machine has no host {host}; it has {', '.join(self._names)}")
            host = self._names.index(host)
        return self._space.start_worker(host)

    def close(self) -> None:
        """Ends the machine, once. Arrays that are still referred to cannot be touched any more: that is SIGBUS.

        If there are any, a ResourceWarning says how many and where they were made; not at the interpreter's exit. ^C
        meanwhile is raised when all is done.
        """
        is_first = not self._keeper.is_asked
        self._keeper.end()
        if is_first:
            report(self._memory.blocks, self._memory.numpy_arrays)

    @property
    def references(self) -> References:
        """What its workers refer to."""
        return self._memory.references

    def _allocate(self, length: int) -> Block:
        self._check()
        return self._memory.block(length)

    def _check(self) -> None:
        self._keeper.check()


_opened: Final[weakref.WeakSet[Machine]] = weakref.WeakSet()
"""One at most: a process has one shared space."""


def opened() -> Machine:
    """The machine that is open in this process. Raises AgentError if none is."""
    for found in _opened:
        if not found._keeper.is_asked:
            return found
    raise AgentError("no machine is open in this process; make one first: with megalith.machine(hosts=…) as m")
