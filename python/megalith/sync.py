"""Locks and the like for a machine's processes and threads, on all hosts: ``m.Lock()`` as :class:`threading.Lock`.

They have the interfaces of :mod:`threading`, live in the machine's memory, and travel to workers in arguments, or in
what these refer to, as arrays do. A process that dies with a lock keeps it, as with :mod:`multiprocessing`. Once the
machine has ended they raise :class:`megalith.AgentError`.

An operation is one or two atomic instructions on a page of its own, which costs no message while the page is on this
host. Waiting is described at :func:`megalith.words.wait_for`. Nobody is first in line, except in a condition.

>>> import megalith
>>> def work(lock, sums, counter, ready):
...     ready.wait()
...     with lock:
...         sums[0] += next(counter)
>>> with megalith.machine(hosts=2, memory_per_host="32M") as m, m.executor() as executor:
...     lock, sums, counter, ready = m.Lock(), m.zeros(1), m.Counter(), m.Event()
...     futures = [executor.submit(work, lock, sums, counter, ready) for _ in range(10)]
...     ready.set()
...     done = [future.result() for future in futures]
...     print(sums[0], counter)
45.0 <megalith.Counter at ...: value=10>
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, final

from megalith.words import BITS, Words, wait_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Counter", "Event", "Lock", "RLock", "Semaphore"]

Allocate = Callable[[int], "NDArray[Any]"]
"""From a number of words to that many, zeros, in the machine's memory."""

WAITERS_MAX: Final = 4000
"""Of a condition, at a time."""


class _Shared:
    """Words of its own."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._words,)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self


def _timeout_of_acquire(blocking: bool, timeout: float) -> float | None:
    """As :class:`threading.Lock` understands the two; ``None`` is for ever."""
    if not blocking:
        if timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        return 0.0
    if timeout == -1:
        return None
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    if timeout > threading.TIMEOUT_MAX:
        raise OverflowError("timeout value is too large")
    return timeout


class _Context:
    """``with`` for what has ``acquire`` and ``release``."""

    def acquire(self) -> bool:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


@final
class Lock(_Shared, _Context):
    """As :class:`threading.Lock`: whoever may release it, wherever."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Takes it; ``False`` if that was not possible at once, or within ``timeout`` seconds."""
        limit_s = _timeout_of_acquire(blocking, timeout)
        # Those who wait look before they try: a try takes the page from whoever has it.
        if self._words.swap_if(0, 0, 1):
            return True
        return wait_for(lambda: self._words.load(0) == 0 and self._words.swap_if(0, 0, 1), limit_s)

    def release(self) -> None:
        """Raises RuntimeError if nobody has it."""
        if not self._words.swap_if(0, 1, 0):
            raise RuntimeError("release unlocked lock")

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._words.load(0) != 0

    def __repr__(self) -> str:
        return f"<{'locked' if self.locked() else 'unlocked'} megalith.Lock object at {id(self):#x}>"


_self: Final = threading.local()


def _own_name() -> int:
    """A number that no other thread of the machine has."""
    try:
        name: int = _self.name
    except AttributeError:
        name = _self.name = 1 + secrets.randbelow((1 << BITS) - 1)
    return name


@final
class RLock(_Shared, _Context):
    """As :class:`threading.RLock`: its thread may take it again, and releases it as often."""

    # Words: the owner's name, how often it has taken it.

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As :meth:`Lock.acquire`; at once where this thread has it."""
        limit_s = _timeout_of_acquire(blocking, timeout)
        words, own = self._words, _own_name()
        if words.load(0) == own:
            words.add(1, 1)
            return True
        if words.swap_if(0, 0, own) or wait_for(lambda: words.load(0) == 0 and words.swap_if(0, 0, own), limit_s):
            words.store(1, 1)
            return True
        return False

    def release(self) -> None:
        """Raises RuntimeError if this thread has it not."""
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")
        if self._words.add(1, -1) == 1:
            self._words.store(0, 0)

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._words.load(0) != 0

    def __repr__(self) -> str:
        count = self._words.load(1) if self.locked() else 0
        return f"<{'locked' if count else 'unlocked'} megalith.RLock object count={count} at {id(self):#x}>"

    # What a condition asks of a lock that may be taken more than once.

    def _is_owned(self) -> bool:
        return self._words.load(0) == _own_name()

    def _recursion_count(self) -> int:
        return self._words.load(1) if self._is_owned() else 0

    def _release_save(self) -> int:
        count = self._recursion_count()
        if not count:
            raise RuntimeError("cannot release un-acquired lock")
        self._words.store(1, 0)
        self._words.store(0, 0)
        return count

    def _acquire_restore(self, count: int) -> None:
        self.acquire()
        self._words.store(1, count)


class Semaphore(_Shared, _Context):
    """As :class:`threading.Semaphore`."""

    # Words: the value, the first value.

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Takes one; ``False`` if there was none at once, or within ``timeout`` seconds."""
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        return wait_for(self._take, timeout if blocking else 0.0)

    def release(self, n: int = 1) -> None:
        """Gives ``n`` back, which may be more than were taken. Raises ValueError for less than one."""
        if n < 1:
            raise ValueError("n must be one or more")
        self._words.add(0, n)

    def _take(self) -> bool:
        while value := self._words.load(0):
            if self._words.swap_if(0, value, value - 1):
                return True
        return False

    def __repr__(self) -> str:
        return f"<megalith.{type(self).__name__} at {id(self):#x}: value={self._words.load(0)}>"


