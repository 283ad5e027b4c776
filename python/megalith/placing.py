"""Where arrays' pages are, and moving them: ``m.locate``, ``m.prefetch``, ``m.place``, ``m.advise``.

Each host is asked by a process on it: home by this one, the others by a *hand*, a worker that is started when it is
first needed and ends with the machine. A hand asks its own agent what is there, and moves pages by touching them, which
is what any worker does; so no message between agents is for this alone.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Literal, final

from megalith.arena import REGION_BYTES
from megalith.exceptions import AgentError
from megalith.extents import Extent, deal, dense, length, page_extents, split, within
from megalith.located import Located
from megalith.machine_workers import OneWorker
from megalith.shared import SharedSpace
from megalith.sizes import format_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from megalith.machines import Machine

Advice = Literal["willneed", "dontneed"]

_COPY: Final = 1
_PAGE: Final = 2


@final
class Hands:
    """The hands of one machine. For any thread."""

    def __init__(self, machine: Machine) -> None:
        self._found = weakref.ref(machine)  # It has us.
        self._workers: dict[str, OneWorker] = {}
        self._lock = threading.Lock()

    @property
    def _machine(self) -> Machine:
        found = self._found()
        assert found is not None, "it is the machine that asks"
        return found

    def _hand(self, host: str) -> OneWorker:
        with self._lock:
            hand = self._workers.get(host)
            if hand is None or not hand.is_usable:
                hand = self._workers[host] = OneWorker(self._machine, host)
            return hand

    def locate(self, array: NDArray[Any]) -> Located:
        """See :meth:`megalith.Machine.locate`."""
        import numpy

        extents = page_extents(array)
        asked = [self._hand(host).submit(_held, extents) for host in self._machine.hosts[1:]]
        answers = [_held(extents), *(answer.result() for answer in asked)]
        held = [numpy.frombuffer(answer, "u1") for answer in answers]
        owners = numpy.full(len(held[0]), -1, "i2")
        for place, has in enumerate(held):
            owners[has == _PAGE] = place
        return Located(self._machine.hosts, owners, [int((has == _COPY).sum()) for has in held])

    def prefetch(self, array: NDArray[Any], host: int | str | None, *, write: bool, wait: bool) -> Future[int]:
        """See :meth:`megalith.Machine.prefetch`."""
        extents = page_extents(array)
        name = self.name(0 if host is None else host)
        self._check_room(name, length(extents))
        moved: Future[int]
        if wait and name == self._machine.hosts[0]:
            moved = Future()
            moved.set_result(_touch(extents, write))
        else:
            moved = self._touching(name, extents, array, write=write)
            if wait:
                moved.result()
        return moved

    def place(self, array: NDArray[Any], where: int | str) -> list[tuple[str, list[Extent]]]:
        """See :meth:`megalith.Machine.place`. Which host has what now."""
        extents = page_extents(array)
        hosts = self._machine.hosts
        match where:
            case "spread" if where not in hosts:
                parts = split(extents, [float(figures.budget) for figures in self._machine.figures])
            case "interleave" if where not in hosts:
                parts = deal(extents, len(hosts), REGION_BYTES)
            case _:
                chosen = self.name(where)
                parts = [extents if host == chosen else [] for host in hosts]
        todo = [(host, part) for host, part in zip(hosts, parts, strict=True) if part]
        for host, part in todo:
            self._check_room(host, length(part))
        home, here = hosts[0], [part for host, part in todo if host == hosts[0]]
        moving = [self._touching(host, part, array, write=True) for host, part in todo if host != home]
        for part in here:
            _touch(part, write=True)
        for moved in moving:
            moved.result()
        return todo

    def advise(self, array: NDArray[Any], advice: Advice) -> None:
        """See :meth:`megalith.Machine.advise`."""
        match advice:
            case "willneed":
                self.prefetch(array, None, write=False, wait=False)
            case "dontneed":
                if not array.flags.writeable:
                    raise ValueError("the array is read-only, and what is not needed becomes zeros")
                (first, last), (begin, end) = dense(array), within(array)
                if begin == end:
                    ctypes.memset(first, 0, last - first)
                    return
                _answered(SharedSpace.mapped().discard, begin, end - begin)
                # What is on pages with others.
                ctypes.memset(first, 0, begin - first)
                ctypes.memset(end, 0, last - end)
            case _:
                raise ValueError(f"{advice!r} is no advice; there are 'willneed' and 'dontneed'")

    def _touching(self, host: str, extents: list[Extent], array: NDArray[Any], *, write: bool) -> Future[int]:
        """Has a hand touch pages. Until that is done the array is not freed: they would be made again."""
        kept = [array]
        touching = self._hand(host).submit(_touch, extents, write)
        touching.add_done_callback(lambda _: kept.clear())
        return touching

    def name(self, host: int | str) -> str:
        """A host's name, from that or its number. Raises ValueError if the machine has no such host."""
        hosts = self._machine.hosts
        if isinstance(host, str) and host in hosts:
            return host
        if isinstance(host, int) and 0 <= host < len(hosts):
            return hosts[host]
        raise ValueError(f"the machine has no host {host!r}; it has {', '.join(hosts)}")

    def _check_room(self, host: str, bytes_needed: int) -> None:
        budget = next(figures.budget for figures in self._machine.figures if figures.name == host)
        if bytes_needed > budget:
            raise ValueError(
                f"{format_size(bytes_needed)} do not fit into the budget of host {host}, which is {format_size(budget)}"
            )


# What a hand does; at home, this process.


def _held(extents: list[Extent]) -> bytes:
    attachment = SharedSpace.here().attachment
    return b"".join(_answered(attachment.held, begin, end - begin) for begin, end in extents)


def _touch(extents: list[Extent], write: bool) -> int:
    """How many bytes."""
    attachment = SharedSpace.here().attachment
    for begin, end in extents:
        _answered(attachment.touch, begin, end - begin, write)
    return length(extents)


def _answered(ask: Any, *arguments: Any) -> Any:
    try:
        return ask(*arguments)
    except OSError as error:
        raise AgentError(f"the machine has ended ({error.strerror})") from None
