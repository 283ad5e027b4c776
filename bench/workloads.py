"""The programs that are measured, with their inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from generators import reads, text


@dataclass(frozen=True)
class Workload:
    """A program and how its input is made."""

    name: str
    argv: tuple[str, ...]
    prepare: Callable[[Path], object]
    """Makes the input, in the directory in which the program then runs."""


def all_of(*, quick: bool) -> list[Workload]:
    """A hash table touched at random, a streaming sort, and vectors; peaks of 100 to 250 MiB."""
    scale = 1 if quick else 2
    numbers = 4_000_000 * scale
    return [
        Workload(
            "velveth",
            ("velveth", "out", "21", "-fastq", "-short", "reads.fq"),
            lambda directory: reads.fastq(directory / "reads.fq", genome_bases=60_000 * scale, coverage=20),
        ),
        Workload(
            "sort",
            ("sort", "--parallel=4", "-S", "512M", "-o", "sorted", "lines"),
            lambda directory: text.hex_lines(directory / "lines", lines=700_000 * scale),
        ),
        Workload(
            "numpy",
            (
                "/usr/bin/python3",
                "-c",
                (
                    f"import numpy; r = numpy.random.default_rng(1); a = r.random({numbers});"
                    " a.sort(); b = a * 2 + 1; print(b.sum(), b[::1000].max())"
                ),
            ),
            lambda directory: directory.joinpath(".ready").touch(),
        ),
    ]
