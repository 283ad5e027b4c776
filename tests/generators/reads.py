"""Sequencing reads: simulated from a random genome, or the lambda phage reads that Debian ships.

A read's errors matter: each makes up to k words that occur once, and those words are most of what an
assembler keeps in memory.
"""

import gzip
from itertools import islice
from pathlib import Path
from random import Random

LAMBDA_READS = Path("/usr/share/doc/bowtie2/examples/reads")
LAMBDA_PACKAGE = "bowtie2-examples"

_COMPLEMENT = str.maketrans("ACGT", "TGCA")


def fastq(
    path: Path, *, genome_bases: int, coverage: int, read_bases: int = 100, error_rate: float = 0.01, seed: int = 4
) -> Path:
    """Writes simulated reads of a random genome, from both strands, with substitutions."""
    random = Random(seed)
    genome = "".join(random.choices("ACGT", k=genome_bases))
    quality = "I" * read_bases
    with path.open("w", encoding="ascii") as out:
        for number in range(genome_bases * coverage // read_bases):
            start = random.randrange(genome_bases - read_bases)
            read = genome[start : start + read_bases]
            if random.random() < 0.5:
                read = read.translate(_COMPLEMENT)[::-1]
            out.write(f"@r{number}\n{_with_errors(read, error_rate, random)}\n+\n{quality}\n")
    return path


def lambda_fastq(path: Path, *, reads: int) -> Path:
    """Writes the first `reads` reads of each end of the lambda phage example, unpacked."""
    with path.open("wb") as out:
        for end in ("reads_1.fq.gz", "reads_2.fq.gz"):
            with gzip.open(LAMBDA_READS / end) as packed:
                out.writelines(islice(packed, 4 * reads))
    return path


def _with_errors(read: str, rate: float, random: Random) -> str:
    letters = list(read)
    position = 0
    while True:
        position += int(random.expovariate(rate)) + 1
        if position > len(letters):
            return "".join(letters)
        letters[position - 1] = random.choice("ACGT".replace(letters[position - 1], ""))


def sam(path: Path, *, alignments: int, seed: int = 8) -> Path:
    """Writes alignments of 50 bases to a reference of a million, in no order."""
    random = Random(seed)
    letters = str.maketrans("0123456789abcdef", "ACGTACGTACGTACGT")
    quality = "I" * 50
    with path.open("w", encoding="ascii") as out:
        out.write("@HD\tVN:1.6\tSO:unsorted\n@SQ\tSN:g\tLN:1000000\n")
        for number in range(alignments):
            read = random.randbytes(25).hex().translate(letters)
            start = random.randrange(1, 999_000)
            out.write(f"r{number}\t0\tg\t{start}\t60\t50M\t*\t0\t0\t{read}\t{quality}\n")
    return path
