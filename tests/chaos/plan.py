"""From a seed to all that will happen: the same seed is the same plan, on every computer."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final, Literal

Mode = Literal["expand", "spread", "auto"]
MODES: Final[tuple[Mode, ...]] = ("expand", "spread", "auto")


class Kind(StrEnum):
    """What is done to somebody."""

    # The run goes on, and is right.
    PAUSE_AGENT = "pause agent"
    PAUSE_RUN = "pause megalith run"
    PAUSE_PROGRAM = "pause program"
    PAUSE_BODY = "pause body"
    CUT = "cut cable"
    DELAY = "delay link"
    SLOW = "limit link"
    # It may end.
    FULL_DISK = "fill disk"
    TIGHT_MEMORY = "tighten memory"
    # It ends.
    KILL_HOME = "kill home agent"
    KILL_AGENT = "kill agent"
    KILL_RUN = "kill megalith run"
    KILL_PROGRAM = "kill program"
    KILL_BODY = "kill body"
    STOP_AGENT = "stop agent"
    STOP_BODY = "stop body"
    CUT_LONG = "cut cable for long"
    HARM = "corrupt link"
    SEVER = "reset link"


SILENT: Final = frozenset({Kind.PAUSE_AGENT, Kind.CUT})
"""A host is silent meanwhile: two of these together may be as long as a loss."""
HARMLESS: Final = frozenset({*SILENT, Kind.PAUSE_RUN, Kind.PAUSE_PROGRAM, Kind.PAUSE_BODY, Kind.DELAY, Kind.SLOW})
ENDING: Final = frozenset(Kind) - HARMLESS
ABOUT_BODIES: Final = frozenset({Kind.PAUSE_BODY, Kind.KILL_BODY, Kind.STOP_BODY})
LONG: Final = frozenset({Kind.STOP_AGENT, Kind.STOP_BODY, Kind.CUT_LONG})
"""They last for longer than a host may be silent: the run ends before they do."""
OF_LINKS: Final = frozenset({Kind.CUT, Kind.CUT_LONG, Kind.DELAY, Kind.SLOW, Kind.HARM, Kind.SEVER})

_OF_A_STANDING_MACHINE: Final = frozenset({Kind.TIGHT_MEMORY, Kind.HARM, Kind.SEVER})

START_S_MAX: Final = 1.0
"""Faults that do not wait for the program come so soon after `megalith run` is started."""
WITHIN_S: Final = 2.5
"""The others come so soon after the program is there."""


@dataclass(frozen=True)
class Fault:
    """One thing that happens."""

    kind: Kind
    host: str
    """To whom. What is about `megalith run` or the program is about home."""
    after_start: bool
    """Whether `at_s` counts from the program's start, and not from that of `megalith run`."""
    at_s: float
    for_s: float
    """Until it is undone; of a kill nothing is."""
    amount: float = 0.0
    """Of a delay seconds, of a limit bytes a second."""

    def __str__(self) -> str:
        since = "program" if self.after_start else "run"
        length = f" for {self.for_s:.2f} s" if self.for_s else ""
        amount = f" ({self.amount:g})" if self.amount else ""
        return f"{since} + {self.at_s:.2f} s: {self.kind}{amount} of {self.host}{length}"


@dataclass(frozen=True)
class Round:
    """One run."""

    workload: str
    mode: Mode
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return f"{self.workload} --{self.mode}; " + ("; ".join(map(str, self.faults)) or "no faults")


@dataclass(frozen=True)
class Plan:
    """Several runs on the same hosts. The last has no faults: whoever lives serves it."""

    seed: int
    hosts: int
    lost_after_s: float
    rounds: tuple[Round, ...]
    plaintext: bool
    """The agents have no keys."""

    @property
    def kinds(self) -> frozenset[Kind]:
        """All that is planned."""
        return frozenset(fault.kind for one in self.rounds for fault in one.faults)


FAULTY_ROUNDS: Final = 3


