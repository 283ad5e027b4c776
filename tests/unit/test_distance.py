"""Distances between NUMA nodes, from round trips between hosts."""

from __future__ import annotations

import pytest

from megalith.distance import ASSUMED_RTT_US, FARTHEST, LOCAL, distance, distances


@pytest.mark.parametrize(("rtt_us", "expected"), [(0, 33), (30, 43), (100, 54), (1_000, 83), (100_000, 149)])
def test_each_doubling_of_the_cost_is_ten(rtt_us: float, expected: int) -> None:
    assert distance(rtt_us) == expected


def test_who_is_nearer_comes_out_nearer() -> None:
    found = [distance(rtt_us) for rtt_us in (5, 15, 30, 60, 120, 250, 500, 2_000, 10_000, 50_000, 200_000)]
    assert found == sorted(set(found))
    assert all(distance(us) <= distance(us + 1) for us in range(1, 5_000))


def test_distances_fit_the_table() -> None:
    assert distance(0) > LOCAL
    assert distance(60e6) < FARTHEST, "a minute"
    assert distance(1e30) == FARTHEST


def test_a_slow_link_of_three() -> None:
    """The third host is in another building."""
    found = distances([(0, 40, 1_100), (45, 0, 1_000), (1_050, 1_200, 0)])
    assert [found[n][n] for n in range(3)] == [10, 10, 10]
    assert found == [list(column) for column in zip(*found, strict=True)], "the same both ways"
    assert found[0][1] == distance(40), "the shorter of what the two ends say"
    assert found[0][2] == distance(1_050)
    assert found[1][2] == distance(1_000)
    assert found[0][1] < found[1][2] <= found[0][2]


def test_one_end_is_enough_and_none_is_a_guess() -> None:
    found = distances([(0, 30, None), (), ()])
    assert found[0][1] == found[1][0] == distance(30)
    assert found[0][2] == found[2][0] == found[1][2] == distance(ASSUMED_RTT_US)


def test_one_host_is_alone() -> None:
    assert distances([(0,)]) == [[10]]
