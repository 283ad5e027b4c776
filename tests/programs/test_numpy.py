"""Python and numpy on arrays larger than one host's budget. Debian's Python, the system's own binaries."""

import subprocess
from pathlib import Path

import pytest

from programs.compare import Stage

PYTHON = Path("/usr/bin/python3")
REFERENCE_BLAS = Path("/usr/lib/x86_64-linux-gnu/blas")
PROGRAMS = {
    "sort": "a = r.random(6_000_000); a.sort(); print(a[::1000].tobytes().hex())",
    "sum": "a = r.integers(0, 1 << 40, 10_000_000); print(a.sum(), (a * 3).sum(), (a ^ a[::-1]).max())",
    "matmul": "a = r.random((1100, 1100)); b = a @ a.T; print(b[::50, ::50].tobytes().hex())",
    "fft": "a = r.random(1 << 21); f = numpy.fft.fft(a); print(f[::1000].tobytes().hex(), abs(f).max())",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_numpy(stage: Stage, name: str) -> None:
    if (
        not PYTHON.exists()
        or subprocess.run([PYTHON, "-c", "import numpy"], capture_output=True, check=False).returncode != 0
    ):
        pytest.skip("numpy is missing: apt-get install python3-numpy")
    program = f"import numpy; r = numpy.random.default_rng(1); {PROGRAMS[name]}"
    # How a BLAS splits its sums depends on the number of threads, which is the machine's own affair.
    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # OpenBLAS asks for 128 MiB at once, and asks again for ever where the machine has less.
    if not REFERENCE_BLAS.exists():
        pytest.skip("the reference BLAS is missing: apt-get install libblas3")
    environment["LD_LIBRARY_PATH"] = str(REFERENCE_BLAS)
    stage.run([str(PYTHON), "-c", program], env=environment).assert_same_stdout()


def test_python_objects(stage: Stage) -> None:
    """Small objects, a dictionary, the garbage collector."""
    if not PYTHON.exists():
        pytest.skip("/usr/bin/python3 is missing: apt-get install python3")
    program = "d = {str(i): [i] for i in range(300_000)}; print(len(d), sum(v[0] for v in d.values()))"
    stage.run([str(PYTHON), "-c", program], env={"PYTHONHASHSEED": "0"}).assert_same_stdout()


def test_python_runs_a_child(stage: Stage) -> None:
    """posix_spawn and pipes: the child is an ordinary process of the home host."""
    if not PYTHON.exists():
        pytest.skip("/usr/bin/python3 is missing: apt-get install python3")
    # close_fds=False lets subprocess use vfork.
    program = "import subprocess; print(subprocess.check_output(['/bin/echo', 'child'], close_fds=False))"
    stage.run([str(PYTHON), "-c", program], evicts=False).assert_same_stdout()
