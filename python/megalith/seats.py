"""What an executor needs to know of a worker process: the interface between scheduling workers and starting them."""

from __future__ import annotations

import socket
from typing import Protocol

from megalith.references import Holder


class Seat(Protocol):
    """A started worker, as its executor sees it. The end of its stream is what counts as the worker's end."""

    @property
    def stream(self) -> socket.socket:
        """Connected to the descriptor that ``python -m megalith.worker --fd N`` serves. The executor closes it."""
        ...

    @property
    def host(self) -> str:
        """The name of the host it runs on, as the executor asked for it."""
        ...

    @property
    def description(self) -> str:
        """What it is, for people: ``process 4711``."""
        ...

    @property
    def sentinel(self) -> int | None:
        """A descriptor that becomes readable when the worker has ended, where there is one.

        It tells of the end even while a child of the worker holds the stream open.
        """
        ...

    @property
    def references(self) -> Holder | None:
        """What it refers to of a machine's arrays; ``None`` where workers have no machine. The seat drops it."""
        ...

    def kill(self) -> None:
        """Ends the worker at once, whatever it does. Does not wait, and may be called again."""
        ...

    def ending(self, timeout_s: float) -> str | None:
        """How it ended, for people, as in ``was killed by SIGKILL``. Waits for its end as long as that.

        ``None``: it is not known; at once, where it never will be.
        """
        ...

    def close(self) -> None:
        """Gives back what the seat holds, except for the stream. Called once, after the worker's end."""
        ...


class Launcher(Protocol):
    """Starts workers on hosts."""

    def start(self, host: str) -> Seat:
        """Starts one on ``host``.

        Called from the executor's own thread, which serves no worker meanwhile: it returns as soon as there is a
        stream, without waiting for the worker to speak, and raises if that takes too long. What it raises breaks the
        executor.
        """
        ...
