"""What a run may not leave behind; and, where it does not end, what everybody was doing."""

import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final, final

import processes
from chaos.arena import Arena
from hosts import Host, Hosts, cgroup, network

VIEW_PREFIX: Final = "megalith-view-"
_SOCKETS: Final = {"client.sock", "control.sock"}
_KINDS: Final = ("socket:", "memfd:megalith ", "anon_inode:[userfaultfd]", "anon_inode:[pidfd]")
"""Descriptors of an agent that belong to a machine, a space, a client; `megalith` is the name of a space's memory."""


@final
class Idle:
    """What agents hold when they serve nobody. `note` it, run something, and ask what is `left`."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._held: dict[int, Counter[str]] = {}

    def note(self) -> None:
        """Takes a look at agents that have served nobody yet."""
        for host in self._arena.living():
            pid = _pid(host)
            if pid not in self._held:
                self._held[pid] = _held(pid)

    def left(self, seconds: float, *, killed: bool) -> list[str]:
        """Waits up to `seconds` until nothing is left of any run; what still is then.

        Where `megalith run` was killed, its folder stays: the next run takes it away (megalith.folder).
        """
        end = time.monotonic() + seconds
        while (found := self._find(killed=killed)) and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def _find(self, *, killed: bool) -> list[str]:
        arena = self._arena
        hosts = arena.hosts
        agents = {_pid(host) for host in arena.living()}
        pids = {pid for pid in processes.marked(hosts.mark) if pid not in agents}
        pids.update(processes.bodies(host.directory for host in hosts.all))
        found = [f"process {name}" for name in processes.names(sorted(pids))]
        views = set(hosts.scratch.glob(f"{VIEW_PREFIX}*")) if killed else set()
        found += [f"file {path}" for path in hosts.scratch.iterdir() if path not in views]
        for host in arena.living():
            found += [f"file {path}" for path in host.directory.iterdir() if path.name not in _SOCKETS]
            more = _held(_pid(host)) - self._held.get(_pid(host), Counter())
            found += [f"agent of {host.name}: {count} x {kind.strip()}" for kind, count in more.items()]
        return found


def _pid(host: Host) -> int:
    assert host.agent is not None
    return host.agent.pid


def _held(pid: int) -> Counter[str]:
    held: Counter[str] = Counter()
    with suppress(OSError):  # it has ended meanwhile
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                name = os.readlink(descriptor).removeprefix("/")
                held.update(kind for kind in _KINDS if name.startswith(kind))
        held["threads"] = len(os.listdir(f"/proc/{pid}/task"))
    return held


def left_by(hosts: Hosts, disk: Path) -> list[str]:
    """What is left of hosts that were closed: processes, directories, namespaces, memory groups."""
    found = [f"process {name}" for name in processes.left_after(hosts.mark, 2)]
    found += [f"directory {path}" for path in (disk, hosts.base) if path.exists()]
    if hosts.network is not None:
        stem = f"{hosts.network.stem}-"
        found += [f"namespace {name}" for name in network.namespaces() if name.startswith(stem)]
        found += [f"memory group {path}" for path in cgroup.groups(stem)]
    return found


def stacks(hosts: Hosts) -> str:
    """Of each thread of each process of these hosts: what it waits for, in the kernel's words; and the agents' logs."""
    pids = {*processes.marked(hosts.mark), *processes.bodies(host.directory for host in hosts.all)}
    parts = [_of_process(pid) for pid in sorted(pids)]
    parts += [f"log of {host.name}:\n{_read(host.log)}" for host in hosts.all]
    return "\n".join(parts)


def _of_process(pid: int) -> str:
    lines = ["== " + " ".join(processes.names([pid]))]
    with suppress(OSError):
        for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name)):
            state = _read(task / "stat").rpartition(")")[2][1:2]
            lines.append(
                f"-- {task.name} {_read(task / 'comm')} {state} {_read(task / 'wchan')} call {_read(task / 'syscall')}"
            )
            lines += [f"   {line}" for line in _read(task / "stack").splitlines()]
    return "\n".join(lines)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        return f"({error.strerror})"
