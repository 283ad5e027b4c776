"""Plays a plan: round after round on the same hosts, each judged, and what is left looked for."""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Final, final

import cli
from chaos import plan as plans
from chaos.arena import Arena
from chaos.faults import Injector
from chaos.plan import Plan, Round
from chaos.programs import NAMES, THREADED, WORKLOADS, Known
from chaos.pulse import Pulse
from chaos.remains import Idle, left_by, stacks
from chaos.tally import Failure, Tally
from chaos.verdict import Class, Seen, Verdict, bound_s, judge
from hosts import Host

_TICK_S: Final = 0.01
_SETTLES_S: Final = 12.0
"""After a run's end, until nothing is left of it: a member that waits for a machine to stand waits for join_timeout."""
_SPARE: Final = 1.5
"""The hosts together have so many times what a program touches."""
_AT_HOME: Final = 0.6
"""Home has such a part of it."""
_MEMORY_MIB_MIN: Final = 16

Say = Callable[[str], None]


def plan_of(seed: int) -> Plan:
    """The plan of a seed, with the programs that there are."""
    return plans.make(seed, NAMES, THREADED)


def play(plan: Plan, known: Known, tally: Tally, say: Say) -> None:
    """Plays one plan and counts in `tally`. A failure ends it."""
    begin = time.monotonic()
    # Native runs are none of the machine's business.
    for one in plan.rounds:
        known.result(one.workload)
    player = _Player(plan, known, tally, say)
    try:
        player.play(_budgets(plan))
    finally:
        tally.plans += 1
        tally.seconds += time.monotonic() - begin


def _budgets(plan: Plan) -> list[int]:
    """MiB of each host: home has less than any of the programs touches, all together have what the largest needs."""
    workloads = [WORKLOADS[one.workload] for one in plan.rounds]
    home = max(_MEMORY_MIB_MIN, int(_AT_HOME * min(workload.mib for workload in workloads)))
    needed = max(max(int(_SPARE * workload.mib), workload.asks_mib) for workload in workloads)
    each = max(_MEMORY_MIB_MIN, -(-(needed - home) // (plan.hosts - 1)))
    return [home] + [each] * (plan.hosts - 1)


@final
class _Player:
    def __init__(self, plan: Plan, known: Known, tally: Tally, say: Say) -> None:
        self._plan = plan
        self._known = known
        self._tally = tally
        self._say = say
        self._random = Random(~plan.seed)
        self._pulse = Pulse()

    def play(self, budgets_mib: list[int]) -> None:
        plan = self._plan
        with ExitStack() as cleanup:
            cleanup.callback(self._pulse.close)
            words = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="mgl-chaos-")))
            arena = cleanup.enter_context(Arena(budgets_mib, plaintext=self._plan.plaintext))
            idle = Idle(arena)
            for number, one in enumerate(plan.rounds):
                for name in arena.revive():
                    self._say(f"    agent of {name} started again")
                idle.note()
                if not self._round(arena, idle, number, one, words):
                    break
            hosts, disk = arena.hosts, arena.disk.path
        if left := left_by(hosts, disk):
            self._fail(len(plan.rounds), "all rounds", "left when the hosts were gone: " + "; ".join(left), "")

    def _round(self, arena: Arena, idle: Idle, number: int, one: Round, words: Path) -> bool:
        """Plays one run; whether all is well."""
        lost_after_s = self._plan.lost_after_s
        workload = WORKLOADS[one.workload]
        where = arena.work(f"work-{number}")
        out, err = words / f"out-{number}", words / f"err-{number}"
        self._pulse.take()
        begin = time.monotonic()
        run = self._start(arena, one, where, out, err)
        injector = Injector(arena, one.faults, run, begin, self._random)
        hung = ""
        stalled_s = 0.0
        while run.poll() is None:
            injector.tick()
            time.sleep(_TICK_S)
            stalled_s = max(stalled_s, self._pulse.take())
            if time.monotonic() - begin > bound_s(injector.done, lost_after_s) + 2 * stalled_s:
                hung = stacks(arena.hosts)
                break
        seconds = time.monotonic() - begin
        injector.finish()
        if hung:
            run.kill()
        run.wait(10)
        complaint = [line for line in err.read_text(errors="replace").splitlines() if line.strip()]
        right = run.returncode == 0 and workload.result(out.read_bytes(), where) == self._known.result(one.workload)
        shutil.rmtree(where, ignore_errors=True)
        seen = Seen(run.returncode, seconds, complaint, right, stalled_s)
        if hung:
            verdict = Verdict(Class.WRONG, f"no end within {seconds:.0f} s")
        else:
            verdict = judge(seen, injector.done, arena.names, lost_after_s)
        left = [] if hung else idle.left(_SETTLES_S + lost_after_s, killed=run.returncode == -signal.SIGKILL)
        if left and verdict.kind != Class.WRONG:
            verdict = Verdict(Class.WRONG, "left behind: " + "; ".join(left))
        self._count(verdict, injector)
        done = "; ".join(f"{d.at_s:.2f} s {d.fault.kind} {d.fault.host}" for d in injector.done) or "nothing"
        told = f"{seconds:.1f} s, exit code {run.returncode}, done: {done}, stderr: {complaint[-3:]}"
        self._say(f"  {number}: {one}\n    {verdict.kind}: {told}")
        if verdict.kind == Class.WRONG:
            self._fail(number, str(one), verdict.why, told, hung or _logs(arena.hosts.all))
        return verdict.kind != Class.WRONG

    def _start(self, arena: Arena, one: Round, where: Path, out: Path, err: Path) -> "subprocess.Popen[bytes]":
        lost_after_s = self._plan.lost_after_s
        workload = WORKLOADS[one.workload]
        options = ["--quiet", f"--{one.mode}", "--lost-after", str(lost_after_s), "--heartbeat", str(lost_after_s / 6)]
        command = cli.command(
            "run", "--hosts", str(arena.hosts.file), *options, "--", *workload.argv(self._known.shelf)
        )
        with out.open("wb") as stdout, err.open("wb") as stderr:
            return arena.hosts.spawn(
                arena.hosts.home,
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=where,
                env=workload.environment(),
            )

    def _count(self, verdict: Verdict, injector: Injector) -> None:
        self._tally.endings[verdict.kind] += 1
        self._tally.faults.update(done.fault.kind for done in injector.done)
        self._tally.late.update(fault.kind for fault in injector.late)

    def _fail(self, number: int, schedule: str, why: str, seen: str, told: str = "") -> None:
        failure = Failure(self._plan.seed, number, schedule, why, seen, told)
        self._tally.failures.append(failure)
        self._say(str(failure))


def _logs(hosts: list[Host]) -> str:
    return "\n".join(f"log of {host.name}:\n{host.log.read_text(errors='replace')}" for host in hosts)
