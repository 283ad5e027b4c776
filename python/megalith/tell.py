"""Lines for people, on standard error, which may be closed, full, or the far end of a broken pipe.

None of that is a reason to lose a run or to change its exit code, and nothing of ours may go to standard
output instead, which is the program's.
"""

from __future__ import annotations

import os
import sys


def tell(line: str) -> None:
    """Writes one line, or a few. If standard error does not take it, nothing more is written there."""
    if sys.stderr is None:
        return  # Closed before we started; print() would take standard output.
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        # What is still buffered must not fail again at exit (Python would end with 120, our "host lost").
        sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(sink, 2)
        os.close(sink)
