"""A machine's life in a thread of its own, which makes it, hears how it fares, and ends it.

What a signal's handler raises (^C) comes to the main thread, between any two of its steps. So nothing that must be
done whole is done there: the main thread asks, and waits. While it waits for the end it puts off what is raised.

The thread must be one that lives as long as the machine for another reason: local agents end with the *thread* that has
started them (``PR_SET_PDEATHSIG``).

Life: *opening* → *open* → perhaps *ended*, under us, known by its reason → *asked* to end → *closed*.
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import TYPE_CHECKING, Final, final

from megalith.bell import Bell, Latch
from megalith.control import Closed, Control, Ended, Event, Full, Lost, Status
from megalith.exceptions import AgentError, MegalithError
from megalith.gathering import HEARTBEAT_S, LOST_AFTER_S, Place, join
from megalith.memory import Memory
from megalith.shared import SharedSpace

if TYPE_CHECKING:
    from megalith.executor import Executor
    from megalith.report import HostFigures

CLOSE_TIMEOUT_S: Final = LOST_AFTER_S + 2.0
"""How long the home host's agent may take to end the machine; then we hang up, which ends it too."""
BEGIN_TIMEOUT_S: Final = 1.0
END_TIMEOUT_S: Final = 60.0
"""More than all waits of the thread together."""

_keepers: Final[set[Keeper]] = set()
"""Of machines that are not closed."""


