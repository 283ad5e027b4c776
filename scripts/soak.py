"""Everything that looks for bugs at random, for as long as somebody has: `make soak MINUTES=n`.

The time is shared between the parts below, one after the other; building is not counted. Each part is a command that
says what it did in figures. At the end, or when it is interrupted, there is one table; the exit code is 1 if something
failed, and each failure comes with the command that shows it again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import IO, Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
PYTHON: Final = str(ROOT / ".venv" / "bin" / "python")
TESTS: Final = ROOT / "tests"
ENDS_S_MAX: Final = 120.0
"""A part that was told to end has so long; it may be in the middle of a run that has to be judged."""
BUILD_S_MAX: Final = 3600.0

Figures = dict[str, float]


@dataclass
class Failure:
    """What went wrong in a part, and the command that shows it again, from the repository's root."""

    why: str
    replay: str


@dataclass
class Row:
    """What a part did."""

    name: str
    seconds: float = 0.0
    figures: Figures = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    note: str = ""
    """Why it did less than it might."""

    def count(self, figures: Mapping[str, float]) -> None:
        """Adds to the figures."""
        for name, value in figures.items():
            self.figures[name] = self.figures.get(name, 0) + value


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    cut: bool
    """It was told to end because its time was up."""


class Interrupted(Exception):
    """Somebody wants the table now."""


def say(line: str) -> None:
    """Progress."""
    print(f"soak: {line}", file=sys.stderr, flush=True)


def command(
    words: Sequence[str],
    *,
    seconds: float,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    tidy: bool = False,
    show: bool = False,
) -> Ended:
    """Runs a command for at most so many seconds; it is told to end then, by SIGINT, as it is where we are interrupted.

    It is in a session of its own, and what is left of that at its end is killed. One that is `tidy` is told alone, and
    ends what it has started; else all of them are told. With `show` its standard error is ours.
    """
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if show else subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(target=_collect, args=(process.stdout, lines), daemon=True)
    reader.start()
    cut = interrupted = False
    try:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            cut = True
        except KeyboardInterrupt:
            interrupted = True
        if cut or interrupted:
            _tell_to_end(process, tidy=tidy)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(5)
        process.stdout.close()
    if interrupted:
        raise Interrupted("".join(lines))
    return Ended(process.returncode, "".join(lines), cut)


def _collect(stream: IO[str], lines: list[str]) -> None:
    with suppress(ValueError):  # closed: somebody still holds the other end
        lines.extend(stream)


def _tell_to_end(process: subprocess.Popen[str], *, tidy: bool) -> None:
    if tidy:
        process.send_signal(signal.SIGINT)
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
    end = time.monotonic() + ENDS_S_MAX
    while process.poll() is None and time.monotonic() < end:
        try:
            time.sleep(0.1)
        except KeyboardInterrupt:  # twice: now
            return


def last_json(text: str) -> dict[str, Any]:
    """The last line that is a JSON object; empty if there is none."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    return found
    return {}


def tail(text: str, lines: int = 12) -> str:
    """The end of a command's words."""
    return "\n".join(text.strip().splitlines()[-lines:])


def cargo_test(package: str, target: str, *more: str) -> list[str]:
    """The words that run one target's tests with optimisation."""
    return ["cargo", "test", "--quiet", "--release", "-p", package, "--test", target, *more]


