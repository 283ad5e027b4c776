"""The result, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final, TextIO

from rich.table import Table

from megalith import __version__
from megalith.demo.contigs import Contigs
from megalith.demo.swap import Swapped
from megalith.render import text_for
from megalith.report import Report
from megalith.sizes import format_size

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Phase:
    """One program of the assembly, run three ways."""

    name: str
    native_s: float
    native_peak: int
    megalith_s: float
    budget_per_host: int
    report: Report
    swap: Swapped | None

    @property
    def ratio(self) -> float:
        """How many times as long as natively."""
        return self.megalith_s / self.native_s


@dataclass(frozen=True, slots=True)
class Result:
    """The whole demonstration."""

    genome: str
    reads: str
    hosts: int
    share: int
    phases: tuple[Phase, ...]
    native: Contigs
    identical: bool

    def as_json(self) -> str:
        """The result as one line of JSON."""
        return json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "kind": "demo",
                "megalith": __version__,
                "genome": self.genome,
                "reads": self.reads,
                "hosts": self.hosts,
                "share_percent": self.share,
                "phases": [
                    {
                        "name": phase.name,
                        "native_s": phase.native_s,
                        "native_peak": phase.native_peak,
                        "megalith_s": phase.megalith_s,
                        "budget_per_host": phase.budget_per_host,
                        "ratio": phase.ratio,
                        "swap": asdict(phase.swap) if phase.swap else None,
                        "report": json.loads(phase.report.as_json()),
                    }
                    for phase in self.phases
                ],
                "contigs": asdict(self.native),
                "identical": self.identical,
            }
        )


def result_text(result: Result, stream: TextIO) -> str:
    """The result as a table, for ``stream``."""
    table = Table(title=f"{result.reads}; {result.hosts} hosts", title_justify="left", box=None, pad_edge=False)
    table.add_column("phase", no_wrap=True)
    for column in ("native", "peak", "megalith", "budget/host", "most held", "ratio", "swap"):
        table.add_column(column, justify="right", no_wrap=True)
    notes = []
    for phase in result.phases:
        most = max(host.peak for host in phase.report.hosts)
        table.add_row(
            phase.name,
            f"{phase.native_s:.1f} s",
            format_size(phase.native_peak),
            f"{phase.megalith_s:.1f} s",
            format_size(phase.budget_per_host),
            format_size(most),
            f"{phase.ratio:.1f}",
            str(phase.swap) if phase.swap else "-",
        )
        if phase.swap and phase.swap.reason:
            notes.append(f"swap, {phase.name}: {phase.swap.how}: {phase.swap.reason}")
    native = result.native
    notes.append(f"{native.count} contigs, {native.bases} bases, N50 {native.n50}")
    notes.append(f"contigs identical: {'yes' if result.identical else 'no'}")
    return text_for(stream, table, *notes)
