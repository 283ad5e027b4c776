"""``megalith run --local`` from outside: what the program does, is told and leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_driver import Cli

LOCAL = ("run", "--local", "2", "--memory-per-host", "64M")


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_stdout_is_the_programs_alone(cli: Cli) -> None:
    done = cli(*LOCAL, "--", "echo", "--help", "--", "x")
    assert (done.returncode, done.stdout) == (0, "--help -- x\n")
    assert "host1" in done.stderr
    assert "exit status 0" in done.stderr
    assert cli.leftovers() == []


def test_the_program_finds_its_files_directory_and_environment(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from file 3")
    descriptor = os.open(tmp_path / "in", os.O_RDONLY)
    script = 'cat; pwd; cat /proc/self/fd/"$FD"; env | grep MEGALITH; echo "$COLOUR"'
    cli.environment |= {"COLOUR": "blue", "FD": str(descriptor)}
    try:
        command = [*LOCAL, "--quiet", "--", "sh", "-c", script]
        with cli.popen(*command, stdin=subprocess.PIPE, cwd=tmp_path, pass_fds=[descriptor]) as process:
            out, err = process.communicate("typed\n", timeout=60)
    finally:
        os.close(descriptor)
    assert out == f"typed\n{tmp_path}\nfrom file 3blue\n"
    assert err == ""


def test_nothing_of_ours_is_open_in_the_program(cli: Cli) -> None:
    done = cli(*LOCAL, "--quiet", "--", "sh", "-c", "ls -l /proc/$$/fd")
    links = [line.split(" -> ")[1] for line in done.stdout.splitlines() if " -> " in line]
    assert links
    assert not [link for link in links if "memfd" in link or "socket" in link], done.stdout


@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("exit 255", 255)]
)
def test_the_exit_code_is_the_programs(cli: Cli, script: str, code: int) -> None:
    done = cli(*LOCAL, "--quiet", "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (code, "")


def test_sigpipe_is_as_a_program_expects_it(cli: Cli) -> None:
    done = cli(*LOCAL, "--quiet", "--", "bash", "-c", "set -o pipefail; yes | head -1")
    assert done.returncode == 141, done.stderr


def test_programs_that_cannot_be_run(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "noise").write_text("hello")
    (tmp_path / "noise").chmod(0o755)
    for program, code, words in [
        ("no-such-program", 127, "no-such-program: no such program"),
        ("./none", 127, "./none: no such program"),
        ("", 127, "no such program"),
        ("./text", 126, "./text: permission denied"),
        ("/usr", 126, "/usr: is a directory"),
        ("./noise", 126, "./noise: neither a script nor an x86-64 ELF program"),
    ]:
        done = cli(*LOCAL, "--", program, cwd=tmp_path)
        assert done.returncode == code
        assert done.stderr.startswith("megalith: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    cli.environment["PATH"] = str(tmp_path)
    assert cli(*LOCAL, "--", "text").returncode == 126


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory-per-host", "2GB"], "argument --memory-per-host: '2GB' is not a size"),
        (["--memory-per-host", "1"], "argument --memory-per-host: 1 is out of range"),
        (["--local", "0"], "argument --local: '0' is not a number of hosts"),
        (["--local", "2", "--hosts", "x"], "argument --hosts: not allowed with argument --local"),
        (["--lost-after", "never"], "argument --lost-after: 'never' is not a number of seconds"),
        (["--lost-after", "0.6"], "--lost-after must be at least twice --heartbeat"),
        (["--home", "a"], "--home is for --hosts"),
        (["--hosts", "x", "--memory-per-host", "1G"], "--memory-per-host is for --local"),
        (["--frobnicate"], "megalith run: unrecognized arguments: --frobnicate"),
        (["--spread", "--expand"], "argument --expand: not allowed with argument --spread"),
        (["--policy", "nothing:X"], "--policy nothing:X: No module named 'nothing'"),
        (["--threads-on", "a,,b"], "argument --threads-on: '' is not a name"),
        (["--report", "/nowhere/r"], "--report /nowhere/r: No such file or directory"),
    ],
)
def test_bad_options_are_refused_in_one_line(cli: Cli, words: list[str], message: str) -> None:
    done = cli("run", *words, "--", "true")
    assert done.returncode == 125
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_program_must_be_named(cli: Cli) -> None:
    for words in (["run"], ["run", "--"], ["run", "--local", "2"]):
        done = cli(*words)
        assert (done.returncode, done.stderr.count("\n")) == (125, 1)
        assert "name a program" in done.stderr


def test_two_dashes_may_be_left_out(cli: Cli) -> None:
    assert cli("run", "--memory-per-host", "64M", "--quiet", "echo", "-n", "--", "a").stdout == "-- a"


def test_the_report_has_a_version_and_every_host(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = cli(*LOCAL, "--report", str(path), "--json", "--", "sh", "-c", "exit 3")
    assert done.returncode == 3
    report = json.loads(path.read_text())
    assert report == json.loads(done.stderr)
    assert report["schema_version"] == 1
    assert report["kind"] == "run"
    assert report["argv"] == ["sh", "-c", "exit 3"]
    assert report["memory"] == 128 << 20
    assert (report["exit_code"], report["ended_by"], report["error"]) == (3, "exit", None)
    assert [host["name"] for host in report["hosts"]] == ["host1", "host2"]
    assert report["hosts"][0]["faults"]["remote"] == 30


def test_memory_exhausted(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = cli(*LOCAL, "--report", str(path), "--", "sleep", "60", wish={"then": "full"})
    assert done.returncode == 137
    last = done.stderr.splitlines()[-1]
    assert last.startswith("megalith: memory exhausted, the program was killed: ")
    assert "host1 held 64.0 MiB of 64.0 MiB, host2 held 64.0 MiB of 64.0 MiB" in last
    assert "--memory-per-host SIZE or --local N" in last
    assert json.loads(path.read_text())["ended_by"] == "memory exhausted"
    assert cli.leftovers() == []


def test_a_lost_host(cli: Cli) -> None:
    done = cli(*LOCAL, "--json", "--", "sleep", "60", wish={"then": "lost"})
    assert done.returncode == 120
    report, last = done.stderr.splitlines()
    assert last.startswith("megalith: host host2 was lost: no sign of life for 3000 ms")
    assert json.loads(report)["lost_host"] == "host2"
    assert cli.leftovers() == []


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("die", "its agent has ended; its agent was killed by signal 9"),
        ("silent", "its agent has given no sign of life for 1 s; the program was killed"),
    ],
)
def test_a_lost_home_agent_takes_the_whole_program_with_it(cli: Cli, then: str, words: str) -> None:
    # The agent cannot kill its clients, so we must: child, grandchild, and one that has left home.
    script = "(setsid sleep 61 &) ; sleep 62 & sleep 63; echo no"
    done = cli(*LOCAL, "--lost-after", "1", "--", "sh", "-c", script, wish={"then": then, "after_ms": 500})
    assert done.returncode == 120, done.stderr
    assert done.stdout == ""
    assert "megalith: host host1 was lost: " in done.stderr
    assert words in done.stderr
    assert cli.leftovers() == []


def test_an_agent_that_speaks_nonsense(cli: Cli) -> None:
    done = cli(*LOCAL, "--", "sleep", "60", wish={"then": "garbage"})
    assert done.returncode == 125
    assert "is no event" in done.stderr
    assert cli.leftovers() == []


def test_an_agent_that_does_not_start(cli: Cli) -> None:
    done = cli(*LOCAL, "--", "true", wish={"refuse": "no room at the inn", "of": "host2"})
    assert done.returncode == 125
    assert done.stderr == "megalith: the agent of host2 did not start: no room at the inn\n"
    assert cli.leftovers() == []


def test_no_permission_names_the_line_that_mends_it(cli: Cli) -> None:
    probe = {"available": True, "kernel_faults": False, "error": None}
    done = cli(*LOCAL, "--", "true", wish={"probe": probe})
    assert done.returncode == 125
    assert "sysctl -w vm.unprivileged_userfaultfd=1" in done.stderr
    assert done.stderr.count("\n") == 1


def start_sleeping(cli: Cli, directory: Path, script: str, *words: str) -> subprocess.Popen[str]:
    """Runs ``script`` in a session of its own, until it says that it is there."""
    ready = directory / "ready"
    command = [
        *LOCAL,
        *words,
        "--",
        "sh",
        "-c",
        script.replace("READY", f"echo $$ >{ready}.new; mv {ready}.new {ready}"),
    ]
    process = cli.popen(*command, start_new_session=True)
    wait_for(ready.exists)
    return process


def test_interrupt_reaches_the_program_and_we_live_to_report(cli: Cli, tmp_path: Path) -> None:
    process = start_sleeping(cli, tmp_path, "READY; exec sleep 60", "--json")
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(err)["ended_by"] == "signal"
    assert cli.leftovers() == []


def test_a_program_may_live_through_an_interrupt(cli: Cli, tmp_path: Path) -> None:
    process = start_sleeping(cli, tmp_path, "trap 'exit 5' INT; READY; while :; do sleep 0.05; done", "--quiet")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 5


def test_terminate_is_handed_on(cli: Cli, tmp_path: Path) -> None:
    process = start_sleeping(cli, tmp_path, "trap 'exit 6' TERM; READY; while :; do sleep 0.05; done", "--quiet")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 6
    assert cli.leftovers() == []


def test_an_interrupt_before_the_program_starts(cli: Cli) -> None:
    process = cli.popen(*LOCAL, "--", "sleep", "60", wish={"mute_s": 60}, start_new_session=True)
    wait_for(lambda: any((cli.home / "tmp").glob("*/host2/control.sock")))
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "megalith: ended by signal 2\n"
    assert cli.leftovers() == []


def test_killed_outright_we_leave_nothing(cli: Cli, tmp_path: Path) -> None:
    process = start_sleeping(cli, tmp_path, "READY; exec sleep 60")
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: cli.leftovers() == [])


def test_stopped_and_continued_nobody_is_lost(cli: Cli, tmp_path: Path) -> None:
    process = start_sleeping(cli, tmp_path, "READY; exec sleep 2.5", "--lost-after", "1", "--heartbeat", "0.1")
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


def test_what_the_program_leaves_behind_is_killed_with_a_line(cli: Cli) -> None:
    script = 'setsid sleep 64 >/dev/null 2>&1 & until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done'
    done = cli(*LOCAL, "--quiet", "--", "sh", "-c", script)
    assert done.returncode == 0
    assert "the program left processes behind; killed: sleep (" in done.stderr
    assert cli.leftovers() == []


def test_what_is_about_to_end_may_do_so(cli: Cli, tmp_path: Path) -> None:
    """A shell does not wait for `> >(tee log)`; what tee still has to write is not to be lost."""
    script = f"echo hello > >(sleep 0.2; cat >{tmp_path}/log)"
    done = cli(*LOCAL, "--quiet", "--", "bash", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "log").read_text() == "hello\n"


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2> >(exec true)"])
def test_a_standard_error_that_takes_nothing_changes_nothing(cli: Cli, redirection: str) -> None:
    command = [sys.executable, "-P", "-m", "megalith", *LOCAL, "--", "sh", "-c", "sleep 0.2; echo out; exit 4"]
    script = f'"$@" {redirection}; echo $?'
    done = subprocess.run(
        ["bash", "-c", script, "-", *command], env=cli.environment, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.stdout == "out\n4\n"


def test_a_directory_of_our_name_is_not_us(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "megalith").mkdir()
    (tmp_path / "megalith" / "__init__.py").write_text("raise SystemExit('wrong one')")
    assert cli(*LOCAL, "--quiet", "--", "true", cwd=tmp_path).returncode == 0


SHOW = 'env | grep -E "MEGALITH_(SPREAD|CPUS)|OMP_" | sort; [ -z "$MEGALITH_VIEW" ] || cat "$MEGALITH_VIEW/sysinfo"'


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--spread"], "MEGALITH_CPUS=2,2\nMEGALITH_SPREAD=1,0\nOMP_WAIT_POLICY=passive\n134217728"),
        (["--threads-on", "host2"], "MEGALITH_CPUS=2,2\nMEGALITH_SPREAD=1\nOMP_WAIT_POLICY=passive\n134217728"),
        (["--expand"], ""),
        (["--auto"], ""),
        ([], ""),
    ],
)
def test_what_the_runtime_is_told_of_threads(cli: Cli, words: list[str], shown: str) -> None:
    cli.environment["MEGALITH_SPREAD"] = "9"  # Of another run, whose program this one is.
    done = cli(*LOCAL, *words, "--quiet", "--", "sh", "-c", SHOW)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(shown) if shown else done.stdout == ""
    assert cli.leftovers() == []


def test_openmp_waits_as_the_user_says(cli: Cli) -> None:
    cli.environment["OMP_WAIT_POLICY"] = "active"
    assert "OMP_WAIT_POLICY=active" in cli(*LOCAL, "--spread", "--quiet", "--", "sh", "-c", SHOW).stdout


def test_explain_says_where_threads_go(cli: Cli) -> None:
    for words, line in [
        (["--auto"], "megalith: threads stay on host1: the machine is this computer alone\n"),
        (["--spread"], "megalith: threads start on host1 (2 CPUs), host2 (2 CPUs)\n"),
    ]:
        assert cli(*LOCAL, *words, "--explain", "--quiet", "--", "true").stderr == line


def test_threads_on_a_host_that_is_none(cli: Cli) -> None:
    done = cli(*LOCAL, "--threads-on", "host1,host9", "--", "true")
    assert done.returncode == 125
    assert done.stderr == "megalith: --threads-on host9: no such host; the machine has host1, host2\n"
    assert cli.leftovers() == []


POLICY = """\
from megalith.scheduler import Move

