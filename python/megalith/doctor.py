"""What this host needs in order to take part, checked one by one.

Each check says what it found and, if that will not do, the one line that mends it. The checks take what
they examine as arguments, so that tests can show them hosts of any kind; :func:`examine` shows them this one.
"""

from __future__ import annotations

import json
import os
import re
import resource
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TextIO

from megalith import _core, available, keys
from megalith.exceptions import KeysError
from megalith.launch import SPACE_BYTES
from megalith.sizes import format_size

if TYPE_CHECKING:
    from megalith._core import UserfaultfdProbe

SCHEMA_VERSION: Final = 1

KERNEL_MIN: Final = (5, 19)
"""Write protection of shared memory by userfaultfd came with Linux 5.19; Debian 12's own kernel is 6.1."""

FEATURES: Final[Mapping[int, str]] = {
    0: "PAGEFAULT_FLAG_WP",
    5: "MISSING_SHMEM",
    10: "MINOR_SHMEM",
    11: "EXACT_ADDRESS",
    12: "WP_HUGETLBFS_SHMEM",
    13: "WP_UNPOPULATED",
}
"""linux/userfaultfd.h, UFFD_FEATURE_*: those that Megalith may ask for."""

FILES_MIN: Final = 1024
MAPS_MIN: Final = 65_530
MEMORY_MIN: Final = 256 << 20

KEYS_LEFT_MIN: Final = timedelta(days=30)
"""Whoever looks once a month is warned in time."""

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing examined."""

    name: str
    state: State
    found: str
    mend: str | None = None


def check_machine(machine: str) -> Check:
    """The runtime knows one instruction set."""
    if machine == "x86_64":
        return Check("processor", "ok", machine)
    return Check("processor", "fail", machine, "use a host with an x86-64 processor")


def check_kernel(release: str) -> Check:
    """New enough for every call that the pager makes."""
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match[1]), int(match[2])) >= KERNEL_MIN:
        return Check("kernel", "ok", f"Linux {release}")
    needed = ".".join(map(str, KERNEL_MIN))
    mend = f"install Linux {needed} or newer; on Debian 11: apt install -t bullseye-backports linux-image-amd64"
    return Check("kernel", "fail", f"Linux {release}; {needed} is the oldest that will do", mend)


def check_userfaultfd(probe: UserfaultfdProbe, device: bool) -> Check:
    """Page faults can be handled in user space, those inside system calls included."""
    sysctl = "sysctl -w vm.unprivileged_userfaultfd=1"
    if not probe["available"] or not probe["kernel_faults"]:
        why = probe["error"] or "faults raised inside system calls are not served"
        if "not implemented" in why.lower():
            return Check("userfaultfd", "fail", why, "use a kernel built with CONFIG_USERFAULTFD=y")
        mend = f"as root: {sysctl}"
        if device:
            mend += "   (or: chmod 666 /dev/userfaultfd)"
        return Check("userfaultfd", "fail", why, mend)
    if missing := probe["needed"] & ~probe["features"]:
        names = ", ".join(FEATURES.get(bit, f"bit {bit}") for bit in range(64) if missing >> bit & 1)
        return Check("userfaultfd", "fail", f"the kernel lacks {names}", "install a newer kernel (see above)")
    how = "/dev/userfaultfd" if probe["via"] == "device" else "the system call"
    return Check("userfaultfd", "ok", f"by {how}, faults inside system calls included")


def check_seccomp(status: str) -> Check:
    """A container's filter may refuse calls that the runtime needs, though the probe has passed."""
    mode = re.search(r"^Seccomp:\s*(\d)", status, re.MULTILINE)
    if mode is None or mode[1] == "0":
        return Check("seccomp", "ok", "no filter")
    return Check(
        "seccomp",
        "warn",
        "this process is filtered; the runtime may be refused what it needs",
        "if programs do not start in this container: run it with --security-opt seccomp=unconfined",
    )


def check_files(soft: int, hard: int) -> Check:
    """Descriptors: the agent needs a few for each program and host."""
    if soft >= FILES_MIN or soft == resource.RLIM_INFINITY:
        return Check("open files", "ok", f"limit {soft}")
    most = f"ulimit -n {min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536}"
    return Check("open files", "warn", f"limit {soft}, fewer than {FILES_MIN}", most)


def check_maps(count: int) -> Check:
    """Mappings: memory whose protection changes page by page takes many."""
    if count >= MAPS_MIN:
        return Check("mappings", "ok", f"vm.max_map_count {count}")
    return Check(
        "mappings", "warn", f"vm.max_map_count {count}, fewer than usual", "as root: sysctl -w vm.max_map_count=262144"
    )


def check_memory(kernel: int, cgroup: int | None) -> Check:
    """Something to contribute."""
    room = kernel if cgroup is None else min(kernel, cgroup)
    limit = "no control group limit" if cgroup is None else f"control group leaves {format_size(cgroup)}"
    found = f"{format_size(kernel)} available, {limit}"
    if room >= MEMORY_MIN:
        return Check("memory", "ok", found)
    mend = "raise the control group's limit" if cgroup is not None and cgroup < kernel else "end what takes the memory"
    return Check("memory", "warn", found, f"{mend}; an agent's --memory must fit into {format_size(room)}")


