"""Taking away what outlives a process: swap files and control groups.

A guard is a small shell that waits at a pipe of ours. When the pipe is closed it cleans up, and the kernel
closes it even if this process is killed outright.
"""

from __future__ import annotations

import subprocess
from types import TracebackType
from typing import Final, Self

CLEAN_TIMEOUT_S: Final = 120.0
"""To bring swapped pages back takes a while."""


class Guard:
    """Runs ``script`` with ``words`` as its ``$1``, ``$2``, … once the block is left, however it is left."""

    def __init__(self, script: str, *words: str) -> None:
        self._command = ["/bin/sh", "-c", f"read _; {script}", "megalith-guard", *words]

    def __enter__(self) -> Self:
        # A session of its own: ^C is for us, and cleaning up comes after.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(CLEAN_TIMEOUT_S)
