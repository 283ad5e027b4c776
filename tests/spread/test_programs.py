"""Programs of the field with threads on three hosts: the same results as natively."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from generators import reads, text
from programs.native import need, run_native
from spread import memcache
from spread.conftest import HERE, build
from spread.machine import NATIVE, THREE, WANDERING, Ended, Machine, run, start

MIB = 1 << 20
SECONDS_MAX = 240

everywhere = pytest.mark.parametrize(
    "machine",
    [NATIVE, THREE, pytest.param(WANDERING, marks=pytest.mark.slow)],
    ids=lambda machine: machine.name,
    indirect=True,
)


@pytest.fixture
def place(directory: Path) -> Path:
    """Inputs go here; `native` and `ours` below are the working directories of the two runs."""
    for name in ("native", "ours"):
        directory.joinpath(name).mkdir()
    return directory


def both(
    machine: Machine,
    mark: str,
    place: Path,
    argv: Sequence[str],
    *,
    memory: str = "256M",
    env: dict[str, str] | None = None,
    stdin: Path | None = None,
    threaded: bool = True,
) -> tuple[Ended, Ended]:
    """Runs a program natively and on the machine; both must end with 0, and the latter with threads away."""
    native = run(NATIVE, argv, directory=place / "native", mark=mark, env=env, stdin=stdin, timeout=SECONDS_MAX)
    assert native.returncode == 0, native.said
    ours = run(
        machine, argv, directory=place / "ours", mark=mark, memory=memory, env=env, stdin=stdin, timeout=SECONDS_MAX
    )
    print(f"{Path(argv[0]).name}: {native.seconds:.2f} s natively, {ours.seconds:.2f} s on {machine.name}")
    assert ours.returncode == 0, ours.said
    if threaded and not machine.native:
        assert ours.away_faults > 0, "no thread was away: it proves nothing"
    return native, ours


def assert_same_stdout(pair: tuple[Ended, Ended]) -> None:
    native, ours = pair
    assert native.stdout, "nothing was written natively: it would prove nothing"
    assert ours.stdout == native.stdout


@everywhere
def test_sort(machine: Machine, mark: str, place: Path) -> None:
    text.hex_lines(place / "lines", lines=300_000)
    both(machine, mark, place, [need("sort", "coreutils"), "--parallel=4", "-S", "64M", "-o", "sorted", "../lines"])
    assert place.joinpath("ours/sorted").read_bytes() == place.joinpath("native/sorted").read_bytes()


COMPRESSORS = {
    "pigz": ("pigz", ["-p4", "-n", "-c"]),
    "xz": ("xz-utils", ["-T4", "--block-size=512KiB", "-3", "-k", "-c"]),
    "zstd": ("zstd", ["-T4", "-5", "-q", "-c"]),
}


@everywhere
@pytest.mark.parametrize("name", COMPRESSORS)
def test_compressors(machine: Machine, mark: str, place: Path, name: str) -> None:
    package, options = COMPRESSORS[name]
    text.mixed(place / "data", bytes_total=4 * MIB)
    pair = both(machine, mark, place, [need(name, package), *options, "../data"])
    assert_same_stdout(pair)
    place.joinpath("packed").write_bytes(pair[1].stdout)
    unpack = [need(name, package), *options[:1], "-d", "-c"]
    unpacked = both(machine, mark, place, unpack, stdin=place / "packed", threaded=name == "xz")
    assert unpacked[1].stdout == place.joinpath("data").read_bytes()


@everywhere
def test_velvet(machine: Machine, mark: str, place: Path) -> None:
    """With threads its nodes differ from run to run, natively too: the assembly's figures are compared."""
    velveth, velvetg = need("velveth_63", "velvet-long"), need("velvetg_63", "velvet-long")
    reads.fastq(place / "reads.fq", genome_bases=20_000, coverage=15)
    env = {"OMP_NUM_THREADS": "4"}
    both(machine, mark, place, [velveth, "out", "31", "-fastq", "-short", "../reads.fq"], env=env)
    both(machine, mark, place, [velvetg, "out", "-cov_cutoff", "3"], env=env)
    native, ours = (lengths(place / name / "out/contigs.fa") for name in ("native", "ours"))
    assert native
    assert abs(len(ours) - len(native)) <= max(2, len(native) // 20)
    assert sum(ours) == pytest.approx(sum(native), rel=0.02)
    assert n50(ours) == pytest.approx(n50(native), rel=0.05)


def lengths(fasta: Path) -> list[int]:
    """The lengths of the sequences of a file."""
    return [len(part.partition("\n")[2].replace("\n", "")) for part in fasta.read_text().split(">")[1:]]


def n50(of: list[int]) -> int:
    """The length such that half of all bases are in sequences at least as long."""
    reached = 0
    for length in sorted(of, reverse=True):
        reached += length
        if 2 * reached >= sum(of):
            return length
    return 0


@everywhere
def test_minia(machine: Machine, mark: str, place: Path) -> None:
    """The order of contigs and their strands depend on timing; as a set they are the same."""
    reads.fastq(place / "reads.fq", genome_bases=20_000, coverage=15)
    options = ["-kmer-size", "25", "-nb-cores", "4", "-max-memory", "100", "-out", "m"]
    both(machine, mark, place, [need("minia", "minia"), "-in", "../reads.fq", *options])
    native, ours = (contigs(place / name / "m.contigs.fa") for name in ("native", "ours"))
    assert native
    assert ours == native


def contigs(fasta: Path) -> list[str]:
    complement = str.maketrans("ACGT", "TGCA")
    lines = [line for line in fasta.read_text().splitlines() if not line.startswith(">")]
    return sorted(min(line, line.translate(complement)[::-1]) for line in lines)


@everywhere
def test_kmc(machine: Machine, mark: str, place: Path) -> None:
    """It reserves the 2 GB of -m, its least, touching little: the machine must have as much."""
    kmc, tools = need("kmc", "kmc"), need("kmc_tools", "kmc")
    reads.fastq(place / "reads.fq", genome_bases=30_000, coverage=15)
    for name in ("native", "ours"):
        place.joinpath(name, "scratch").mkdir()
    both(machine, mark, place, [kmc, "-k25", "-m2", "-t4", "../reads.fq", "k", "scratch"], memory="1G")
    counts = []
    for name in ("native", "ours"):
        run_native([tools, "transform", "k", "dump", "-s", "k.txt"], cwd=place / name)
        counts.append(place.joinpath(name, "k.txt").read_bytes())
    assert counts[0]
    assert counts[1] == counts[0]


OPENBLAS = "/usr/lib/x86_64-linux-gnu/openblas-pthread"
PRODUCT = """
import hashlib, numpy
r = numpy.random.default_rng(1)
a, b = (r.integers(-50, 50, (n, 500)).astype(float) for n in (600, 400))
c = a @ b.T                                     # whole numbers: exact, whatever the order of the sums
for i in range(0, 600, 37):
    assert (c[i] == (a[i].astype(int) * b.astype(int)).sum(axis=1)).all(), i
x = numpy.linalg.solve(a[:300, :300] + 10000 * numpy.eye(300), c[:300, :5])
assert abs((a[:300, :300] + 10000 * numpy.eye(300)) @ x - c[:300, :5]).max() < 1e-6
print(hashlib.sha256(c.tobytes()).hexdigest())
"""


@everywhere
def test_openblas(machine: Machine, mark: str, place: Path) -> None:
    python = Path("/usr/bin/python3")
    if not Path(OPENBLAS).is_dir():
        pytest.skip("OpenBLAS is missing: apt-get install libopenblas0-pthread")
    if run_native([str(python), "-c", "import numpy"], cwd=place).returncode != 0:
        pytest.skip("numpy is missing: apt-get install python3-numpy")
    env = {"LD_LIBRARY_PATH": OPENBLAS, "OPENBLAS_NUM_THREADS": "4"}
    assert_same_stdout(both(machine, mark, place, [str(python), "-c", PRODUCT], env=env))


@pytest.fixture(scope="session")
def std_threads(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_cpp("std_threads", tmp_path_factory.mktemp("cpp"))


@everywhere
def test_cpp_threads(machine: Machine, mark: str, place: Path, std_threads: str) -> None:
    assert_same_stdout(both(machine, mark, place, [std_threads]))


@pytest.fixture(scope="session")
def onetbb(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not Path("/usr/include/oneapi/tbb.h").exists():
        pytest.skip("oneTBB is missing: apt-get install libtbb-dev")
    return build_cpp("onetbb", tmp_path_factory.mktemp("tbb"), "-ltbb")


@everywhere
def test_onetbb(machine: Machine, mark: str, place: Path, onetbb: str) -> None:
    assert_same_stdout(both(machine, mark, place, [onetbb]))


def build_cpp(name: str, directory: Path, *libraries: str) -> str:
    binary = directory / name
    build([HERE / "sources" / f"{name}.cpp"], binary, "-O2", compiler="g++", standard="c++17", libraries=libraries)
    return str(binary)


@everywhere
def test_memcached(machine: Machine, mark: str, place: Path) -> None:
    memcached = need("memcached", "memcached")
    with serving(machine, mark, place, memcached) as socket:
        memcache.prepare(socket)
        assert memcache.load(socket, connections=8, rounds=400) == 8 * 400
        assert memcache.total(socket) == 8 * 40


@contextmanager
def serving(machine: Machine, mark: str, place: Path, memcached: str) -> Iterator[Path]:
    """A server with four threads; at the end it is asked to end, and must end with 0."""
    socket = place / "m.sock"
    words = [memcached, "-s", str(socket), "-t", "4", "-m", "64", "-u", "root" if os.geteuid() == 0 else "nobody"]
    process = start(
        machine, words, directory=place / "ours", mark=mark, memory="256M", report=place / "memcached.report.json"
    )
    end = time.monotonic() + 30
    while not socket.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    try:
        yield socket
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 0, stderr.decode(errors="replace")[-2000:]
    finally:
        process.kill()
        process.communicate(timeout=30)
