"""A machine's shared space in the memory of this process, and workers on the machine's hosts (docs/python.md).

The interpreter at home takes one with :meth:`SharedSpace.take`; a worker, whose environment names the place, with
:meth:`SharedSpace.from_environment`. Both then have the same memory at the same addresses.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import socket
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self, final

from megalith import _core
from megalith.exceptions import AgentError, PermissionMissing

PAGE_BYTES: Final = 4096
"""What :meth:`SharedSpace.discard` frees is whole pages of this size."""

_spaces: weakref.WeakSet[SharedSpace] = weakref.WeakSet()


@final
class SharedSpace:
    """A shared space, mapped in this process."""

    def __init__(self, attachment: _core.Attachment) -> None:
        self._attachment = attachment
        self._closed = False
        self.when_wanted: Callable[[], object] | None = None
        """Called before this process is refused another space because it has this one: it may be closed by now."""
        self.when_inherited: Callable[[], object] | None = None
        """Called in a child, which has not the memory."""
        _spaces.add(self)

    @classmethod
    def take(cls, client_socket: Path, *, machine: str, space: int) -> Self:
        """Maps space number ``space`` of the machine of that id, through the agent of this host.

        Raises:
            PermissionMissing: this process may make no userfaultfd.
            AgentError: no agent is there, the machine or its space is not, this process maps another one, or other
                things of it lie where the space must.
        """
        if any(space.is_mapped for space in _spaces):
            # Arrays that only a cycle refers to, such as a traceback's.
            gc.collect()
            for other in tuple(_spaces):
                if other.is_mapped and other.when_wanted is not None:
                    other.when_wanted()
        if any(space.is_mapped for space in _spaces):
            raise AgentError(
                "a process uses one machine at a time: close the other, and let go of the arrays that were in it"
            )
        try:
            attachment = _core.Attachment(str(client_socket), machine, space)
        except PermissionError as error:
            raise PermissionMissing(f"this process cannot use the machine's memory: {error}") from None
        except OSError as error:
            raise AgentError(f"this process cannot use the machine's memory: {error}") from None
        _core.say_when_touched()
        return cls(attachment)

    @classmethod
    def mapped(cls) -> SharedSpace:
        """The space that this process maps; there is one at most. Raises AgentError if there is none."""
        for space in _spaces:
            if space.is_mapped:
                return space
        raise AgentError("this process has no machine's memory")

    @classmethod
    def here(cls) -> SharedSpace:
        """The space of this process: a worker maps the one that it is offered when it first asks.

        Raises as :meth:`mapped` and :meth:`from_environment`.
        """
        return _workers_space() if cls.is_offered() else cls.mapped()

    @staticmethod
    def is_offered() -> bool:
        """Whether this process is a worker, whose environment names a space."""
        return "MEGALITH_SPACE" in os.environ

    @classmethod
    def from_environment(cls) -> Self:
        """The space that a worker is offered.

        Raises AgentError where there is none, because this process is no worker; and as :meth:`take`.
        """
        try:
            path, machine = os.environ["MEGALITH_CLIENT_SOCKET"], os.environ["MEGALITH_MACHINE"]
            space = int(os.environ["MEGALITH_SPACE"])
        except (KeyError, ValueError):
            raise AgentError("this process is no worker of a machine: its environment names none") from None
        return cls.take(Path(path), machine=machine, space=space)

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
        state = "" if self.is_open else ", closed"
        return f"<SharedSpace in space {self._attachment.number}: {self.size} bytes at {self.base:#x}{state}>"

    @property
    def attachment(self) -> _core.Attachment:
        """What maps it, for those who need it often: its words can be changed atomically."""
        return self._attachment

    @property
    def base(self) -> int:
        """The first address, the same in every process of the machine."""
        return self._attachment.base

    @property
    def size(self) -> int:
        """Bytes of addresses; those that are not touched cost nothing."""
        return self._attachment.size

    @property
    def hosts(self) -> int:
        """How many hosts the machine has."""
        return self._attachment.hosts

    @property
    def is_open(self) -> bool:
        """Whether the space can be touched here: not once it is closed or the machine has ended, nor in a child."""
        return self._attachment.is_open

    @property
    def is_mapped(self) -> bool:
        """Whether its addresses are taken here: until it is closed, though the machine may have ended."""
        return not self._closed

    def discard(self, address: int, length: int) -> None:
        """Frees ``length`` bytes from ``address`` on (whole pages) on all hosts; the next touch finds zeros.

        At home alone. Raises OSError, as :meth:`megalith._core.Attachment.discard`.
        """
        self._attachment.discard(address, length)

    def start_worker(self, host: int) -> socket.socket:
        """Starts ``python -m megalith.worker --fd N`` on a host, by its number (home is 0): the connection with it.

        The Python is the one that runs that host's agent. The worker lives no longer than the machine; that it has
        ended, or did not begin, is seen by the end of the connection.

        At home alone. Raises AgentError where there can be no worker.
        """
        try:
            descriptor = self._attachment.start_worker(host)
        except OSError as error:
            why = {
                errno.EINVAL: "the machine has no such host",
                errno.EPERM: "workers are started from the home host",
                errno.ECONNREFUSED: "its agent refused, and says why in its log",
                errno.EHOSTUNREACH: "it cannot be reached",
                errno.EBADF: "this process has closed the space",
            }.get(error.errno or 0, "the machine has ended")
            raise AgentError(f"no worker can be started on host {host}: {why}") from None
        return socket.socket(fileno=descriptor)

    def hang_up(self) -> None:
        """Takes this host's agent for dead, which has been silent for too long: the machine's memory ends here.

        Whoever waits for the agent, in a fault or in a call, waits no longer (docs/python.md).
        """
        self._attachment.hang_up()

    def close(self) -> None:
        """Unmaps the space, once. Arrays that still point there must not be touched any more."""
        self._closed = True
        self._attachment.close()


@functools.cache
def _workers_space() -> SharedSpace:
    return SharedSpace.from_environment()


def _after_fork() -> None:
    """A child has copies of the descriptors and no memory: it lets them go, so that nobody takes it for its parent."""
    for space in list(_spaces):
        if space.when_inherited is not None:
            space.when_inherited()
        space.close()


os.register_at_fork(after_in_child=_after_fork)
