"""A matrix of Bloom filters, larger than any host, filled and asked by all workers.

An index of many samples, as BIGSI and COBS make it: each sample (a sequencing run, say) is a set of k-mers, kept as a
Bloom filter, and the filters lie side by side as columns of a matrix of bits, so that one look at a few rows tells for
*all* samples at once which may hold a k-mer. Such matrices have hundreds of gigabytes; this one has 96 MiB on hosts
that lend 64 each. It lies in the machine's memory in blocks of 512 samples, each of which one worker fills. Then all
workers are asked: no k-mer of a sample may be missed, and those of no sample are found as often as theory says.

    python examples/bloom.py [--samples 6144] [--rows-log2 17] [--kmers 16000] [--hosts 3] [--memory-per-host 64M]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import megalith
from megalith.sizes import format_size

Words = NDArray[np.uint64]
Bits = NDArray[np.uint8]

BLOCK_SAMPLES: Final = 512
HASHES: Final = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
"""A row of a k-mer is the upper bits of its product with one of them."""
ASKED: Final = 2000
"""K-mers that are asked for, of samples and of none each."""
TOLERANCE: Final = 0.05
"""What measured and expected rates of false finds may differ by, as a part."""


def kmers_of(sample: int, count: int) -> Words:
    """The k-mers of a sample, made up: distinct enough, and the same wherever they are asked for."""
    return np.random.default_rng(sample).integers(0, 1 << 62, count, np.uint64) << np.uint64(1)


def kmers_of_none(count: int) -> Words:
    """K-mers that no sample has: those of samples are even."""
    return np.random.default_rng(2**40).integers(0, 1 << 62, count, np.uint64) << np.uint64(1) | np.uint64(1)


def rows_of(kmers: Words, rows_log2: int) -> NDArray[np.int64]:
    """The rows of each k-mer, one for each hash."""
    return (kmers[:, np.newaxis] * HASHES >> np.uint64(64 - rows_log2)).astype(np.int64)


def fill(block: Bits, first: int, count: int) -> None:
    """In a worker: the filters of a block of samples, each with so many k-mers."""
    rows_log2 = len(block).bit_length() - 1
    for byte in range(block.shape[1]):
        column = np.zeros(len(block), np.uint8)
        for bit in range(8):
            sample = np.zeros(len(block), np.bool_)
            sample[rows_of(kmers_of(first + 8 * byte + bit, count), rows_log2)] = True
            column |= sample.view(np.uint8) << np.uint8(bit)
        block[:, byte] = column


def ask(block: Bits, kmers: Words) -> Bits:
    """In a worker: for each k-mer, a bit for each sample of the block that may hold it."""
    rows = block[rows_of(kmers, len(block).bit_length() - 1)]
    found: Bits = np.bitwise_and.reduce(rows, axis=1)
    return found


def expected(rows: int, count: Any) -> Any:
    """The share of samples that seem to hold a k-mer which they do not."""
    return (1 - (1 - 1 / rows) ** (len(HASHES) * count)) ** len(HASHES)


def check(found: list[Bits], samples: NDArray[np.int64]) -> int:
    """That none of the k-mers which samples do hold was missed; how many there were."""
    for number, sample in enumerate(samples):
        block, place = divmod(int(sample), BLOCK_SAMPLES)
        if not found[block][number, place // 8] >> (place % 8) & 1:
            raise SystemExit(f"sample {sample} holds a k-mer that was not found in it")
    return len(samples)


def draw(path: Path, rows: int, counts: list[int], measured: list[float], times: dict[str, float], title: str) -> None:
    """The picture: false finds, measured and expected, by the size of a sample; the seconds it all took."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.4), width_ratios=[2, 1], layout="constrained")
    line = np.linspace(0, max(counts) * 1.05, 200)
    left.plot(line, expected(rows, line), color="black", linewidth=1, label="theory")
    left.plot(counts, measured, "o", label="measured, a block of 512 samples each")
    left.set(xlabel="k-mers in a sample", ylabel="false finds", title=title)
    left.legend()
    right.barh(list(times), list(times.values()))
    right.set(xlabel="seconds", title="time")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    """Fills, asks, checks, draws."""
    parser = argparse.ArgumentParser(description="A matrix of Bloom filters in the memory of many hosts.")
    parser.add_argument("--samples", type=int, default=6144, help="how many; a multiple of 512 (default: 6144)")
    parser.add_argument("--rows-log2", type=int, default=17, help="bits of a filter, as a power of 2 (default: 17)")
    parser.add_argument("--kmers", type=int, default=16_000, help="of the largest samples (default: 16000)")
    parser.add_argument("--hosts", type=int, default=3, help="hosts on this computer (default: 3)")
    parser.add_argument("--memory-per-host", default="64M", help="what each lends (default: 64M)")
    parser.add_argument("--picture", type=Path, default=Path("build/examples/bloom.svg"))
    options = parser.parse_args()
    if options.samples < 1 or options.samples % BLOCK_SAMPLES:
        parser.error(f"--samples {options.samples} is not a multiple of {BLOCK_SAMPLES}")
    blocks, rows = options.samples // BLOCK_SAMPLES, 1 << options.rows_log2
    counts = [options.kmers * (at + 1) // blocks for at in range(blocks)]
    times = {}
    with (
        megalith.machine(hosts=options.hosts, memory_per_host=options.memory_per_host) as m,
        m.executor() as executor,
    ):
        matrix = m.zeros((blocks, rows, BLOCK_SAMPLES // 8), np.uint8)
        lent = format_size(m.budget // len(m.hosts))
        title = f"{format_size(matrix.nbytes)} of filters on {len(m.hosts)} hosts of {lent}"
        print(title)

        began_s = time.perf_counter()
        firsts = range(0, options.samples, BLOCK_SAMPLES)
        list(executor.map(fill, matrix, firsts, counts))
        times["fill"] = time.perf_counter() - began_s
        print(f"{options.samples} samples, {sum(counts) * BLOCK_SAMPLES} k-mers: {times['fill']:.1f} s")

        samples = np.random.default_rng(2**41).integers(0, options.samples, ASKED)
        held = np.array([kmers_of(int(sample), 1)[0] for sample in samples])
        began_s = time.perf_counter()
        found = list(executor.map(ask, matrix, [held] * blocks))
        false = list(executor.map(ask, matrix, [kmers_of_none(ASKED)] * blocks))
        times["ask"] = time.perf_counter() - began_s
    print(f"{check(found, samples)} k-mers of samples: none was missed")
    measured = [float(np.bitwise_count(bits).sum()) / (ASKED * BLOCK_SAMPLES) for bits in false]
    print(f"{2 * ASKED} k-mers looked up in each sample: {times['ask']:.1f} s")
    for count, rate in zip(counts, measured, strict=True):
        theory = expected(rows, count)
        print(f"  samples of {count:6d}: {rate:.5f} false finds, {theory:.5f} expected")
        if abs(rate - theory) > TOLERANCE * theory + 1e-4:
            raise SystemExit("that is not what theory says")
    draw(options.picture, rows, counts, measured, times, title)
    print(f"picture: {options.picture}")


if __name__ == "__main__":
    main()
