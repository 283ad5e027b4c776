"""`python -m spread.history --seconds 60 --seed 7`, from `tests/`: makes histories and checks them."""

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import processes
from spread.history.checker import check, how_concurrent
from spread.history.play import build_history, record
from spread.machine import THREE, TWO, WANDERING

_MACHINES = (THREE, TWO, WANDERING)
_OPERATIONS = 4000
"""Of each thread in one history."""


def main() -> int:
    """Makes histories; returns 1 if one cannot be explained."""
    parser = argparse.ArgumentParser(prog="python -m spread.history", description=__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="begin no history after so many seconds")
    parser.add_argument("--seed", type=int, default=1, help="the first seed; the next history has the next one")
    parser.add_argument("--json", action="store_true", help="the result is one line of JSON on stdout")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    told: dict[str, Any] = {"histories": 0, "operations": 0, "overlapping": 0, "pauses": 0, "failures": []}
    mark = processes.new_mark()
    begin = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="mgl-history-") as name:
            binary = build_history(Path(name))
            seed = arguments.seed
            while time.monotonic() - begin < arguments.seconds and not told["failures"]:
                _one(seed, binary, Path(name), mark, told)
                seed += 1
    except KeyboardInterrupt:
        print("interrupted: what was counted so far", file=sys.stderr)
    finally:
        processes.end_all(mark)
    told["seconds"] = round(time.monotonic() - begin, 1)
    print(json.dumps(told) if arguments.json else told, flush=True)
    return 1 if told["failures"] else 0


def _one(seed: int, binary: str, where: Path, mark: str, told: dict[str, Any]) -> None:
    """Makes and checks the history of a seed."""
    machine = _MACHINES[seed % len(_MACHINES)]
    threads = 3 + seed % 4
    directory = where / str(seed)
    directory.mkdir()
    try:
        made = record(
            machine,
            binary,
            directory=directory,
            mark=mark,
            seed=seed,
            threads=threads,
            operations=_OPERATIONS,
            ballast_mib=28,
            memory="16M" if machine.hosts > 2 else "24M",
        )
    except (RuntimeError, TimeoutError) as error:
        why = str(error)
    else:
        told["histories"] += 1
        told["operations"] += len(made.operations)
        told["overlapping"] += round(how_concurrent(made.operations) * len(made.operations))
        told["pauses"] += made.pauses
        wrong = check(made.operations)
        if wrong is None:
            return
        why = str(wrong)
    replay = f"python -m spread.history --seconds 1 --seed {seed}"
    told["failures"].append({"seed": seed, "machine": machine.name, "why": why, "replay": replay})
    print(f"FAILURE, seed {seed}, {machine.name}: {why}\n  again: (cd tests && {replay})", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
