"""Sorting, singular values and a scikit-learn fit on arrays that are larger than any host.

Each array has 80 MiB, on three hosts that lend 64 MiB each, and each result is compared with that of plain numpy
arrays in the memory of this one computer:

- sort: ``a.sort()``, numpy's own; the checksums are the same.
- svd: a tall matrix. Each worker takes the QR decomposition of some rows, and the singular values of all R's on top of
  each other are those of the matrix. The left singular vectors then take the matrix's place, again part by part.
- fit: six linear classifiers, that differ in how much they are regularised, learn in parallel through joblib. Each
  reads the one array in batches (``partial_fit``), so no worker has a copy of it. The coefficients are the same to the
  last bit.

    python examples/larger.py [--mib 80] [--hosts 3] [--memory-per-host 64M] [--picture FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import SGDClassifier

import megalith
from megalith.sizes import format_size

Array = NDArray[Any]

COLUMNS: Final = 64
PARTS: Final = 12
BATCH_ROWS: Final = 8192
ALPHAS: Final = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def fill(part: Array, seed: int) -> None:
    """In a worker: random numbers, the same for the same seed wherever it runs."""
    part[...] = np.random.default_rng(seed).standard_normal(part.shape)


def fill_classes(rows: Array, labels: Array, seed: int) -> None:
    """In a worker: points, each with the side of a plane on which it lies, save for some noise."""
    fill(rows, seed)
    plane = np.random.default_rng(0).standard_normal(rows.shape[1])
    labels[:] = rows @ plane + np.random.default_rng(seed + PARTS).standard_normal(len(rows)) > 0


def checksum(array: Array) -> str:
    """SHA-256 of the array's bytes."""
    return hashlib.sha256(array.data.cast("B")).hexdigest()


def triangle(part: Array) -> Array:
    """In a worker: R of the QR decomposition of some rows."""
    return np.asarray(np.linalg.qr(part, mode="r"))


def project(part: Array, onto: Array) -> None:
    """In a worker: a part is replaced by its product with a small matrix."""
    part[...] = part @ onto


