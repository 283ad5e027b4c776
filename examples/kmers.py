"""Counts the k-mers of a genome's reads in one hash table that all CPUs of the machine write.

The reads are those of phage lambda that ``megalith demo`` assembles (Debian's bowtie2-examples). Table and reads lie in
the machine's memory, and the table alone is larger than what any host lends. A worker takes a piece of the reads, packs
its k-mers into words of 64 bits, and counts them in the table: open addressing, one stretch of slots at a time, under
that stretch's lock. Then the table is compared with a count that one process made without it, and with jellyfish's
where that is installed.

    python examples/kmers.py [--k 21] [--hosts 3] [--memory-per-host 32M] [--reads 20000] [--picture FILE]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import megalith
from megalith.demo.data import find_reads, sequences
from megalith.sizes import format_size
from megalith.sync import Lock

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Places = NDArray[np.signedinteger[Any]]

SLOT: Final = np.dtype([("key", "u8"), ("count", "u8")])
"""A k-mer plus one, so that zero, which untouched memory is, means an empty slot; and how often it was seen."""
STRETCHES_LOG2: Final = 5
FULL: Final = 0.6
"""The share of slots that are in use at most."""
MIX: Final = np.uint64(0x9E3779B97F4A7C15)
NO_BASE: Final = 4
CODE: Final = np.full(256, NO_BASE, np.uint8)
CODE[np.frombuffer(b"ACGTacgt", np.uint8)] = [0, 1, 2, 3, 0, 1, 2, 3]


def kmers_of(text: Bytes, k: int) -> Words:
    """All k-mers of lines of bases; a k-mer and its reverse complement are one, the smaller of the two."""
    code = CODE[text]
    count = max(len(code) - k + 1, 0)
    forward, backward = np.zeros(count, "u8"), np.zeros(count, "u8")
    for at in range(k):
        base = code[at : at + count].astype("u8") & np.uint64(3)
        forward |= base << np.uint64(2 * (k - 1 - at))
        backward |= (np.uint64(3) - base) << np.uint64(2 * at)
    strange = np.concatenate([[0], np.cumsum(code == NO_BASE)])
    whole = strange[k:] == strange[: len(strange) - k]
    words: Words = np.minimum(forward, backward)[whole[:count]]
    return words


def slots_of(kmers: Words, slots_log2: int) -> Places:
    """Where in the table the search for each k-mer begins."""
    return ((kmers + np.uint64(1)) * MIX >> np.uint64(64 - slots_log2)).astype(np.int64)


def count_in(stretch: NDArray[Any], keys: Words, counts: Words, slots: Places) -> None:
    """Adds to a stretch of the table; the keys are distinct. Its lock is held."""
    key_at, count_at = stretch["key"], stretch["count"]
    for _ in range(len(stretch)):
        if not len(keys):
            return
        free = key_at[slots] == 0
        key_at[slots[free]] = keys[free]  # Of several that want a slot one has it now.
        found = key_at[slots] == keys
        count_at[slots[found]] += counts[found]
        keys, counts, slots = keys[~found], counts[~found], slots[~found]
        slots = (slots + 1) % len(stretch)
    raise MemoryError(f"{len(keys)} k-mers have no slot: the table is too small")


def count_piece(table: NDArray[Any], locks: Sequence[Lock], text: Bytes, k: int, first: int) -> int:
    """In a worker: counts the k-mers of a piece of the reads; how many there were."""
    kmers = kmers_of(text, k)
    found, times = np.unique(kmers, return_counts=True)
    slots_log2 = len(table).bit_length() - 1
    slots = slots_of(found, slots_log2)
    order = np.argsort(slots)
    keys, counts, slots = found[order] + np.uint64(1), times[order].astype(np.uint64), slots[order]
    length = len(table) // len(locks)
    bounds = np.searchsorted(slots, np.arange(len(locks) + 1) * length)
    for turn in range(len(locks)):
        at = (first + turn) % len(locks)  # Workers begin at different stretches, and so seldom meet.
        mine = slice(bounds[at], bounds[at + 1])
        with locks[at]:
            count_in(table[at * length : (at + 1) * length], keys[mine], counts[mine], slots[mine] - at * length)
    return len(kmers)


def read_text(reads: int, k: int) -> tuple[Bytes, int]:
    """Bases of so many reads, a line each; and how many k-mers they have at most."""
    found = find_reads("lambda", coverage=0, directory=Path())
    lines = [line for path in (found.first, found.second) for line in sequences(path)][:reads]
    return np.frombuffer(b"".join(lines), np.uint8), sum(max(len(line) - k, 0) for line in lines)


def pieces_of(text: Bytes, count: int) -> list[Bytes]:
    """The text in so many pieces, each of whole lines."""
    ends = np.flatnonzero(text == ord("\n"))
    cuts = [0, *(int(ends[len(ends) * at // count - 1]) + 1 for at in range(1, count)), len(text)]
    return [text[begin:end] for begin, end in pairwise(cuts)]


def spectrum(counts: Words) -> NDArray[np.int64]:
    """How many k-mers were seen once, twice, …"""
    return np.bincount(counts.astype(np.int64))[1:]


def jellyfish_spectrum(text: Bytes, k: int) -> NDArray[np.int64] | None:
    """The same by jellyfish, or None where it is not installed."""
    if shutil.which("jellyfish") is None:
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = text.tobytes().split(b"\n")
        (folder / "reads.fa").write_bytes(b"".join(b">\n" + line + b"\n" for line in lines if line))
        for command in (f"count -C -m {k} -s 4M -o counts reads.fa", "histo -h 10000000 -o histogram counts"):
            subprocess.run(["jellyfish", *command.split()], cwd=folder, check=True, timeout=300)
        pairs = np.loadtxt(folder / "histogram", dtype=np.int64, ndmin=2)
    found = np.zeros(int(pairs[:, 0].max()), np.int64)
    found[pairs[:, 0] - 1] = pairs[:, 1]
    return found


def count_on(m: megalith.Machine, text: Bytes, k: int, slots_log2: int) -> tuple[Words, Words, float]:
    """Counts on the machine: the k-mers in order, how often each was seen, and the seconds that the counting took."""
    reads = m.array(text)
    table = m.zeros(1 << slots_log2, SLOT)
    locks = [m.Lock() for _ in range(1 << STRETCHES_LOG2)]
    pieces = pieces_of(reads, max(len(m.hosts), os.cpu_count() or 1))
    firsts = [len(locks) * at // len(pieces) for at in range(len(pieces))]
    began_s = time.perf_counter()
    with m.executor() as executor:
        work = zip(pieces, firsts, strict=True)
        done = [executor.submit(count_piece, table, locks, piece, k, first) for piece, first in work]
        total = sum(future.result() for future in done)
    seconds = time.perf_counter() - began_s
    used = table[table["key"] != 0]
    assert used["count"].sum() == total
    order = np.argsort(used["key"])
    return used["key"][order] - np.uint64(1), used["count"][order], seconds


def draw(path: Path, k: int, seen: NDArray[np.int64], held: dict[str, int], lent: int, times: dict[str, float]) -> None:
    """The picture: how often k-mers were seen, where the memory was, how long it took (seconds)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.4), width_ratios=[2, 1, 1], layout="constrained")
    left, middle, right = axes
    left.step(np.arange(1, len(seen) + 1), seen, where="mid")
    left.set(yscale="log", xlabel=f"times a {k}-mer was seen", ylabel=f"distinct {k}-mers")
    left.set_title("phage lambda: errors left, the genome right")
    middle.bar(list(held), [size / 2**20 for size in held.values()])
    middle.axhline(lent / 2**20, color="black", linestyle=":")
    middle.set(ylabel="MiB, at most (dotted: lent)", title="memory by host")
    right.barh(list(times), list(times.values()))
    right.set(xlabel="seconds", title="time")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    """Counts, checks, draws."""
    parser = argparse.ArgumentParser(description="Counts k-mers in one table in the memory of many hosts.")
    parser.add_argument("--k", type=int, default=21, choices=range(1, 32), metavar="1…31", help="default: 21")
    parser.add_argument("--hosts", type=int, default=3, help="hosts on this computer (default: 3)")
    parser.add_argument("--memory-per-host", default="32M", help="what each lends (default: 32M)")
    parser.add_argument("--reads", type=int, default=20_000, help="how many reads (default: 20000, all)")
    parser.add_argument("--picture", type=Path, default=Path("build/examples/kmers.svg"))
    options = parser.parse_args()
    k: int = options.k
    text, most = read_text(options.reads, k)
    slots_log2 = max(int(most / FULL).bit_length(), STRETCHES_LOG2 + 8)
    times = {}
    with megalith.machine(hosts=options.hosts, memory_per_host=options.memory_per_host) as m:
        lent = m.budget // len(m.hosts)
        sizes = f"{format_size(SLOT.itemsize << slots_log2)} of table, {format_size(len(text))} of reads"
        print(f"{sizes}; each host lends {format_size(lent)}")
        keys, counts, times["machine"] = count_on(m, text, k, slots_log2)
        held = {host.name: host.peak for host in m.figures}
    print(f"{counts.sum()} k-mers, {len(keys)} of them distinct: {times['machine']:.1f} s on {len(held)} hosts")
    began_s = time.perf_counter()
    plain_keys, plain_counts = np.unique(kmers_of(text, k), return_counts=True)
    times["one process"] = time.perf_counter() - began_s
    if not (np.array_equal(keys, plain_keys) and np.array_equal(counts, plain_counts)):
        raise SystemExit("the table differs from a plain count")
    print(f"a plain count in one process is the same: {times['one process']:.1f} s")
    seen = spectrum(counts)
    began_s = time.perf_counter()
    other = jellyfish_spectrum(text, k)
    if other is None:
        print("jellyfish is not installed: not compared with it")
    elif not np.array_equal(seen, other):
        raise SystemExit("the table differs from jellyfish's count")
    else:
        times["jellyfish"] = time.perf_counter() - began_s
        print(f"jellyfish's is the same: {times['jellyfish']:.1f} s")
    draw(options.picture, k, seen, held, lent, times)
    print(f"picture: {options.picture}")


if __name__ == "__main__":
    main()
