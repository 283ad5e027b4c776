"""Hosts that live on this computer for the length of one run.

Each is an agent process in a session of its own (so that ^C does not reach it) with a private directory.
They are taken away again whatever happens: by closing the *stop pipe* they all watch, which the kernel
closes too if this process is killed; and by SIGKILL if that does not help.

They speak plaintext on loopback, where other users of this computer can dial, too. What keeps those out is the
cluster's id: made for the run, handed over in a pipe (a command line can be read by all), and asked for before anything
else.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from megalith.control import Member
from megalith.exceptions import AgentError
from megalith.sizes import ByteCount

READY_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 5.0
KILL_TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class _Agent:
    name: str
    directory: Path
    process: subprocess.Popen[bytes]
    ready: IO[bytes]

    def last_words(self) -> str:
        """The last line it wrote, or how it ended."""
        log = self.directory.with_suffix(".log").read_text(errors="replace").strip()
        if log:
            return log.splitlines()[-1].removeprefix("megalith agent: ")
        return f"it ended with status {self.process.poll()} and said nothing"


class LocalHosts:
    """``count`` agents on this computer, as a context manager."""

    def __init__(self, count: int, budget: ByteCount) -> None:
        self._count = count
        self._budget = budget
        self._agents: list[_Agent] = []
        self._members: list[Member] = []
        self._directory = Path()
        self._stop: IO[bytes] | None = None
        """Our end of the pipe. A file, and no number: it can be closed twice, as it is when a signal comes between."""
        self._killed: set[str] = set()
        """Names of hosts whose agents were ended by us, with SIGKILL."""

    @property
    def members(self) -> list[Member]:
        return self._members

    @property
    def directory(self) -> Path:
        """Private to this run, and gone after it, however it ends."""
        return self._directory

    @property
    def home_directory(self) -> Path:
        return self._agents[0].directory

    @property
    def pids(self) -> set[int]:
        return {agent.process.pid for agent in self._agents}

    def __enter__(self) -> Self:
        try:
            self._directory = Path(tempfile.mkdtemp(prefix="megalith-"))
        except OSError as error:
            raise AgentError(
                f"hosts on this computer have no place in {tempfile.gettempdir()}: {error.strerror}"
            ) from None
        try:
            stop_read, stop_write = os.pipe()
            try:
                self._stop = os.fdopen(stop_write, "wb", buffering=0)
                cluster = secrets.token_hex(16)
                for number in range(1, self._count + 1):
                    self._start(f"host{number}", cluster, stop_read)
            finally:
                os.close(stop_read)
            deadline = time.monotonic() + READY_TIMEOUT_S
            self._members = [self._await_ready(agent, deadline) for agent in self._agents]
        except BaseException:
            try:
                self.kill()
            finally:
                self._clean()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
            deadline = time.monotonic() + STOP_TIMEOUT_S
            for agent in self._agents:
                with suppress(subprocess.TimeoutExpired):
                    agent.process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            try:
                self.kill()
            finally:
                self._clean()

    def stop(self) -> None:
        """Asks the agents to end, and does not wait; any thread may."""
        if self._stop is not None:
            self._stop.close()

    def forget_in_child(self) -> None:
        """In a forked child: the pipes are its parent's, whose agents must not outlive it with us."""
        self.stop()
        for agent in self._agents:
            agent.ready.close()

    def kill(self) -> None:
        """Ends the agents at once, be they stopped, stuck or dead.

        Raises ``AgentError`` if the kernel does not end one within 10 s (it waits for a device, say).
        """
        for agent in self._agents:
            if agent.process.poll() is None:
                self._killed.add(agent.name)
                agent.process.kill()
        deadline = time.monotonic() + KILL_TIMEOUT_S
        for agent in self._agents:
            try:
                agent.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                where = f"process {agent.process.pid}, the agent of {agent.name},"
                raise AgentError(f"{where} does not end although it was killed") from None

    def obituary(self, name: str) -> str | None:
        """How the agent of host ``name`` ended, if it has done so by itself."""
        for agent in self._agents:
            if agent.name == name and name not in self._killed and (status := agent.process.poll()) is not None:
                if status < 0:
                    return f"its agent was killed by signal {-status}"
                return f"its agent ended with status {status}: {agent.last_words()}"
        return None

    def _start(self, name: str, cluster: str, stop_read: int) -> None:
        directory = self._directory / name
        directory.mkdir(mode=0o700)
        ready_read, ready_write = os.pipe()
        cluster_read, cluster_write = os.pipe()
        try:
            with os.fdopen(cluster_write, "w") as pipe:
                pipe.write(cluster)
            with open(directory.with_suffix(".log"), "wb") as log:
                # -P: a directory called megalith where the user happens to stand is not this package.
                command = [sys.executable, "-P", "-m", "megalith", "agent"]
                command += ["--name", name, "--listen", "127.0.0.1:0", "--memory", str(self._budget)]
                command += ["--dir", str(directory), "--cluster-fd", str(cluster_read)]
                command += ["--ready-fd", str(ready_write), "--stop-fd", str(stop_read)]
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(ready_write, stop_read, cluster_read),
                    start_new_session=True,
                )
        except BaseException:
            os.close(ready_read)
            raise
        finally:
            os.close(ready_write)
            os.close(cluster_read)
        self._agents.append(_Agent(name, directory, process, os.fdopen(ready_read, "rb", buffering=0)))

    def _await_ready(self, agent: _Agent, deadline: float) -> Member:
        line = b""
        while not line.endswith(b"\n"):
            left_s = max(0.0, deadline - time.monotonic())
            if not select.select([agent.ready], [], [], left_s)[0]:
                raise AgentError(f"the agent of {agent.name} was not ready after {READY_TIMEOUT_S:g} s")
            data = agent.ready.read(4096)
            if not data:
                with suppress(subprocess.TimeoutExpired):
                    agent.process.wait(1.0)
                raise AgentError(f"the agent of {agent.name} did not start: {agent.last_words()}")
            line += data
        return Member(agent.name, str(json.loads(line)["address"]))

    def _clean(self) -> None:
        self.stop()
        for agent in self._agents:
            agent.ready.close()
        shutil.rmtree(self._directory, ignore_errors=True)
