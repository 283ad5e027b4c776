"""The report after a run, for people."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from megalith.report import Report, SpreadFigures
from megalith.sizes import format_size

_WIDTH_MIN = 100
"""Of a report that is written to a file or a pipe: a table broken to 80 columns serves nobody."""


def text_for(stream: TextIO, *parts: RenderableType) -> str:
    """``parts`` as text for ``stream``: with colours on a terminal (but see NO_COLOR), plain elsewhere.

    The caller writes it. rich itself ends the process when it meets a broken pipe.
    """
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        console = Console(file=stream, highlight=False, width=_WIDTH_MIN)
    with console.capture() as captured:
        for part in parts:
            console.print(part, markup=False)
    return captured.get()


def report_text(report: Report, stream: TextIO) -> str:
    """The whole report, as text for ``stream``."""
    ended = report.ended_by if report.ended_by != "signal" else f"signal {report.exit_code - 128}"
    last = (
        f"wall {format_seconds(report.wall_s)}, user {format_seconds(report.user_s)},"
        f" system {format_seconds(report.system_s)}; ended by {ended}, exit status {report.exit_code}"
    )
    tables = [_memory_table(report), _faults_table(report)]
    if report.spread is not None:
        tables.append(_threads_table(report, report.spread))
    return text_for(stream, *tables, last)


def hot_text(report: Report, stream: TextIO) -> str:
    """The pages that were fought over, as text for ``stream``."""
    if report.spread is None:
        return text_for(stream, "hot pages: none, all threads were at home")
    if not report.spread.hot:
        return text_for(stream, "hot pages: none")
    table = Table(title="hot pages", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("address", no_wrap=True)
    table.add_column("moves", justify="right", no_wrap=True)
    table.add_column("process", justify="right", no_wrap=True)
    table.add_column("what")
    for page in report.spread.hot:
        table.add_row(f"{page.page:#x}", format_count(page.moves), str(page.pid), Text(page.what or "?"))
    return text_for(stream, table)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("host", max_width=16, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _memory_table(report: Report) -> Table:
    table = _table("memory (evicted, given away: pages)", ("budget", "peak", "mapped", "stowed", "evicted", "given"))
    for host in report.hosts:
        sizes = (host.budget, host.peak, host.mapped, host.stowed)
        pages = (host.evicted_pages, host.handed_over_pages)
        table.add_row(host.name, *map(format_size, sizes), *map(format_count, pages))
    return table


def _faults_table(report: Report) -> Table:
    columns = ("first", "local", "remote", "minor", "write", "in", "out", "p50", "p99")
    table = _table("page faults by kind, bytes from and to other hosts", columns)
    for host in report.hosts:
        faults = host.faults
        counts = (faults.first_touch, faults.local, faults.remote, faults.minor, faults.write)
        sizes = (host.bytes_in, host.bytes_out)
        # Where there was no fault, there is no time of one.
        times = (host.fault_us.p50, host.fault_us.p99) if faults.total else (None, None)
        cells = (*map(format_count, counts), *map(format_size, sizes), *map(_format_us, times))
        table.add_row(host.name, *cells)
    return table


def _threads_table(report: Report, spread: SpreadFigures) -> Table:
    decided = len(spread.decisions) + spread.decisions_dropped
    title = f"threads: {len(spread.threads)}, moves: {spread.moves} ({decided} decided)"
    table = _table(title, ("CPUs", "most", "CPU time", "taken away", "given", "waited for"))
    for host, figures in zip(spread.hosts, report.hosts, strict=False):
        counts = (figures.invalidated_pages or 0, figures.forwarded_pages or 0, figures.dwelled or 0)
        table.add_row(host.host, str(host.cpus), str(host.most), format_seconds(host.cpu_s), *map(format_count, counts))
    return table


def format_count(count: int) -> str:
    """``999``, ``12.3k``, ``4.56M``."""
    if count < 1000:
        return str(count)
    value, unit = (count / 1e3, "k") if count < 999_500 else (count / 1e6, "M")
    return f"{value:.2f}{unit}" if value < 9.995 else f"{value:.1f}{unit}" if value < 99.95 else f"{value:.0f}{unit}"


def format_seconds(seconds: float) -> str:
    """``3.21 s``, ``4 min 5 s``, ``2 h 3 min``."""
    if seconds < 100:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _format_us(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} us" if value < 1000 else f"{value / 1000:.1f} ms"
