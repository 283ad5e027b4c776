"""`scripts/soak.py`: parts share the time, failures make the exit code, and an interruption keeps what was counted."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "soak.py"

# Two parts of our own in place of those that take minutes: one counts, one fails or waits to be told to end.
DRIVER = """
import importlib.util, sys
program = sys.argv[3]
spec = importlib.util.spec_from_file_location("soak", sys.argv[1])
soak = importlib.util.module_from_spec(spec)
sys.modules["soak"] = soak
spec.loader.exec_module(soak)

def counts(row, seconds, seed):
    row.count({"turns": 2, "fault: cut cable": 3})

def second(row, seconds, seed):
    words = [sys.executable, "-c", program]
    ended = soak.command(words, seconds=seconds)
    row.count({"cut": int(ended.cut)})
    if ended.code and not ended.cut:
        row.failures.append(soak.Failure(soak.tail(ended.out), soak.shown(words)))

soak.PARTS = (
    soak.Part("first", 1, counts),
    soak.Part("second", 3, second),
    soak.Part("third", 6, counts, why_not=lambda: "it cannot be here"),
)
sys.argv = ["soak", sys.argv[2], *sys.argv[4:]]
sys.exit(soak.main())
"""


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module
    spec.loader.exec_module(module)
    return module


def start(minutes: str, program: str, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", DRIVER, str(SCRIPT), minutes, program, *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_all_is_well() -> None:
    made = start("0.1", "print('fine')")
    out, err = made.communicate(timeout=60)
    assert made.returncode == 0, err
    assert "| first | 0.0 | 2 turns | 0 |" in out
    assert "| third | 0.0 | not run: it cannot be here | 0 |" in out
    assert "faults by kind: cut cable 3" in out
    assert "soak: second: 4 s" in err, "three quarters of what those share that can run"


def test_a_failure_comes_with_its_command() -> None:
    made = start("1", "import sys; sys.exit('broken')", "--json")
    out, err = made.communicate(timeout=60)
    assert made.returncode == 1, err
    told = json.loads(out)
    (failure,) = next(row["failures"] for row in told["rows"] if row["name"] == "second")
    assert failure["why"] == "broken"
    assert "sys.exit('broken')" in failure["replay"]


@pytest.mark.parametrize("program", ["import time; time.sleep(600)", "import os; os.system('sleep 600')"])
def test_an_interruption_ends_what_runs_and_prints_the_table(program: str) -> None:
    made = start("10", program)
    assert made.stderr is not None
    while "second" not in (line := made.stderr.readline()):
        assert line, "it has ended"
    time.sleep(0.5)
    family = Path(f"/proc/{made.pid}/task/{made.pid}/children").read_text().split()
    assert family
    made.send_signal(signal.SIGINT)
    out, _ = made.communicate(timeout=60)
    assert made.returncode == 130
    assert "| first | 0.0 | 2 turns | 0 |" in out
    assert not any(Path("/proc", pid).exists() for pid in family)


def test_figures_are_read_from_the_last_line_of_json(soak: ModuleType) -> None:
    assert soak.last_json('{"a":1}\nnoise\n{"b":2}\nmore') == {"b": 2}
    assert soak.last_json("[1]\n{no\n") == {}


def test_states_are_counted(soak: ModuleType) -> None:
    row = soak.Row("x")
    soak._count_states(row, "2 hosts, 4 events: 120 states, 0.1 s\nrunning\n[(1, 2)]: 30 states\n")
    assert row.figures == {"explorations": 2, "states": 150}
