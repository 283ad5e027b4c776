"""Workers that are processes of this computer, each at the other end of a socket pair."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, final

from megalith.processes import has_ended

_BOOT: Final = "import sys; sys.path.insert(0, {path!r}); from megalith.worker import main; sys.exit(main())"
"""Finds this very package, also where it is not installed. The worker gets the executor's whole path later."""

_BUFFER_BYTES: Final = 4 << 20
"""Between the two; the kernel gives less where ``net.core.wmem_max`` is less. Whenever it is full, who writes waits."""


@final
class Here:
    """Starts workers on this computer, whatever host they are asked for.

    Each leads a session of its own, so that ^C at the terminal does not reach it.
    """

    def start(self, host: str) -> ProcessSeat:
        """Raises ``OSError`` if there is no room for another process."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                path = str(Path(__file__).parents[1])
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _BOOT.format(path=path), "--fd", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            return ProcessSeat(process, ours, host)
        except BaseException:
            ours.close()
            raise


@final
class ProcessSeat:
    """A worker that is a child process."""

    def __init__(self, process: subprocess.Popen[bytes], stream: socket.socket, host: str) -> None:
        self.stream = stream
        self.host = host
        self.description = f"process {process.pid}"
        self.references = None
        self.sentinel = os.pidfd_open(process.pid)
        self._process = process

    def kill(self) -> None:
        # Not Popen.kill: a pidfd cannot mean another process that has got the number since.
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.sentinel, signal.SIGKILL)

    def ending(self, timeout_s: float) -> str | None:
        if not has_ended(self.sentinel, timeout_s):
            return None
        status = self._process.wait()
        if status >= 0:
            return f"ended with exit status {status}"
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
        return f"was killed by signal {-status}"

    def close(self) -> None:
        os.close(self.sentinel)
