"""A ``megalith._core`` without memory: an agent that speaks the control protocol, and a runtime that runs natively.

What it shall do out of the ordinary is said in the environment variable FAKE, as JSON:

    {"fail": {"kind": …, "host": …, "detail": …}}    answer `open` with `failed`
    {"after_ms": 300, "then": "lost"|"full"|"silent"|"die"|"garbage"}   once a program runs
    {"probe": {…}}                                    another answer of probe_userfaultfd
    {"refuse": "text", "of": "host2"}                 serve_agent raises RuntimeError
    {"mute_s": 60}                                    `open` is answered late
    {"cpus": {"b": 8}}                                CPUs of hosts, where not 4
    {"threads": 3}                                    in spread mode; they never rest, and go where they are told
    {"started": "FILE"}                               serve_agent writes there what it was given
    {"hot": [{"page": …, "moves": …}]}                of every host, and the program's process

FAKE_FAIL=version (or another kind) is `fail` for host b.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

VERSION = "0.1.0"
PROTOCOL_VERSION = 1
NEEDED = 1 << 0 | 1 << 5 | 1 << 10 | 1 << 11 | 1 << 12


def _wish() -> dict[str, Any]:
    wish: dict[str, Any] = json.loads(os.environ.get("FAKE", "{}"))
    if kind := os.environ.get("FAKE_FAIL"):
        wish["fail"] = {"kind": kind, "host": "b", "detail": "as was wished"}
    return wish


def runtime_image() -> bytes:
    return Path(os.environ["FAKE_RUNTIME"]).read_bytes()


def probe_userfaultfd() -> dict[str, Any]:
    fine = {"available": True, "kernel_faults": True, "features": NEEDED, "needed": NEEDED, "error": None}
    wished: dict[str, Any] = _wish().get("probe", {})
    return fine | {"via": "syscall"} | wished


def serve_agent(
    *,
    name: str,
    listen: str,
    directory: str,
    budget: int,
    cluster: str,
    keys: str | None,
    ready_fd: int,
    stop_fd: int,
    worker: list[str],
) -> None:
    assert worker[0] == sys.executable
    assert "megalith.worker" in worker
    wish = _wish()
    if path := wish.get("started"):
        Path(path).write_text(json.dumps({"cluster": cluster, "keys": keys}))
    if "refuse" in wish and wish.get("of", name) == name:
        raise RuntimeError(wish["refuse"])
    host, port = listen.rsplit(":", 1)
    listener = socket.create_server((host, int(port)))
    control = Path(directory, "control.sock")
    client = Path(directory, "client.sock")
    with socket.socket(socket.AF_UNIX) as clients, socket.socket(socket.AF_UNIX) as server:
        for bound, path in ((clients, client), (server, control)):
            bound.bind(str(path))
            path.chmod(0o600)
            bound.listen()
        address = json.dumps({"address": f"{host}:{listener.getsockname()[1]}"})
        os.write(ready_fd, address.encode() + b"\n")
        try:
            while True:
                readable = select.select([server.fileno(), stop_fd], [], [])[0]
                if stop_fd in readable:
                    return
                connection, _ = server.accept()
                with connection:
                    if _Machine(connection, Path(f"{client}.pid"), name, budget, stop_fd, wish).serve():
                        return
        finally:
            for path in (control, client, Path(f"{client}.pid")):
                path.unlink(missing_ok=True)
            listener.close()


class _Machine:
    def __init__(
        self, connection: socket.socket, pid: Path, name: str, budget: int, stop_fd: int, wish: dict[str, Any]
    ) -> None:
        self.connection = connection
        self.pid = pid
        self.name = name
        self.budget = budget
        self.stop_fd = stop_fd
        self.wish = wish
        self.members: list[str] = []
        self.held = 0
        self.known: int | None = None
        self.ran_s: float | None = None
        self.threads: dict[int, dict[str, Any]] = {}

    def serve(self) -> bool:
        """One machine; whether the agent is to stop."""
        heartbeat_s = 0.5
        buffer = b""
        last_s = 0.0
        try:
            while True:
                now_s = time.monotonic()
                self.client()
                if self.members and now_s - last_s >= heartbeat_s:
                    last_s = now_s
                    self.held = min(self.budget, self.held + (1 << 20))
                    self.say("status", hosts=self.figures(), **self.shown_threads(heartbeat_s))
                if self.misbehave(now_s):
                    return False
                readable = select.select([self.connection.fileno(), self.stop_fd], [], [], 0.02)[0]
                if self.stop_fd in readable:
                    self.kill_client()
                    return True
                if self.connection.fileno() not in readable:
                    continue
                data = self.connection.recv(65536)
                if not data:
                    self.kill_client()
                    return False
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    if message["op"] == "close":
                        self.say("closed", hosts=self.figures())
                        self.kill_client()
                        return False
                    if message["op"] == "move":
                        self.move(message["pid"], message["thread"], self.members[message["host"]])
                        continue
                    if not self.open(message):
                        return False
                    heartbeat_s = message["heartbeat_ms"] / 1000
        except (BrokenPipeError, ConnectionResetError):
            self.kill_client()
            return False

    def open(self, message: dict[str, Any]) -> bool:
        assert message["home"] == 0
        assert len(message["machine"]) == 16
        assert message["lost_after_ms"] > 0
        assert message["join_timeout_ms"] > 0
        names = [member["name"] for member in message["members"]]
        time.sleep(self.wish.get("mute_s", 0))
        if "fail" in self.wish:
            self.say("failed", **self.wish["fail"])
            return False
        if names[0] != self.name:
            self.say("failed", kind="name", host=names[0], detail=f"this agent is {self.name}")
            return False
        for member in message["members"]:
            host, port = member["address"].rsplit(":", 1)
            try:
                socket.create_connection((host, int(port)), 1.0).close()
            except OSError as error:
                self.say("failed", kind="unreachable", host=member["name"], detail=f"{member['address']}: {error}")
                return False
        self.members = names
        self.say("opened", hosts=[{"name": name, "budget": self.budget, "cpus": self.cpus(name)} for name in names])
        return True

    def cpus(self, name: str) -> int:
        cpus: int = self.wish.get("cpus", {}).get(name, 4)
        return cpus

    def shown_threads(self, seconds: float) -> dict[str, Any]:
        pid = self.client()
        if "threads" not in self.wish or pid is None:
            return {}
        for tid in range(pid, pid + self.wish["threads"]):
            new = {"pid": pid, "tid": tid, "name": "fake", "host": self.name, "cpu_ms": 0, "moves": 0, "why": "started"}
            self.threads.setdefault(tid, new)["cpu_ms"] += round(seconds * 1000)
        return {"threads": list(self.threads.values())}

    def move(self, pid: int, tid: int, host: str) -> None:
        thread = self.threads[tid]
        assert thread["pid"] == pid
        thread |= {"host": host, "moves": thread["moves"] + 1, "why": "ordered"}

    def misbehave(self, now_s: float) -> bool:
        """Whether the machine is over."""
        if "then" not in self.wish or self.client() is None:
            return False
        self.ran_s = self.ran_s or now_s
        if now_s - self.ran_s < self.wish.get("after_ms", 0) / 1000:
            return False
        match self.wish["then"]:
            case "lost":
                self.kill_client()
                self.say("lost", host=self.members[-1], detail="no sign of life for 3000 ms")
            case "full":
                self.kill_client()
                self.held = self.budget
                self.say("full", hosts=self.figures())
            case "silent":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "garbage":
                self.connection.sendall(b'{"event":"sing"}\n')
            case _:
                os.kill(os.getpid(), signal.SIGKILL)
        del self.wish["then"]
        return False

    def client(self) -> int | None:
        # Kept: the agents of a run that was killed clean up after it, and one may be faster than the other.
        with suppress(OSError, ValueError):
            self.known = int(self.pid.read_text())
        return self.known

    def kill_client(self) -> None:
        pid = self.client()
        if pid is not None:
            self.pid.unlink(missing_ok=True)
            self.known = None
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def figures(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "budget": self.budget,
                "held": self.held,
                "peak": self.held,
                "mapped": self.held // 2,
                "stowed": self.held // 4,
                "stowed_pages": self.held // 8192,
                "faults": {"first_touch": 10, "local": 20, "remote": 30, "minor": 40, "write": 50},
                "bytes_in": 1 << 20,
                "bytes_out": 1 << 21,
                "evicted_pages": 100,
                "handed_over_pages": 50,
                "received_pages": 0,
                "fault_us": {"p50": 12.5, "p99": 80} if name == self.name else {"p50": None, "p99": None},
                **self.spread_figures(name),
            }
            for name in self.members
        ]

    def spread_figures(self, name: str) -> dict[str, Any]:
        if "threads" not in self.wish:
            return {}
        pid = self.client()
        hot = [page | {"pid": pid} for page in self.wish.get("hot", [])] if pid is not None else []
        counts = {"invalidated_pages": 1, "forwarded_pages": 2, "dwelled": 3}
        return {"cpus": self.cpus(name), "load": 1.5, "hot": hot, **counts}

    def say(self, event: str, **rest: Any) -> None:
        self.connection.sendall(json.dumps({"event": event, **rest}).encode() + b"\n")
