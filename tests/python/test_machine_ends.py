"""However an interpreter leaves a machine, nothing is left: no process, no directory, no thread, no descriptor."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import megalith
import processes
from megalith.local import LocalHosts
from megalith.sizes import parse_budget

numpy = pytest.importorskip("numpy")

WAIT_S = 60.0
_FINALIZERS = {"abandon", "__del__"}


class Interpreter:
    """Another interpreter, that runs some code and says when it has come to a point."""

    def __init__(self, mark: str, scratch: Path, code: str) -> None:
        self._mark = mark
        self._scratch = scratch
        script = scratch.parent / "script.py"
        script.write_text(textwrap.dedent(code), encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=processes.environment(mark, TMPDIR=str(scratch)),
        )

    def await_line(self, expected: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        if line != f"{expected}\n":
            raise AssertionError(f"{line!r} instead of {expected!r}: {self.process.communicate(timeout=WAIT_S)}")

    def interrupt(self, times: int = 1) -> None:
        for _ in range(times):
            self.process.send_signal(signal.SIGINT)
            time.sleep(0.01)  # Two signals at once are one.

    def end(self) -> tuple[int, str, str]:
        """Waits for its end: status, and the rest of what it said."""
        out, err = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out, err

    def left_but(self, pid: int) -> list[str]:
        """What still runs after a while, but for one process."""
        end = time.monotonic() + 15
        while (left := [each for each in processes.marked(self._mark) if each != pid]) and time.monotonic() < end:
            time.sleep(0.05)
        return processes.names(left)

    def nothing_is_left(self) -> bool:
        left = processes.left_after(self._mark, 15)
        assert left == []
        assert list(self._scratch.iterdir()) == []
        return True


@pytest.fixture
def interpreter(mark: str, tmp_path: Path) -> Iterator[Callable[[str], Interpreter]]:
    made: list[Interpreter] = []
    scratch = tmp_path / "tmp"
    scratch.mkdir()

    def make(code: str) -> Interpreter:
        made.append(Interpreter(mark, scratch, code))
        return made[-1]

    yield make
    for each in made:
        each.process.kill()
        each.process.communicate(timeout=WAIT_S)


def await_that(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not done():
        assert time.monotonic() < end, "it does not come to be"
        time.sleep(0.02)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


_others: set[threading.Thread] = set()
"""Of tests before."""


@pytest.fixture(autouse=True)
def others() -> None:
    _others.clear()
    _others.update(threading.enumerate())


def our_threads() -> list[str]:
    """Megalith's. Python never forgets one whose start was interrupted before there was a thread; it has no number."""
    found = [thread for thread in set(threading.enumerate()) - _others if thread.name.startswith("megalith")]
    return [thread.name for thread in found if thread.ident is not None]


