"""Tools of the field with thread pools of their own: minia, kmc, jellyfish, samtools."""

import pytest

from generators import reads
from programs.compare import Stage, tool_output
from programs.native import need


def simulated(stage: Stage, genome_bases: int) -> str:
    return str(reads.fastq(stage.directory / "input.fq", genome_bases=genome_bases, coverage=20))


@pytest.mark.parametrize("cores", [1, 2])
def test_minia(stage: Stage, cores: int) -> None:
    """The order of contigs depends on timing when there are two cores, natively too: they are compared sorted."""
    minia = need("minia", "minia")
    source = simulated(stage, 60_000)
    pair = stage.run(
        [minia, "-in", source, "-kmer-size", "25", "-nb-cores", str(cores), "-max-memory", "100", "-out", "m"]
    )
    native, ours = (
        sorted(canonical(line) for line in d.joinpath("m.contigs.fa").read_text().splitlines() if line[:1] != ">")
        for d in (pair.native_directory, pair.directory)
    )
    assert native
    assert ours == native


def canonical(contig: str) -> str:
    """A contig and its reverse complement are the same answer."""
    return min(contig, contig.translate(str.maketrans("ACGT", "TGCA"))[::-1])


def test_jellyfish(stage: Stage) -> None:
    """The database names its own command line and date; its content is compared, sorted."""
    jellyfish = need("jellyfish", "jellyfish")
    source = simulated(stage, 30_000)
    count = [jellyfish, "count", "-m", "21", "-s", "8M", "-t", "2", "-C", "-o", "j.jf", source]
    pair = stage.run(count, hands_over=False)  # its table is mostly zeros
    native, ours = (
        sorted(tool_output([jellyfish, "dump", "-c", "j.jf"], cwd=d).splitlines())
        for d in (pair.native_directory, pair.directory)
    )
    assert len(native) > 30_000
    assert ours == native


def test_jellyfish_dump(stage: Stage) -> None:
    """The dump maps its database, a file, into memory."""
    jellyfish = need("jellyfish", "jellyfish")
    source = simulated(stage, 100_000)
    database = str(stage.directory / "j.jf")
    tool_output([jellyfish, "count", "-m", "21", "-s", "20M", "-t", "2", "-C", "-o", database, source], stage.directory)
    stage.run([jellyfish, "dump", "-c", database], evicts=False).assert_same_stdout()


def test_kmc(stage: Stage) -> None:
    """The database depends on the threads' timing; its content is compared, sorted.

    kmc reserves the 2 GB of -m, its least, in one piece, touching little: the machine must have as much.
    """
    kmc, tools = need("kmc", "kmc"), need("kmc_tools", "kmc")
    source = simulated(stage, 100_000)
    stage.prepare(lambda directory: directory.joinpath("scratch").mkdir())
    pair = stage.run([kmc, "-k25", "-m2", "-t2", "-r", source, "k", "scratch"], memory="1G", evicts=False)
    counts = []
    for directory in (pair.native_directory, pair.directory):
        tool_output([tools, "transform", "k", "dump", "-s", "k.txt"], cwd=directory)
        counts.append(directory.joinpath("k.txt").read_bytes())
    native, ours = counts
    assert native
    assert ours == native


def test_samtools_sorts_with_threads(stage: Stage) -> None:
    samtools = need("samtools", "samtools")
    source = reads.sam(stage.directory / "input.sam", alignments=150_000)
    pair = stage.run([samtools, "sort", "--no-PG", "-@", "2", "-m", "12M", "-O", "sam", str(source)])
    pair.assert_same_stdout()
