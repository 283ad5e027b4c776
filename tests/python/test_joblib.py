"""joblib's backend, and scikit-learn on it."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import megalith

numpy = pytest.importorskip("numpy")
joblib = pytest.importorskip("joblib")

MIB = 1 << 20
HOSTS = 3


@pytest.fixture(scope="module")
def machine() -> Iterator[megalith.Machine]:
    with megalith.machine(hosts=HOSTS, memory_per_host="64M") as made:
        yield made


def parallel(calls: Any, **options: Any) -> Any:
    return joblib.Parallel(**options)(calls)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    return joblib.delayed(function)(*arguments)


def where(_: int = 0) -> str:
    time.sleep(0.05)  # So that one worker does not take all.
    return os.environ["MEGALITH_CLIENT_SOCKET"]


def place_and_sum(array: Any) -> tuple[int, float, bool]:
    return array.__array_interface__["data"][0], float(array.sum()), bool(array.flags.writeable)


def outer(number: int) -> list[int]:
    found: list[int] = parallel((call(pow, number, power) for power in range(4)), n_jobs=2)
    return found


def slow_or_fails(number: int) -> int:
    if number == 0:
        raise LookupError("none of that")
    time.sleep(60)
    return number


def threads_of_blas(_: int) -> str:
    return os.environ["OPENBLAS_NUM_THREADS"]


def test_without_a_machine_it_says_so() -> None:
    import megalith.joblib

    megalith.joblib.register()
    with (
        joblib.parallel_config(backend="megalith", n_jobs=-1),
        pytest.raises(megalith.AgentError, match="no machine is open"),
    ):
        parallel([call(where)])


def test_it_is_a_name_that_joblib_knows(machine: megalith.Machine) -> None:
    import megalith.joblib

    megalith.joblib.register()
    with joblib.parallel_config(backend="megalith", n_jobs=HOSTS):
        assert parallel(call(pow, 2, power) for power in range(20)) == [2**power for power in range(20)]
        assert len(set(parallel((call(where, n) for n in range(30)), batch_size=1))) > 1


def test_results_come_as_they_are_asked_for(machine: megalith.Machine) -> None:
    with machine.joblib():
        generator = parallel((call(pow, 2, power) for power in range(8)), return_as="generator")
        assert next(generator) == 1
        assert list(generator) == [2**power for power in range(1, 8)]
        unordered = parallel((call(pow, 2, power) for power in range(8)), return_as="generator_unordered")
        assert sorted(unordered) == [2**power for power in range(8)]


def test_what_a_task_raises_ends_the_others(machine: megalith.Machine) -> None:
    with machine.joblib():
        began = time.monotonic()
        with pytest.raises(LookupError, match="none of that") as caught:
            parallel(call(slow_or_fails, number) for number in range(6))
        assert "slow_or_fails" in str(caught.value.__cause__), "the worker's traceback"
        assert time.monotonic() - began < 30
        assert parallel(call(pow, 3, power) for power in range(4)) == [1, 3, 9, 27]


def test_calls_in_calls(machine: megalith.Machine) -> None:
    with machine.joblib():
        assert parallel(call(outer, number) for number in (2, 3)) == [[1, 2, 4, 8], [1, 3, 9, 27]]


def test_numbers_of_jobs(machine: megalith.Machine) -> None:
    with machine.joblib(n_jobs=2):
        assert joblib.effective_n_jobs(None) == 2
        assert joblib.effective_n_jobs(-1) >= HOSTS
        assert parallel((call(os.getpid) for _ in range(2)), n_jobs=1) == [os.getpid()] * 2
        with pytest.raises(ValueError, match="n_jobs == 0"):
            joblib.effective_n_jobs(0)


def test_threads_below_are_limited(machine: megalith.Machine) -> None:
    with machine.joblib(n_jobs=2, inner_max_num_threads=3):
        assert set(parallel(call(threads_of_blas, n) for n in range(4))) == {"3"}


def test_arrays_of_the_machine_are_where_they_are(machine: megalith.Machine) -> None:
    array = machine.array(numpy.arange(MIB))
    with machine.joblib():
        found = parallel(call(place_and_sum, array) for _ in range(6))
    assert set(found) == {(array.__array_interface__["data"][0], float(array.sum()), True)}


@pytest.mark.parametrize("order", ["C", "F"])
def test_other_large_arrays_are_copied_once(machine: megalith.Machine, order: str) -> None:
    array = numpy.asarray(numpy.arange(MIB).reshape(1024, 1024), order=order)
    expected = float(array.sum())
    with machine.joblib():
        found = parallel((call(place_and_sum, array) for _ in range(6)), batch_size=1)
        assert len(set(found)) == 1, "one place for all tasks, and it cannot be written"
        place, total, writeable = found[0]
        assert (total, writeable) == (expected, False)
        assert place != array.__array_interface__["data"][0]
        in_full = parallel((call(place_and_sum, array) for _ in range(2)), max_nbytes=None)
        assert [total for _, total, _ in in_full] == [expected] * 2
    assert array.flags.writeable
    gc.collect()
    assert "0 arrays" in repr(machine), "the copies are freed with the call"


def test_data_is_there_once_for_each_host(machine: megalith.Machine) -> None:
    def held() -> int:
        """Once two signs of life agree."""
        seen = [-1]
        for _ in range(100):
            seen.append(sum(host.held for host in machine.figures))
            if seen[-1] == seen[-2]:
                return seen[-1]
            time.sleep(1.1)
        raise AssertionError(f"the figures do not settle: {seen}")

    gc.collect()
    before = held()
    array = machine.array(numpy.arange(MIB))  # 8 MiB
    with machine.executor(2 * HOSTS) as executor:
        list(executor.map(slowly_sum, [array] * 40))
        assert len(set(executor.map(slowly_where, range(40)))) == 2 * HOSTS
        list(executor.map(slowly_sum, [array] * 40))
        more = held() - before
    assert array.nbytes < more < (HOSTS + 0.5) * array.nbytes, "not once for each worker"


def slowly_where(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def slowly_sum(array: Any) -> float:
    time.sleep(0.02)
    return float(array.sum())


def test_scikit_learn_finds_what_it_finds_with_loky(machine: megalith.Machine) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    ensemble = pytest.importorskip("sklearn.ensemble")
    selection = pytest.importorskip("sklearn.model_selection")
    data, classes = datasets.make_classification(1500, 12, random_state=0)

    def search(data: Any, classes: Any) -> Any:
        forest = ensemble.RandomForestClassifier(8, random_state=1)
        grid = {"max_depth": [3, 6], "min_samples_leaf": [1, 5]}
        return selection.GridSearchCV(forest, grid, cv=3).fit(data, classes)

    def forest(data: Any, classes: Any) -> Any:
        return ensemble.RandomForestClassifier(30, random_state=2).fit(data, classes).predict_proba(data)

    shared = machine.array(data), machine.array(classes)
    with machine.joblib():
        found, same = search(*shared), search(data, classes)
        probabilities = forest(*shared)
    with joblib.parallel_config("loky", n_jobs=2):
        expected = search(data, classes)
        expected_probabilities = forest(data, classes)
    assert found.best_params_ == same.best_params_ == expected.best_params_
    for key in ("mean_test_score", "std_test_score", "rank_test_score"):
        assert numpy.array_equal(found.cv_results_[key], expected.cv_results_[key])
        assert numpy.array_equal(same.cv_results_[key], expected.cv_results_[key])
    assert numpy.array_equal(probabilities, expected_probabilities)
