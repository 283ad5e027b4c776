"""Hosts and the agents that run on them.

Life of `Hosts`: made (namespaces, limits, directories) → `start` (agents) → runs → `close`, which is also
called at interpreter exit. `close` kills first and removes after; each step runs though another failed.
"""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self, final

import cli
import processes
from hosts import cgroup, keys
from hosts.network import Network
from hosts.privilege import why_no_namespaces

_READY_SECONDS_MAX = 15.0


@dataclass
class Host:
    """One host: where its agent listens, where it keeps its files, what bounds its memory."""

    name: str
    address: str
    directory: Path
    memory: str
    group: cgroup.MemoryGroup | None
    enter: list[str]
    agent: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def log(self) -> Path:
        """What the agent wrote, both streams."""
        return self.directory.with_suffix(".log")


@final
class Hosts:
    """`count` hosts named a, b, c, …; a is home.

    `memory` is each agent's budget. `limit_bytes` bounds the whole host (agent, and on the home host the CLI
    and the program) by a memory cgroup; it needs namespaces. Where hosts have networks of their own their agents have
    keys; `plaintext` makes them do without.
    What agents and programs write lies in a directory below `under`.
    """

    def __init__(
        self,
        count: int,
        *,
        memory: str | Sequence[str],
        limit_bytes: int | None = None,
        cluster: str = "test",
        namespaces: bool | None = None,
        plaintext: bool = False,
        under: Path = Path("/tmp"),
    ) -> None:
        self.plaintext = plaintext
        self.mark = processes.new_mark()
        self.cluster = cluster
        self.all: list[Host] = []
        self.network: Network | None = None
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._under = under
        self._cleanup = ExitStack()
        atexit.register(self.close)
        try:
            self._make(count, memory, limit_bytes, why_no_namespaces() is None if namespaces is None else namespaces)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self.all if host.name == name)

    @property
    def home(self) -> Host:
        """The host on which programs are started."""
        return self.all[0]

    @property
    def file(self) -> Path:
        """The hosts file, as a user would write it."""
        return self.base / "hosts.toml"

    def start(self) -> Self:
        """Starts all agents and waits until each can be reached."""
        for host in self.all:
            self.launch(host)
        for host in self.all:
            self.await_ready(host)
        return self

    def launch(self, host: Host, *, cluster: str | None = None, security: Sequence[str] | None = None) -> None:
        """Starts the agent of one host; `security` are other options than `--keys` or `--plaintext` as for all."""
        command = cli.command(
            *("agent", "--name", host.name, "--listen", host.address, "--memory", host.memory),
            *("--dir", str(host.directory), "--cluster", cluster or self.cluster),
            *(self._security(host) if security is None else security),
        )
        with host.log.open("ab") as log:
            host.agent = self.spawn(host, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _security(self, host: Host) -> list[str]:
        if self.network is None:
            return []
        return ["--plaintext"] if self.plaintext else ["--keys", str(keys.of(host.name))]

    def stop(self, host: Host) -> None:
        """Ends the agent of `host` as an operator would, and waits for it."""
        assert host.agent is not None
        host.agent.terminate()
        host.agent.wait(timeout=10)
        host.directory.mkdir(mode=0o700, exist_ok=True)

    def spawn(
        self,
        host: Host,
        command: Sequence[str],
        *,
        stdin: int | IO[bytes],
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts any command on `host`, that is in its namespace and under its limit."""
        process = subprocess.Popen(
            [*_DIES_WITH_US, *host.enter, *command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env={**processes.environment(self.mark, TMPDIR=str(self.scratch)), **(env or {})},
        )
        self._spawned.append(process)
        return process

    def start_run(
        self,
        program: Sequence[str],
        *,
        options: Sequence[str] = (),
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        file: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts `megalith run --hosts FILE … -- PROGRAM` on the home host; its output goes to pipes."""
        command = cli.command("run", "--hosts", str(file or self.file), *options, "--", *program)
        return self.spawn(
            self.home,
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=env,
        )

    def run(
        self,
        program: Sequence[str],
        *,
        options: Sequence[str] = (),
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> cli.Outcome:
        """Runs a program on these hosts to its end."""
        begin = time.monotonic()
        run = self.start_run(program, options=options, cwd=cwd, env=env)
        return cli.finish(run, begin=begin, timeout=timeout)

    def command_on(self, host: Host, command: Sequence[str], *, timeout: float) -> cli.Outcome:
        """Runs any command on `host` to its end."""
        begin = time.monotonic()
        process = self.spawn(host, command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return cli.finish(process, begin=begin, timeout=timeout)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to the agent of a host."""
        agent = self[name].agent
        assert agent is not None, f"no agent was started on {name}"
        agent.send_signal(number)

    def cut(self, name: str) -> None:
        """Pulls the cable of a host."""
        assert self.network is not None, "hosts on loopback have no cable"
        self.network.cut(name)

    def close(self) -> None:
        """Ends everything and removes every trace. Does nothing the second time."""
        atexit.unregister(self.close)
        self._cleanup.close()

    def _make(self, count: int, memory: str | Sequence[str], limit_bytes: int | None, namespaces: bool) -> None:
        if limit_bytes is not None and not namespaces:
            raise ValueError("a limit needs namespaces")
        self.base = Path(tempfile.mkdtemp(prefix="mgl-hosts-", dir=self._under))
        self._cleanup.callback(shutil.rmtree, self.base, ignore_errors=True)
        self.scratch = self.base / "tmp"
        self.scratch.mkdir()
        if namespaces:
            self.network = Network()
            self._cleanup.callback(self.network.remove)
        for index in range(count):
            name = "abcdefghijklmnopqrstuvwxyz"[index]
            budget = memory if isinstance(memory, str) else memory[index]
            self.all.append(self._host(name, budget, limit_bytes))
        self.file.write_text(self._toml(), encoding="utf-8")
        self._cleanup.callback(self._reap)
        self._cleanup.callback(processes.end_all, self.mark)

    def _host(self, name: str, memory: str, limit_bytes: int | None) -> Host:
        enter: list[str] = []
        group = None
        if limit_bytes is not None and self.network is not None:
            group = cgroup.make(self.network.namespace(name), limit_bytes)
            self._cleanup.callback(group.remove)
            enter += group.enter()
        if self.network is not None:
            address = f"{self.network.join(name)}:7070"
            enter += self.network.enter(name)
        else:
            address = f"127.0.0.1:{_free_port()}"
        directory = self.base / name
        directory.mkdir(mode=0o700)
        return Host(name=name, address=address, directory=directory, memory=memory, group=group, enter=enter)

    def _toml(self) -> str:
        parts = [f'cluster = "{self.cluster}"\n']
        parts += [
            f'\n[[host]]\nname = "{host.name}"\naddress = "{host.address}"\ndirectory = "{host.directory}"\n'
            for host in self.all
        ]
        return "".join(parts)

    def await_ready(self, host: Host) -> None:
        """Waits until the agent of `host` answers on its control socket."""
        end = time.monotonic() + _READY_SECONDS_MAX
        path = host.directory / "control.sock"
        while not _answers(path):
            assert host.agent is not None
            if (code := host.agent.poll()) is not None:
                raise RuntimeError(f"the agent of {host.name} ended with {code}: {host.log.read_text()}")
            if time.monotonic() > end:
                raise TimeoutError(f"the agent of {host.name} is not ready: {host.log.read_text()}")
            time.sleep(0.02)

    def _reap(self) -> None:
        for process in self._spawned:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
            process.wait(timeout=10)


_DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL", "--"]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
