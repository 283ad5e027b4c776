"""Signals to ``megalith run`` while a program runs under it.

| signal | before the program starts | while it runs | afterwards |
|---|---|---|---|
| SIGINT, SIGQUIT (keys) | ends the run | nothing: the terminal has sent it to the program as well | nothing |
| SIGTERM, SIGHUP | ends the run | is handed on to the program | nothing |

Ending the run means raising :class:`Interrupted`, so that everything is taken away again. A signal that
was ignored when we started (nohup, a shell's background jobs) stays ignored, for the program too.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from megalith.exceptions import Interrupted

if TYPE_CHECKING:
    from megalith.launch import Child

_KEYS: Final = (signal.SIGINT, signal.SIGQUIT)
_ORDERS: Final = (signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Handlers for the length of one run. In a thread other than the main one it does nothing, because
    Python lets no other thread handle signals.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._react: Callable[[int], None] = _interrupt
        self.mask: tuple[int, ...] = tuple(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        """The mask that the program starts with: our own."""

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (*_KEYS, *_ORDERS):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Holds signals back, so that none falls between the program's start and our knowing of it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._before)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def forward_to(self, child: Child) -> None:
        """From now on the program is told."""

        def react(signum: int) -> None:
            if signum in _ORDERS:
                child.send(signum)

        self._react = react

    def ignore(self) -> None:
        """From now on it is too late."""
        self._react = lambda signum: None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._react(signum)


def _interrupt(signum: int) -> None:
    raise Interrupted(signum)