def shown(words: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """A command for people to copy."""
    text = " ".join([*(f"{name}={value}" for name, value in (env or {}).items()), *words]).replace(
        PYTHON, ".venv/bin/python"
    )
    return text if cwd == ROOT else f"(cd {cwd.relative_to(ROOT)} && {text.replace('.venv', '../.venv')})"


# The parts. Each takes a row to fill, seconds and a seed.

_EXPLORATIONS: Final = (
    ("megalith-coherence", "model", "further"),
    ("megalith-runtime", "queues", "three_threads_that_take_it_twice"),
    ("megalith-coherence", "model", "wider"),
    ("megalith-coherence", "model", "furthest"),
)


def explore(row: Row, seconds: float, seed: int) -> None:
    """Model checking: the explorations that take minutes, as many as there is time for."""
    end = time.monotonic() + seconds
    for package, target, name in _EXPLORATIONS:
        if (left := end - time.monotonic()) < 1:
            row.note = f"time was up before {name}"
            return
        words = cargo_test(package, target, "--", "--ignored", "--exact", "--nocapture", "--test-threads=1", name)
        try:
            ended = command(words, seconds=left)
        except Interrupted as interrupted:
            _count_states(row, str(interrupted))
            raise
        _count_states(row, ended.out)
        if ended.cut:
            row.note = f"{name} was cut short: what it had finished is counted"
        elif ended.code != 0:
            row.failures.append(Failure(tail(ended.out), shown(words)))


def _count_states(row: Row, out: str) -> None:
    for states in re.findall(r": (\d+) states", out):
        row.count({"explorations": 1, "states": int(states)})


def simulate_protocol(row: Row, seconds: float, seed: int) -> None:
    """The protocol's state machines under random orders of events and messages, with new seeds."""
    words = cargo_test("megalith-coherence", "simulation", "--", "--ignored", "--exact", "--nocapture", "new_seeds")
    env = {"MEGALITH_SIM_SECONDS": str(int(seconds)), "MEGALITH_SIM_SEED": str(seed)}
    _simulate(row, words, env, seconds)


_AGENT_SIMULATIONS: Final = (
    ROOT / "crates/agent/tests/simulation.rs",
    ROOT / "crates/agent/tests/simulation/main.rs",
)


def simulate_agents(row: Row, seconds: float, seed: int) -> None:
    """Whole agents over a simulated network and kernel, with new seeds."""
    env = {"MEGALITH_SIM_SECONDS": str(int(seconds)), "MEGALITH_SIM_SEED": str(seed)}
    _simulate(row, cargo_test("megalith-agent", "simulation", "--", "--nocapture"), env, seconds)


def _simulate(row: Row, words: list[str], env: Mapping[str, str], seconds: float) -> None:
    ended = command(words, seconds=seconds + ENDS_S_MAX, env=env)
    told = last_json(ended.out)
    row.count({name: value for name, value in told.items() if isinstance(value, int | float) and name != "seconds"})
    if ended.code != 0 or ended.cut:
        row.failures.append(Failure(tail(ended.out), shown(words, env)))
    elif not told:
        row.failures.append(Failure("it says nothing of what it did", shown(words, env)))


def chaos(row: Row, seconds: float, seed: int) -> None:
    """Real agents, and faults at random moments."""
    told = _module(row, "chaos", seconds, seed)
    row.count({name: told.get(name, 0) for name in ("plans", "runs")})
    row.count({f"ended: {name}": count for name, count in told.get("endings", {}).items()})
    row.count({"faults": sum(told.get("faults", {}).values()), "late": sum(told.get("late", {}).values())})
    row.count({f"fault: {name}": count for name, count in told.get("faults", {}).items()})


def histories(row: Row, seconds: float, seed: int) -> None:
    """Operations on shared words on real hosts, checked for linearizability."""
    told = _module(row, "spread.history", seconds, seed)
    row.count({name: told.get(name, 0) for name in ("histories", "operations", "overlapping", "pauses")})


def litmus(row: Row, seconds: float, seed: int) -> None:
    """Litmus tests of x86's memory order on real hosts."""
    told = _module(row, "spread.litmus", seconds, seed)
    row.count({name: told.get(name, 0) for name in ("tests", "instances")})


def _module(row: Row, name: str, seconds: float, seed: int) -> dict[str, Any]:
    """Runs one of the tests' own programs, which ends by itself and says what it did."""
    words = [PYTHON, "-m", name, "--seconds", str(int(seconds)), "--seed", str(seed), "--json"]
    interrupted = False
    try:
        ended = command(words, seconds=seconds + 600, cwd=TESTS, tidy=True, show=True)
    except Interrupted as stop:
        interrupted, ended = True, Ended(0, str(stop), cut=True)
    told = last_json(ended.out)
    for failure in told.get("failures", []):
        replay = f"(cd tests && {failure['replay']})" if "replay" in failure else shown(words, cwd=TESTS)
        row.failures.append(Failure(str(failure.get("why", failure)), replay))
    if not interrupted and (not told or (ended.code != 0 and not told.get("failures"))):
        row.failures.append(Failure(f"it ended with {ended.code}: {tail(ended.out)}", shown(words, cwd=TESTS)))
    if interrupted:
        _finish_early(row, told)
    return told


def _finish_early(row: Row, told: dict[str, Any]) -> None:
    """Keeps what was counted, and goes on with the interruption."""
    row.note = "interrupted"
    row.count({key: value for key, value in told.items() if isinstance(value, int) and not isinstance(value, bool)})
    row.count({f"fault: {key}": value for key, value in told.get("faults", {}).items()})
    raise Interrupted


def threads(row: Row, seconds: float, seed: int) -> None:
    """POSIX threads, locks and signals case by case, while a policy moves threads at random."""
    random = Random(seed)
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted(TESTS.glob("spread/threads/*.c")))
    cases = re.findall(r'\{"([a-z0-9-]+)", \w+\}', source)
    env = {"MEGALITH_SLOW": "1", "CI": "true"}
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        some = random.sample(cases, k=min(8, len(cases)))
        ids = [f"tests/spread/test_threads.py::test_case_elsewhere[wandering-{case}]" for case in some]
        words = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ids]
        ended = command(words, seconds=left + ENDS_S_MAX, env=env, tidy=True)
        row.count({"cases": sum(int(count) for count in re.findall(r"(\d+) (?:passed|failed)", tail(ended.out, 1)))})
        if ended.code != 0:
            why = "\n".join(line for line in ended.out.splitlines() if line.startswith(("FAILED", "ERROR", "E  ")))
            row.failures.append(Failure(why or tail(ended.out), shown(words, env)))
            return