def test_interpreter_exit_with_all_in_use(interpreter: Callable[[str], Interpreter], tmp_path: Path) -> None:
    other = interpreter(f"""
        import time, megalith, megalith.executor

        def work(number, array):
            time.sleep(0.5)
            array[number] = number
            open({str(tmp_path)!r} + f"/done{{number}}", "w").close()

        machine = megalith.machine(hosts=2, memory_per_host="32M")
        array = machine.zeros(1000)
        executor = machine.executor(2)
        futures = [executor.submit(work, number, array) for number in range(4)]
        lock = machine.Lock()
    """)
    assert other.end() == (0, "", "")
    assert len(list(tmp_path.glob("done*"))) == 4, "what was submitted is done, as with ProcessPoolExecutor"
    assert other.nothing_is_left()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_interrupts_at_exit(interpreter: Callable[[str], Interpreter], times: int) -> None:
    other = interpreter("""
        import time, megalith, megalith.executor
        machine = megalith.machine(hosts=2, memory_per_host="32M")
        array = machine.zeros(1000)
        executor = machine.executor(2)
        futures = [executor.submit(time.sleep, 600) for _ in range(3)]
        while not futures[1].running(): time.sleep(0.01)
        print("leaving", flush=True)
    """)
    other.await_line("leaving")
    time.sleep(0.3)
    other.interrupt(times)
    other.end()
    assert other.nothing_is_left()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_interrupts_in_a_block(interpreter: Callable[[str], Interpreter], times: int) -> None:
    other = interpreter("""
        import time, megalith
        with megalith.machine(hosts=2, memory_per_host="32M") as machine:
            array = machine.full(1000, 3)
            executor = machine.executor(2)
            future = executor.submit(time.sleep, 600)
            while not future.running(): time.sleep(0.01)
            print("waiting", flush=True)
            future.result()
    """)
    other.await_line("waiting")
    other.interrupt(times)
    status, _, err = other.end()
    assert status == -signal.SIGINT
    assert "KeyboardInterrupt" in err
    assert other.nothing_is_left()


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_interrupts_while_it_is_made(interpreter: Callable[[str], Interpreter], delay_s: float) -> None:
    other = interpreter("""
        import megalith
        megalith.machine
        print("making", flush=True)
        megalith.machine(hosts=3, memory_per_host="32M")
        input()
    """)
    other.await_line("making")
    time.sleep(delay_s)
    other.interrupt(2)
    status, _, err = other.end()
    assert status == -signal.SIGINT
    assert "KeyboardInterrupt" in err  # The second may come while Python shows the first.
    assert other.nothing_is_left()


def test_killed_interpreters(interpreter: Callable[[str], Interpreter]) -> None:
    for signum in (signal.SIGKILL, signal.SIGTERM):
        other = interpreter("""
            import time, megalith
            machine = megalith.machine(hosts=2, memory_per_host="32M")
            array = machine.full(1000, 3)
            future = machine.executor(1).submit(time.sleep, 600)
            while not future.running(): time.sleep(0.01)
            print("there", flush=True)
            input()
        """)
        other.await_line("there")
        other.process.send_signal(signum)
        assert other.end()[0] == -signum
        assert other.nothing_is_left()


def test_interrupts_while_pages_come(interpreter: Callable[[str], Interpreter]) -> None:
    other = interpreter("""
        import megalith, numpy
        with megalith.machine(hosts=2, memory_per_host="16M") as machine:
            array = machine.empty(3 << 20, "i8")
            print("running", flush=True)
            try:
                while True:
                    array[:] = 7  # More than a host has: pages go to and fro.
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            array[:] = 5
            print(int(array.sum()) == 5 * array.size, flush=True)
    """)
    other.await_line("running")
    time.sleep(0.5)
    other.interrupt()
    assert other.end() == (0, "interrupted\nTrue\n", "")
    assert other.nothing_is_left()


def test_interrupts_while_a_program_runs(interpreter: Callable[[str], Interpreter]) -> None:
    other = interpreter("""
        import megalith
        with megalith.machine(hosts=2, memory_per_host="32M") as machine:
            try:
                machine.run(["sh", "-c", "echo running; sleep 600 & wait"])
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            machine.run(["echo", "again"])
    """)
    other.await_line("running")
    other.interrupt()
    assert other.end()[:2] == (0, "interrupted\nagain\n")
    assert other.nothing_is_left()


def test_local_hosts_are_told_to_stop_once() -> None:
    with LocalHosts(1, parse_budget("16M")) as hosts:
        hosts.stop()
        with open(os.devnull) as another:
            hosts.stop()
            os.fstat(another.fileno())


