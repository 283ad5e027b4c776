"""Operations on shared words on several hosts: there is one order of them that a single memory could have had."""

from pathlib import Path

import pytest

from spread.history.checker import check, how_concurrent
from spread.history.play import build_history, record
from spread.machine import NATIVE, THREE, WANDERING, Machine


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_history(tmp_path_factory.mktemp("history"))


@pytest.mark.parametrize(
    "machine",
    [NATIVE, THREE, pytest.param(WANDERING, marks=pytest.mark.slow)],
    ids=lambda machine: machine.name,
    indirect=True,
)
def test_a_history_has_an_order(machine: Machine, mark: str, directory: Path, history: str) -> None:
    made = record(
        machine,
        history,
        directory=directory,
        mark=mark,
        seed=11,
        threads=5,
        operations=50_000 if machine.native else 1200,
        ballast_mib=28,
        memory="16M",
    )
    assert (wrong := check(made.operations)) is None, str(wrong)
    part = how_concurrent(made.operations)
    print(f"{len(made.operations)} operations in {made.seconds:.1f} s, {part:.0%} overlap, {made.pauses} pauses")
    if machine.native:
        return
    assert made.away_faults > 0, "no thread was away: it proves nothing"
    assert made.pauses > 0
    assert part > 0.05, "nothing happened at the same time: it proves nothing"
