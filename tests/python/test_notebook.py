"""A machine in a notebook: a real kernel, driven as Jupyter drives it."""

from __future__ import annotations

import queue
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import processes

pytest.importorskip("numpy")
pytest.importorskip("ipykernel")
manager = pytest.importorskip("jupyter_client.manager")

WAIT_S = 90.0


class Notebook:
    """A kernel, and what its cells say."""

    def __init__(self, mark: str, scratch: Path) -> None:
        self.kernel = manager.KernelManager(kernel_name="python3")
        # Not what is installed for Jupyter on this computer, but this interpreter.
        self.kernel.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        runtime = str(scratch.parent)
        environment = processes.environment(mark, TMPDIR=str(scratch), JUPYTER_RUNTIME_DIR=runtime)
        self.kernel.start_kernel(env=environment | {"IPYTHONDIR": runtime})
        self._client = self.kernel.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=WAIT_S)

    def start(self, code: str) -> str:
        """Starts a cell; its number."""
        cell: str = self._client.execute(code)
        return cell

    def await_text(self, cell: str, expected: str) -> None:
        """Waits until a cell that runs has printed this."""
        text = ""
        while expected not in text:
            text += self._message(cell, "stream")["text"]

    def outcome(self, cell: str) -> tuple[str, str]:
        """Waits for a cell's end: what it printed, or the name of what it raised."""
        text, raised = "", ""
        while True:
            message = self._message(cell)
            match message["msg_type"]:
                case "stream":
                    text += message["content"]["text"]
                case "error":
                    raised = message["content"]["ename"]
                case "status" if message["content"]["execution_state"] == "idle":
                    return text, raised

    def run(self, code: str) -> str:
        """Runs a cell that raises nothing; what it printed."""
        text, raised = self.outcome(self.start(code))
        assert not raised, raised
        return text

    def _message(self, cell: str, kind: str | None = None) -> dict[str, Any]:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                message: dict[str, Any] = self._client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != cell:
                continue
            if kind is None:
                return message
            assert message["msg_type"] != "error", message["content"]["traceback"]
            if message["msg_type"] == kind:
                found: dict[str, Any] = message["content"]
                return found
        raise TimeoutError(f"the cell has said nothing for {WAIT_S:g} s")

    def close(self) -> None:
        self._client.stop_channels()
        self.kernel.shutdown_kernel(now=True)
        self.kernel.cleanup_resources()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    made = tmp_path / "tmp"
    made.mkdir()
    return made


@pytest.fixture
def notebook(megalith: None, mark: str, scratch: Path) -> Iterator[Notebook]:
    made = Notebook(mark, scratch)
    yield made
    made.close()


MAKE = """
import time, os, megalith
machine = megalith.machine(hosts=2, memory_per_host="32M")
array = machine.zeros(1000, "i8")

def work(number):
    array[number] = os.getpid()
    time.sleep(600 if number < 2 else 0)
    return number
"""

MAP_ALONE = """
results = executor.map(work, range(4))
while not array[:2].all():
    time.sleep(0.01)
print("under way", flush=True)
list(results)
"""
MAP = "with machine.executor(2) as executor:\n" + textwrap.indent(MAP_ALONE, "    ")


def test_a_cell_is_interrupted_and_the_machine_goes_on(notebook: Notebook, mark: str) -> None:
    notebook.run(MAKE)
    cell = notebook.start(MAP)
    notebook.await_text(cell, "under way")
    time.sleep(0.5)  # Into the wait for the first result.
    notebook.kernel.interrupt_kernel()
    assert notebook.outcome(cell)[1] == "KeyboardInterrupt", "the first is enough, as with ProcessPoolExecutor"
    cell = notebook.start("array[:] = 0\nexecutor = machine.executor(2)" + MAP_ALONE)
    notebook.await_text(cell, "under way")
    time.sleep(0.5)
    notebook.kernel.interrupt_kernel()
    assert notebook.outcome(cell)[1] == "KeyboardInterrupt"
    assert notebook.run("print(int((array[:2] > 0).sum()), executor.is_usable)") == "2 True\n", "it goes on"
    again = "with machine.executor(2) as again: print(list(again.map(abs, [-1, 2])))"
    said = notebook.run(f"executor.kill_workers()\n{again}")
    assert said == "[1, 2]\n"
    assert notebook.run("print(machine.run(['echo', 'hello'], capture_output=True, text=True).stdout)") == "hello\n\n"
    cell = notebook.start("print('waiting', flush=True); machine.run(['sleep', '600'])")
    notebook.await_text(cell, "waiting")
    time.sleep(1)
    notebook.kernel.interrupt_kernel()
    assert notebook.outcome(cell)[1] == "KeyboardInterrupt"
    assert notebook.run("array[:] = 7; print(int(array.sum())); machine.close()") == "7000\n"


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_kernel_that_ends_leaves_nothing_behind(notebook: Notebook, mark: str, scratch: Path, how: str) -> None:
    notebook.run(MAKE)
    cell = notebook.start("executor = machine.executor(2)\nprint(executor.submit(abs, -3).result())")
    assert notebook.outcome(cell) == ("3\n", "")
    notebook.run("futures = [executor.submit(time.sleep, 600) for _ in range(3)]")
    before = set(processes.marked(mark))
    assert len(before) >= 4, "the kernel, two agents and a worker"
    notebook.kernel.restart_kernel(now=how == "kill")
    notebook._client.wait_for_ready(timeout=WAIT_S)
    end = time.monotonic() + 30
    while (left := before & set(processes.marked(mark))) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes.names(sorted(left)) == []
    assert [path for path in scratch.iterdir() if path.name.startswith("megalith")] == []
    assert notebook.run(MAKE + "print(machine)") == "<Machine of 2 hosts, 64.0 MiB: 1 array>\n"