@final
class Keeper:
    """Keeps one machine."""

    def __init__(self, gather: Callable[[], AbstractContextManager[Place]]) -> None:
        self._gather = gather
        self._bell = Bell()
        # Python never forgets a thread whose start was interrupted; it shall not hold us.
        self._thread = threading.Thread(target=_run, args=(weakref.ref(self),), name="megalith machine", daemon=True)
        self._starting = False
        self._begun = Latch()
        self._opened = Latch()
        self._closed = Latch()
        self._failure: BaseException | None = None
        self._control: Control | None = None
        self._asked = False
        self._ended: str | None = None
        self._silent = False
        self._forked = False
        self.executors: weakref.WeakSet[Executor] = weakref.WeakSet()
        """Those that have workers of the machine, which end with it."""
        # These are there once it is open.
        self.place: Place
        self.space: SharedSpace
        self.memory: Memory
        self.opened: tuple[HostFigures, ...]
        """What the hosts said of themselves then."""
        self.figures: tuple[HostFigures, ...]
        """The newest."""

    # For any thread.

    def open(self) -> None:
        """Makes the machine. Raises what came in the way; then nothing is left of it, and so after ^C."""
        _await_others()
        _keepers.add(self)
        try:
            self._starting = True
            self._thread.start()
            self._opened.wait()
        except BaseException:
            self.ask_end()
            if self._control is not None:
                self._control.abort()
            self._wait_closed()
            self._failure = None  # It comes of our hanging up.
            raise
        self._raise_failure()

    def ask_end(self) -> None:
        """Has the machine ended, and does not wait. Takes no lock, as finalizers call it."""
        self._asked = True
        if not self._forked:
            self._bell.ring()

    def end(self) -> None:
        """Ends the machine, and waits until nothing is left of it. May be called again, and by several threads.

        What a signal's handler raises meanwhile is raised when all is done.

        Raises AgentError if an agent on this computer cannot be ended.
        """
        self.ask_end()
        if threading.current_thread() is self._thread:
            return  # A finalizer's, in the middle of our own work.
        self._wait_closed()
        self._raise_failure()

    def abandon(self) -> None:
        """Nobody can close the machine any more: it ends when no array of it is left. Takes no lock."""
        if not self._asked:
            self.memory.when_empty(self.ask_end)

    def notice(self) -> None:
        """See :meth:`megalith.memory.Memory.notice`."""
        if self._opened.is_set and self._failure is None and hasattr(self, "memory"):
            self.memory.notice()

    @property
    def is_asked(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._asked

    @property
    def ended(self) -> str | None:
        """Why the machine has ended under us, if it has."""
        return self._ended

    def check(self) -> None:
        """Raises AgentError if the machine cannot be used any more."""
        if self._forked:
            raise AgentError("the machine belongs to the process that made it, not to its forked child")
        if self._asked:
            raise AgentError("the machine is closed")
        if self._ended is not None:
            raise AgentError(f"the machine has ended: {self._ended}")

    def forget_in_child(self) -> None:
        """In a forked child: the connection and the agents are the parent's, whose end must be seen."""
        self._forked = self._asked = True
        self._closed = Latch()  # The other is the parent's, too.
        self._closed.set()
        if self._control is not None:
            self._control.drop()
            if self._opened.is_set and self.place.local is not None:
                self.place.local.forget_in_child()

    def _wait_closed(self) -> None:
        interrupted: BaseException | None = None
        deadline = time.monotonic() + END_TIMEOUT_S
        while not self._closed.is_set and (left_s := deadline - time.monotonic()) > 0:
            try:
                if not (self._starting and self._begun.wait(BEGIN_TIMEOUT_S)):
                    # Interrupted before there was a thread. One that comes later finds itself asked to end.
                    _keepers.discard(self)
                    break
                if self._closed.wait(left_s):
                    self._thread.join(max(0.0, deadline - time.monotonic()))
            except BaseException as error:  # What a signal's handler raises.
                interrupted = error
        if interrupted is not None:
            try:
                raise interrupted
            finally:
                del interrupted  # It refers to this frame, and so to us.
        if self._begun.is_set and not self._closed.is_set:
            raise AgentError(f"the machine has not ended within {END_TIMEOUT_S:g} s; its processes may still be there")

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    # The thread.

    def run(self) -> None:
        """All of its life."""
        self._begun.set()
        try:
            with ExitStack() as stack:
                if self._asked:
                    return
                control = self._open(stack)
                self._opened.set()
                self._listen(control)
                self._end(control)
        except BaseException as error:
            self._failure = error
        finally:
            _keepers.discard(self)
            self._opened.set()
            self._closed.set()

    def _open(self, stack: ExitStack) -> Control:
        self.place = stack.enter_context(self._gather())
        control = self._control = stack.enter_context(self.place.connect())
        machine, opened = join(self.place, control, heartbeat_s=HEARTBEAT_S, lost_after_s=LOST_AFTER_S)
        number = control.share()
        self.opened = self.figures = opened.hosts
        self.space = SharedSpace.take(self.place.client_socket, machine=machine, space=number)
        self.memory = Memory(self.space)
        return control

    def _listen(self, control: Control) -> None:
        """Until it is asked to end. If the machine ends before, nobody is interrupted: who uses it then finds out."""
        poll = select.poll()
        poll.register(self._bell.fd, select.POLLIN)
        poll.register(control, select.POLLIN)
        hears = True
        while not self._asked:
            ready = poll.poll(LOST_AFTER_S * 1000 if hears else None)
            self._bell.hush()
            if not hears:
                continue
            try:
                # Asked for whatever the poll says: if it was we who were stopped (^Z), words are waiting.
                events = control.events()
            except AgentError as error:
                self._over(str(error))
                events = [Ended()]
            for event in events:
                self._take(event)
            self._silent = not ready and not events
            if self._silent:
                home = self.place.hosts[0].name
                self._over(f"host {home} was lost: its agent has given no sign of life for {LOST_AFTER_S:g} s")
                self.space.hang_up()
            elif any(isinstance(event, Ended | Closed) for event in events):
                poll.unregister(control)
                hears = False

    def _take(self, event: Event) -> None:
        match event:
            case Lost(host, detail):
                self._over(f"host {host} was lost: {self.place.blame(host, detail)}")
            case Full():
                self._over(f"memory exhausted; {self._advice}")
            case Ended():
                home = self.place.hosts[0].name
                self._over(f"host {home} was lost: {self.place.blame(home, 'its agent has ended')}")
            case Status(hosts):
                self.figures = hosts
            case _:
                pass

    def _over(self, why: str) -> None:
        self._ended = self._ended or why

    @property
    def _advice(self) -> str:
        if self.place.local is not None:
            return "give each host more with memory_per_host"
        return "add hosts to the hosts file, or restart agents with a larger --memory"

    def _end(self, control: Control) -> None:
        try:
            for executor in list(self.executors):
                executor.kill_workers()
            if not self._silent:
                self._close(control)
        finally:
            self.memory.close()

    def _close(self, control: Control) -> None:
        """Asks for the machine's end, which comes in any case once we have hung up."""
        with suppress(MegalithError):
            control.close()
            for event in control.wait(CLOSE_TIMEOUT_S):
                if isinstance(event, Closed | Ended):
                    return


def _run(found: weakref.ref[Keeper]) -> None:
    if (keeper := found()) is not None:
        keeper.run()


def _await_others() -> None:
    """A machine that nobody has any more may be ending just now; a process has one at a time."""
    if _keepers:
        gc.collect()
    for keeper in list(_keepers):
        keeper.notice()
    for keeper in [keeper for keeper in _keepers if keeper.is_asked]:
        keeper.end()


def _end_all() -> None:
    """At the interpreter's exit: tasks of executors are done, then machines end."""
    try:
        if (pool := sys.modules.get("megalith.pool")) is not None:
            pool.close_all()
    finally:
        for keeper in list(_keepers):
            keeper.end()


def _after_fork_in_child() -> None:
    for keeper in list(_keepers):
        keeper.forget_in_child()
    _keepers.clear()


# Our threads are daemons, so they still serve while the interpreter waits for the user's other threads; then come we.
atexit.register(_end_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
