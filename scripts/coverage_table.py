"""Prints lines covered, by crate from what `llvm-cov export` wrote, or by module from coverage.py's JSON."""

import json
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def rust(text: str) -> dict[str, tuple[int, int]]:
    """Lines covered and lines there are in each crate of ours."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for file in json.loads(text)["data"][0]["files"]:
        at = Path(file["filename"])
        if not at.is_relative_to(ROOT / "crates"):
            continue
        crate, kind, *_ = at.relative_to(ROOT / "crates").parts
        if kind != "src":
            continue
        lines = file["summary"]["lines"]
        sums[crate][0] += lines["covered"]
        sums[crate][1] += lines["count"]
    return {crate: (covered, count) for crate, (covered, count) in sorted(sums.items())}


def python(text: str) -> dict[str, tuple[int, int]]:
    """Statements run and statements there are in each subpackage; modules beside them count as the package's."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, file in json.loads(text)["files"].items():
        parts = Path(name).parts
        package = ".".join(parts[parts.index("megalith") : -1])
        sums[package][0] += file["summary"]["covered_lines"]
        sums[package][1] += file["summary"]["num_statements"]
    return {package: (covered, count) for package, (covered, count) in sorted(sums.items())}


def main() -> None:
    """Prints a table of what the file named holds."""
    kind, file = sys.argv[1:]
    rows = {"rust": rust, "python": python}[kind](Path(file).read_text())
    if not rows:
        sys.exit(f"{file}: nothing of ours")
    rows["all"] = (sum(covered for covered, _ in rows.values()), sum(count for _, count in rows.values()))
    print(f"{kind:<20} {'covered':>8} {'lines':>8} {'%':>6}")
    for name, (covered, count) in rows.items():
        print(f"{name:<20} {covered:>8} {count:>8} {100 * covered / max(count, 1):>6.1f}")


if __name__ == "__main__":
    main()
