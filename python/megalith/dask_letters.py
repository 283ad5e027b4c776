"""Arrays that are on their way to Dask's scheduler, in a graph: a *letter* keeps them until it is opened.

A client pickles a graph of tasks and forgets it; the scheduler, which is in the home process, unpickles it and keeps it
as long as it has those tasks. In between nobody else may have the arrays. What is not opened here, because the graph
could not be read or its client is in a worker, is thrown away after `KEEP_S`, or with the cluster.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

KEEP_S: Final = 60.0

_letters: Final[dict[int, dict[int, Any]]] = {}
"""By the letter's number, its blocks by theirs."""
_posted: Final[deque[tuple[float, int]]] = deque()
"""When each is thrown away, in this order."""
_lock: Final = threading.Lock()
_sweeper: Final[list[threading.Thread]] = []
_hurry: Final = threading.Event()
"""For the sweeper: there is nothing to wait for."""


def write() -> int:
    """The number of a new letter, which no other process has."""
    return secrets.randbits(63)


def post(number: int, blocks: Iterable[Any]) -> None:
    """Keeps each block until it is :func:`opened` here."""
    contents = {block.serial: block for block in blocks}
    if not contents:
        return
    with _lock:
        _letters[number] = contents
        _posted.append((time.monotonic() + KEEP_S, number))
        if not _sweeper:
            _sweeper.append(threading.Thread(target=_sweep, name="megalith-letters", daemon=True))
            _sweeper[0].start()


def discard(number: int) -> None:
    """It is not needed any more."""
    _letters.pop(number, None)


def discard_all() -> None:
    """Nobody will open them."""
    with _lock:
        _letters.clear()
        _posted.clear()
        _hurry.set()


def opened(number: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """What the pickle in a letter calls, for each array (:func:`megalith.arrays.array_at`)."""
    array = function(*arguments)
    contents = _letters.get(number)
    if contents is not None:
        contents.pop(arguments[0][2], None)
        if not contents:
            discard(number)
    return array


def _sweep() -> None:
    while True:
        with _lock:
            if not _posted:
                _sweeper.clear()
                return
            due, number = _posted.popleft()
        if _hurry.wait(max(0.0, due - time.monotonic())):
            _hurry.clear()
        else:
            discard(number)