def learn(rows: Array, labels: Array, alpha: float) -> Array:
    """In a worker: one pass over all rows, in batches; the coefficients."""
    model = SGDClassifier(loss="log_loss", alpha=alpha, random_state=0)
    for first in range(0, len(rows), BATCH_ROWS):
        batch = slice(first, first + BATCH_ROWS)
        model.partial_fit(rows[batch], labels[batch], classes=[False, True])
    found: Array = model.coef_
    return found


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work returns, and the seconds it took."""
    began_s = time.perf_counter()
    return work(), time.perf_counter() - began_s


class Bench:
    """The three computations, on the machine and without it, and the seconds that each took."""

    def __init__(self, m: megalith.Machine, rows: int) -> None:
        self.m = m
        self.rows = rows
        self.times: dict[str, tuple[float, float]] = {}
        self.executor = m.executor()

    def two(self) -> tuple[Array, Array]:
        """A matrix in the machine's memory and one here, both filled with the same numbers."""
        there, here = self.m.empty((self.rows, COLUMNS)), np.empty((self.rows, COLUMNS))
        list(self.executor.map(fill, np.array_split(there, PARTS), range(PARTS)))
        for part, seed in zip(np.array_split(here, PARTS), range(PARTS), strict=True):
            fill(part, seed)
        return there, here

    def note(self, what: str, machine_s: float, plain_s: float, result: str) -> None:
        """Remembers and says how long it took."""
        self.times[what] = machine_s, plain_s
        print(f"{what}: {machine_s:.1f} s on the machine, {plain_s:.1f} s without; {result}")

    def sort(self) -> None:
        """What numpy does where it is asked to sort."""
        there, here = (array.reshape(-1) for array in self.two())
        _, machine_s = timed(there.sort)
        _, plain_s = timed(here.sort)
        if checksum(there) != checksum(here):
            raise SystemExit("the sorted arrays differ")
        self.note("sort", machine_s, plain_s, f"SHA-256 of both {checksum(there)[:16]}…")

    def svd(self) -> None:
        """U (in the matrix's place) and the singular values."""
        there, here = self.two()

        def decompose() -> Array:
            parts = np.array_split(there, PARTS)
            _, values, right = np.linalg.svd(np.vstack(list(self.executor.map(triangle, parts))))
            list(self.executor.map(project, parts, [right.T / values] * PARTS))
            return values

        values, machine_s = timed(decompose)
        plain, plain_s = timed(lambda: np.linalg.svd(here, full_matrices=False))
        if not np.allclose(values, plain.S, rtol=1e-10):
            raise SystemExit("the singular values differ")
        # A singular vector is one up to its sign.
        worst = np.abs(np.abs(np.sum(there * plain.U, axis=0)) - 1).max()
        if worst > 1e-6:
            raise SystemExit(f"the singular vectors differ by {worst}")
        self.note("svd", machine_s, plain_s, f"values from {values[0]:.3f} to {values[-1]:.3f}, both the same")

    def fit(self) -> None:
        """Classifiers, in parallel, on the one array."""
        there, here = self.m.empty((self.rows, COLUMNS)), np.empty((self.rows, COLUMNS))
        sides_there, sides_here = self.m.empty(self.rows, bool), np.empty(self.rows, bool)
        split = [np.array_split(array, PARTS) for array in (there, sides_there, here, sides_here)]
        list(self.executor.map(fill_classes, split[0], split[1], range(PARTS)))
        list(map(fill_classes, split[2], split[3], range(PARTS)))

        def learn_all(where: AbstractContextManager[Any], rows: Array, sides: Array) -> list[Array]:
            with where:
                models: list[Array] = joblib.Parallel()(joblib.delayed(learn)(rows, sides, alpha) for alpha in ALPHAS)
            return models

        ours, machine_s = timed(lambda: learn_all(self.m.joblib(), there, sides_there))
        plain, plain_s = timed(lambda: learn_all(nullcontext(), here, sides_here))
        if not np.array_equal(ours, plain):
            raise SystemExit("the coefficients differ")
        best = max(float(np.mean((here[:10_000] @ model.T > 0)[:, 0] == sides_here[:10_000])) for model in plain)
        self.note("fit", machine_s, plain_s, f"{len(ALPHAS)} models, the same; the best is right for {best:.0%}")


def draw(path: Path, bench: Bench, title: str) -> None:
    """The picture: seconds with and without the machine; memory by host."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.4), width_ratios=[2, 1], layout="constrained")
    at = np.arange(len(bench.times))
    for number, label in enumerate(("on the machine", "numpy on this computer alone")):
        left.bar(at + 0.4 * number, [times[number] for times in bench.times.values()], 0.4, label=label)
    left.set_xticks(at + 0.2, list(bench.times))
    left.set(ylabel="seconds", title=title)
    left.legend()
    figures = bench.m.figures
    right.bar([host.name for host in figures], [host.peak / 2**20 for host in figures])
    right.axhline(figures[0].budget / 2**20, color="black", linestyle=":")
    right.set(ylabel="MiB, at most (dotted: lent)", title="memory by host")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    """Computes, compares, draws."""
    parser = argparse.ArgumentParser(description="numpy and scikit-learn on arrays larger than a host.")
    parser.add_argument("--mib", type=int, default=80, help="size of each array in MiB (default: 80)")
    parser.add_argument("--hosts", type=int, default=3, help="hosts on this computer (default: 3)")
    parser.add_argument("--memory-per-host", default="64M", help="what each lends (default: 64M)")
    parser.add_argument("--picture", type=Path, default=Path("build/examples/larger.svg"))
    options = parser.parse_args()
    rows = (options.mib << 20) // (8 * COLUMNS)
    with megalith.machine(hosts=options.hosts, memory_per_host=options.memory_per_host) as m:
        lent = format_size(m.budget // len(m.hosts))
        title = f"arrays of {options.mib} MiB on {len(m.hosts)} hosts of {lent}"
        print(title)
        bench = Bench(m, rows)
        with bench.executor:
            bench.sort()
            bench.svd()
            bench.fit()
        draw(options.picture, bench, title)
    print(f"picture: {options.picture}")


if __name__ == "__main__":
    main()
