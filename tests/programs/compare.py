"""Runs a command natively and under megalith on hosts too small for it alone, and holds one to the other."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cli
import processes
from programs.native import Native, run_native

MIB = 1 << 20
HOSTS = 3
SHARE = 0.5
"""Of the native peak: one host's budget. Three such hosts hold the program half as large again."""

PEAK_BYTES_MIN = 34 * MIB
"""Below this a program is mostly text, libraries and stacks, and half of it is less than an agent takes (16 MiB)."""


@dataclass(frozen=True)
class Pair:
    """Both runs of one command; each had a directory of its own as working directory."""

    native: Native
    native_directory: Path
    ours: cli.Outcome
    directory: Path
    report: cli.Report

    def assert_same_files(self, *names: str) -> None:
        """These files are there after both runs, with the same bytes."""
        for name in names:
            expected = self.native_directory.joinpath(name).read_bytes()
            assert expected, f"{name} is empty natively: it would prove nothing"
            assert self.directory.joinpath(name).read_bytes() == expected, f"{name} differs from native"

    def assert_same_stdout(self) -> None:
        """Both wrote the same bytes to stdout."""
        assert self.native.stdout, "nothing was written natively: it would prove nothing"
        assert self.ours.stdout == self.native.stdout


@dataclass
class Stage:
    """Where one test runs its commands, natively and under megalith, side by side."""

    directory: Path
    mark: str
    env: dict[str, str] = field(default_factory=dict)
    seconds_max: float = 240

    def __post_init__(self) -> None:
        for name in ("native", "megalith", "tmp"):
            self.directory.joinpath(name).mkdir()

    def prepare(self, make: Callable[[Path], object]) -> None:
        """Does the same in both working directories, such as linking an input into them."""
        for name in ("native", "megalith"):
            make(self.directory / name)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Path | None = None,
        share: float = SHARE,
        evicts: bool = True,
        hands_over: bool = True,
        memory: str | None = None,
        env: Mapping[str, str] | None = None,
        returncode: int = 0,
    ) -> Pair:
        """Runs `argv` both ways and checks that both ended alike, and that pages left the home host.

        `evicts=False` is for a program whose memory is too small for that: it is then run with what it
        needs on the first host, and only its output counts. `hands_over=False` is for one whose pages
        compress so well (zeros, most of them) that they need not leave the home host. `memory` replaces
        the share of the native peak as the budget of each host.
        """
        environment = processes.environment(self.mark, **self.env, **(env or {}))
        native = run_native(argv, cwd=self.directory / "native", stdin=stdin, env=environment)
        assert native.returncode == returncode, native.stderr.decode(errors="replace")
        if evicts:
            assert native.peak_bytes >= PEAK_BYTES_MIN, f"a peak of {native.peak_bytes} bytes proves nothing"
        if memory is None:
            memory = _memory_per_host(native.peak_bytes, share) if evicts else "64M"
        figures = self.directory / "report.json"
        figures.unlink(missing_ok=True)
        environment["TMPDIR"] = str(self.directory / "tmp")
        ours = self._ours([*cli.local(HOSTS, memory, report=figures), *argv], stdin, environment)
        assert ours.returncode == returncode, (memory, ours.stderr.decode(errors="replace")[-2000:])
        report = cli.Report(figures)
        if evicts:
            assert report.total("evicted_pages") > 0, report.text
        if evicts and hands_over:
            assert report.total("handed_over_pages") > 0, report.text
        return Pair(native, self.directory / "native", ours, self.directory / "megalith", report)

    def _ours(self, words: list[str], stdin: Path | None, environment: Mapping[str, str]) -> cli.Outcome:
        directory = self.directory / "megalith"
        if stdin is None:
            return cli.run(*words, cwd=directory, env=environment, timeout=self.seconds_max)
        with stdin.open("rb") as source:
            return cli.run(*words, cwd=directory, env=environment, stdin=source, timeout=self.seconds_max)


def tool_output(argv: Sequence[str], cwd: Path) -> bytes:
    """What a command prints when run natively: for looking at results, not part of a comparison itself."""
    return subprocess.run(argv, cwd=cwd, capture_output=True, check=True, timeout=60).stdout


def wait_until(reached: Callable[[], bool], *, seconds_max: float, what: str) -> None:
    """Waits for a condition, and names it if it does not come."""
    end = time.monotonic() + seconds_max
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError(f"not after {seconds_max} s: {what}")
        time.sleep(0.02)


def _memory_per_host(peak_bytes: int, share: float) -> str:
    return f"{int(peak_bytes * share) // MIB}M"
