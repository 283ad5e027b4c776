"""Where an agent keeps its sockets.

``megalith agent`` and ``megalith run`` derive the same directory from the agent's address, so that a run
finds the agent of its home host without being told. The directory belongs to one user and nobody else
can enter it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from megalith.exceptions import AgentError

CONTROL_SOCKET: Final = "control.sock"
CLIENT_SOCKET: Final = "client.sock"
SOCKET_PATH_BYTES_MAX: Final = 107
"""sockaddr_un's limit, less the final zero (unix(7))."""


def default_directory(address: str) -> Path:
    """The directory of the agent that listens on ``address``."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime):
        return Path(runtime) / "megalith" / address
    return Path(f"/tmp/megalith-{os.getuid()}") / address


def make_private(directory: Path) -> None:
    """Makes ``directory``, for this user alone, and refuses one that others could have prepared."""
    if len(os.fsencode(directory / CONTROL_SOCKET)) > SOCKET_PATH_BYTES_MAX:
        raise AgentError(f"{directory}: too long for a socket's path; name a shorter one with --dir")
    missing = [d for d in (directory, *directory.parents) if not d.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    ours = [directory]
    if directory.parent.name == f"megalith-{os.getuid()}":
        ours.append(directory.parent)
    for path in ours:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise AgentError(f"{path}: not a directory")
        if found.st_uid != os.getuid():
            raise AgentError(f"{path}: belongs to another user (uid {found.st_uid})")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise AgentError(f"{path}: others may enter it; make it private: chmod 700 {path}")
