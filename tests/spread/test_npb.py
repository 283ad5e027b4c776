"""NAS parallel benchmarks with OpenMP threads on two and three hosts: all verify.

MEGALITH_NPB names the sources (NPB-OMP of GMAP/NPB-CPP), which are not part of this repository.
"""

from pathlib import Path

import pytest

from programs.native import need
from spread import npb
from spread.machine import NATIVE, THREE, TWO, WANDERING, Machine, run

each_kernel = pytest.mark.parametrize("kernel", npb.KERNELS)


def on(*machines: Machine) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("machine", machines, ids=lambda machine: machine.name, indirect=True)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the copy of the sources, in which all kernels are built."""
    return tmp_path_factory.mktemp("npb")


def built(kernel: str, size: str, tree: Path) -> Path:
    need("g++", "g++"), need("make", "make")
    root = npb.sources()
    if root is None:
        pytest.skip(f"set {npb.VARIABLE} to the sources of NPB-OMP (GMAP/NPB-CPP)")
    return npb.build(root, kernel, size, tree)


def check(machine: Machine, binary: Path, directory: Path, mark: str, *, runs: int, seconds_max: float) -> None:
    threads = max(machine.hosts, 2)
    for number in range(runs):
        ended = run(
            machine,
            [str(binary)],
            directory=directory,
            mark=mark,
            memory="512M",
            env={"OMP_NUM_THREADS": str(threads)},
            timeout=seconds_max,
        )
        print(f"{binary.name} on {machine.name}: {ended.seconds:.1f} s")
        assert ended.returncode == 0, (number, ended.said)
        assert npb.verified(ended.stdout), (number, ended.stdout.decode()[-2000:])
        if not machine.native:
            assert ended.away_faults > 0, "no thread was away: it proves nothing"


@each_kernel
@on(NATIVE, TWO, THREE)
def test_class_s(machine: Machine, mark: str, directory: Path, tree: Path, kernel: str) -> None:
    check(machine, built(kernel, "S", tree), directory, mark, runs=1, seconds_max=240)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@each_kernel
@on(TWO, THREE, WANDERING)
def test_class_s_again_and_again(machine: Machine, mark: str, directory: Path, tree: Path, kernel: str) -> None:
    check(machine, built(kernel, "S", tree), directory, mark, runs=20, seconds_max=600)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@each_kernel
@on(NATIVE, TWO, THREE)
def test_class_w(machine: Machine, mark: str, directory: Path, tree: Path, kernel: str) -> None:
    check(machine, built(kernel, "W", tree), directory, mark, runs=1, seconds_max=3600)
