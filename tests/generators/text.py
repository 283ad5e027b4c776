"""Lines of text in no order: food for sort, awk, xz, perl."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

_LINES_PER_CHUNK = 50_000


def hex_lines(path: Path, *, lines: int, bytes_per_line: int = 12, seed: int = 1) -> Path:
    """Writes `lines` lines of random hexadecimal digits, two per byte."""
    random = Random(seed)
    with path.open("w", encoding="ascii") as out:
        for count in _chunks(lines):
            block = random.randbytes(count * bytes_per_line)
            out.write(block.hex("\n", bytes_per_line))
            out.write("\n")
    return path


def nearly_sorted(path: Path, *, lines: int, reach: int = 500, seed: int = 9) -> Path:
    """Writes numbered lines, each at most about `reach` lines from its place in order."""
    random = Random(seed)
    with path.open("w", encoding="ascii") as out:
        for start in range(0, lines, reach):
            block = [
                f"{number:09d} {random.randbytes(8).hex()}\n" for number in range(start, min(start + reach, lines))
            ]
            random.shuffle(block)
            out.writelines(block)
    return path


def records(path: Path, *, lines: int, keys: int, seed: int = 2) -> Path:
    """Writes `lines` lines `key<TAB>number`, whose keys come from a set of `keys`, so that some repeat."""
    random = Random(seed)
    with path.open("w", encoding="ascii") as out:
        for count in _chunks(lines):
            out.writelines(f"key-{random.randrange(keys):08d}\t{random.randrange(1000)}\n" for _ in range(count))
    return path


def mixed(path: Path, *, bytes_total: int, seed: int = 3) -> Path:
    """Writes data that compresses about 2:1: hexadecimal digits, with earlier blocks repeated now and then."""
    random = Random(seed)
    earlier: list[str] = []
    written = 0
    with path.open("w", encoding="ascii") as out:
        while written < bytes_total:
            if earlier and random.random() < 0.2:
                block = random.choice(earlier)
            else:
                block = random.randbytes(16 * 1024).hex("\n", 32)
                if len(earlier) < 32:
                    earlier.append(block)
            block = block[: bytes_total - written]
            out.write(block)
            written += len(block)
    return path


def _chunks(lines: int) -> Iterator[int]:
    while lines > 0:
        count = min(lines, _LINES_PER_CHUNK)
        yield count
        lines -= count
