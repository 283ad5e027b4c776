"""Finding a program as a shell would, and starting it under the runtime.

The runtime is an executable kept in memory. It is started with the program's own arguments, directory,
open files and environment, plus variables that tell it what to load, where, and where threads go (crates/client,
``env``); it removes them before the program sees its environment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from megalith import _core
from megalith.exceptions import AgentError, ProgramNotExecutable, ProgramNotFound
from megalith.paths import CLIENT_SOCKET
from megalith.placement import Spread
from megalith.processes import has_ended

ENV_SOCKET: Final = "MEGALITH_CLIENT_SOCKET"
ENV_MACHINE: Final = "MEGALITH_MACHINE"
ENV_PROGRAM: Final = "MEGALITH_PROGRAM"
ENV_SPREAD: Final = "MEGALITH_SPREAD"
ENV_CPUS: Final = "MEGALITH_CPUS"
ENV_VIEW: Final = "MEGALITH_VIEW"

ENV_WAIT_POLICY: Final = "OMP_WAIT_POLICY"
"""OpenMP threads wait by spinning on a shared word, which across hosts is a fight over its page. What the user has set
(or GOMP_SPINCOUNT, which goes before it) stays."""

_MFD_EXEC: Final = 0x10
"""linux/memfd.h; Python 3.11 does not name it."""

SPACE_BYTES: Final = 0x6000_0000_0000
"""crates/client, SPACE_END: how long the memory file of a space is."""

_ELF_X86_64: Final = 62


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be started: the file to load, and its arguments."""

    path: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended, and what it used."""

    returncode: int
    """Its exit status, or minus the signal that ended it."""
    user_s: float
    system_s: float

    @property
    def exit_code(self) -> int:
        """As shells count: 128 + n for signal n."""
        return self.returncode if self.returncode >= 0 else 128 - self.returncode


def find_program(argv: Sequence[str], environment: Mapping[str, str]) -> Program:
    """Finds ``argv[0]`` along PATH, and checks that it is something that can be run."""
    path = _search(argv[0], environment.get("PATH", os.defpath))
    head = _head(path)
    if head.startswith(b"#!"):
        # The runtime goes on to the interpreter, as the kernel would.
        words = os.fsdecode(head[2:].split(b"\n")[0]).split()
        if words and not os.path.exists(words[0]):
            raise ProgramNotFound(f"{path}: its interpreter {words[0]} does not exist")
    else:
        _check_elf(path, head)
    return Program(path, tuple(argv))


def _search(name: str, search_path: str) -> str:
    if not name:
        raise ProgramNotFound("'': no such program")
    if "/" in name:
        if not os.path.exists(name):
            raise ProgramNotFound(f"{name}: no such program")
        if not _executable(name):
            why = "is a directory" if os.path.isdir(name) else "permission denied"
            raise ProgramNotExecutable(f"{name}: {why}")
        return name
    refused: str | None = None
    for directory in search_path.split(os.pathsep):
        path = os.path.join(directory or ".", name)
        if _executable(path):
            return path
        if refused is None and os.path.isfile(path):
            refused = path
    if refused is not None:
        raise ProgramNotExecutable(f"{refused}: permission denied")
    raise ProgramNotFound(f"{name}: no such program")


def _executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(256)
    except OSError as error:
        raise ProgramNotExecutable(f"{path}: cannot be read ({error.strerror})") from None


def _check_elf(path: str, head: bytes) -> None:
    little_64 = head[:6] == b"\x7fELF\x02\x01"
    if not little_64 or int.from_bytes(head[18:20], "little") != _ELF_X86_64:
        raise ProgramNotExecutable(f"{path}: neither a script nor an x86-64 ELF program")


def runtime_file() -> int:
    """A memory file that holds the runtime and may be executed."""
    image = os.memfd_create("megalith-runtime", os.MFD_CLOEXEC | _MFD_EXEC)
    try:
        with os.fdopen(os.dup(image), "wb") as file:
            file.write(_core.runtime_image())
    except BaseException:
        os.close(image)
        raise
    return image


class Child:
    """The program's process. Collected once, by :meth:`ending`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def fileno(self) -> int:
        """Readable once the process has ended (pidfd_open(2))."""
        return self._pidfd

    def send(self, signum: int) -> None:
        """Sends a signal to the process; one that has ended takes no notice."""
        try:
            signal.pidfd_send_signal(self._pidfd, signum)
        except ProcessLookupError:
            return

    def ending(self, timeout_s: float) -> Ending | None:
        """How it ended, waiting at most ``timeout_s``; ``None`` if it has not."""
        if not has_ended(self._pidfd, timeout_s):
            return None
        _, status, usage = os.wait4(self.pid, 0)
        os.close(self._pidfd)
        return Ending(os.waitstatus_to_exitcode(status), usage.ru_utime, usage.ru_stime)


def start(
    program: Program,
    *,
    machine: str,
    directory: Path,
    environment: Mapping[str, str],
    files: Mapping[int, int],
    signal_mask: Sequence[int],
    spread: Spread | None = None,
) -> Child:
    """Starts ``program`` under the runtime, a client of the agent in ``directory``.

    ``files`` says what stands in for standard input, output and error (0, 1, 2); all else that this
    process would hand down to a child, it does. With ``spread``, threads may run on other hosts.
    """
    variables = {name: value for name, value in environment.items() if name not in (ENV_SPREAD, ENV_CPUS, ENV_VIEW)}
    variables[ENV_SOCKET] = str(directory / CLIENT_SOCKET)
    variables[ENV_MACHINE] = machine
    variables[ENV_PROGRAM] = program.path
    if spread is not None:
        variables[ENV_SPREAD] = ",".join(map(str, spread.starts))
        variables[ENV_CPUS] = ",".join(map(str, spread.cpus))
        variables[ENV_VIEW] = str(spread.view)
        variables.setdefault(ENV_WAIT_POLICY, "passive")
    try:
        image = runtime_file()
        try:
            # posix_spawn rather than subprocess: it closes nothing that the user meant to hand down
            # (`megalith run … 3<file`). Closing on exec is the default in Python (PEP 446).
            pid = os.posix_spawn(
                f"/proc/self/fd/{image}",
                program.argv,
                variables,
                file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in files.items()],
                setsigmask=signal_mask,
                # Python ignores these; a program expects the default (cf. subprocess's restore_signals).
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        finally:
            os.close(image)
    except OSError as error:
        raise AgentError(f"{program.path}: the runtime could not be started: {error.strerror}") from None
    return Child(pid)
