"""Tasks that wait for a worker: in the order of their submission, except that some prefer a host.

A task that prefers a host waits for it as long as that host is *open*: one of its workers has room. While none has, the
task is as good as one without a preference. So no worker idles while a task waits that its own host cannot take. Each
worker takes the oldest of those that prefer its host, and if there are none, the oldest of those that are its to take;
but what was submitted `overtaken_max` tasks before comes first, so that no task is overtaken for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import Generic, Protocol, TypeVar, final


class Waiting(Protocol):
    """What a backlog needs to know of a task."""

    @property
    def number(self) -> int:
        """Rises with each submission."""
        ...

    @property
    def prefers(self) -> str | None:
        """A host's name, or ``None``."""
        ...


W = TypeVar("W", bound=Waiting)


@final
class Backlog(Generic[W]):
    """The tasks. No clock, no threads."""

    def __init__(self, overtaken_max: int = 1000) -> None:
        self._overtaken_max = overtaken_max
        self._queues: dict[str | None, deque[W]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[W]:
        for queue in self._queues.values():
            yield from queue

    def put(self, task: W) -> None:
        """Appends a task."""
        self._queues.setdefault(task.prefers, deque()).append(task)
        self._length += 1

    def put_back(self, task: W) -> None:
        """Takes a task in again that had been taken: it is as old as it is."""
        queue = self._queues.setdefault(task.prefers, deque())
        index = next((i for i, other in enumerate(queue) if other.number > task.number), len(queue))
        queue.insert(index, task)
        self._length += 1

    def waiting(self) -> dict[str | None, int]:
        """How many prefer which host."""
        return {host: len(queue) for host, queue in self._queues.items()}

    def take(self, host: str, open_hosts: Collection[str]) -> W | None:
        """The oldest task that a worker on ``host`` shall run now, given which hosts have room themselves."""
        found: deque[W] | None = None
        for preferred, queue in self._queues.items():
            theirs = preferred is not None and preferred != host and preferred in open_hosts
            if not theirs and (found is None or queue[0].number < found[0].number):
                found = queue
        own = self._queues.get(host)
        if own is not None and found is not None and own[0].number - found[0].number < self._overtaken_max:
            found = own
        return None if found is None else self._pop(found)

    def clear(self) -> list[W]:
        """Takes all, oldest first."""
        tasks = sorted(self, key=lambda task: task.number)
        self._queues.clear()
        self._length = 0
        return tasks

    def _pop(self, queue: deque[W]) -> W:
        task = queue.popleft()
        if not queue:
            del self._queues[task.prefers]
        self._length -= 1
        return task