@final
class BoundedSemaphore(Semaphore):
    """As :class:`threading.BoundedSemaphore`: no more is given back than there was."""

    def release(self, n: int = 1) -> None:
        """Gives ``n`` back. Raises ValueError for less than one, or if it were more than there was at first."""
        if n < 1:
            raise ValueError("n must be one or more")
        first = self._words.load(1)
        while True:
            value = self._words.load(0)
            if value + n > first:
                raise ValueError("Semaphore released too many times")
            if self._words.swap_if(0, value, value + n):
                return

    def __repr__(self) -> str:
        return f"<megalith.BoundedSemaphore at {id(self):#x}: value={self._words.load(0)}/{self._words.load(1)}>"


@final
class Event(_Shared):
    """As :class:`threading.Event`."""

    # One word: twice the times that it was set, and one more while it is.

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._words.load(0) % 2 == 1

    def set(self) -> None:
        """Sets it, and lets go on who waits, also if it is cleared before they look."""
        while not (value := self._words.load(0)) % 2:
            self._words.swap_if(0, value, value + 3)

    def clear(self) -> None:
        """Whoever waits from now on waits for the next time."""
        while (value := self._words.load(0)) % 2:
            self._words.swap_if(0, value, value - 1)

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is set; ``False`` if it was not within ``timeout`` seconds."""
        began = self._words.load(0)
        return wait_for(lambda: (value := self._words.load(0)) % 2 == 1 or value != began, timeout)

    def __repr__(self) -> str:
        return f"<megalith.Event at {id(self):#x}: {'set' if self.is_set() else 'unset'}>"


@final
class Condition(_Shared, _Context):
    """As :class:`threading.Condition`, with a :class:`Lock` or :class:`RLock` of the same machine.

    Those who wait are notified in the order in which they came.
    """

    # Words: the number of places in use, the last ticket; then the places. A place has the ticket of who waits there,
    # `_NOTIFIED`, or zero if it is free. All are written under the lock, except that who waits only looks at its own.
    _PLACES = 2
    _NOTIFIED = (1 << BITS) - 1

    def __init__(self, words: Words, lock: Lock | RLock) -> None:
        super().__init__(words)
        self._lock = lock
        self.acquire = lock.acquire  # type: ignore[method-assign]
        self.release = lock.release  # type: ignore[method-assign]

    def __reduce__(self) -> tuple[Any, ...]:
        return Condition, (self._words, self._lock)

    def __repr__(self) -> str:
        return f"<megalith.Condition at {id(self):#x}: {self._lock!r}>"

    def wait(self, timeout: float | None = None) -> bool:
        """Lets the lock go until it is notified; ``False`` if it was not within ``timeout`` seconds.

        Raises RuntimeError if the lock is not taken, or if too many wait (`WAITERS_MAX`).
        """
        self._check("wait on")
        words = self._words
        place = self._enter()
        count = self._let_go()
        try:
            wait_for(lambda: words.load(place) == self._NOTIFIED, timeout)
        finally:
            self._take_again(count)
            # It may have come between the last look and the lock: then it was ours, and nobody else's.
            notified = words.load(place) == self._NOTIFIED
            self._leave(place)
        return notified

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Waits until ``predicate()`` is true, or for ``timeout`` seconds; what it was at last."""
        ends_s = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left_s = None if ends_s is None else ends_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                break
            self.wait(left_s)
        return result

    def notify(self, n: int = 1) -> None:
        """Lets the first ``n`` of those who wait go on. Raises RuntimeError if the lock is not taken."""
        self._check("notify on")
        waiting = [(ticket, place) for place, ticket in self._places() if ticket not in {0, self._NOTIFIED}]
        for _, place in sorted(waiting)[:n]:
            self._words.store(place, self._NOTIFIED)

    def notify_all(self) -> None:
        """Lets all who wait go on."""
        self.notify(WAITERS_MAX)

    def _let_go(self) -> int:
        if isinstance(self._lock, RLock):
            return self._lock._release_save()
        self._lock.release()
        return 1

    def _take_again(self, count: int) -> None:
        if isinstance(self._lock, RLock):
            self._lock._acquire_restore(count)
        else:
            self._lock.acquire()

    def _places(self) -> list[tuple[int, int]]:
        return [(place, self._words.load(place)) for place in range(self._PLACES, self._PLACES + self._words.load(0))]

    def _enter(self) -> int:
        ticket = self._words.add(1, 1) + 1
        used = self._words.load(0)
        place = next((place for place, held in self._places() if not held), self._PLACES + used)
        if place == self._PLACES + used:
            if used == WAITERS_MAX:
                raise RuntimeError(f"more than {WAITERS_MAX} wait on one condition")
            self._words.store(0, used + 1)
        self._words.store(place, ticket)
        return place

    def _leave(self, place: int) -> None:
        self._words.store(place, 0)
        used = self._words.load(0)
        while used and not self._words.load(self._PLACES + used - 1):
            used -= 1
        self._words.store(0, used)

    def _check(self, what: str) -> None:
        owned = self._lock._is_owned() if isinstance(self._lock, RLock) else self._lock.locked()
        if not owned:
            raise RuntimeError(f"cannot {what} un-acquired lock")


