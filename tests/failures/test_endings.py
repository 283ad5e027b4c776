"""How runs end when nothing is wrong with the machine: the program's own exit codes, signals, pipes, users."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import cli
import processes


def environment(mark: str, scratch: Path) -> dict[str, str]:
    return processes.environment(mark, TMPDIR=str(scratch))


def run(mark: str, scratch: Path, *words: str, stdin: int = subprocess.DEVNULL) -> cli.Outcome:
    return cli.run(*cli.local(2, "32M"), *words, env=environment(mark, scratch), stdin=stdin, timeout=60)


def start(mark: str, scratch: Path, *words: str) -> "subprocess.Popen[bytes]":
    """Starts a run in a session of its own, as a shell starts a job, and waits for the program's "ready"."""
    made = cli.start(*cli.local(2, "32M"), *words, env=environment(mark, scratch), new_session=True)
    assert made.stdout is not None
    assert made.stdout.readline() == b"ready\n", made.stderr and made.stderr.read()
    return made


def assert_nothing_left(mark: str, scratch: Path) -> None:
    assert processes.left_after(mark, 5) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("code", [0, 1, 2, 42, 120, 125, 137, 255])
def test_exit_code_is_the_programs_own(megalith: None, mark: str, scratch: Path, code: int) -> None:
    outcome = run(mark, scratch, "perl", "-e", f"exit {code}")
    assert outcome.returncode == code, outcome
    assert outcome.complaint == []
    assert_nothing_left(mark, scratch)


@pytest.mark.parametrize(
    "number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGKILL, signal.SIGPIPE, signal.SIGUSR1]
)
def test_death_by_signal(megalith: None, mark: str, scratch: Path, victim: str, number: signal.Signals) -> None:
    outcome = run(mark, scratch, victim, "signal", str(int(number)))
    assert outcome.returncode == 128 + number, outcome
    assert_nothing_left(mark, scratch)


def test_pipes_carry_bytes_unchanged(megalith: None, mark: str, scratch: Path, victim: str, tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    source = tmp_path / "data"
    source.write_bytes(data)
    feeder = subprocess.Popen(["cat", str(source)], stdout=subprocess.PIPE)
    assert feeder.stdout is not None
    with feeder.stdout:
        outcome = run(mark, scratch, victim, "cat", stdin=feeder.stdout.fileno())
    assert feeder.wait(timeout=10) == 0
    assert outcome.returncode == 0, outcome
    assert outcome.stdout == data
    assert outcome.complaint == []


def test_reader_that_leaves_early(megalith: None, mark: str, scratch: Path) -> None:
    """`megalith run … | head` must end, by SIGPIPE as it would natively."""
    made = cli.start(*cli.local(2, "32M"), "perl", "-e", "print qq(ready\\n) while 1", env=environment(mark, scratch))
    assert made.stdout is not None
    assert made.stdout.readline() == b"ready\n"
    made.stdout.close()
    assert made.wait(timeout=20) == 128 + signal.SIGPIPE
    assert made.stderr is not None
    made.stderr.close()
    assert_nothing_left(mark, scratch)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_to_the_process_group(
    megalith: None, mark: str, scratch: Path, victim: str, number: signal.Signals
) -> None:
    """^C and its like, as a terminal sends them: to everybody in the foreground."""
    made = start(mark, scratch, victim, "churn", "40", "60")
    begin = time.monotonic()
    os.killpg(made.pid, number)
    outcome = cli.finish(made, begin=begin, timeout=20)
    assert outcome.returncode == 128 + number, outcome
    assert outcome.seconds < 5
    assert_nothing_left(mark, scratch)


def test_signal_to_the_command_line_alone(megalith: None, mark: str, scratch: Path, victim: str) -> None:
    """As `kill` or a batch system sends it: the program gets it too."""
    made = start(mark, scratch, victim, "nap")
    begin = time.monotonic()
    made.send_signal(signal.SIGTERM)
    outcome = cli.finish(made, begin=begin, timeout=20)
    assert outcome.returncode == 128 + signal.SIGTERM, outcome
    assert_nothing_left(mark, scratch)


@pytest.mark.parametrize("what", [["nap"], ["churn", "40", "60"]], ids=["sleeping", "faulting"])
def test_command_line_is_killed(megalith: None, mark: str, scratch: Path, victim: str, what: list[str]) -> None:
    """Nobody is left to clean up: agents and program end by themselves."""
    made = start(mark, scratch, victim, *what)
    assert len(processes.marked(mark)) >= 4
    made.kill()
    made.communicate(timeout=20)
    assert processes.left_after(mark, 10) == []


def test_program_that_leaves_a_child_behind(megalith: None, mark: str, scratch: Path) -> None:
    """A process that outlives the program is ended, and named."""
    program = "import subprocess; subprocess.Popen(['sleep', '600'], close_fds=False, stdout=subprocess.DEVNULL)"
    outcome = run(mark, scratch, "/usr/bin/python3", "-c", program)
    assert outcome.returncode == 0, outcome
    assert "sleep" in outcome.stderr.decode()
    assert_nothing_left(mark, scratch)


def test_two_runs_at_once_do_not_disturb_each_other(megalith: None, mark: str, scratch: Path, victim: str) -> None:
    first = cli.start(*cli.local(2, "32M"), victim, "churn", "40", "3", env=environment(mark, scratch))
    second = cli.start(*cli.local(3, "32M"), victim, "churn", "60", "1", env=environment(mark, scratch))
    begin = time.monotonic()
    for made in (first, second):
        outcome = cli.finish(made, begin=begin, timeout=60)
        assert outcome.returncode == 0, outcome
        assert outcome.stdout == b"ready\nright\n"
    assert_nothing_left(mark, scratch)