def make(seed: int, workloads: tuple[str, ...], threaded: frozenset[str]) -> Plan:
    """The plan of a seed; `threaded` are those of `workloads` whose threads may leave home."""
    random = Random(seed)
    hosts = random.randint(2, 4)
    lost_after_s = random.choice((3.0, 4.0))
    names = tuple("abcd"[:hosts])
    rounds = [_faulty(random, names, lost_after_s, workloads, threaded) for _ in range(FAULTY_ROUNDS)]
    rounds.append(Round(random.choice(workloads), random.choice(MODES), ()))
    return Plan(seed, hosts, lost_after_s, tuple(rounds), plaintext=random.random() < 0.4)


def _faulty(
    random: Random, names: tuple[str, ...], lost_after_s: float, workloads: tuple[str, ...], threaded: frozenset[str]
) -> Round:
    kinds = random.sample(sorted(HARMLESS), k=random.randint(0, 3))
    if len(SILENT.intersection(kinds)) > 1:
        kinds.remove(Kind.CUT)
    if not kinds or random.random() < 0.8:
        kinds.append(random.choice(sorted(ENDING)))
    workload, mode = random.choice(workloads), random.choice(MODES)
    if ABOUT_BODIES.intersection(kinds):
        workload, mode = random.choice(sorted(threaded)), "spread"
    faults = (_fault(random, kind, names, lost_after_s) for kind in kinds)
    return Round(workload, mode, tuple(sorted(faults, key=lambda fault: (fault.after_start, fault.at_s))))


def _fault(random: Random, kind: Kind, names: tuple[str, ...], lost_after_s: float) -> Fault:
    home, others = names[0], names[1:]
    if kind in {Kind.PAUSE_AGENT, Kind.STOP_AGENT, Kind.CUT, Kind.CUT_LONG, Kind.TIGHT_MEMORY}:
        host = random.choice(names)
    elif kind in {*ABOUT_BODIES, Kind.KILL_AGENT, Kind.DELAY, Kind.SLOW, Kind.HARM, Kind.SEVER}:
        host = random.choice(others)
    else:
        host = home
    amount = 0.0
    if kind == Kind.DELAY:
        amount = round(random.uniform(0.002, 0.1), 3)
    elif kind == Kind.SLOW:
        amount = float(random.randrange(200_000, 4_000_000))
    # What is about a process of the program's needs it; the rest may also come while the machine is made.
    needs_program = kind in {*ABOUT_BODIES, *_OF_A_STANDING_MACHINE, Kind.KILL_PROGRAM, Kind.PAUSE_PROGRAM}
    after_start = needs_program or random.random() < 0.85
    # Most come early: on an idle computer programs take a second or two.
    at_s = 0.05 + WITHIN_S * random.random() ** 2 if after_start else random.uniform(0, START_S_MAX)
    return Fault(kind, host, after_start, round(at_s, 3), round(_length(random, kind, lost_after_s), 3), amount)


def _length(random: Random, kind: Kind, lost_after_s: float) -> float:
    match kind:
        case Kind.PAUSE_AGENT | Kind.PAUSE_BODY:
            return random.uniform(0.05, 0.4) * lost_after_s
        case Kind.CUT:
            # TCP tries again after 0.2, 0.6, 1.4, 3.0 s: silence may be twice as long as the cut.
            return random.uniform(0.05, 0.25) * lost_after_s
        case Kind.STOP_AGENT | Kind.STOP_BODY | Kind.CUT_LONG:
            return lost_after_s + random.uniform(2, 4)
        case Kind.PAUSE_RUN | Kind.PAUSE_PROGRAM:
            return random.uniform(0.1, 1.5) * lost_after_s
        case Kind.DELAY | Kind.SLOW:
            return random.uniform(0.5, 3)
        case Kind.FULL_DISK | Kind.TIGHT_MEMORY:
            return random.uniform(1, 4)
        case _:
            return 0.0
