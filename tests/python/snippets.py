"""Code that an interpreter of its own runs: what must not happen to the one that tests."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def in_another(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in another interpreter, for two minutes at most."""
    words = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
