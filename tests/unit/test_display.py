"""What people see: the live display and the report."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from typing import Any

from cli_driver import Cli
from megalith.live import LiveDisplay
from megalith.render import format_count, format_seconds, report_text
from megalith.report import Faults, FaultTimes, HostFigures, Report


def host(name: str, **figures: Any) -> HostFigures:
    return HostFigures(name, 100 << 20, **figures, faults=Faults(1, 2, 3, 4, 5), fault_us=FaultTimes(12.4, 2345.0))


def report(*hosts: HostFigures) -> Report:
    return Report(
        argv=("x",),
        machine="0" * 16,
        hosts=hosts,
        exit_code=143,
        ended_by="signal",
        error=None,
        lost_host=None,
        started="2026-01-01T00:00:00+00:00",
        wall_s=1.0,
        user_s=2.0,
        system_s=3.0,
        leftovers_killed=0,
        version="0",
    )


def test_the_report_fits_eighty_columns() -> None:
    figures = report(host("host1", peak=99 << 20, evicted_pages=123_456), host("n" * 40))
    text = report_text(figures, io.StringIO())
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 84
    assert "99.0 MiB" in lines[2]
    assert "123k" in lines[2]
    assert "2.3 ms" in text
    assert lines[-1] == "wall 1.00 s, user 2.00 s, system 3.00 s; ended by signal 15, exit status 143"
    assert "…" not in text.replace("n…", "")


def test_bars_show_what_is_mapped_stowed_and_free() -> None:
    (line,) = LiveDisplay.lines([host("a", held=75 << 20, mapped=50 << 20)], 80, colour=False)
    assert len(line) <= 79
    bar = re.findall("[█▒·]+", line)[0]
    assert bar.count("█") == round(len(bar) / 2)
    assert abs(bar.count("▒") - len(bar) / 4) <= 1
    assert "75.0 MiB of 100 MiB" in line


def test_threads_are_counted_where_they_may_be_away() -> None:
    (line,) = LiveDisplay.lines([host("a", threads=12)], 100, colour=False)
    assert line.endswith("15 faults   12 threads")


def test_a_narrow_terminal_and_many_hosts_get_less() -> None:
    hosts = [host(f"host{n}", held=1 << 20) for n in range(12)]
    lines = LiveDisplay.lines(hosts, 30, colour=True)
    assert len(lines) == 8
    assert lines[-1].startswith("and 5 more: 5.00 MiB of")
    assert all(len(line) < 30 for line in lines)


def test_nothing_held_nothing_drawn() -> None:
    (line,) = LiveDisplay.lines([host("a")], 80, colour=False)
    assert "█" not in line
    assert "▒" not in line


def test_numbers_for_people() -> None:
    assert [format_count(n) for n in (0, 999, 1000, 12_345, 999_499, 999_500, 4_560_000)] == [
        "0", "999", "1.00k", "12.3k", "999k", "1.00M", "4.56M",
    ]  # fmt: skip
    assert [format_seconds(s) for s in (3.214, 245.2, 7400)] == ["3.21 s", "4 min 5 s", "2 h 3 min"]


def on_terminal(cli: Cli, *words: str, raw: bool = False, **environment: str) -> tuple[int, str]:
    """Runs the command line on a pseudo-terminal of 24 lines and 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    if raw:
        flags = termios.tcgetattr(theirs)
        flags[3] &= ~termios.ICANON
        termios.tcsetattr(theirs, termios.TCSANOW, flags)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "megalith", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=cli.environment | {"TERM": "xterm"} | environment,
        start_new_session=True,
    )
    os.close(theirs)
    output = b""
    try:
        while data := os.read(ours, 65536):
            output += data
    except OSError:
        pass  # EIO: the last process has closed the terminal.
    os.close(ours)
    return process.wait(timeout=60), output.decode()


RUN = ("run", "--local", "2", "--memory-per-host", "64M", "--", "sh", "-c", "echo one; sleep 1.2; echo two")


def test_a_terminal_shows_where_memory_is_and_is_left_as_it_was(cli: Cli) -> None:
    code, output = on_terminal(cli, *RUN)
    assert code == 0
    assert "\x1b[1;22r" in output, "two lines are kept for two hosts"
    assert re.search(r"host2 .*of 64\.0 MiB", output)
    after = output[output.rindex("\x1b[r") :]
    assert "█" not in after
    assert "exit status 0" in after
    assert "\x1b[r" not in output[: output.index("\x1b[1;22r")]


def test_no_colour_where_none_is_wanted(cli: Cli) -> None:
    code, output = on_terminal(cli, *RUN, NO_COLOR="1")
    assert code == 0
    assert "\x1b[36m" not in output
    assert "█" in output or "▒" in output or "·" in output


def test_a_program_that_takes_the_terminal_gets_it_whole(cli: Cli) -> None:
    _, output = on_terminal(cli, *RUN, raw=True)
    assert "\x1b[1;22r" not in output
    assert "exit status 0" in output


def test_quiet_is_quiet(cli: Cli) -> None:
    _, output = on_terminal(cli, "run", "--quiet", *RUN[1:])
    assert output == "one\r\ntwo\r\n"
