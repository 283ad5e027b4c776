"""What a run has to say for itself: the figures of every host, and how the run ended.

``Report.as_json()`` is what ``--report`` and ``--json`` write. A key may be added under the same
``schema_version``; one that changes its meaning or goes away makes a new version.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

SCHEMA_VERSION: Final = 1

EndedBy = Literal["exit", "signal", "host lost", "memory exhausted", "not started"]


@dataclass(frozen=True, slots=True)
class Faults:
    """Page faults served, by what they needed."""

    first_touch: int = 0
    """Nobody had the page yet."""
    local: int = 0
    """The page was here, stowed."""
    remote: int = 0
    """The page came from another host."""
    minor: int = 0
    """The page was here and only not mapped."""
    write: int = 0
    """The page was mapped to read, and now may be written."""

    @property
    def total(self) -> int:
        return self.first_touch + self.local + self.remote + self.minor + self.write


@dataclass(frozen=True, slots=True)
class FaultTimes:
    """Microseconds from a fault to its answer; ``None`` where none was served."""

    p50: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class HotPage:
    """A page that hosts take from each other again and again."""

    page: int
    """Its address."""
    pid: int
    """The process whose page it is."""
    moves: int
    """How often it has left this host for another; in the run's figures, any host."""
    what: str | None = None
    """What of the program lies there, as far as can be told (``--hot``)."""

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> HotPage:
        """Reads what an agent says of a page."""
        return cls(_count(data["page"]), _count(data["pid"]), _count(data["moves"]))


@dataclass(frozen=True, slots=True)
class ThreadFigures:
    """One thread of the program, in spread mode."""

    pid: int
    tid: int
    name: str
    host: str
    """Where it runs."""
    cpu_ms: int
    """CPU time since it began, on all hosts."""
    moves: int
    """How often it has changed hosts."""
    why: str
    """What brought it there."""
    waited_ms: dict[str, int] = field(default_factory=dict)
    """How long it has waited for pages on the host where it is, by the host that sent them."""

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> ThreadFigures:
        """Reads what an agent says of a thread; raises KeyError, TypeError or ValueError if it is not that."""
        return cls(
            pid=_count(data["pid"]),
            tid=_count(data["tid"]),
            name=str(data["name"]),
            host=str(data["host"]),
            cpu_ms=_count(data["cpu_ms"]),
            moves=_count(data["moves"]),
            why=str(data["why"]),
            waited_ms={str(host): _count(ms) for host, ms in data.get("waited_ms", {}).items()},
        )


@dataclass(frozen=True, slots=True)
class HostFigures:
    """One host's part in the machine. Memory in bytes, the rest in pages, as the names say."""

    name: str
    budget: int
    held: int = 0
    """Bytes of the budget in use now: mapped and stowed."""
    peak: int = 0
    """The most that was held at any time."""
    mapped: int = 0
    stowed: int = 0
    """Bytes that the stowed pages take, compressed where that pays."""
    stowed_pages: int = 0
    faults: Faults = Faults()
    bytes_in: int = 0
    bytes_out: int = 0
    evicted_pages: int = 0
    handed_over_pages: int = 0
    received_pages: int = 0
    fault_us: FaultTimes = FaultTimes()
    cpus: int | None = None
    """CPUs that its agent may use; ``None``: it does not say."""
    load: float | None = None
    """How many of them were busy lately, with whatever."""
    threads: int | None = None
    """Threads of the program that run here; ``None`` in expand mode."""
    invalidated_pages: int | None = None
    """Copies that were taken away because another host writes."""
    forwarded_pages: int | None = None
    """Pages that were given away because another host wants them."""
    dwelled: int | None = None
    """How often another host had to wait because a page had only just come here."""
    pages_from: tuple[int, ...] = ()
    """Pages that came from each host in turn, as far as any did."""
    hot: tuple[HotPage, ...] = ()
    """The pages that are fought over most."""
    rtt_us: tuple[int | None, ...] = ()
    """Microseconds of the shortest round trip to each host in turn: 0 to itself, ``None`` where nothing is measured.

    Empty: it does not say.
    """

    @classmethod
    def opened(cls, data: dict[str, Any]) -> HostFigures:
        """What is known of a host when the machine is made: its name, budget and CPUs, and how far the others are."""
        return cls(
            str(data["name"]), _count(data["budget"]), cpus=_count_or_none(data.get("cpus")), rtt_us=_round_trips(data)
        )

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> HostFigures:
        """Reads what an agent says of a host; raises KeyError, TypeError or ValueError if it is not that."""
        counts = {name: _count(data[name]) for name in _COUNTS}
        faults = Faults(**{f.name: _count(data["faults"][f.name]) for f in dataclasses.fields(Faults)})
        times = FaultTimes(*(_amount(data["fault_us"][key]) for key in ("p50", "p99")))
        return cls(
            name=str(data["name"]),
            faults=faults,
            fault_us=times,
            load=_amount(data.get("load")),
            hot=tuple(HotPage.from_wire(page) for page in data.get("hot", ())),
            rtt_us=_round_trips(data),
            pages_from=tuple(_count(pages) for pages in data.get("pages_from", ())),
            **counts,
            **{name: _count(data[name]) for name in _LATER_COUNTS if name in data},
        )