def fuzz(row: Row, seconds: float, seed: int) -> None:
    """Every parser of bytes from outside, with libFuzzer."""
    parsers = len(list(ROOT.glob("fuzz/fuzz_targets/*.rs")))
    each = max(1, int(seconds / parsers))
    words = ["scripts/fuzz.sh", str(each)]
    ended = command(words, seconds=seconds + BUILD_S_MAX)
    rows = re.findall(r"^(\w+) +(\d+) +\S+ +(\d+)$", ended.out, re.MULTILINE)
    row.count({"parsers": len(rows), "executions": sum(int(count) for _, count, _ in rows)})
    if ended.code != 0:
        row.failures.append(Failure(tail(ended.out), shown(words)))


@dataclass(frozen=True)
class Part:
    """One part: its share of the time, what builds it, and why it may be left out here."""

    name: str
    share: int
    run: Callable[[Row, float, int], None]
    builds: Sequence[Sequence[str]] = ()
    why_not: Callable[[], str | None] = lambda: None


def _no_agent_simulation() -> str | None:
    return None if any(path.exists() for path in _AGENT_SIMULATIONS) else "crates/agent has no test target `simulation`"


def _no_fuzzing() -> str | None:
    try:
        found = subprocess.run(["cargo", "+nightly", "--version"], capture_output=True, timeout=60, check=False)
    except OSError as error:
        return f"cargo: {error.strerror}"
    return None if found.returncode == 0 else "libFuzzer needs a nightly compiler: rustup toolchain install nightly"


def _not_root() -> str | None:
    return None if os.geteuid() == 0 else "hosts in namespaces with memory limits need root"


PARTS: Final = (
    Part(
        "model checking",
        15,
        explore,
        [cargo_test("megalith-coherence", "model", "--no-run"), cargo_test("megalith-runtime", "queues", "--no-run")],
    ),
    Part("protocol simulation", 10, simulate_protocol, [cargo_test("megalith-coherence", "simulation", "--no-run")]),
    Part(
        "agent simulation",
        15,
        simulate_agents,
        [cargo_test("megalith-agent", "simulation", "--no-run")],
        _no_agent_simulation,
    ),
    Part("litmus tests", 12, litmus),
    Part("histories", 12, histories),
    Part("chaos", 30, chaos, (), _not_root),
    Part("threads that move", 10, threads),
    Part("fuzzing", 8, fuzz, [["scripts/fuzz.sh", "1", "fabric_hello"]], _no_fuzzing),
)


