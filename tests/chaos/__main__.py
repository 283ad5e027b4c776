"""`python -m chaos`, from `tests/`: plays plans, from a seed on, until the time is up."""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from chaos.play import plan_of, play
from chaos.programs import Known, Missing, Shelf
from chaos.tally import Failure, Tally
from hosts import why_no_limits

_DUMP: Final = Path(__file__).parents[2] / "build" / "chaos"


def main() -> int:
    """Plays; returns 1 if something was wrong, 2 where nothing can be played."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no plan after so many seconds")
    parser.add_argument("--seed", type=int, default=1, help="the first seed; the next plan has the next one")
    parser.add_argument(
        "--plans", type=int, default=None, help="play so many plans at most (default: 1 without --seconds)"
    )
    parser.add_argument("--json", action="store_true", help="the result is one line of JSON on stdout")
    parser.add_argument("--dump", type=Path, default=_DUMP, help="where stacks of what hung are written")
    parser.add_argument("--show", action="store_true", help="show the plans and play none")
    arguments = parser.parse_args()
    most = arguments.plans or (1 if arguments.seconds == float("inf") else None)
    if arguments.show:
        for seed in range(arguments.seed, arguments.seed + (most or 1)):
            _say(str(plan_of(seed)))
        return 0
    if reason := why_no_limits():
        print(f"chaos: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tally = Tally()
    try:
        _play(tally, arguments.seed, arguments.seconds, most, arguments.dump)
    except KeyboardInterrupt:
        _say("interrupted: the table so far")
    except Missing as missing:
        print(f"chaos: {missing}", file=sys.stderr)
        return 2
    print(json.dumps(tally.as_dict()) if arguments.json else tally.as_text(), flush=True)
    return 1 if tally.failures else 0


def _play(tally: Tally, seed: int, seconds: float, most: int | None, dump: Path) -> None:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mgl-shelf-") as name:
        known = Known(Shelf(Path(name)))
        while (most is None or tally.plans < most) and time.monotonic() - begin < seconds:
            plan = plan_of(seed)
            links = "in the clear" if plan.plaintext else "TLS"
            _say(f"seed {seed}: {plan.hosts} hosts, {links}, lost_after {plan.lost_after_s:g} s")
            before = len(tally.failures)
            play(plan, known, tally, _say)
            for failure in tally.failures[before:]:
                _dump(failure, dump)
            seed += 1


def _dump(failure: Failure, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"seed-{failure.seed}-round-{failure.round}.txt"
    file.write_text(f"{failure}\n\n{failure.stacks}\n", encoding="utf-8")
    _say(f"what everybody did, and the agents' logs: {file.resolve()}")


def _say(line: str) -> None:
    os.write(2, f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
