"""The Rust half: the agent, and the executable that runs programs. Private; use :mod:`megalith`."""

from typing import TypedDict, final

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
    worker: list[str] = ...,
) -> None:
    """Serves as this host's agent until ``stop_fd`` becomes readable or reaches its end.

    Writes one JSON line ``{"address": "127.0.0.1:41234"}`` to ``ready_fd`` once it listens. Makes
    ``control.sock`` and ``client.sock`` (mode 0600) in ``directory`` and removes them at the end. With ``keys``, the
    directory that this host's are in, it speaks TLS with agents of the cluster and with nobody else; with ``None``
    plaintext. ``worker`` is the command of worker processes, to which ``--fd N`` is added (docs/python.md); with none
    there are no workers. The GIL is released meanwhile.

    Raises:
        OSError: the address or the directory cannot be used.
        RuntimeError: anything else, in one clear line.
    """

@final
class Attachment:
    """A shared space of a machine, mapped in this process (docs/python.md).

    Args:
        client_socket: path of the ``client.sock`` of this host's agent.
        machine: the machine's id, hexadecimal digits.
        number: the space, as the home agent has named it.

    Raises:
        PermissionError: this process may make no userfaultfd.
        OSError: no agent is there, the machine or the space is not, or something else lies in the range; the message
            says which.

    Once the machine has ended, touching the range raises SIGBUS, and a system call on it gives EFAULT. A child of the
    process has no mapping.
    """

    def __new__(cls, client_socket: str, machine: str, number: int) -> Attachment: ...
    @property
    def number(self) -> int:
        """The space's number in its machine."""
    @property
    def base(self) -> int:
        """The first address: the same in every process of every host."""
    @property
    def size(self) -> int:
        """Bytes of addresses, far more than there is memory; untouched ones cost nothing."""
    @property
    def hosts(self) -> int:
        """How many hosts the machine has; they are numbered from home, 0."""
    @property
    def pid(self) -> int:
        """The process that attached."""
    @property
    def is_open(self) -> bool:
        """Whether the range can be touched in this process."""
    def discard(self, address: int, length: int) -> None:
        """Frees whole pages on all hosts: when it returns, no host finds the old bytes, and the next touch finds zeros.

        Raises OSError: EINVAL for what is not whole pages of the space, EPERM on hosts other than home, EBADF when
        closed, EPIPE or EIO when the machine has ended.
        """
    def start_worker(self, host: int) -> int:
        """Starts a worker process on a host, by number; the descriptor of a connected stream socket, the caller's.

        Raises OSError: EINVAL for a host that is not there, EPERM on hosts other than home, ECONNREFUSED or
        EHOSTUNREACH where there can be no worker (the agents' logs say why), EBADF when closed.
        """
    def held(self, address: int, length: int) -> bytes:
        """What this host has of whole pages: a byte for each, 0 nothing, 1 a copy, 2 the page itself.

        No page moves for it. It is no picture of one moment. Raises OSError as :meth:`discard`, but on any host.
        """
    def touch(self, address: int, length: int, write: bool) -> int:
        """Touches whole pages, so that they come to this host, to read or to write; how many it has touched.

        Raises OSError: EINVAL for what is not in the space, EBADF when closed, EPIPE when the machine has ended; and
        what a signal's handler raises.
        """
    def load(self, address: int) -> int:
        """The value of a word of 64 bits at a multiple of 8, unsigned.

        This and the next three are atomic over all hosts. Raises OSError: EINVAL for what is no word of the space,
        EBADF when closed, EPIPE when the machine has ended.
        """
    def store(self, address: int, value: int) -> None:
        """Gives a word a value; raises as :meth:`load`."""
    def fetch_add(self, address: int, more: int) -> int:
        """Adds to a word, modulo 2**64: its value before. Raises as :meth:`load`."""
    def compare_exchange(self, address: int, current: int, new: int) -> int:
        """Gives a word the value ``new`` if it has ``current``: its value before. Raises as :meth:`load`."""
    def hang_up(self) -> None:
        """Takes the agent for dead: the memory ends, and so does every wait for it in this process."""
    def close(self) -> None:
        """Unmaps the space, once. Whoever touches it then, through an array say, gets SIGSEGV."""

@final
class NumpyHeap:
    """Memory of a shared space for numpy's arrays: an allocator that numpy can be given (NEP 49).

    Args:
        attachment: the space, mapped in this process.
        start: first of the heap's addresses, which are nobody else's and untouched.
        length: how many. Both are multiples of 2 MiB, ``length`` is eight of these at least.
        kept_max: bytes of memory that may stay on the hosts though no array has them, because the next one will.

    Raises ValueError for another range. Arrays keep what they need of it; any thread may free them.
    """

    def __new__(cls, attachment: Attachment, start: int, length: int, kept_max: int) -> NumpyHeap: ...
    @property
    def handler(self) -> object:
        """What :func:`set_numpy_handler` takes: a capsule named ``mem_handler``."""
    @property
    def blocks(self) -> int:
        """How many blocks arrays have."""
    def close(self) -> bool:
        """From now on numpy gets no memory here, which it raises as MemoryError; whether no array has any."""
    def inherit(self) -> None:
        """In a child of the process: its arrays are its parent's, and nothing is done for them here."""

def set_numpy_handler(handler: object, /) -> object:
    """Makes numpy's arrays, from now on and in this context, come from a handler; ``None`` is numpy's own.

    Returns the handler before. Raises ImportError if there is no numpy or it is older than 1.22, ValueError for what
    is no handler.
    """

def say_when_touched() -> None:
    """From now on this process says in one line why it dies when it touches the space of a machine that has ended."""

def probe_userfaultfd() -> UserfaultfdProbe:
    """Tries to make a userfaultfd, by system call and by device, and says what came of it."""
