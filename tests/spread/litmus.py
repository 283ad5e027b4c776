"""`python -m spread.litmus --seconds 60 --seed 7`, from `tests/`: litmus tests at a large count."""

import argparse
import itertools
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import processes
from spread.conftest import HERE, build
from spread.machine import THREE, TWO, WANDERING, run
from spread.test_litmus import LAYOUTS, TESTS, VARIANTS

_INSTANCES = 200_000


def main() -> int:
    """Runs them; returns 1 if one saw what x86 forbids, or did not end."""
    parser = argparse.ArgumentParser(prog="python -m spread.litmus", description=__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="begin no test after so many seconds")
    parser.add_argument("--seed", type=int, default=1, help="the order in which they come")
    parser.add_argument("--json", action="store_true", help="the result is one line of JSON on stdout")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    told: dict[str, Any] = {"tests": 0, "instances": 0, "failures": []}
    mark = processes.new_mark()
    begin = time.monotonic()
    cases = list(itertools.product((TWO, THREE, WANDERING), TESTS, VARIANTS, LAYOUTS))
    Random(arguments.seed).shuffle(cases)
    try:
        with tempfile.TemporaryDirectory(prefix="mgl-litmus-") as name:
            directory = Path(name, "run")
            directory.mkdir()
            binary = build([HERE / "litmus.c"], Path(name, "litmus"), "-O2")
            for machine, *words in itertools.cycle(cases):
                if time.monotonic() - begin > arguments.seconds or told["failures"]:
                    break
                program = [binary, *words, str(_INSTANCES)]
                try:
                    ended = run(machine, program, directory=directory, mark=mark, timeout=600)
                    why = (
                        "" if ended.returncode == 0 else f"exit code {ended.returncode}: {ended.stdout!r} {ended.said}"
                    )
                    why = why or ("" if ended.away_faults else "no thread was away")
                except TimeoutError as error:
                    why = str(error)
                told["tests"] += 1
                told["instances"] += _INSTANCES
                if why:
                    told["failures"].append({"machine": machine.name, "test": " ".join(words), "why": why})
    except KeyboardInterrupt:
        print("interrupted: what was counted so far", file=sys.stderr)
    finally:
        processes.end_all(mark)
    told["seconds"] = round(time.monotonic() - begin, 1)
    print(json.dumps(told) if arguments.json else told, flush=True)
    return 1 if told["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