def check_overcommit(mode: int) -> Check:
    """A space is reserved whole and filled as needed."""
    if mode != 2:
        return Check("overcommit", "ok", f"vm.overcommit_memory {mode}")
    return Check(
        "overcommit",
        "warn",
        "vm.overcommit_memory 2: large reservations may be refused",
        "as root: sysctl -w vm.overcommit_memory=0",
    )


def check_swap(total: int) -> Check:
    """Budgets are meant to be memory; what the kernel swaps is slower, not wrong."""
    if total == 0:
        return Check("swap", "ok", "none")
    return Check(
        "swap",
        "ok",
        f"{format_size(total)}; keep --memory below what is available, or the kernel swaps what the agent holds",
    )


def check_space(error: str | None) -> Check:
    """The memfd of a space is as long as the program's half of the addresses."""
    size = format_size(SPACE_BYTES)
    if error is None:
        return Check("address space", "ok", f"a sparse memory file of {size} can be made")
    return Check("address space", "fail", f"a sparse memory file of {size}: {error}", "ulimit -f unlimited")


def check_execution(error: str | None) -> Check:
    """The runtime is started from memory."""
    if error is None:
        return Check("runtime", "ok", "can be started from memory")
    return Check("runtime", "fail", f"cannot be started from memory: {error}", "as root: sysctl -w vm.memfd_noexec=0")


def check_keys(directory: Path, now: datetime) -> Check:
    """How long other hosts will know this one."""
    try:
        if not keys.present(directory):
            return Check("keys", "ok", f"none in {directory}; hosts that others reach over a network need some")
        found = keys.status(directory)
    except KeysError as error:
        return Check("keys", "fail", str(error), "make it whole, or begin anew: see docs/security.md")
    shown = f"host {found.name} until {found.host_until:%Y-%m-%d}, its CA until {found.authority_until:%Y-%m-%d}"
    if found.anchors > 1:
        shown += f", {found.anchors} CAs trusted"
    left = found.host_until - now
    if found.authority_until - now < KEYS_LEFT_MIN:
        where = "" if found.makes_hosts else "where the cluster was made: "
        state: State = "fail" if left <= timedelta(0) else "warn"
        return Check("keys", state, shown, f"{where}megalith init --rotate")
    if left >= KEYS_LEFT_MIN:
        return Check("keys", "ok", shown)
    mend = "megalith init --renew"
    if not found.makes_hosts:
        mend = (
            f"where the cluster was made: megalith token {found.name} | ssh {found.name} megalith init --join - --force"
        )
    return Check("keys", "fail" if left <= timedelta(0) else "warn", shown, mend)


def examine(keys_directory: Path | None = None) -> list[Check]:
    """All checks, of this host, whose keys are in that directory or the default one."""
    uname = os.uname()
    return [
        check_machine(uname.machine),
        check_kernel(uname.release),
        check_userfaultfd(_core.probe_userfaultfd(), os.path.exists("/dev/userfaultfd")),
        check_seccomp(Path("/proc/self/status").read_text()),
        check_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
        check_maps(int(Path("/proc/sys/vm/max_map_count").read_text())),
        check_memory(available.meminfo()["MemAvailable"], available.cgroup_room()),
        check_overcommit(int(Path("/proc/sys/vm/overcommit_memory").read_text())),
        check_swap(available.meminfo()["SwapTotal"]),
        check_space(_try_space()),
        check_execution(_try_execution()),
        check_keys(keys_directory or keys.default_directory(), datetime.now(UTC)),
    ]


def healthy(checks: Iterable[Check]) -> bool:
    """Whether programs can run; a warning does not stand in their way."""
    return all(check.state != "fail" for check in checks)


def as_json(checks: list[Check]) -> str:
    """The checks as one line of JSON."""
    return json.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            "kind": "doctor",
            "megalith": _core.VERSION,
            "healthy": healthy(checks),
            "checks": [asdict(check) for check in checks],
        }
    )


def print_checks(checks: list[Check], stream: TextIO) -> None:
    """Prints one line a check, and under it what mends it."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{check.state:<4}  {check.name:<{width}}  {check.found}", file=stream)
        if check.mend:
            print(f"{'':6}{'':{width}}  -> {check.mend}", file=stream)


def _try_space() -> str | None:
    try:
        file = os.memfd_create("megalith-doctor", os.MFD_CLOEXEC)
        try:
            os.ftruncate(file, SPACE_BYTES)
        finally:
            os.close(file)
    except OSError as error:
        return error.strerror
    return None


def _try_execution() -> str | None:
    from megalith.launch import runtime_file

    try:
        file = runtime_file()
    except OSError as error:
        return error.strerror
    os.close(file)
    return None
