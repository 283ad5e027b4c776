from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli_driver import Cli
from megalith.demo.assembly import budget_of
from megalith.demo.cgroup import CannotLimit, memory_group
from megalith.demo.contigs import identical, n50, read_contigs
from megalith.demo.estimate import estimate
from megalith.demo.native import measure
from megalith.demo.swap import Swapped, run_under_swap
from megalith.sizes import ByteCount

ENVIRONMENT = dict(os.environ)


def test_n50() -> None:
    assert n50([]) == 0
    assert n50([7]) == 7
    assert n50([2, 2, 2, 3, 3, 4, 8, 8]) == 8
    assert n50([1, 1, 1, 1, 1, 1, 1]) == 1


def test_contigs_are_read_and_compared(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_text(">x\nACGT\nAC\n>y\nA\n")
    other.write_text(">x\nACGT\nAC\n>y\nC\n")
    found = read_contigs(one)
    assert (found.count, found.bases, found.n50) == (2, 7, 6)
    assert identical(one, one)
    assert not identical(one, other)


def test_a_budget_is_the_share_in_whole_pages() -> None:
    assert budget_of(100 << 20, 60) == 60 << 20
    assert budget_of((100 << 20) + 4096, 60) == 60 << 20
    assert budget_of(4096, 60) == 1 << 20


MEASURE_200_MIB = """
import os, sys
from pathlib import Path
from megalith.demo.native import measure

argv = [sys.executable, "-c", "b = bytearray(200 << 20); print(len(b))"]
done = measure(argv, log=Path(sys.argv[1]), environment=dict(os.environ))
print(done.peak, done.returncode)
"""


def test_measuring_takes_the_peak(tmp_path: Path) -> None:
    # From a process of its own: the kernel counts from before the exec, and this one may have had more than that.
    argv = [sys.executable, "-c", MEASURE_200_MIB, str(tmp_path / "log")]
    found = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    peak, returncode = map(int, found.stdout.split())
    assert returncode == 0
    assert 200 << 20 < peak < 260 << 20
    assert (tmp_path / "log").read_text() == f"{200 << 20}\n"


def test_measuring_tells_the_signal(tmp_path: Path) -> None:
    assert measure(["sh", "-c", "kill $$"], log=tmp_path / "log", environment=ENVIRONMENT).returncode == -15


def test_measuring_ends_at_the_limit(tmp_path: Path) -> None:
    done = measure(["sh", "-c", "sleep 81; :"], log=tmp_path / "log", environment=ENVIRONMENT, limit_s=0.2)
    assert done.returncode is None
    assert 0.2 <= done.wall_s < 5


def test_an_estimate_grows_with_the_reads() -> None:
    small = estimate(bases=10, sample_bases=10, sample_native_s=2, sample_megalith_s=6, swap_limit_s=0)
    assert (small.native_s, small.megalith_s, small.total_s) == (2, 6, 8)
    large = estimate(bases=100, sample_bases=10, sample_native_s=2, sample_megalith_s=6, swap_limit_s=1200)
    assert large.native_s >= 20
    assert large.total_s == large.native_s + large.megalith_s + min(1200, 10 * large.megalith_s)
    assert "up to twice that" in str(large)


@pytest.mark.parametrize(
    ("swapped", "text"),
    [
        (Swapped("finished", 1.23), "1.2 s"),
        (Swapped("stopped", 10), "> 10 s (stopped)"),
        (Swapped("killed", 10), "OOM-killed after 10 s"),
        (Swapped("skipped", 0, "why"), "skipped"),
    ],
)
def test_swap_is_shown_as_it_went(swapped: Swapped, text: str) -> None:
    assert str(swapped) == text


def can_limit() -> str | None:
    if os.geteuid() != 0:
        return "control groups and swap files take root"
    try:
        with memory_group(ByteCount(64 << 20)):
            return None
    except CannotLimit as error:
        return str(error)


UNABLE = can_limit()
limited = pytest.mark.skipif(UNABLE is not None, reason=str(UNABLE))


def swaps() -> set[str]:
    return {line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]}


@limited
def test_swap_takes_what_the_limit_does_not(tmp_path: Path) -> None:
    code = (
        "b = bytearray(b'x') * (96 << 20); print(max(open('/proc/self/status').read().split('VmSwap:')[1].split()[:1]))"
    )
    before = swaps()
    done = run_under_swap(
        [sys.executable, "-c", code],
        limit=ByteCount(48 << 20),
        peak=ByteCount(110 << 20),
        limit_s=100,
        log=tmp_path / "log",
        environment=ENVIRONMENT,
    )
    if done.how == "skipped":
        pytest.skip(done.reason)
    assert done.how == "finished", done
    assert int((tmp_path / "log").read_text()) > 30 << 10
    assert swaps() == before


@limited
def test_swap_and_limit_are_taken_away_even_if_we_are_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib\n"
        "from megalith.demo.swap import run_under_swap\n"
        f"script = 'echo $$ >{tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 82'\n"
        f"print(run_under_swap(['sh', '-c', script], limit=64 << 20, peak=64 << 20, limit_s=60,"
        f" log=pathlib.Path('{tmp_path}/log'), environment=dict(os.environ)))\n"
    )
    before = swaps()
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT | {"PYTHONPATH": path})
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists():
        if process.poll() is not None:
            pytest.skip("no swap file can be made here")
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    group = next(
        line.split(":", 2)[2]
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if "megalith-demo-" in line
    )
    assert swaps() != before
    process.send_signal(signal.SIGKILL)
    process.wait()
    while swaps() != before or Path(f"/proc/{pid}").exists() or list(Path("/sys/fs/cgroup").glob(f"**{group}")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_demo_from_end_to_end_on_fake_agents(cli: Cli, tmp_path: Path) -> None:
    """Everything but Megalith itself: the fake runs programs natively, so contigs must be identical."""
    if not Path("/usr/bin/velveth").exists() or not Path("/usr/share/doc/bowtie2/examples/reads").exists():
        pytest.skip("velvet or its sample reads are not installed")
    done = cli("demo", "--genome", "lambda", "--no-swap", "--json", "--keep", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["identical"] is True
    assert result["contigs"]["n50"] > 40_000
    assert [phase["name"] for phase in result["phases"]] == ["velveth", "velvetg"]
    for phase in result["phases"]:
        assert phase["budget_per_host"] <= phase["native_peak"] * 0.6
        assert len(phase["report"]["hosts"]) == 3
    assert "contigs identical: yes" in done.stderr
    assert (tmp_path / "kept" / "megalith" / "contigs.fa").exists()
    assert cli("demo", "--keep", str(tmp_path / "kept")).returncode == 125


def test_demo_options_are_checked(cli: Cli) -> None:
    for words in (
        ["--share", "61"],
        ["--share", "x"],
        ["--genome", "human"],
        ["--coverage", "0"],
        ["--hosts-count", "0"],
    ):
        done = cli("demo", *words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert words[0] in done.stderr
