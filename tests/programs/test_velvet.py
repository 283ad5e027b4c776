"""Velvet, the assembler that the project is for: hash tables and splay trees touched at random.

At half its memory the home host evicts all the time and yet keeps everything: empty buckets compress to nothing.
That pages leave it is held by other programs (sort, numpy).
"""

from pathlib import Path

import pytest

from generators import reads
from programs.compare import Stage
from programs.native import need

ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # with more, Velvet numbers its nodes differently from run to run


def link_input(source: Path, directory: Path) -> None:
    directory.joinpath("reads.fq").symlink_to(source)


def assemble(stage: Stage, source: Path) -> None:
    velveth, velvetg = need("velveth", "velvet"), need("velvetg", "velvet")
    stage.prepare(lambda directory: link_input(source, directory))
    hashed = stage.run([velveth, "out", "21", "-fastq", "-short", "reads.fq"], env=ONE_THREAD, hands_over=False)
    hashed.assert_same_files("out/Roadmaps", "out/Sequences")
    graphed = stage.run([velvetg, "out"], env=ONE_THREAD, hands_over=False)
    graphed.assert_same_files("out/contigs.fa", "out/stats.txt", "out/Graph", "out/PreGraph", "out/LastGraph")


def test_assembly_of_simulated_reads(stage: Stage) -> None:
    assemble(stage, reads.fastq(stage.directory / "input.fq", genome_bases=40_000, coverage=20))


def test_assembly_of_lambda_phage(stage: Stage) -> None:
    if not reads.LAMBDA_READS.is_dir():
        pytest.skip(f"the lambda phage reads are missing: apt-get install {reads.LAMBDA_PACKAGE}")
    assemble(stage, reads.lambda_fastq(stage.directory / "input.fq", reads=1200))
