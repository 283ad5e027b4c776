"""How a run may end, given what was really done to it (docs/failure.md). Pure: it is tested by itself.

A run ends *right* (its result, exit code 0), or as something that was done to it allows. What ends a machine for
certain must end the run, and in time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import cli
from chaos.plan import ABOUT_BODIES, ENDING, LONG, OF_LINKS, Fault, Kind

JOIN_S: Final = 5.0
"""runner.py, JOIN_TIMEOUT_S."""
ENDS_S: Final = 8.0
"""From a loss that is found to the end of everything: docs/failure.md has 1 s for clients and processes left,
lost_after and 2 s for the agent's last word; the rest is for a computer that is busy."""
PROGRAM_S_MAX: Final = 300.0
"""A program that nothing ends must come to its own end."""
STALL_PART: Final = 0.3
"""A computer that stood still for this part of lost_after may have lost a host by itself."""


class Class(StrEnum):
    """How a run ended, for the table."""

    RIGHT = "right"
    LOST = "host lost"
    NOT_STARTED = "not started"
    BY_SIGNAL = "by signal"
    FAILED = "program failed"
    """By itself, and in its own words: its disk was full."""
    STALLED = "computer stalled"
    """A host was lost because this computer gave nobody time: nothing is proved."""
    WRONG = "wrong"


@dataclass(frozen=True)
class Done:
    """A fault that was really made."""

    fault: Fault
    at_s: float
    """Seconds after `megalith run` was started."""
    started: bool
    """Whether the program was there already."""


@dataclass(frozen=True)
class Seen:
    """How a run ended."""

    code: int
    """Of `megalith run`; negative: it died of a signal."""
    seconds: float
    stderr: Sequence[str]
    right: bool
    """Its result is what it is natively."""
    stalled_s: float
    """The longest time for which this computer gave us no CPU."""


@dataclass(frozen=True)
class Verdict:
    """What to think of it; `why` says what is wrong."""

    kind: Class
    why: str = ""


@dataclass(frozen=True)
class _Allowed:
    kind: Class
    codes: frozenset[int]
    line: str | None
    """What the last line matches; None: no line of Megalith's."""


_LEFT: Final = r"megalith: the program left processes behind; killed: .*"
_STAY: Final = r"megalith: .*no threads go to host .*"
_STALE: Final = r"megalith: the machine that the program sees is not kept up to date: No space left on device"
_OURS: Final = "megalith: "


def _lost(names: Sequence[str]) -> _Allowed:
    which = "|".join(names)
    return _Allowed(Class.LOST, frozenset({cli.EXIT_LOST}), rf"megalith: host ({which}) was lost: .*")


def _signal(*codes: int) -> _Allowed:
    return _Allowed(Class.BY_SIGNAL, frozenset(codes), None)


_NOT_STARTED: Final = _Allowed(Class.NOT_STARTED, frozenset({cli.EXIT_CANNOT_START}), r"megalith: .*")
_OUT_OF_DISK: Final = _Allowed(
    Class.FAILED, frozenset(range(1, cli.EXIT_LOST)), r"No space left|disk is full|[Cc]ould not write|write error"
)


def allowed(done: Done, names: Sequence[str]) -> list[_Allowed]:
    """The endings that one fault allows, beside the right one; `names` are all hosts, home first."""
    kind, host = done.fault.kind, done.fault.host
    found: list[_Allowed] = []
    # Whom home misses: the host, or if it is home itself, any.
    missed = _lost(names if host == names[0] else [host])
    match kind:
        case Kind.KILL_HOME | Kind.KILL_AGENT | Kind.STOP_AGENT | Kind.KILL_BODY | Kind.STOP_BODY:
            found.append(_lost([host]))
        case Kind.CUT_LONG:
            found.append(missed)
        case Kind.HARM | Kind.SEVER:
            # Either end may be the one that says so.
            found.append(_lost(names))
        case Kind.KILL_RUN:
            found.append(_signal(-9))
        case Kind.KILL_PROGRAM:
            found.append(_signal(cli.EXIT_MEMORY))
        case Kind.TIGHT_MEMORY:
            # The kernel kills whom it likes of the host's: the agent, a body, and at home the program or `megalith
            # run`.
            found.append(_lost([host]))
            if host == names[0]:
                found.append(_signal(cli.EXIT_MEMORY, -9))
        case Kind.FULL_DISK:
            found.append(_OUT_OF_DISK)
    if kind in ENDING and not done.started:
        found.append(_NOT_STARTED)
    return found


