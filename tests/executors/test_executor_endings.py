"""How executors and workers end: in order, killed, stopped, interrupted, forked; and that nothing is left."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import processes
from executors import calls
from megalith import handshake
from megalith.executor import Executor, WorkerLost
from megalith.here import Here, ProcessSeat

HERE = Path(__file__).parent


def script(mark: str, text: str) -> subprocess.Popen[str]:
    """A program of its own, whose workers carry the mark."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)],
        env=processes.environment(mark, PYTHONPATH=path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def _until_it_raises(executor: Executor, end: float) -> None:
    while time.monotonic() < end:
        executor.submit(abs, 4).result(30)


def test_a_killed_worker_breaks_the_executor() -> None:
    with Executor(2, hosts={"a": 1, "b": 1}) as executor:
        with pytest.raises(BrokenProcessPool, match=r"on host [ab] \(process \d+\) was killed by SIGKILL while it ran"):
            executor.submit(calls.kill_me).result(30)
        with pytest.raises(WorkerLost, match="SIGKILL"):
            executor.submit(abs, 1)


def test_all_futures_of_a_broken_executor_end(tmp_path: Path) -> None:
    with Executor(2) as executor:
        executor.submit(calls.touch_and_wait, tmp_path / "runs")
        assert calls.wait_for(tmp_path / "runs")
        futures = [executor.submit(calls.touch_and_wait, tmp_path / "other"), *[executor.submit(abs, 1)] * 20]
        cancelled = executor.submit(abs, 2)
        assert cancelled.cancel()
        os.kill(int((tmp_path / "runs").read_text()), signal.SIGKILL)
        for future in futures:
            assert isinstance(future.exception(30), WorkerLost)
        assert cancelled.cancelled()


@pytest.mark.parametrize("status", [0, 7])
def test_a_worker_that_exits_says_its_status(status: int) -> None:
    with Executor(1) as executor, pytest.raises(WorkerLost, match=f"ended with exit status {status} while"):
        executor.submit(os._exit, status).result(30)


def test_a_worker_killed_in_idleness_breaks_the_executor() -> None:
    with Executor(1) as executor:
        pid = executor.submit(os.getpid).result(30)
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 30
        with pytest.raises(WorkerLost, match=r"SIGKILL while it (had nothing to do|ran abs)"):
            _until_it_raises(executor, end)


def test_a_dead_worker_is_seen_though_its_child_lives(tmp_path: Path) -> None:
    with Executor(1) as executor, pytest.raises(WorkerLost, match="SIGKILL"):
        executor.submit(calls.fork_and_die, tmp_path / "child").result(30)
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_a_stopped_worker_holds_up_its_task_alone(tmp_path: Path) -> None:
    with Executor(2) as executor:
        list(executor.map(time.sleep, [0.05] * 4))
        held = executor.submit(calls.touch_and_wait, tmp_path / "runs", 0.2)
        assert calls.wait_for(tmp_path / "runs")
        pid = int((tmp_path / "runs").read_text())
        os.kill(pid, signal.SIGSTOP)
        assert [executor.submit(abs, n).result(30) for n in range(50)] == list(range(50))
        assert not held.done()
        os.kill(pid, signal.SIGCONT)
        assert held.result(30) == pid


def test_a_worker_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megalith.pool.END_S", 0.3)
    executor = Executor(1)
    pid = executor.submit(os.getpid).result(30)
    os.kill(pid, signal.SIGSTOP)
    executor.shutdown()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_that_never_speaks_breaks_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megalith.pool.START_S", 0.5)

    class Deaf:
        def start(self, host: str) -> ProcessSeat:
            seat = Here().start(host)
            os.kill(int(seat.description.split()[1]), signal.SIGSTOP)
            return seat

    with (
        Executor(1, launcher=Deaf()) as executor,
        pytest.raises(WorkerLost, match=r"did not speak within 0\.5 seconds of its start"),
    ):
        executor.submit(abs, 1).result(30)


def test_futures_end_though_a_launcher_cannot_end_its_workers(caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy:
        def __init__(self, seat: ProcessSeat) -> None:
            self._seat = seat

        def __getattr__(self, name: str) -> object:
            return getattr(self._seat, name)

        def kill(self) -> None:
            raise ConnectionError("the agent is away")

        def close(self) -> None:
            self._seat.close()
            raise ConnectionError("it still is")

    class Launcher:
        def start(self, host: str) -> Any:
            return Clumsy(Here().start(host))

    with Executor(2, launcher=Launcher()) as executor:
        list(executor.map(time.sleep, [0.05] * 4))
        other = executor.submit(time.sleep, 0.3)
        with pytest.raises(WorkerLost, match="SIGKILL while it ran kill_me"):
            executor.submit(calls.kill_me).result(30)
        assert isinstance(other.exception(30), WorkerLost)
    assert caplog.text.count("cannot be ended") == 2


def test_an_initializer_may_take_longer_than_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megalith.pool.START_S", 10)
    with Executor(1, initializer=time.sleep, initargs=(11,)) as executor:
        assert executor.submit(abs, -1).result(90) == 1


def test_a_failing_initializer_breaks_the_executor(caplog: pytest.LogCaptureFixture) -> None:
    with Executor(2, initializer=calls.fail, initargs=("no beginning",)) as executor:
        with pytest.raises(BrokenProcessPool, match="the initializer failed") as caught:
            executor.submit(abs, 1).result(30)
        assert "ValueError: no beginning" in str(caught.value.__cause__)
    assert "no beginning" in caplog.text
    with pytest.raises(TypeError, match="pickle"):
        Executor(1, initializer=print, initargs=(threading.Lock(),))


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "versions", lambda: {"Python": "cpython-27"})
    with Executor(1) as executor, pytest.raises(WorkerLost, match=r"refuses to serve: the worker has .*, the executor"):
        executor.submit(abs, 1).result(30)


def test_a_worker_refuses_what_is_no_executor() -> None:
    seat = Here().start("here")
    with seat.stream as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: worker.example\r\n\r\n")
        assert seat.ending(30) == "ended with exit status 4"
        assert stream.recv(100) == b""
    seat.close()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "megalith.worker", "--fd", "77"],
        env={**os.environ, "PYTHONPATH": str(Path(handshake.__file__).parents[1])},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--fd: Bad file descriptor" in done.stderr