class Even:
    interval_s = 0.05
    def decide(self, view):
        return [Move(t.pid, t.tid, 1, "an even number") for t in view.threads if t.tid % 2 == 0]
"""


def test_a_policy_of_the_users_moves_threads(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(POLICY)
    cli.environment["PYTHONPATH"] += f":{tmp_path}"
    path = tmp_path / "report.json"
    words = ["--spread", "--policy", "mine:Even", "--explain", "--heartbeat", "0.1", "--report", str(path)]
    wish = {"threads": 4, "hot": [{"page": 0x4FFF_F000_0000, "moves": 12}]}
    done = cli(*LOCAL, *words, "--hot", "--", "sleep", "1", wish=wish)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("megalith: ")]
    assert lines[0] == "megalith: threads start on host1 (2 CPUs), host2 (2 CPUs)"
    assert len(lines) == 3
    assert all(line.endswith(" (fake) host1 → host2: an even number") for line in lines[1:])
    report = json.loads(path.read_text())
    spread = report["spread"]
    assert report["schema_version"] == 1
    assert sorted(thread["host"] for thread in spread["threads"]) == ["host1", "host1", "host2", "host2"]
    assert [decision["why"] for decision in spread["decisions"]] == ["an even number"] * 2
    assert [host["most"] for host in spread["hosts"]] == [4, 2]
    assert [page["moves"] for page in spread["hot"]] == [24], "of two hosts"
    assert "threads: 4, moves: 2 (2 decided)" in done.stderr
    assert re.search(r"0x4ffff0000000 +24 +\d+  mapping \(library, large allocation, thread's stack\)", done.stderr)
    assert cli.leftovers() == []


def test_a_policy_without_threads_to_move_says_so(cli: Cli) -> None:
    done = cli(*LOCAL, "--quiet", "--policy", "megalith.scheduler:Random", "--", "true")
    words = "the policy has nothing to decide: threads stay on host1: the machine is this computer alone"
    assert (done.returncode, done.stderr) == (0, f"megalith: {words}\n")


def test_threads_at_home_have_no_hot_pages(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = cli(*LOCAL, "--quiet", "--hot", "--report", str(path), "--", "true")
    assert done.stderr == "hot pages: none, all threads were at home\n"
    assert json.loads(path.read_text())["spread"] is None
