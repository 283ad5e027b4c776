"""Megalith: many ordinary Linux hosts as one machine.

>>> import megalith
>>> done = megalith.run(["true"], hosts=3, memory_per_host="32M")
>>> done.returncode, [host.name for host in done.report.hosts]
(0, ['host1', 'host2', 'host3'])

The command line (``megalith --help``) is made of the same parts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from megalith.exceptions import (
    AgentError,
    HostLost,
    HostsFileError,
    JoinError,
    MegalithError,
    MemoryExhausted,
    PermissionMissing,
    PolicyError,
    ProgramNotExecutable,
    ProgramNotFound,
    SizeError,
)

if TYPE_CHECKING:
    from megalith.bars import progress
    from megalith.current import current_machine
    from megalith.machines import Machine
    from megalith.opening import connect, machine
    from megalith.report import HostFigures, Report
    from megalith.runner import Completed, run

__version__ = "0.1.0"

__all__ = [
    "AgentError",
    "Completed",
    "HostFigures",
    "HostLost",
    "HostsFileError",
    "JoinError",
    "Machine",
    "MegalithError",
    "MemoryExhausted",
    "PermissionMissing",
    "PolicyError",
    "ProgramNotExecutable",
    "ProgramNotFound",
    "Report",
    "SizeError",
    "__version__",
    "connect",
    "current_machine",
    "machine",
    "progress",
    "run",
]

# Loaded when first asked for: `megalith --help` shall not pay for them.
_LAZY = {
    "Completed": "megalith.runner",
    "HostFigures": "megalith.report",
    "Machine": "megalith.machines",
    "Report": "megalith.report",
    "connect": "megalith.opening",
    "current_machine": "megalith.current",
    "machine": "megalith.opening",
    "progress": "megalith.bars",
    "run": "megalith.runner",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'megalith' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
