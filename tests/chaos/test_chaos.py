"""A few plans whose seeds are fixed. `make soak` plays others, for as long as there is time (docs/reliability.md)."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.plan import Kind
from chaos.play import plan_of, play
from chaos.programs import Known, Missing, Shelf
from chaos.tally import Tally
from hosts import why_no_limits

SEEDS = (309, 1287, 1479, 2514)
"""Together they have every kind of fault."""


@pytest.fixture(scope="module")
def known() -> Iterator[Known]:
    with tempfile.TemporaryDirectory(prefix="mgl-shelf-") as name:
        yield Known(Shelf(Path(name)))


def test_the_seeds_have_every_kind() -> None:
    planned = frozenset().union(*(plan_of(seed).kinds for seed in SEEDS))
    assert planned == frozenset(Kind), frozenset(Kind) - planned
    assert {plan_of(seed).plaintext for seed in SEEDS} == {False, True}


@pytest.mark.skipif(why_no_limits() is not None, reason=str(why_no_limits()))
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_plan(megalith: None, known: Known, seed: int) -> None:
    plan = plan_of(seed)
    tally = Tally()
    said: list[str] = []
    begin = time.monotonic()
    try:
        play(plan, known, tally, said.append)
    except Missing as missing:
        pytest.skip(str(missing))
    print("\n".join(said), f"\n{time.monotonic() - begin:.1f} s")
    assert not tally.failures, "\n".join(f"{failure}\n{failure.stacks}" for failure in tally.failures)
    assert tally.runs == len(plan.rounds)
    assert tally.faults, "every fault came too late: it proves nothing"
