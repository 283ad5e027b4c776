"""The hosts that make up a machine: agents that run, or ones made on this computer for it; and the way to the first.

Whoever makes a machine begins here, be it for a program (:mod:`megalith.runner`) or for an interpreter
(:mod:`megalith.opening`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from megalith import _core
from megalith.available import local_budget
from megalith.control import Control, Member, Opened
from megalith.exceptions import AgentError, HostsFileError, PermissionMissing
from megalith.hostsfile import HOSTS_MAX, Host, Hosts, is_loopback, read_hosts
from megalith.local import LocalHosts
from megalith.paths import CLIENT_SOCKET, CONTROL_SOCKET
from megalith.sizes import parse_budget

HEARTBEAT_S: Final = 0.5
LOST_AFTER_S: Final = 3.0
JOIN_TIMEOUT_S: Final = 5.0


@dataclass(slots=True)
class Place:
    """Where a machine is made: the home host's agent, and who takes part."""

    directory: Path
    """The home agent's."""
    hosts: tuple[Host, ...]
    """Home first."""
    cluster: str | None
    local: LocalHosts | None
    """The agents, where they are made for this machine."""

    @property
    def members(self) -> list[Member]:
        return [Member(host.name, host.address) for host in self.hosts]

    @property
    def private(self) -> Path | None:
        """A directory that goes away with the machine."""
        return self.local.directory if self.local else None

    @property
    def one_computer(self) -> bool:
        """Whether all hosts share this computer's CPUs."""
        return all(is_loopback(host.address) for host in self.hosts)

    @property
    def client_socket(self) -> Path:
        """Where processes of this host attach to the machine's memory."""
        return self.directory / CLIENT_SOCKET

    def connect(self) -> Control:
        """Reaches the home host's agent. Raises AgentError if it is not on this computer."""
        try:
            return Control.connect(self.directory / CONTROL_SOCKET)
        except OSError as error:
            if self.local is not None:
                raise AgentError(f"the home agent cannot be reached: {error.strerror}") from None
            home = self.hosts[0]
            raise AgentError(
                f"the agent of home host {home.name} does not run on this computer"
                f" ({self.directory / CONTROL_SOCKET}: {error.strerror});"
                f" start it here with: {home.start_command(self.cluster)}"
            ) from None

    def blame(self, host: str, detail: str) -> str:
        """``detail``, and what is known here about how ``host``'s agent ended."""
        known = self.local.obituary(host) if self.local else None
        return f"{detail}; {known}" if known else detail


def join(place: Place, control: Control, *, heartbeat_s: float, lost_after_s: float) -> tuple[str, Opened]:
    """Makes a machine of the hosts: its id, and what they said of themselves.

    Raises as :meth:`megalith.control.Control.open`.
    """
    machine = secrets.token_hex(8)
    opened = control.open(
        machine=machine,
        members=place.members,
        heartbeat_s=heartbeat_s,
        lost_after_s=lost_after_s,
        join_timeout_s=JOIN_TIMEOUT_S,
    )
    return machine, opened


def running(hosts: Hosts | Path, home: str | None) -> Place:
    """Hosts whose agents run; ``home`` names the home host, where it is not the first.

    Raises HostsFileError if the file is none, or has no such host.
    """
    found = read_hosts(hosts) if isinstance(hosts, Path) else hosts
    if home is not None:
        found = found.with_home(home)
    return Place(found.home.directory, found.hosts, found.cluster, None)


@contextmanager
def local(count: int, memory_per_host: str | int | None) -> Iterator[Place]:
    """Hosts on this computer, whose agents end with the context.

    Raises HostsFileError for an impossible count, SizeError for a size that is none, AgentError if they do not start.
    """
    if not 1 <= count <= HOSTS_MAX:
        raise HostsFileError(f"{count} hosts on this computer: between 1 and {HOSTS_MAX} are possible")
    budget = parse_budget(local_budget(count) if memory_per_host is None else memory_per_host)
    with LocalHosts(count, budget) as agents:
        hosts = tuple(Host(m.name, m.address, None, agents.directory / m.name) for m in agents.members)
        yield Place(agents.home_directory, hosts, None, agents)


def check_permission() -> None:
    """Raises PermissionMissing if the kernel does not let this user handle page faults."""
    probe = _core.probe_userfaultfd()
    if not probe["available"] or not probe["kernel_faults"]:
        why = f" ({probe['error']})" if probe["error"] else ""
        raise PermissionMissing(
            f"the kernel does not let this user handle page faults{why};"
            " mend it, as root, with: sysctl -w vm.unprivileged_userfaultfd=1"
        )
    if missing := probe["needed"] & ~probe["features"]:
        raise PermissionMissing(
            f"this kernel's userfaultfd lacks features that Megalith needs (bits {missing:#x}); see: megalith doctor"
        )