_COUNTS: Final = (
    *("budget", "held", "peak", "mapped", "stowed", "stowed_pages", "bytes_in", "bytes_out"),
    *("evicted_pages", "handed_over_pages", "received_pages"),
)
_LATER_COUNTS: Final = ("cpus", "invalidated_pages", "forwarded_pages", "dwelled")
"""What agents that keep threads at home need not say."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A thread that was ordered to another host."""

    at_s: float
    """Seconds after the program's start."""
    pid: int
    tid: int
    name: str
    """The thread's."""
    source: str
    """The host where it was."""
    target: str
    why: str
    """In words."""


@dataclass(frozen=True, slots=True)
class HostThreads:
    """What a host did for the program's threads."""

    host: str
    cpus: int
    """As the program saw them."""
    most: int
    """Threads at once."""
    cpu_s: float
    """CPU time of the program's threads while they were here, as far as heartbeats told."""


@dataclass(frozen=True, slots=True)
class SpreadFigures:
    """Where threads were, in spread mode."""

    asked: str
    """``spread`` or ``auto``."""
    hosts: tuple[HostThreads, ...]
    threads: tuple[ThreadFigures, ...]
    """As each was last seen."""
    decisions: tuple[Decision, ...]
    """The scheduler's, the last of them if there were very many."""
    decisions_dropped: int
    hot: tuple[HotPage, ...]
    """The pages that hosts took from each other most, the worst first."""

    @property
    def moves(self) -> int:
        """How often threads changed hosts."""
        return sum(thread.moves for thread in self.threads)


@dataclass(frozen=True, slots=True)
class Report:
    """One run, from beginning to end."""

    argv: tuple[str, ...]
    machine: str
    """The machine's id."""
    hosts: tuple[HostFigures, ...]
    """The home host first."""
    exit_code: int
    """What ``megalith run`` ends with."""
    ended_by: EndedBy
    error: str | None
    """The line that says what went wrong with the machine, if anything did."""
    lost_host: str | None
    started: str
    """When, in UTC (ISO 8601)."""
    wall_s: float
    user_s: float
    system_s: float
    leftovers_killed: int
    """Processes that the program left behind and that were ended."""
    version: str
    spread: SpreadFigures | None = None
    """``None``: all threads were at home."""

    @property
    def memory(self) -> int:
        """Bytes of memory of the whole machine."""
        return sum(host.budget for host in self.hosts)

    def as_json(self) -> str:
        """The report as one line of JSON."""
        fields = dataclasses.asdict(self)
        version = fields.pop("version")
        head = {"schema_version": SCHEMA_VERSION, "kind": "run", "megalith": version, "memory": self.memory}
        return json.dumps(head | fields)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Reads what :meth:`as_json` wrote. Raises ValueError, KeyError or TypeError if it is not that."""
        data = json.loads(text)
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"a report of schema_version {data['schema_version']}, not {SCHEMA_VERSION}")
        report: Report = _read(cls, data | {"version": data["megalith"]})
        return report


def _read(kind: Any, value: Any) -> Any:
    """A value of a type that :func:`dataclasses.asdict` and JSON have taken apart."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        kinds = get_type_hints(kind)
        # A key may have been added since.
        return kind(**{name: _read(kinds[name], value[name]) for name in kinds if name in value})
    if get_origin(kind) is tuple:
        return tuple(_read(get_args(kind)[0], item) for item in value)
    if isinstance(kind, UnionType):
        return None if value is None else _read(get_args(kind)[0], value)
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _count_or_none(value: Any) -> int | None:
    return None if value is None else _count(value)


def _round_trips(data: dict[str, Any]) -> tuple[int | None, ...]:
    return tuple(_count_or_none(us) for us in data.get("rtt_us", ()))


def _amount(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is not an amount")
    return float(value)
