"""Running one program on one machine, from gathering the hosts to the report.

What is started here is ended here, in this order: the program, what it left behind, the machine, the
local hosts. Every wait has an end.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, assert_never

from megalith import _core, launch, processes
from megalith.balance import BalancePolicy
from megalith.control import Closed, Control, Ended, Event, Failed, Full, Lost, Opened, Shared, Status
from megalith.exceptions import (
    AgentError,
    HostLost,
    HostsFileError,
    MemoryExhausted,
)
from megalith.gathering import HEARTBEAT_S, LOST_AFTER_S, Place, check_permission, join, local, running
from megalith.placement import Threads, arrange
from megalith.report import EndedBy, HostFigures, Report, ThreadFigures
from megalith.scheduler import Policy
from megalith.signals import Signals
from megalith.sizes import format_size
from megalith.spreading import Spreading, spreading
from megalith.tell import tell

KILL_TIMEOUT_S: Final = 10.0
LEFTOVER_GRACE_S: Final = 1.0
"""For what a program starts and does not wait for, such as a shell's ``> >(tee log)``."""

Watcher = Callable[[Sequence[HostFigures]], None]


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ran to its own end."""

    returncode: int
    """Its exit status, or minus the signal that ended it, as in :mod:`subprocess`."""
    report: Report


@dataclass(frozen=True, slots=True)
class Options:
    """How to run; see :func:`run`."""

    hosts: int | Path
    memory_per_host: str | int | None = None
    home: str | None = None
    threads: Threads = "auto"
    threads_on: Sequence[str] = ()
    policy: Policy | None = None
    explain: bool = False
    hot: bool = False
    heartbeat_s: float = HEARTBEAT_S
    lost_after_s: float = LOST_AFTER_S
    environment: Mapping[str, str] | None = None
    files: Mapping[int, int] | None = None
    adopt_orphans: bool = False
    watch: Watcher | None = None


def run(
    argv: Sequence[str],
    *,
    hosts: int | str | Path = 1,
    memory_per_host: str | int | None = None,
    home: str | None = None,
    threads: Threads = "auto",
    threads_on: Sequence[str] = (),
    policy: Policy | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    lost_after_s: float = LOST_AFTER_S,
    env: Mapping[str, str] | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    watch: Watcher | None = None,
) -> Completed:
    """Runs an unmodified program on the memory of several hosts, and waits for its end.

    Args:
        argv: the program and its arguments, as for :func:`subprocess.run`.
        hosts: a number of hosts on this computer, or the path of a hosts file.
        memory_per_host: budget of each host on this computer, such as ``"2G"`` (default: a fair share of
            what is available).
        home: the name of the home host, where not the first of the hosts file.
        threads: ``"auto"`` starts the program's threads on the home host and lets the scheduler move them when
            its CPUs are full, and is the same as ``"expand"`` where no other host has CPUs to offer (as with hosts
            on this computer); ``"expand"`` keeps them all at home; ``"spread"`` starts new ones on all hosts.
        threads_on: with ``"spread"``, the names of the hosts on which new threads start.
        policy: decides which threads move where (:mod:`megalith.scheduler`), in place of the one that ``"auto"``
            has, and that ``"spread"`` does without.
        heartbeat_s: how often hosts tell each other that they live.
        lost_after_s: a host that has been silent for so long is lost.
        env: the program's environment, in place of this process's.
        stdin: a file descriptor in place of this process's.
        stdout: likewise.
        stderr: likewise.
        watch: is called with every host's figures, once a heartbeat.

    Raises:
        HostLost: a host went away; the program has been killed.
        MemoryExhausted: the program needed more than the hosts have; it has been killed.
        MegalithError: the program could not be started.

    ^C goes to the program, as it would from a shell; here it does nothing until the program has ended.

    Processes that outlive the program are ended only if their parents still live; the command line, which
    has a process of its own, ends them all.

    >>> done = run(["sh", "-c", "exit 3"], hosts=2, memory_per_host="32M")
    >>> done.returncode, done.report.ended_by
    (3, 'exit')
    """
    files = {n: fd for n, fd in enumerate((stdin, stdout, stderr)) if fd is not None}
    options = Options(
        hosts=hosts if isinstance(hosts, int) else Path(hosts),
        memory_per_host=memory_per_host,
        home=home,
        threads=threads,
        threads_on=threads_on,
        policy=policy,
        heartbeat_s=heartbeat_s,
        lost_after_s=lost_after_s,
        environment=env,
        files=files,
        watch=watch,
    )
    return run_with(argv, options)


def run_with(argv: Sequence[str], options: Options) -> Completed:
    """:func:`run`, with everything the command line can ask for."""
    environment = dict(os.environ if options.environment is None else options.environment)
    with Signals() as signals:
        program = launch.find_program(argv, environment)
        check_permission()
        with _gathered(options) as place, place.connect() as control:
            machine, opened = join(place, control, heartbeat_s=options.heartbeat_s, lost_after_s=options.lost_after_s)
            placement = arrange(
                opened.hosts,
                threads=options.threads,
                threads_on=options.threads_on,
                one_computer=place.one_computer,
            )
            if options.explain:
                tell(f"megalith: {placement.why}")
            elif options.policy is not None and not placement.spread:
                tell(f"megalith: the policy has nothing to decide: {placement.why}")
            with (
                spreading(
                    placement,
                    opened.hosts,
                    place.private,
                    options.policy or (BalancePolicy() if placement.threads == "auto" else None),
                    explain=options.explain,
                ) as spread,
                _adopting(options.adopt_orphans) as known,
            ):
                run = _Run(tuple(argv), Path(program.path), machine, opened.hosts, control, place, options, spread)
                with signals.starting():
                    child = launch.start(
                        program,
                        machine=machine,
                        directory=place.directory,
                        environment=environment,
                        files=options.files or {},
                        signal_mask=signals.mask,
                        spread=spread.told if spread else None,
                    )
                    signals.forward_to(child)
                return run.supervise(child, known, signals)


@contextmanager
def _gathered(options: Options) -> Iterator[Place]:
    if isinstance(options.hosts, Path):
        if options.memory_per_host is not None:
            raise HostsFileError("--memory-per-host is for --local; each agent of a hosts file has its own --memory")
        yield running(options.hosts, options.home)
        return
    if options.home is not None:
        raise HostsFileError("--home is for --hosts; with --local the first host is home")
    with local(options.hosts, options.memory_per_host) as place:
        yield place


@contextmanager
def _adopting(on: bool) -> Iterator[set[int] | None]:
    """Adopts orphans meanwhile; yields the children we have already, or ``None`` if it is not to adopt."""
    if not on:
        yield None
        return
    before = processes.is_subreaper()
    processes.set_subreaper(True)
    try:
        yield processes.children(os.getpid())
    finally:
        processes.set_subreaper(before)


class _Run:
    """One program under way. Holds what is known of it; :meth:`supervise` is its life."""

    def __init__(
        self,
        argv: tuple[str, ...],
        program: Path,
        machine: str,
        hosts: tuple[HostFigures, ...],
        control: Control,
        place: Place,
        options: Options,
        spread: Spreading | None,
    ) -> None:
        self._argv = argv
        self._program = program
        self._machine = machine
        self._hosts = hosts
        self._control = control
        self._place = place
        self._options = options
        self._spread = spread
        self._started = datetime.now(UTC)
        self._started_s = time.monotonic()
        self._lost: Lost | None = None
        self._full = False
        self._closed = False
        self._leftovers = 0

    def supervise(self, child: launch.Child, known: set[int] | None, signals: Signals) -> Completed:
        """Waits for the program's end, or the machine's; then ends the other."""
        ending: launch.Ending | None = None
        try:
            ending = self._wait(child)
        finally:
            signals.ignore()
            if ending is None:
                # The agent kills its clients when a machine ends; what does not serve us is not waited for.
                grace_s = 1.0 if self._machine_ended and self._agent_lives else 0.0
                ending = child.ending(grace_s)
            self._end_family(child, ending is not None, known)
            if ending is None:
                ending = child.ending(KILL_TIMEOUT_S)
        wall_s = time.monotonic() - self._started_s
        self._close()
        if ending is None:
            raise AgentError(f"process {child.pid} of the program could not be killed")
        return self._outcome(ending, wall_s)

    @property
    def _machine_ended(self) -> bool:
        return self._lost is not None or self._full

    @property
    def _agent_lives(self) -> bool:
        return self._lost is None or self._lost.host != self._home

    @property
    def _home(self) -> str:
        return self._hosts[0].name

    @property
    def _advice(self) -> str:
        """What gives the program more memory."""
        if self._place.local:
            return "give it more with --memory-per-host SIZE or --local N"
        return "add hosts to the hosts file, or restart agents with a larger --memory"

    def _wait(self, child: launch.Child) -> launch.Ending | None:
        """Until the program ends, or ``None`` once the machine has."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(child, selectors.EVENT_READ)
            last_sign_s = time.monotonic()
            while not self._machine_ended:
                left_s = last_sign_s + self._options.lost_after_s - time.monotonic()
                due_s = self._spread.due_in_s() if self._spread else left_s
                # A wait of no length at least asks: if it was we who were stopped (^Z), words are waiting.
                ready = selector.select(max(0.0, min(left_s, due_s)))
                if events := self._control.events():
                    last_sign_s = time.monotonic()
                    for event in events:
                        self._take(event)
                elif not ready and left_s <= due_s:
                    after = f"{self._options.lost_after_s:g} s"
                    self._lost = Lost(self._home, f"its agent has given no sign of life for {after}")
                if not self._machine_ended and (ending := child.ending(0.0)) is not None:
                    return ending
                if self._spread and not self._machine_ended:
                    self._spread.act(self._control.move)
        return None

    def _take(self, event: Event) -> None:
        match event:
            case Status(hosts, threads):
                self._see(hosts, threads)
                if self._options.watch is not None:
                    self._options.watch(self._hosts)
            case Closed(hosts, threads):
                self._see(hosts, threads)
                self._closed = True
            case Lost():
                self._lost = self._lost or event
            case Full(hosts):
                self._hosts = hosts
                self._full = True
            case Ended():
                if not self._closed and not self._machine_ended:
                    self._lost = Lost(self._home, "its agent has ended")
            case Opened() | Failed() | Shared():
                raise AgentError(f"the home agent said {type(event).__name__.lower()} in the middle of a run")
            case _ as never:
                assert_never(never)

    def _see(self, hosts: tuple[HostFigures, ...], threads: tuple[ThreadFigures, ...]) -> None:
        # What a full machine held is what counts, not what is left once its program has been killed.
        if not self._full:
            self._hosts = self._spread.see(hosts, threads) if self._spread else hosts

    def _end_family(self, child: launch.Child, ended: bool, known: set[int] | None) -> None:
        """Ends the program, if it has not, and every process it left behind."""
        deadline = time.monotonic() + (LEFTOVER_GRACE_S if ended else 0.0)
        while True:
            orphans = set() if known is None else processes.children(os.getpid()) - known - {child.pid}
            if not orphans or time.monotonic() >= deadline:
                break
            time.sleep(0.01)
        names = {pid: processes.name_of(pid) for pid in orphans}
        killed = processes.kill_family(orphans if ended else orphans | {child.pid})
        processes.reap(killed - {child.pid}, KILL_TIMEOUT_S)
        if ended and killed:
            self._leftovers = len(killed)
            shown = ", ".join(f"{name} ({pid})" for pid, name in names.items() if pid in killed)
            tell(f"megalith: the program left processes behind; killed: {shown}")

    def _close(self) -> None:
        """Ends the machine and takes its last figures."""
        if self._agent_lives:
            self._control.close()
            for event in self._control.wait(self._options.lost_after_s + 2.0):
                self._take(event)
                if self._closed:
                    return
            if self._lost is None and not self._full:
                self._lost = Lost(self._home, "its agent did not end the machine")
        elif self._place.local:
            self._place.local.kill()

    def _outcome(self, ending: launch.Ending, wall_s: float) -> Completed:
        if self._full:
            held = ", ".join(f"{h.name} held {format_size(h.held)} of {format_size(h.budget)}" for h in self._hosts)
            message = f"memory exhausted, the program was killed: {held}; {self._advice}"
            raise MemoryExhausted(message, report=self._report(ending, wall_s, message))
        if self._lost is not None:
            why = self._place.blame(self._lost.host, self._lost.detail)
            # A SIGKILL is the machine's own doing; any other end is worth a word.
            how = "was killed" if ending.returncode == -9 else f"had ended with {ending.exit_code}"
            message = f"host {self._lost.host} was lost: {why}; the program {how}"
            raise HostLost(message, report=self._report(ending, wall_s, message))
        return Completed(ending.returncode, self._report(ending, wall_s, None))

    def _report(self, ending: launch.Ending, wall_s: float, error: str | None) -> Report:
        ended_by: EndedBy = "exit" if ending.returncode >= 0 else "signal"
        exit_code = ending.exit_code
        if self._full:
            ended_by, exit_code = "memory exhausted", MemoryExhausted.exit_code
        elif self._lost is not None:
            ended_by, exit_code = "host lost", HostLost.exit_code
        return Report(
            argv=self._argv,
            machine=self._machine,
            hosts=self._hosts,
            exit_code=exit_code,
            ended_by=ended_by,
            error=error,
            lost_host=self._lost.host if self._lost else None,
            started=self._started.isoformat(timespec="seconds"),
            wall_s=wall_s,
            user_s=ending.user_s,
            system_s=ending.system_s,
            leftovers_killed=self._leftovers,
            version=_core.VERSION,
            spread=self._spread.figures(self._program if self._options.hot else None) if self._spread else None,
        )
