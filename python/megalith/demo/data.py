"""Reads to assemble, from Debian packages: nothing is downloaded."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from megalith.exceptions import MegalithError

Genome = Literal["plasmids", "lambda", "ecoli"]

_PLASMIDS: Final = Path("/usr/share/unicycler-data/sample_data")
_LAMBDA: Final = Path("/usr/share/doc/bowtie2/examples/reads")
_ECOLI: Final = Path("/usr/share/doc/ragout/examples/E.Coli/references/MG1655-K12.fasta.gz")

_READ_BASES: Final = 100
_FRAGMENT_BASES: Final = 300
_SEED: Final = 1
_SIMULATE_TIMEOUT_S: Final = 900


@dataclass(frozen=True, slots=True)
class Reads:
    """Two files of paired reads."""

    title: str
    first: Path
    second: Path
    format: str
    """As velveth calls it."""

    def velveth_words(self) -> list[str]:
        """What velveth is told of them."""
        return ["-shortPaired", f"-{self.format}", "-separate", str(self.first), str(self.second)]

    def bases(self) -> int:
        """How many bases there are."""
        return sum(len(line.strip()) for path in (self.first, self.second) for line in sequences(path))


def find_reads(genome: Genome, *, coverage: int, directory: Path) -> Reads:
    """The reads of ``genome``; those of ecoli are simulated into ``directory``."""
    if genome == "plasmids":
        title = "short reads of a bacterium's plasmids (unicycler-data)"
        return _packaged(title, _PLASMIDS, "short_reads_1.fastq.gz", "short_reads_2.fastq.gz", "unicycler-data")
    if genome == "lambda":
        title = "reads of phage lambda (bowtie2-examples)"
        return _packaged(title, _LAMBDA, "reads_1.fq.gz", "reads_2.fq.gz", "bowtie2-examples")
    return _simulated(coverage, directory)


def need_programs(*names: str) -> None:
    """Refuses to start without the programs that Debian's packages of the same name carry."""
    packages = {"velveth": "velvet", "velvetg": "velvet", "art_illumina": "art-nextgen-simulation-tools"}
    missing = sorted({packages.get(name, name) for name in names if shutil.which(name) is None})
    if missing:
        raise MegalithError(f"the demo needs programs that are not here; as root: apt install {' '.join(missing)}")


def _packaged(title: str, directory: Path, first: str, second: str, package: str) -> Reads:
    reads = Reads(title, directory / first, directory / second, "fastq.gz")
    for path in (reads.first, reads.second):
        if not path.exists():
            raise MegalithError(f"{path} is not here; as root: apt install {package}")
    return reads


def _simulated(coverage: int, directory: Path) -> Reads:
    if not _ECOLI.exists():
        raise MegalithError(f"{_ECOLI} is not here; as root: apt install ragout-examples")
    need_programs("art_illumina")
    title = f"E. coli K-12, {coverage} times covered by reads of {_READ_BASES} bases that art_illumina simulates"
    reads = Reads(title, directory / "reads1.fq", directory / "reads2.fq", "fastq")
    reference = directory / "reference.fasta"
    with gzip.open(_ECOLI, "rb") as packed, reference.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    command = ["art_illumina", "-q", "-na", "-p", "-ss", "HS20", "-i", str(reference), "-o", str(directory / "reads")]
    command += ["-l", str(_READ_BASES), "-f", str(coverage), "-m", str(_FRAGMENT_BASES), "-s", "30"]
    command += ["-rs", str(_SEED)]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=_SIMULATE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise MegalithError(f"art_illumina has not ended within {_SIMULATE_TIMEOUT_S} s") from None
    if done.returncode != 0 or not reads.second.exists():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise MegalithError(f"art_illumina ended with {done.returncode}: {last}")
    return reads


def sequences(path: Path) -> Iterator[bytes]:
    """The lines of bases of a FASTQ file, packed or not, each with its newline."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file):
            if number % 4 == 1:
                yield line