def test_no_thread_descriptor_or_process_is_left(tmp_path: Path) -> None:
    def used() -> tuple[int, int]:
        gc.collect()
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    with Executor(1) as executor:
        executor.submit(abs, 1).result(30)
    before = used()
    executors = []
    for broken in (False, True, False):
        executor = Executor(3)
        executors.append(executor)
        pids = set(executor.map(calls.touch_and_wait, [tmp_path / "runs"] * 6, [0.02] * 6))
        if broken:
            assert isinstance(executor.submit(calls.kill_me).exception(30), WorkerLost)
        executor.shutdown()
        executor.shutdown()
        assert used() == before
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def test_a_forked_child_is_refused_and_holds_nothing() -> None:
    executor = Executor(1)
    worker = executor.submit(os.getpid).result(30)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            executor.submit(abs, 1)
        except RuntimeError as error:
            os.write(write, str(error).encode())
        executor.shutdown()
        time.sleep(60)
        os._exit(0)
    try:
        assert b"forked child" in os.read(read, 1000)
        assert executor.submit(abs, -2).result(30) == 2
        # The child has no end of the worker's stream: it ends with ours.
        executor.shutdown()
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
        fds = Path(f"/proc/{child}/fd")
        assert not [fd for fd in fds.iterdir() if os.readlink(fd) == "anon_inode:[eventpoll]"]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


def test_children_that_a_fork_leaves_do_not_keep_workers_alive(mark: str) -> None:
    parent = script(mark, """
        import os, signal, time
        from megalith.executor import Executor
        executor = Executor(2)
        pids = set(executor.map(lambda _: (time.sleep(0.1), os.getpid())[1], range(4)))
        if not os.fork():
            time.sleep(60)
        print(*pids, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)  # fmt: skip
    with parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
    assert pids
    end = time.monotonic() + 20
    while (alive := set(processes.marked(mark)) & set(pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive


def test_exit_without_shutdown_finishes_what_was_submitted(mark: str) -> None:
    done = script(mark, """
        import atexit, time
        @atexit.register
        def late():
            try: executor.submit(abs, 1)
            except RuntimeError as error: print(error)
        from megalith.executor import Executor
        executor = Executor(2)
        executor.submit(lambda: (time.sleep(0.5), print("apple", flush=True)))
        other = Executor(2)
        other.submit(lambda: (time.sleep(0.5), print("pear", flush=True)))
        other.shutdown(wait=False)
    """)  # fmt: skip
    out, err = done.communicate(timeout=60)
    assert sorted(out.split("\n")) == ["", "apple", "cannot schedule new futures after shutdown", "pear"]
    assert err == ""
    assert processes.left_after(mark, 0) == []


@pytest.mark.parametrize("how", ["os._exit(3)", "os.kill(os.getpid(), 9)", "raise SystemExit(3)", "1 / 0"])
def test_whatever_ends_the_interpreter_ends_the_workers(mark: str, how: str) -> None:
    task = "executor.submit(time.sleep, 60 if 'os.' in how else 0.1)"
    done = script(mark, f"""
        import os, time
        from megalith.executor import Executor
        how = {how!r}
        executor = Executor(2)
        executor.submit(abs, 1).result()
        {task}
        time.sleep(0.05)
        {how}
    """)  # fmt: skip
    done.communicate(timeout=60)
    assert done.returncode != 0
    assert processes.left_after(mark, 20) == []


def test_an_interrupted_main_process_goes_on(mark: str) -> None:
    """^C goes to the terminal's whole process group; workers are in none of its."""
    done = script(mark, """
        import os, signal, threading, time
        from megalith.executor import Executor
        executor = Executor(2)
        before = executor.submit(os.getpid).result()
        long = executor.submit(time.sleep, 1.5)
        threading.Timer(0.3, os.killpg, (os.getpgrp(), signal.SIGINT)).start()
        try: long.result()
        except KeyboardInterrupt: print("interrupted")
        print(executor.submit(abs, -5).result(), long.done())
        threading.Timer(0.2, os.killpg, (os.getpgrp(), signal.SIGINT)).start()
        try: executor.shutdown()
        except KeyboardInterrupt: print("again")
        executor.shutdown()
        print(long.result(0), [t.name for t in threading.enumerate() if "megalith" in t.name])
    """)  # fmt: skip
    out, err = done.communicate(timeout=60)
    assert out.splitlines() == ["interrupted", "5 False", "again", "None []"], err
    assert processes.left_after(mark, 0) == []


def test_workers_lead_sessions_of_their_own() -> None:
    with Executor(1) as executor:
        pid, session = executor.submit(calls.session).result(30)
    assert pid == session != os.getsid(0)


def open_files(pid: int) -> list[str]:
    """What its descriptors are; one that is closed meanwhile is not among them."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(descriptor))
    return found


def test_programs_that_tasks_start_do_not_hold_the_stream() -> None:
    with Executor(1) as executor:
        sleeper = executor.submit(calls.spawn_sleeper).result(30)
        try:
            streams = open_files(sleeper)
            assert not [name for name in streams if name.startswith("socket:")]
        finally:
            os.kill(sleeper, signal.SIGKILL)
