"""Programs whose right result is known: what they print and write natively, as a digest."""

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from generators import reads, source, text

_HERE: Final = Path(__file__).parent
_VICTIM: Final = _HERE.parent / "failures" / "programs.c"
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_NATIVE_S_MAX: Final = 120
MIB: Final = 1 << 20


class Missing(Exception):
    """A program of the distribution is not installed; the message says how to install it."""


def find(program: str, package: str) -> str:
    """The path of a program of the distribution."""
    found = shutil.which(program, path=_PATH)
    if found is None:
        raise Missing(f"{program} is missing: apt-get install {package}")
    return found


@final
class Shelf:
    """A directory of inputs and built programs, each made when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def input(self, name: str, make: Callable[[Path], object]) -> Path:
        """An input file."""
        path = self.directory / name
        if not path.exists():
            draft = path.with_name(f"{name}.draft")
            make(draft)
            draft.rename(path)
        return path

    def program(self, source_file: Path) -> str:
        """A C program of one file, built."""
        compiler = find("gcc", "gcc")
        words = [compiler, "-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", str(source_file), "-o"]
        build = functools.partial(_build, words)
        return str(self.input(source_file.stem, build))


def _build(words: list[str], to: Path) -> None:
    subprocess.run([*words, str(to)], check=True, timeout=120)


@dataclass(frozen=True)
class Workload:
    """A program with its input."""

    argv: Callable[[Shelf], list[str]]
    mib: int
    """What it touches, about: home has less."""
    asks_mib: int = 0
    """Its largest request: a machine that has less refuses it."""
    threads: bool = False
    """Its threads may leave home, in a way that one can see."""
    stdout: bool = True
    """What it prints is the same each time."""
    files: tuple[str, ...] = ()
    """What it writes into its working directory, the same each time."""
    env: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """What it is given beside what we have."""
        return {"LC_ALL": "C", "PATH": _PATH, **self.env}

    def result(self, stdout: bytes, directory: Path) -> str:
        """A digest of what it printed and wrote; a file that is missing counts as such."""
        digest = hashlib.sha256(stdout if self.stdout else b"")
        for name in self.files:
            path = directory / name
            digest.update(path.read_bytes() if path.exists() else b"(missing)")
        return digest.hexdigest()


_SQL: Final = """
PRAGMA journal_mode=MEMORY; PRAGMA cache_size=-32000;
CREATE TABLE t(a INTEGER, b TEXT);
WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<250000)
  INSERT INTO t SELECT n, hex(n*2654435761 % 4294967296) FROM c;
CREATE INDEX i ON t(b);
SELECT count(*), sum(a*length(b)), min(b), max(b) FROM t;
SELECT a FROM t WHERE b > '39' ORDER BY b LIMIT 5;
PRAGMA integrity_check;
"""

_NUMPY: Final = """
import hashlib, numpy
r = numpy.random.default_rng(1)
digest = hashlib.sha256()
for turn in range(2):
    a, b = (r.integers(-50, 50, (n, 400)).astype(float) for n in (500, 400))
    c = a @ b.T                                  # whole numbers: exact, whatever the order of the sums
    digest.update(c.tobytes())
    s = numpy.sort(r.integers(0, 1 << 40, 200_000))
    assert (s[1:] >= s[:-1]).all()
    digest.update(s.tobytes())
print(digest.hexdigest())
"""


def _velvet(shelf: Shelf) -> list[str]:
    make = functools.partial(reads.fastq, genome_bases=8_000, coverage=15)
    velveth, velvetg = find("velveth_63", "velvet-long"), find("velvetg_63", "velvet-long")
    fastq = shelf.input("reads.fq", make)
    return [
        find("dash", "dash"),
        "-c",
        f"{velveth} out 31 -fastq -short {fastq} && {velvetg} out -cov_cutoff 3",
    ]


def _sort(shelf: Shelf) -> list[str]:
    lines = shelf.input("lines", functools.partial(text.hex_lines, lines=500_000))
    return [find("sort", "coreutils"), "--parallel=4", "-S", "40M", "-T", ".", "-o", "sorted", str(lines)]


def _sqlite(shelf: Shelf) -> list[str]:
    return [find("sqlite3", "sqlite3"), "made.db", _SQL]


def _increments(shelf: Shelf) -> list[str]:
    return [shelf.program(_HERE / "sources" / "increments.c"), "4", "3000", "40"]


def _xz(shelf: Shelf) -> list[str]:
    data = shelf.input("data", functools.partial(text.mixed, bytes_total=8 * MIB))
    return [find("xz", "xz-utils"), "-T2", "--block-size=1MiB", "-2", "-k", "-c", str(data)]


def _numpy(shelf: Shelf) -> list[str]:
    python = find("python3", "python3-numpy")
    known = subprocess.run([python, "-c", "import numpy"], capture_output=True, timeout=60, check=False)
    if known.returncode != 0:
        raise Missing("numpy is missing: apt-get install python3-numpy")
    return [python, "-c", _NUMPY]


def _threads(shelf: Shelf) -> list[str]:
    return [shelf.program(_VICTIM), "threads", "64", "6"]


def _churn(shelf: Shelf) -> list[str]:
    return [shelf.program(_VICTIM), "churn", "40", "5"]


def _gcc(shelf: Shelf) -> list[str]:
    big = shelf.input("big.c", functools.partial(source.c_program, functions=250))
    # A compiler that is killed leaves its temporary files behind: in its own directory, where they are nobody else's.
    return [find("env", "coreutils"), "TMPDIR=.", find("gcc", "gcc"), "-O1", "-c", str(big), "-o", "big.o"]


WORKLOADS: Final[Mapping[str, Workload]] = {
    "velvet": Workload(_velvet, 24, 160, stdout=False, files=("out/contigs.fa",), env={"OMP_NUM_THREADS": "1"}),
    "sort": Workload(_sort, 48, threads=True, files=("sorted",)),
    "sqlite": Workload(_sqlite, 36),
    "increments": Workload(_increments, 44, threads=True),
    "xz": Workload(_xz, 60, threads=True),
    # OpenBLAS asks for 128 MiB a thread, and where it is refused asks again for ever.
    "numpy": Workload(_numpy, 48, 160, env={"OPENBLAS_NUM_THREADS": "2"}),
    "threads": Workload(_threads, 68, threads=True),
    "churn": Workload(_churn, 42),
    "gcc": Workload(_gcc, 50, files=("big.o",)),
}
NAMES: Final = tuple(WORKLOADS)
THREADED: Final = frozenset(name for name, workload in WORKLOADS.items() if workload.threads)


@final
class Known:
    """Right results, each found by a native run when it is first asked for."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._results: dict[str, str] = {}

    def result(self, name: str) -> str:
        """The digest of the right result of a workload."""
        if name not in self._results:
            self._results[name] = self._run(WORKLOADS[name])
        return self._results[name]

    def _run(self, workload: Workload) -> str:
        with tempfile.TemporaryDirectory(prefix="native-", dir=self.shelf.directory) as where:
            done = subprocess.run(
                workload.argv(self.shelf),
                cwd=where,
                env={**os.environ, **workload.environment()},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_NATIVE_S_MAX,
                check=True,
            )
            return workload.result(done.stdout, Path(where))
