"""With real memory limits: each host may use its budget and a stated overhead, and the kernel watches.

A limit counts all that a host's processes touch: the agent's interpreter, the command line's, the program's
text, page cache. The kernel drops cache when usage meets the limit; `failures` counts how often, and that is no
fault. Killing a process is.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cli
from generators import reads, text
from hosts import Hosts, HostsFactory
from programs.native import Native, need, run_native

MIB = 1 << 20

OVERHEAD_BYTES = 112 * MIB
"""What a host needs beside its budget: two Python interpreters of 30-40 MiB, the runtime, socket buffers,
page tables and the cache of the files in use."""

RecordProperty = Callable[[str, object], None]

ENV = {"OMP_NUM_THREADS": "1", "LC_ALL": "C"}


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mgl-limits-") as made:
        for name in ("native", "megalith"):
            Path(made, name).mkdir()
        yield Path(made)


def run_both(made: Hosts, directory: Path, argv: list[str]) -> tuple[Native, cli.Report]:
    """Runs natively, without limit, and on the hosts."""
    native = run_native(argv, cwd=directory / "native", env={**os.environ, **ENV})
    assert native.returncode == 0, native.stderr
    figures = directory / "report.json"
    ours = made.run(argv, options=["--report", str(figures)], cwd=directory / "megalith", env=ENV)
    assert ours.returncode == 0, ours.stderr.decode(errors="replace")
    return native, cli.Report(figures)


def assert_within_limits(made: Hosts, record_property: RecordProperty) -> None:
    """No host was ever above its limit, and none was short enough for the kernel to kill."""
    for host in made.all:
        assert host.group is not None
        record_property(f"{host.name}_failures", host.group.failures())
        record_property(f"{host.name}_max_usage_bytes", host.group.max_usage_bytes())
        assert host.group.oom_kills() == 0, host.name
        assert 0 < host.group.max_usage_bytes() <= host.group.limit_bytes, host.name


def assert_same(directory: Path, name: str) -> None:
    native = directory.joinpath("native", name).read_bytes()
    assert native
    assert directory.joinpath("megalith", name).read_bytes() == native, f"{name} differs from native"


def test_velvet(hosts: HostsFactory, directory: Path, record_property: RecordProperty) -> None:
    velveth, velvetg = need("velveth", "velvet"), need("velvetg", "velvet")
    budget = 72 * MIB  # velveth peaks at 150 MiB
    made = hosts(3, memory=f"{budget // MIB}M", limit_bytes=budget + OVERHEAD_BYTES)
    reads.fastq(directory / "reads.fq", genome_bases=60_000, coverage=20)
    native, report = run_both(made, directory, [velveth, "out", "21", "-fastq", "-short", "../reads.fq"])
    assert native.peak_bytes > 1.6 * budget
    assert report.total("evicted_pages") > 0  # it compresses too well to leave the home host; sort's pages do leave
    assert_same(directory, "out/Roadmaps")
    run_both(made, directory, [velvetg, "out"])
    for name in ("out/contigs.fa", "out/Graph", "out/stats.txt"):
        assert_same(directory, name)
    assert_within_limits(made, record_property)


def test_sort(hosts: HostsFactory, directory: Path, record_property: RecordProperty) -> None:
    """The program is larger than a host's whole limit, not only than its budget."""
    sort = need("sort", "coreutils")
    budget = 96 * MIB
    made = hosts(3, memory=f"{budget // MIB}M", limit_bytes=budget + OVERHEAD_BYTES)
    text.hex_lines(directory / "lines", lines=2_000_000)
    native, report = run_both(made, directory, [sort, "--parallel=4", "-S", "512M", "-o", "sorted", "../lines"])
    assert native.peak_bytes > budget + OVERHEAD_BYTES
    assert report.total("handed_over_pages") > 0
    assert_same(directory, "sorted")
    assert_within_limits(made, record_property)
