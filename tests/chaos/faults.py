"""Makes the faults of a schedule happen, each in its moment, and undoes them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, final

import processes
from chaos.arena import Arena
from chaos.plan import Fault, Kind
from chaos.verdict import Done

Undo = Callable[[], None]

_AGAIN_S: Final = 0.05
"""What could not be done is tried again so much later."""


def _nothing() -> None:
    """There is nothing to undo."""


@dataclass
class _Waiting:
    fault: Fault
    not_before: float = 0.0
    harmed_before: int | None = None
    """Of a harmed link: how many frames were spoilt when it was asked for, at `asked`."""
    asked: float = 0.0


@dataclass
class _Running:
    until: float
    undo: Undo


@final
class Injector:
    """What is done to one run. Call `tick` every few milliseconds, and `finish` at the end."""

    def __init__(
        self, arena: Arena, faults: tuple[Fault, ...], run: "subprocess.Popen[bytes]", begin: float, random: Random
    ) -> None:
        self.done: list[Done] = []
        self.late: list[Fault] = []
        """What came too late, or found nobody there."""
        self.program: int | None = None
        self._arena = arena
        self._run = run
        self._begin = begin
        self._random = random
        self._started = 0.0
        self._waiting = [_Waiting(fault) for fault in faults]
        self._running: list[_Running] = []

    def tick(self) -> None:
        """Does what is due."""
        now = time.monotonic()
        if self.program is None and (found := _child(self._run.pid)) is not None:
            self.program, self._started = found, now
        for running in [one for one in self._running if one.until <= now]:
            self._undo(running)
        for waiting in self._waiting[:]:
            fault = waiting.fault
            if fault.after_start and self.program is None:
                continue
            since = self._started if fault.after_start else self._begin
            if now < max(since + fault.at_s, waiting.not_before):
                continue
            undo = self._make(waiting)
            if undo is None:
                waiting.not_before = now + _AGAIN_S
                continue
            self._waiting.remove(waiting)
            made = time.monotonic()
            self.done.append(Done(fault, made - self._begin, self.program is not None))
            if fault.for_s:
                self._running.append(_Running(made + fault.for_s, undo))

    def finish(self) -> None:
        """The run has ended: undoes what still lasts."""
        for running in self._running[:]:
            self._undo(running)
        for waiting in self._waiting:
            # A frame may have been spoilt, and the run have ended, since we last looked.
            if waiting.harmed_before is not None and self._arena.harmed > waiting.harmed_before:
                self.done.append(Done(waiting.fault, waiting.asked - self._begin, started=True))
            else:
                self.late.append(waiting.fault)
        self._arena.calm()
        self._waiting.clear()

    def _undo(self, running: _Running) -> None:
        self._running.remove(running)
        running.undo()

    def _make(self, waiting: _Waiting) -> Undo | None:
        """Makes it happen, and returns how it is undone; None where it cannot be yet."""
        arena, fault = self._arena, waiting.fault
        host = arena.hosts[fault.host]
        network = arena.hosts.network
        assert network is not None
        match fault.kind:
            case Kind.KILL_HOME | Kind.KILL_AGENT:
                return self._send(host.agent.pid if host in arena.living() and host.agent else None, signal.SIGKILL)
            case Kind.PAUSE_AGENT | Kind.STOP_AGENT:
                return self._send(host.agent.pid if host in arena.living() and host.agent else None, signal.SIGSTOP)
            case Kind.KILL_RUN:
                return self._send(self._run.pid, signal.SIGKILL)
            case Kind.PAUSE_RUN:
                return self._send(self._run.pid, signal.SIGSTOP)
            case Kind.KILL_PROGRAM:
                return self._send(self.program, signal.SIGKILL)
            case Kind.PAUSE_PROGRAM:
                return self._send(self.program, signal.SIGSTOP)
            case Kind.KILL_BODY | Kind.PAUSE_BODY | Kind.STOP_BODY:
                number = signal.SIGKILL if fault.kind == Kind.KILL_BODY else signal.SIGSTOP
                return self._send(next(iter(processes.bodies([host.directory])), None), number)
            case Kind.FULL_DISK:
                arena.disk.fill()
                return arena.disk.clear
            case Kind.TIGHT_MEMORY:
                arena.tighten(host.name)
                return lambda: arena.loosen(host.name)
            case Kind.CUT | Kind.CUT_LONG:
                network.cut(host.name)
                return lambda: network.mend(host.name)
            case Kind.DELAY:
                arena.change_weather(host.name, delay_s=fault.amount)
                return lambda: arena.change_weather(host.name)
            case Kind.SLOW:
                arena.change_weather(host.name, bytes_per_s=fault.amount)
                return lambda: arena.change_weather(host.name)
            case Kind.SEVER:
                arena.sever(host.name)
                return _nothing
            case Kind.HARM:
                if waiting.harmed_before is None:
                    waiting.harmed_before, waiting.asked = arena.harmed, time.monotonic()
                    arena.harm(host.name, self._random.choice(arena.others(host.name)))
                return _nothing if arena.harmed > waiting.harmed_before else None

    def _send(self, pid: int | None, number: signal.Signals) -> Undo | None:
        if pid is None:
            return None
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            os.close(handle)
            return None
        if number != signal.SIGSTOP:
            os.close(handle)
            return _nothing

        def go_on() -> None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGCONT)
            os.close(handle)

        return go_on


def _child(pid: int) -> int | None:
    """The process that `megalith run` has started, which is the program."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:  # it has ended
        return None
    return int(words[0]) if words else None
