"""The Rust half: the agent, and the executable that runs programs. Private; use :mod:`megalith`."""

from typing import TypedDict

VERSION: str
"""Version of this build, the same as ``megalith.__version__``."""

PROTOCOL_VERSION: int
"""Version of what agents say to each other; hosts of one machine must agree."""

class UserfaultfdProbe(TypedDict):
    """What this process may do with userfaultfd."""

    available: bool
    """One could be made at all."""
    kernel_faults: bool
    """One that also serves faults raised inside system calls could be made."""
    features: int
    """The kernel's features (``UFFD_FEATURE_*`` bits)."""
    needed: int
    """The features that Megalith needs."""
    error: str | None
    """Why one could not be made."""
    via: str | None
    """``"syscall"`` or ``"device"`` (``/dev/userfaultfd``)."""

def runtime_image() -> bytes:
    """The freestanding ELF executable that loads a program into a space."""

def serve_agent(
    *,
    name: str,
    listen: str,
    directory: str,
    budget: int,
    cluster: str,
    ready_fd: int,
    stop_fd: int,
    keys: str | None = None,
) -> None:
    """Serves as this host's agent until ``stop_fd`` becomes readable or reaches its end.

    Writes one JSON line ``{"address": "127.0.0.1:41234"}`` to ``ready_fd`` once it listens. Makes
    ``control.sock`` and ``client.sock`` (mode 0600) in ``directory`` and removes them at the end. With ``keys``, the
    directory that this host's are in, it speaks TLS with agents of the cluster and with nobody else; with ``None``
    plaintext. The GIL is released meanwhile.

    Raises:
        OSError: the address or the directory cannot be used.
        RuntimeError: anything else, in one clear line.
    """

def probe_userfaultfd() -> UserfaultfdProbe:
    """Tries to make a userfaultfd, by system call and by device, and says what came of it."""
