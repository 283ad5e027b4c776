"""Everything that Megalith raises, as one tree.

Each exception's message is one line that can be shown to a user as it is, and each knows the exit code
that ``megalith run`` ends with because of it.

    MegalithError                 125
    ├── SizeError                 125   also a ValueError
    ├── HostsFileError            125
    ├── AgentError                125
    ├── JoinError                 125
    ├── KeysError                 125
    ├── PermissionMissing         125
    ├── PolicyError               125
    ├── ProtocolError             125
    ├── Interrupted               128 + signal
    ├── ProgramNotExecutable      126
    ├── ProgramNotFound           127
    ├── HostLost                  120
    └── MemoryExhausted           137

``megalith.executor.WorkerLost`` belongs to the tree too. It is also a ``BrokenProcessPool``, so it is not here: loading
that one takes longer than all else that ``megalith --help`` loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from megalith.report import Report


class MegalithError(Exception):
    """Anything that went wrong in Megalith itself, as opposed to in the program that it runs."""

    exit_code: int = 125


@final
class SizeError(MegalithError, ValueError):
    """A size such as ``2G`` could not be understood."""


@final
class HostsFileError(MegalithError):
    """The hosts file is missing, or says something that cannot be."""


@final
class AgentError(MegalithError):
    """An agent could not be started or reached on this computer, or does not speak as it should."""


@final
class JoinError(MegalithError):
    """The home agent could not join the hosts into a machine.

    ``kind`` is the control protocol's word for why (``unreachable``, ``version``, ``cluster``, …) and
    ``host`` the name of the host concerned.
    """

    def __init__(self, message: str, *, kind: str, host: str | None) -> None:
        super().__init__(message)
        self.kind = kind
        self.host = host


@final
class KeysError(MegalithError):
    """A host's keys are missing, cannot be made or cannot be used; or a token is none."""


@final
class PermissionMissing(MegalithError):
    """The kernel does not let this user do what Megalith needs; the message says how to mend it."""


@final
class PolicyError(MegalithError):
    """The policy that was to move threads is not there, or does not do what a policy does."""


@final
class ProtocolError(MegalithError):
    """What came over a stream between an executor and a worker is not what one of them says."""


@final
class Interrupted(MegalithError):
    """A signal asked for the end before the work was done."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"ended by signal {signum}")
        self.signum = signum
        self.exit_code = 128 + signum


@final
class ProgramNotExecutable(MegalithError):
    """The program was found, and cannot be run."""

    exit_code = 126


@final
class ProgramNotFound(MegalithError):
    """There is no such program."""

    exit_code = 127


class _MachineEnded(MegalithError):
    """The machine ended under the program; ``report`` has the last figures known."""

    def __init__(self, message: str, *, report: Report) -> None:
        super().__init__(message)
        self.report = report


@final
class HostLost(_MachineEnded):
    """A host went away while the program used it. The program has been killed."""

    exit_code = 120


@final
class MemoryExhausted(_MachineEnded):
    """The program needed more than the hosts' budgets together hold. It has been killed."""

    exit_code = 137