def judge(seen: Seen, dones: Sequence[Done], names: Sequence[str], lost_after_s: float) -> Verdict:
    """What to think of a run that has ended."""
    ours = [line for line in seen.stderr if line.startswith(_OURS)]
    full = any(done.fault.kind == Kind.FULL_DISK for done in dones)
    notices = "|".join([_LEFT, _STAY, *([_STALE] if full else [])])
    told = [line for line in ours if not re.fullmatch(notices, line)]
    if crashed := [line for line in seen.stderr if "/megalith/" in line and line.lstrip().startswith("File ")]:
        return Verdict(Class.WRONG, f"a traceback of Megalith's own: {crashed[-1].strip()}")
    if seen.code == 0:
        if not seen.right:
            return Verdict(Class.WRONG, "exit code 0, and the result is not the right one")
        if told:
            return Verdict(Class.WRONG, f"exit code 0, and complaints: {told}")
        for done in dones:
            if must_end(done) and seen.seconds > done.at_s + due_s(done, lost_after_s):
                return Verdict(Class.WRONG, f"it was right, but had to end by: {done.fault}")
        return Verdict(Class.RIGHT)
    if len(told) > 1:
        return Verdict(Class.WRONG, f"more than one line: {told}")
    last = told[-1] if told else None
    for done in dones:
        for ending in allowed(done, names):
            if seen.code not in ending.codes:
                continue
            if ending is _OUT_OF_DISK:
                if any(re.search(ending.line or "", line) for line in seen.stderr):
                    return Verdict(ending.kind)
            elif (ending.line is None) == (last is None) and (last is None or re.fullmatch(ending.line or "", last)):
                return Verdict(ending.kind)
    if _silence(last) and seen.stalled_s > STALL_PART * lost_after_s:
        return Verdict(Class.STALLED, f"this computer stood still for {seen.stalled_s:.1f} s")
    return Verdict(Class.WRONG, f"exit code {seen.code} is not how it may end")


def _silence(line: str | None) -> bool:
    return line is not None and ("no sign of life" in line or "did not answer in time" in line)


def must_end(done: Done) -> bool:
    """Whether the run cannot go on after it."""
    kind = done.fault.kind
    if kind in LONG:
        return True
    return kind in ENDING and kind not in {Kind.FULL_DISK, Kind.TIGHT_MEMORY}


def due_s(done: Done, lost_after_s: float) -> float:
    """How long after a fault that ends a run its end has come, at the latest; nothing else delays it."""
    found_s = lost_after_s if done.fault.kind in OF_LINKS | LONG | ABOUT_BODIES else 0.0
    return found_s + ENDS_S + lost_after_s + (0.0 if done.started else JOIN_S)


def bound_s(dones: Sequence[Done], lost_after_s: float) -> float:
    """When a run has ended at the latest, in seconds after its start. Whatever stood still counts on top."""
    pauses = sum(done.fault.for_s for done in dones if done.fault.kind not in LONG)
    ends = [done.at_s + due_s(done, lost_after_s) + _held_s(dones) for done in dones if must_end(done)]
    return min([PROGRAM_S_MAX + pauses, *ends])


def _held_s(dones: Sequence[Done]) -> float:
    """`megalith run` and the program cannot end while they are stopped by us; full disks and tight memory slow all."""
    kinds = {Kind.PAUSE_RUN, Kind.PAUSE_PROGRAM, Kind.TIGHT_MEMORY}
    return sum(done.fault.for_s for done in dones if done.fault.kind in kinds)
