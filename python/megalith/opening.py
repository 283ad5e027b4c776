"""Machines for an interpreter: of hosts made here for it (:func:`machine`), or of running ones (:func:`connect`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from megalith.gathering import Place, local, running
from megalith.hostsfile import Hosts
from megalith.keeper import Keeper
from megalith.machines import Machine


def machine(*, hosts: int = 1, memory_per_host: str | int | None = None) -> Machine:
    """Makes a machine of ``hosts`` hosts on this computer, for this interpreter.

    Args:
        hosts: how many.
        memory_per_host: what each lends, such as ``"2G"`` or a number of bytes (default: a fair share of what is
            available).

    Raises:
        HostsFileError: not that many are possible.
        SizeError: for a size that is none.
        PermissionMissing: this user may make no userfaultfd.
        AgentError: the agents cannot be started; or arrays of an earlier machine are still referred to.

    ^C meanwhile is raised when all that was begun has been taken away again.

    >>> with machine(hosts=3, memory_per_host="32M") as m:
    ...     a = m.zeros(5_000_000)  # 38 MiB: more than any of them has
    ...     a[:] = 2
    ...     print(m.hosts, a.sum())
    ('host1', 'host2', 'host3') 10000000.0
    """
    return _made(lambda: local(hosts, memory_per_host))


def connect(hosts: str | os.PathLike[str] | Hosts, *, home: str | None = None) -> Machine:
    """Makes a machine of hosts whose agents run (``megalith agent``), for this interpreter.

    Agents serve any number of machines and programs, out of one budget each, and live on when this one is closed.

    Args:
        hosts: the path of a hosts file, as for ``megalith run --hosts``; or what
            :func:`megalith.hostsfile.read_hosts` returns.
        home: the name of the host that is this computer, where it is not the first. Its agent is reached over a socket
            in its directory, so it must run here, as this user.

    Raises:
        HostsFileError: the hosts file is none, or has no host ``home``.
        JoinError: a host cannot be reached, or does not join.
        PermissionMissing: this user may make no userfaultfd.
        AgentError: the home host's agent does not run on this computer; or arrays of an earlier machine are still
            referred to.

    ^C meanwhile is raised when all that was begun has been taken away again.
    """
    found = hosts if isinstance(hosts, Hosts) else Path(hosts)
    return _made(lambda: nullcontext(running(found, home)))


def _made(gather: Callable[[], AbstractContextManager[Place]]) -> Machine:
    keeper = Keeper(gather)
    try:
        keeper.open()
        return Machine(keeper)
    except BaseException:
        keeper.end()
        raise