def test_several_threads_close_at_once() -> None:
    machine = megalith.machine(hosts=2, memory_per_host="16M")
    before = processes.agents()
    seen: list[bool] = []

    def close() -> None:
        machine.close()
        seen.append(bool(before & processes.agents()))

    threads = [threading.Thread(target=close) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    machine.close()
    assert seen == [False] * 5, "each returns when all is done"


def test_a_callback_closes_the_machine() -> None:
    machine = megalith.machine(hosts=1, memory_per_host="16M")
    closed = threading.Event()

    def close(_: object) -> None:
        machine.close()
        closed.set()

    machine.executor(1).submit(abs, -1).add_done_callback(close)
    assert closed.wait(WAIT_S)
    await_that(lambda: not processes.agents())
    await_that(lambda: our_threads() == [])


def test_who_lets_go_of_a_machine_closes_it() -> None:
    megalith.machine(hosts=1, memory_per_host="16M")
    await_that(lambda: not processes.agents())
    machine = megalith.machine(hosts=1, memory_per_host="16M")
    array = machine.full(1000, 7)
    del machine
    gc.collect()
    assert processes.agents(), "its arrays need it"
    assert array.sum() == 7000
    view = array[10:20]
    del array
    assert view.sum() == 70
    del view
    with megalith.machine(hosts=1, memory_per_host="16M") as another:
        assert another.zeros(3).sum() == 0, "who makes another waits for the end of the first"
    await_that(lambda: our_threads() == [])


def test_a_machine_outlives_the_thread_that_made_it() -> None:
    made: list[megalith.Machine] = []
    thread = threading.Thread(target=lambda: made.append(megalith.machine(hosts=2, memory_per_host="16M")))
    thread.start()
    thread.join(WAIT_S)
    with made.pop() as machine:
        assert machine.full(1000, 7).sum() == 7000
        time.sleep(1)  # Agents would end with the thread that has started them.
        with machine.executor(1) as executor:
            assert executor.submit(abs, -1).result(timeout=WAIT_S) == 1


def test_a_forked_child_has_no_machine(interpreter: Callable[[str], Interpreter]) -> None:
    other = interpreter("""
        import os, sys, time, megalith
        machine = megalith.machine(hosts=2, memory_per_host="32M")
        array = machine.full(1000, 7)
        for leaves in (True, False):
            child = os.fork()
            if child == 0:
                try:
                    machine.zeros(3)
                except megalith.AgentError as error:
                    print(error, flush=True)
                machine.close()
                if leaves:
                    sys.exit(0)  # And so past all that is to be done at exit.
                os.close(1)
                os.close(2)
                time.sleep(600)
            if leaves:
                os.waitpid(child, 0)
        time.sleep(0.5)
        print(int(array.sum()), child, flush=True)
        input()
    """)
    words = "the machine belongs to the process that made it, not to its forked child"
    other.await_line(words)
    assert other.process.stdout is not None
    said = {other.process.stdout.readline() for _ in range(2)}
    assert f"{words}\n" in said
    (last,) = said - {f"{words}\n"}
    total, child = last.split()
    assert total == "7000", "what the child does is nothing to its parent's machine"
    other.process.kill()
    other.process.wait(WAIT_S)
    assert other.left_but(int(child)) == [], "a child that lives on keeps no agent"
    os.kill(int(child), signal.SIGKILL)
    assert other.nothing_is_left()


def test_one_interrupt_at_every_step_of_ours() -> None:
    """^C before each line that the main thread executes in making and closing a machine."""
    with megalith.machine(hosts=1, memory_per_host="16M"):
        pass  # All modules are loaded now.
    gc.collect()
    threads, files = our_threads(), descriptors()
    steps = 0
    for step in range(1, 1000):
        steps = step
        with interrupted_before(step) as came:
            try:
                with megalith.machine(hosts=1, memory_per_host="16M"):
                    pass
            except KeyboardInterrupt:
                assert came, "nobody else interrupts"
        gc.collect()
        await_that(lambda: not processes.agents())
        await_that(lambda: our_threads() == threads)
        await_that(lambda: descriptors() == files)
        if not came:
            break
    assert 20 < steps < 500


@contextmanager
def interrupted_before(step: int) -> Iterator[list[str]]:
    """SIGINT comes before the so many-th line of Megalith's that this thread executes; yields where it was."""
    came: list[str] = []
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        # What is raised in a finalizer, Python drops; here it comes after the end.
        if "/megalith/" not in frame.f_code.co_filename or frame.f_code.co_name in _FINALIZERS:
            return None
        if event == "line":
            count += 1
            if count == step:
                came.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield came
    finally:
        sys.settrace(before)
