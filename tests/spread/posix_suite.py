"""Runs the threads part of the Open POSIX test suite, natively and under megalith, and compares the verdicts.

    PYTHONPATH=tests MEGALITH_POSIX_SUITE=DIR python -m spread.posix_suite [INTERFACE…]

DIR is `testcases/open_posix_testsuite` of linux-test-project/ltp, or a directory above it. Every case is a program
that exits with its verdict. One that is killed after `SECONDS_MAX` "hangs".

Some cases do not look whether fork(2) has failed, and send a signal to process -1: to everybody. So each runs with its
hosts in a PID namespace of its own, where that reaches nobody else; without the right to make one nothing is run. And
cases that fork are not run under megalith at all, which refuses it.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import processes
from spread.machine import NATIVE, THREE, Machine, run

VARIABLE = "MEGALITH_POSIX_SUITE"
INTERFACES = ("pthread_*", "sem_*", "sigwait*", "sigtimedwait", "timer_*")
SECONDS_MAX = 240.0
VERDICTS = {0: "pass", 1: "fail", 2: "unresolved", 4: "unsupported", 5: "untested"}
REFUSED = "is not supported yet"
"""In the line with which the runtime refuses a call (docs/limits.md): that such a case ends otherwise is known."""

CONFINED = (
    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
    *("sh", "-c", '"$@"; exit $?', "sh"),  # the first process of a namespace is immune to signals: not the case
)
FORKS = re.compile(r"\bfork\s*\(")
KNOWN = {
    "pthread_create/1-6": "a thread of real-time priority waits for its pages; one of lower priority runs meanwhile",
    "sigwait/6-1": "its threads count with a plain n++ and wait for the count for ever; with an atomic one it passes",
    "pthread_sigmask/7-1": "SIGSYS cannot be blocked (docs/limits.md)",
}
"""Cases whose verdict differs for a reason that is inherent; those that need a refused call are not listed."""


@dataclass(frozen=True)
class Case:
    """One program of the suite."""

    name: str
    source: Path

    @property
    def forks(self) -> bool:
        """Whether its source, comments apart, calls fork(2)."""
        text = self.source.read_text(encoding="utf-8", errors="replace")
        return FORKS.search(re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)) is not None


@dataclass(frozen=True)
class Difference:
    """A case whose verdict is not the native one."""

    case: str
    native: str
    ours: str
    said: str

    @property
    def reason(self) -> str | None:
        """The line in which the runtime refused a call, if it did; or the reason in `KNOWN`."""
        refused = next((line for line in self.said.splitlines() if REFUSED in line), None)
        return refused or KNOWN.get(self.case)

    def __str__(self) -> str:
        return f"{self.case}: natively {self.native}, here {self.ours}; {self.reason or self.said.strip()[-400:]}"


def suite() -> Path | None:
    """The suite's directory, or None if `VARIABLE` names none."""
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    for root in (Path(named), Path(named, "testcases/open_posix_testsuite")):
        if root.joinpath("conformance/interfaces").is_dir():
            return root
    raise FileNotFoundError(f"{VARIABLE}={named} holds no conformance/interfaces")


def why_not_confined() -> str | None:
    """Why cases cannot be run where their signals reach nobody else; None if they can."""
    try:
        tried = subprocess.run([*CONFINED, "sh", "-c", "echo $PPID"], capture_output=True, timeout=20, check=False)
    except FileNotFoundError:
        return "unshare is missing: apt-get install util-linux"
    return None if tried.stdout == b"1\n" else f"no PID namespace: {tried.stderr.decode(errors='replace').strip()}"


def interfaces(root: Path) -> list[str]:
    """The interfaces that are compared."""
    folder = root / "conformance/interfaces"
    return sorted(path.name for pattern in INTERFACES for path in folder.glob(pattern) if path.is_dir())


def cases(root: Path, interface: str) -> list[Case]:
    """The programs of one interface; those that only have to compile are left out."""
    sources = sorted(root.joinpath("conformance/interfaces", interface).glob("*.c"))
    return [Case(f"{interface}/{one.stem}", one) for one in sources if not one.stem.endswith("buildonly")]


def build(root: Path, case: Case, binary: Path) -> str | None:
    """Compiles a case; returns what the compiler says if it cannot."""
    folders = [f"-I{root / 'include'}", f"-I{case.source.parent}"]
    sources = [str(case.source), str(root / "lib/common.c")]
    options = ["-w", "-std=gnu99", "-O1", "-D_GNU_SOURCE", *folders, *sources, "-o", str(binary)]
    done = subprocess.run(
        ["gcc", *options, "-lpthread", "-lrt", "-lm"], capture_output=True, text=True, timeout=60, check=False
    )
    return None if done.returncode == 0 else done.stderr


def compare(root: Path, interface: str, machine: Machine, mark: str) -> Iterator[Difference | None]:
    """Builds and runs every case of an interface both ways; one result a case, None if the verdicts agree.

    What differs is run again natively, twice: a case that is not sure of its own verdict proves nothing.
    """
    with tempfile.TemporaryDirectory(prefix="mgl-posix-") as made:
        directory = Path(made, "work")
        directory.mkdir()
        for case in cases(root, interface):
            if case.forks:
                continue
            binary = Path(made, "case")
            if build(root, case, binary) is not None:
                continue  # it does not compile here, which says nothing about us
            native, _ = verdict(NATIVE, binary, directory, mark)
            ours, said = verdict(machine, binary, directory, mark)
            if ours == native or any(verdict(NATIVE, binary, directory, mark)[0] == ours for _ in range(2)):
                yield None
            else:
                yield Difference(case.name, native, ours, said)


def verdict(machine: Machine, binary: Path, directory: Path, mark: str) -> tuple[str, str]:
    """How a case ends, in a word, and the end of what it said."""
    try:
        ended = run(
            machine, [str(binary)], directory=directory, mark=mark, memory="128M", timeout=SECONDS_MAX, before=CONFINED
        )
    except TimeoutError as error:
        processes.end_all(mark)
        return "hangs", str(error)
    said = ended.stdout.decode(errors="replace")[-1000:] + ended.said
    return VERDICTS.get(ended.returncode, f"exit {ended.returncode}"), said


def main() -> int:
    """Compares the interfaces named on the command line, or all, and prints the differences."""
    root = suite()
    if root is None:
        print(f"set {VARIABLE} to the suite's directory", file=sys.stderr)
        return 2
    if reason := why_not_confined():
        print(reason, file=sys.stderr)
        return 2
    mark = processes.new_mark()
    total, found = 0, []
    for interface in sys.argv[1:] or interfaces(root):
        for result in compare(root, interface, THREE, mark):
            total += 1
            if result is not None:
                found.append(result)
                print(result, flush=True)
        print(f"… {interface}: {total} cases, {len(found)} differences", flush=True)
    unknown = [one for one in found if one.reason is None]
    print(f"{total} cases; {len(found)} verdicts differ, {len(unknown)} of them without a known reason")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
