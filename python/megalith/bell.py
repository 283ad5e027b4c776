"""What wakes threads, as descriptors: the kernel keeps the state, so an exception in a waiter does no harm.

:class:`threading.Event` has steps between which ^C leaves its lock in disorder.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import final


@final
class Bell:
    """Wakes a thread that waits for descriptors.

    Its own is closed with its last reference, so whoever rings it rings no other's.
    """

    fd = -1

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ring(self) -> None:
        os.eventfd_write(self.fd, 1)

    def hush(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def __del__(self) -> None:
        if self.fd >= 0:  # Less if ^C came in the constructor.
            os.close(self.fd)


@final
class Latch:
    """Is set once, and then stays so."""

    def __init__(self) -> None:
        self._bell = Bell()
        self._set = False

    @property
    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._bell.ring()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it has been set within that time."""
        if not self._set:
            poll = select.poll()
            poll.register(self._bell.fd, select.POLLIN)
            poll.poll(None if timeout_s is None else timeout_s * 1000)
        return self._set
