from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megalith import processes


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[bytes]]:
    """A shell with a child, a grandchild, and one in a session of its own."""
    script = "sleep 71 & (sleep 72 & sleep 73; :) & setsid sleep 74 & echo; wait"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    deadline = time.monotonic() + 10
    while len(processes.family({process.pid})) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process
    processes.kill_family({process.pid})
    process.wait()
    process.stdout.close()


def test_a_family_is_killed_whole(tree: subprocess.Popen[bytes]) -> None:
    family = processes.family({tree.pid})
    assert processes.kill_family({tree.pid}) == family
    assert tree.wait(10) == -signal.SIGKILL
    processes.reap(family, 10)
    assert processes.family(family) == set()


def test_forking_faster_does_not_help() -> None:
    script = "f() { sleep 75 & f; }; f"
    process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    time.sleep(0.2)
    processes.kill_family({process.pid})
    # Its end of the pipe is closed by all, or this never returns.
    assert process.communicate(timeout=10)[0] == b""


def test_orphans_are_adopted() -> None:
    before = processes.is_subreaper()
    processes.set_subreaper(True)
    try:
        assert processes.is_subreaper()
        known = processes.children(os.getpid())
        subprocess.run(["sh", "-c", "sleep 76 &"], check=True)
        orphans = processes.children(os.getpid()) - known
        assert [processes.name_of(pid) for pid in orphans] == ["sleep"]
        processes.kill_family(orphans)
        processes.reap(orphans, 10)
        assert not [pid for pid in orphans if Path("/proc", str(pid)).exists()]
    finally:
        processes.set_subreaper(before)


def test_names_with_brackets_do_not_confuse(tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.write_bytes(Path("/bin/sleep").read_bytes())
    odd.chmod(0o755)
    process = subprocess.Popen([odd, "60"])
    try:
        deadline = time.monotonic() + 10
        while processes.name_of(process.pid) != "a) R 1 (b":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert process.pid in processes.children(os.getpid())
    finally:
        process.kill()
        process.wait()


def test_who_is_ending() -> None:
    """A run that is killed closes its pipes first and gives its agents away last; they clean up in either case."""
    assert not processes.is_ending(os.getpid())
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.is_ending(process.pid), "a zombie"
    process.wait()
    assert processes.is_ending(process.pid)
