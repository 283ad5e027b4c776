"""Builds the NAS parallel benchmarks, OpenMP edition in C++ (NPB-OMP of GMAP/NPB-CPP), from a directory elsewhere."""

import os
import shutil
import subprocess
from pathlib import Path

VARIABLE = "MEGALITH_NPB"
KERNELS = ("EP", "IS", "CG", "MG", "FT", "LU", "BT", "SP")
_VERIFIED = "SUCCESSFUL"

_CORRECTIONS = {
    "CG/cg.cpp": (
        "\t\t#pragma omp single nowait\n\t\t{\n\t\t\td = 0.0;",
        "\t\t#pragma omp single\n\t\t{\n\t\t\td = 0.0;",
    )
}
"""A race in this edition's CG, which the original's barrier excludes: one thread sets `d` to 0 while another, which has
not waited for it, may already have added its part. A delay of 300 us there makes it fail natively too."""


def sources() -> Path | None:
    """The directory of NPB-OMP, or None if `VARIABLE` names none."""
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    for root in (Path(named), Path(named, "NPB-OMP")):
        if root.joinpath("sys/setparams.cpp").is_file() or root.joinpath("sys/setparams.c").is_file():
            return root
    raise FileNotFoundError(f"{VARIABLE}={named} holds no NPB-OMP")


def build(root: Path, kernel: str, size: str, directory: Path) -> Path:
    """Builds one kernel of class `size` in a copy of the sources, which it leaves alone; returns the binary."""
    copy = directory / "npb"
    if not copy.exists():
        shutil.copytree(root, copy, symlinks=True)
        copy.joinpath("bin").mkdir(exist_ok=True)
        for name, (wrong, right) in _CORRECTIONS.items():
            source = copy / name
            text = source.read_text(encoding="utf-8")
            assert text.count(wrong) == 1, f"{name} is not the edition that is known"
            source.write_text(text.replace(wrong, right), encoding="utf-8")
    binary = copy / "bin" / f"{kernel.lower()}.{size}"
    binary.unlink(missing_ok=True)
    subprocess.run(
        ["make", kernel, f"CLASS={size}", "CC=g++ -std=c++14 -w", "CFLAGS=-O2 -fopenmp -mcmodel=medium"],
        cwd=copy,
        capture_output=True,
        timeout=300,
        check=True,
    )
    return binary


def verified(output: bytes) -> bool:
    """Whether a kernel's output says that its results are right."""
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip().startswith("Verification ")]
    return bool(lines) and lines[-1].split()[-1] == _VERIFIED
