"""Runs a command natively and measures it: the mark that the same command under megalith is held to."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

_METER = Path(__file__).with_name("meter.py")


@dataclass(frozen=True)
class Native:
    """How a native run ended, and what it took."""

    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def need(program: str, package: str) -> str:
    """The program's path; without it the test is skipped with the line that installs it."""
    found = shutil.which(program, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{program} is missing: apt-get install {package}")
    return found


def run_native(
    argv: Sequence[str],
    *,
    cwd: Path,
    stdin: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> Native:
    """Runs `argv` to its end. Its peak memory is that of the largest process of its tree."""
    with tempfile.TemporaryDirectory(prefix="mgl-native-") as scratch:
        figures = Path(scratch, "figures.json")
        source = stdin.open("rb") if stdin else None
        start = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(_METER), str(figures), *argv],
                cwd=cwd,
                stdin=source or subprocess.DEVNULL,
                env=dict(env) if env is not None else None,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        finally:
            if source:
                source.close()
        seconds = time.monotonic() - start
        measured = json.loads(figures.read_text(encoding="ascii"))
    return Native(
        returncode=done.returncode,
        stdout=done.stdout,
        stderr=done.stderr,
        seconds=seconds,
        cpu_seconds=measured["cpu_seconds"],
        peak_bytes=measured["peak_bytes"],
    )