@final
class Barrier(threading.Barrier):
    """As :class:`threading.Barrier`, whose logic it is, over the machine's processes.

    ``action`` is run by one of those who wait.
    """

    # Words: the state, how many wait.

    def __init__(
        self,
        words: Words,
        condition: Condition,
        parties: int,
        action: Callable[[], None] | None = None,
        timeout: float | None = None,
    ) -> None:
        self._words = words
        self._cond = condition
        self._parties = parties
        self._action = action
        self._timeout = timeout

    def __reduce__(self) -> tuple[Any, ...]:
        return Barrier, (self._words, self._cond, self._parties, self._action, self._timeout)

    def __repr__(self) -> str:
        state = "broken" if self.broken else f"waiters={self.n_waiting}/{self.parties}"
        return f"<megalith.Barrier at {id(self):#x}: {state}>"

    # Numbers from -2 (broken) to 1 (draining).
    _state = property(
        lambda self: self._words.load(0) - 2, lambda self, state: self._words.store(0, state + 2)
    )  # fmt: skip
    _count = property(lambda self: self._words.load(1), lambda self, count: self._words.store(1, count))


@final
class Counter(_Shared):
    """A number that all add to, atomically: a signed one of 64 bits, which wraps around."""

    @property
    def value(self) -> int:
        """Its value now."""
        return _signed(self._words.load(0))

    @value.setter
    def value(self, value: int) -> None:
        self._words.store(0, value % (1 << BITS))

    def add(self, n: int = 1) -> int:
        """Adds ``n``, which may be negative; the value that this made."""
        return _signed((self._words.add(0, n) + n) % (1 << BITS))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        """Its value, and one more from now on: each caller gets another number."""
        return _signed(self._words.add(0, 1))

    def __int__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"<megalith.Counter at {id(self):#x}: value={self.value}>"


def _signed(word: int) -> int:
    return word - (1 << BITS) if word >> (BITS - 1) else word


# How a machine makes them.


def make_lock(allocate: Allocate) -> Lock:
    """One that is free."""
    return Lock(Words(allocate(1)))


def make_rlock(allocate: Allocate) -> RLock:
    """One that is free."""
    return RLock(Words(allocate(2)))


def make_semaphore(allocate: Allocate, value: int, *, bounded: bool) -> Semaphore:
    """One with ``value``. Raises ValueError for less than zero."""
    if value < 0:
        raise ValueError("semaphore initial value must be >= 0")
    words = Words(allocate(2))
    words.store(0, value)
    words.store(1, value)
    return BoundedSemaphore(words) if bounded else Semaphore(words)


def make_event(allocate: Allocate) -> Event:
    """One that is not set."""
    return Event(Words(allocate(1)))


def make_condition(allocate: Allocate, lock: Lock | RLock | None) -> Condition:
    """One with ``lock``, or a new :class:`RLock`. Raises TypeError for a lock that is not of a machine."""
    if lock is None:
        lock = make_rlock(allocate)
    if not isinstance(lock, Lock | RLock):
        raise TypeError(f"a condition of a machine needs a Lock or RLock of the machine, not {type(lock).__name__}")
    return Condition(Words(allocate(Condition._PLACES + WAITERS_MAX)), lock)


def make_barrier(allocate: Allocate, parties: int, action: Callable[[], None] | None, timeout: float | None) -> Barrier:
    """One for ``parties``. Raises ValueError for less than one."""
    if parties < 1:
        raise ValueError("parties must be > 0")
    words = Words(allocate(2))
    words.store(0, 2)
    return Barrier(words, make_condition(allocate, make_lock(allocate)), parties, action, timeout)


def make_counter(allocate: Allocate, value: int) -> Counter:
    """One with ``value``."""
    counter = Counter(Words(allocate(1)))
    counter.value = value
    return counter
