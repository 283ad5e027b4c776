"""An executor's workers on the hosts of a machine, which have its memory (docs/python.md)."""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final

from megalith.arrays import by_address
from megalith.exceptions import AgentError
from megalith.executor import Executor, Locality
from megalith.pickling import Reducer
from megalith.references import Holder

if TYPE_CHECKING:
    from megalith.machines import Machine

P = ParamSpec("P")
T = TypeVar("T")


@final
class MachineExecutor(Executor):
    """An executor of a machine. Made by :meth:`megalith.Machine.executor`."""

    def __init__(
        self,
        machine: Machine,
        max_workers: int | None,
        array: Reducer | None = None,
        locality: Locality | None = None,
        **options: Any,
    ) -> None:
        self._machine = machine
        self._near = machine.near
        super().__init__(
            max_workers,
            launcher=_Launcher(machine),
            hosts=machine.cpus,
            reducers=_reducers(array),
            locality=locality or self._near.prefers,
            handed=self._near.used,
            **options,
        )
        machine.executors.add(self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As :meth:`Executor.submit`."""
        waiting = self._near.begin(args, kwargs)
        try:
            future = super().submit(fn, *args, **kwargs)
        except BaseException:
            self._near.end(waiting)
            raise
        future.add_done_callback(lambda _: self._near.end(waiting))
        return future


@final
class OneWorker(Executor):
    """An executor with one worker, on a given host, that breaks alone."""

    def __init__(self, machine: Machine, host: str) -> None:
        super().__init__(1, launcher=_Launcher(machine), hosts={host: 1}, reducers=_reducers(None))
        machine.executors.add(self)


def _reducers(array: Reducer | None) -> dict[type, Reducer]:
    """``array`` is how arrays travel, in place of :func:`by_address`."""
    try:
        import numpy
    except ImportError:  # Then there are no arrays.
        return {}
    return {numpy.ndarray: array or by_address}


@final
class _Launcher:
    def __init__(self, machine: Machine) -> None:
        # The executor's thread has us, and shall not keep a machine that nobody else has.
        self._found = weakref.ref(machine)

    def start(self, host: str) -> _Seat:
        machine = self._found()
        if machine is None:
            raise AgentError("the machine is closed")
        return _Seat(machine.start_worker(host), host, machine.references.holder(f"a worker on {host}"))


@final
class _Seat:
    """A worker that the agent of a host has started. Of its end we know that of its stream."""

    sentinel = None

    def __init__(self, stream: socket.socket, host: str, references: Holder) -> None:
        self.stream = stream
        self.host = host
        self.description = "worker"
        self.references = references
        self._rest: socket.socket | None = None
        """The other direction of its stream, once it was told to end by the end of ours."""

    def kill(self) -> None:
        # A worker whose executor is gone ends at once; one that cannot, with the machine.
        with suppress(OSError):
            if self._rest is None:
                self._rest = self.stream.dup()
            self._rest.shutdown(socket.SHUT_WR)

    def ending(self, timeout_s: float) -> str | None:
        return None

    def close(self) -> None:
        if self._rest is None:
            self.references.drop()
            return
        # Until it has ended it may write into its arrays, so they are not given to others.
        arguments = (self._rest, self.references)
        threading.Thread(target=_drop_at_end, args=arguments, name="megalith-worker-end", daemon=True).start()


def _drop_at_end(rest: socket.socket, references: Holder) -> None:
    with rest, suppress(OSError):
        rest.setblocking(True)
        while rest.recv(1 << 16):
            pass
    references.drop()
