"""x86-TSO across hosts: what the architecture forbids is never seen, and the test can see what it allows.

A page that one host may write is one that no other host can read, so threads on different hosts see even less than
x86 allows: a store buffer is drained before its page goes. That store buffers do show is therefore asked of threads
that share a host.
"""

from pathlib import Path

import pytest

from spread.machine import AWAY, NATIVE, THREE, TWO, WANDERING, Machine, run

TESTS = ["SB", "MP", "LB", "R", "S", "2+2W", "IRIW"]
VARIANTS = ["plain", "mfence", "locked", "xchg"]
LAYOUTS = ["apart", "together"]

each_test = pytest.mark.parametrize("test", TESTS)
each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def on(*machines: Machine) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("machine", machines, ids=lambda machine: machine.name, indirect=True)


def check(machine: Machine, mark: str, directory: Path, *words: str, timeout: float = 120) -> str:
    """Runs litmus; returns its table. A forbidden outcome, or a lost instance, is exit code 1."""
    ended = run(machine, list(words), directory=directory, mark=mark, timeout=timeout)
    table = ended.stdout.decode()
    assert ended.returncode == 0, (words, table, ended.said)
    if not machine.native:
        assert ended.away_faults > 0, "no thread was away: it proves nothing"
    return table


@each_layout
@each_variant
@each_test
@on(NATIVE, THREE)
def test_few(machine: Machine, mark: str, directory: Path, litmus: str, test: str, variant: str, layout: str) -> None:
    print(check(machine, mark, directory, litmus, test, variant, layout, "16384"))


@each_test
@on(NATIVE, TWO)
def test_one_instance_a_round(machine: Machine, mark: str, directory: Path, litmus: str, test: str) -> None:
    print(check(machine, mark, directory, litmus, "-1", test, "plain", "apart", "500"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@each_layout
@each_variant
@each_test
@on(TWO, THREE, WANDERING)
def test_a_million(
    machine: Machine, mark: str, directory: Path, litmus: str, test: str, variant: str, layout: str
) -> None:
    print(check(machine, mark, directory, litmus, test, variant, layout, "1000000", timeout=3500))


@on(NATIVE, AWAY)
def test_store_buffers_show(machine: Machine, mark: str, directory: Path, litmus: str) -> None:
    """Else the other tests could not see anything. On a busy computer threads seldom meet: some attempts."""
    for _ in range(20):
        table = check(machine, mark, directory, litmus, "SB", "plain", "apart", "1000000")
        last = table.splitlines()[-1]
        assert last.endswith(" allowed")
        if last != "weak 0 allowed":
            return
    pytest.fail("20 million instances, and no store buffer was seen")
