"""What has been counted over many plans."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from chaos.plan import Kind
from chaos.verdict import Class


@dataclass(frozen=True)
class Failure:
    """Something that may not be."""

    seed: int
    round: int
    schedule: str
    why: str
    seen: str
    """How the run ended, and what was done to it, in words."""
    stacks: str = ""
    """What everybody was doing, where a run did not end."""

    @property
    def replay(self) -> str:
        """The command that plays the plan again, from `tests/`."""
        return f"python -m chaos --seed {self.seed} --plans 1"

    def __str__(self) -> str:
        lines = [f"FAILURE, seed {self.seed}, round {self.round}: {self.why}", f"  {self.schedule}", f"  {self.seen}"]
        return "\n".join([*lines, f"  again: (cd tests && {self.replay})"])


@dataclass
class Tally:
    """The sum."""

    plans: int = 0
    seconds: float = 0.0
    endings: Counter[Class] = field(default_factory=Counter)
    faults: Counter[Kind] = field(default_factory=Counter)
    """That were made."""
    late: Counter[Kind] = field(default_factory=Counter)
    """That came too late, or found nobody there."""
    failures: list[Failure] = field(default_factory=list)

    @property
    def runs(self) -> int:
        """How many runs have ended."""
        return self.endings.total()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "plans": self.plans,
            "runs": self.runs,
            "seconds": round(self.seconds, 1),
            "endings": {str(kind): count for kind, count in sorted(self.endings.items())},
            "faults": {str(kind): count for kind, count in sorted(self.faults.items())},
            "late": {str(kind): count for kind, count in sorted(self.late.items())},
            "failures": [
                {
                    "seed": failure.seed,
                    "round": failure.round,
                    "schedule": failure.schedule,
                    "why": failure.why,
                    "seen": failure.seen,
                    "replay": failure.replay,
                }
                for failure in self.failures
            ],
        }

    def as_text(self) -> str:
        """A table for people."""
        lines = [f"{self.plans} plans, {self.runs} runs, {self.seconds:.0f} s"]
        lines += [f"  {kind:<22}{count:>6}" for kind, count in sorted(self.endings.items())]
        lines.append(f"{self.faults.total()} faults, and {self.late.total()} that came too late")
        lines += [f"  {kind:<22}{count:>6}" for kind, count in sorted(self.faults.items())]
        lines.append(f"{len(self.failures)} failures")
        return "\n".join(lines)
