"""The rival that every host has: swap to a file, under a memory limit as large as our home host's budget."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hosts import cgroup

_GIB = 1 << 30


@contextmanager
def swap_file(directory: Path) -> Iterator[str | None]:
    """Switches swap to a file of 1 GiB on; yields why that does not work here, or None. Off and removed at the end."""
    path = directory / "swapfile"
    with path.open("wb") as file:
        for _ in range(_GIB >> 20):
            file.write(bytes(1 << 20))  # holes are not allowed
    path.chmod(0o600)
    try:
        subprocess.run(["mkswap", str(path)], check=True, capture_output=True)
        on = subprocess.run(["swapon", str(path)], check=False, capture_output=True, text=True)
        if on.returncode != 0:
            yield on.stderr.strip()
            return
        try:
            yield None
        finally:
            subprocess.run(["swapoff", str(path)], check=True)
    finally:
        path.unlink()


def run_under_limit(
    argv: Sequence[str], *, limit_bytes: int, cwd: Path, env: Mapping[str, str], seconds_max: float
) -> float | str:
    """Runs natively under a limit, with swap; its seconds, or why there are none."""
    name = f"mgl-{os.getpid()}-{time.monotonic_ns()}"
    group = cgroup.make(name, limit_bytes)
    try:
        begin = time.monotonic()
        process = subprocess.Popen(
            [*group.enter(), *argv],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=seconds_max)
        except subprocess.TimeoutExpired:
            return f"> {seconds_max:.0f} s"
        finally:
            process.kill()
            process.wait()
        seconds = time.monotonic() - begin
        if group.oom_kills():
            return "OOM-killed"
        return seconds if process.returncode == 0 else f"exit {process.returncode}"
    finally:
        group.remove()


def why_not() -> str | None:
    """Why swap cannot be compared with here, or None."""
    if reason := cgroup.why_not():
        return reason
    for tool in ("mkswap", "swapon", "swapoff"):
        if shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
            return f"{tool} is missing: apt-get install mount util-linux"
    return None