def main() -> int:
    """Runs all parts; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/soak.py", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("minutes", type=float, help="of running, not of building")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="what all parts begin with (default: the time)"
    )
    parser.add_argument("--only", metavar="PART", action="append", help="this part alone; may be given again")
    parser.add_argument("--json", action="store_true", help="the result is one line of JSON on stdout")
    arguments = parser.parse_args()
    if unknown := set(arguments.only or []) - {part.name for part in PARTS}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(part.name for part in PARTS)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wanted = [part for part in PARTS if not arguments.only or part.name in arguments.only]
    commit = _commit()
    rows, interrupted = soak(wanted, arguments.minutes * 60, arguments.seed)
    told = {
        "commit": commit,
        "seed": arguments.seed,
        "minutes": arguments.minutes,
        "interrupted": interrupted,
        "rows": [vars(row) | {"failures": [vars(failure) for failure in row.failures]} for row in rows],
    }
    print(json.dumps(told) if arguments.json else table(rows, commit, arguments.seed), flush=True)
    if interrupted:
        return 130
    return 1 if any(row.failures for row in rows) else 0


def soak(parts: Sequence[Part], seconds: float, seed: int) -> tuple[list[Row], bool]:
    """Runs parts one after the other; whether somebody has interrupted that."""
    rows: list[Row] = []
    here = []
    try:
        for part in parts:
            if reason := part.why_not():
                rows.append(Row(part.name, note=f"not run: {reason}"))
                say(f"{part.name}: not run: {reason}")
            elif _built(part, rows):
                here.append(part)
        for part in here:
            share_s = seconds * part.share / sum(other.share for other in here)
            say(f"{part.name}: {share_s:.0f} s")
            row = Row(part.name)
            rows.append(row)
            begin = time.monotonic()
            try:
                part.run(row, share_s, seed)
            finally:
                row.seconds = round(time.monotonic() - begin, 1)
            say(f"{part.name}: {figures(row)}; {len(row.failures)} failures")
    except (Interrupted, KeyboardInterrupt):
        say("interrupted: the table so far")
        return rows, True
    return rows, False


def _built(part: Part, rows: list[Row]) -> bool:
    for words in part.builds:
        say(f"{part.name}: building")
        ended = command(words, seconds=BUILD_S_MAX)
        if ended.code != 0 or ended.cut:
            rows.append(Row(part.name, failures=[Failure(tail(ended.out), shown(words))]))
            return False
    return True


def figures(row: Row) -> str:
    """A row's figures in one line, without those by kind."""
    shown_ones = [
        f"{value:,g} {name}" if value < 1e6 else f"{value:,.0f} {name}"
        for name, value in row.figures.items()
        if ":" not in name
    ]
    return ", ".join(shown_ones) or row.note or "nothing"


def table(rows: Sequence[Row], commit: str, seed: int) -> str:
    """The table."""
    lines = [f"commit {commit}, seed {seed}", ""]
    lines += ["| part | minutes | what was done | failures |", "|---|---|---|---|"]
    for row in rows:
        note = f" ({row.note})" if row.note and row.figures else ""
        lines.append(f"| {row.name} | {row.seconds / 60:.1f} | {figures(row)}{note} | {len(row.failures)} |")
    for title, prefix in (("runs by their end", "ended: "), ("faults by kind", "fault: ")):
        of = [
            (name.removeprefix(prefix), n) for row in rows for name, n in row.figures.items() if name.startswith(prefix)
        ]
        if of:
            lines += ["", f"{title}: " + ", ".join(f"{name} {count:g}" for name, count in of)]
    for row in rows:
        for failure in row.failures:
            lines += ["", f"FAILURE in {row.name}: {failure.why}", f"  again: {failure.replay}"]
    return "\n".join(lines)


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
