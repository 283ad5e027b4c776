"""numpy's own allocations in the machine's memory."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import megalith
from megalith import _core
from megalith.exceptions import AgentError
from megalith.numpy_heap import owner_of
from python.snippets import in_another

numpy = pytest.importorskip("numpy")

MIB = 1 << 20
_kept: list[Any] = []


@pytest.fixture
def machine() -> Iterator[megalith.Machine]:
    with megalith.machine(hosts=2, memory_per_host="32M") as made:
        yield made


def is_inside(array: Any) -> bool:
    return owner_of(array) is not None


def blocks(machine: megalith.Machine) -> int:
    gc.collect()
    return machine._memory.count


def add_one(array: Any) -> Any:
    array += 1
    return array[::-2]


def keep(array: Any) -> None:
    _kept.append(array)


def give_back(_: int) -> Any:
    return _kept.pop()


def is_own(array: Any) -> bool:
    return array.__array_interface__["data"][0] < 0x2000_0000_0000 or array.base is None


def test_what_numpy_makes_inside_lies_in_the_machine(machine: megalith.Machine) -> None:
    before = numpy.arange(10)
    with machine.memory():
        made = [numpy.arange(10), numpy.zeros((3, 4)), numpy.linspace(0, 1, 7) * 2, numpy.sort([3, 1, 2]), before + 1]
        made += [numpy.concatenate([before, before]), numpy.frombuffer(b"abcd", "u1").copy(), numpy.empty(0)]
        shared = before[2:]
    after = numpy.arange(10)
    assert [is_inside(array) for array in made] == [True] * len(made)
    assert [type(array) for array in made] == [numpy.ndarray] * len(made)
    assert not any(map(is_inside, (before, shared, after)))
    assert made[0].tolist() == list(range(10))
    assert made[3].tolist() == [1, 2, 3]
    assert not made[1].any()


def test_arrays_live_until_their_last_reference(machine: megalith.Machine) -> None:
    with machine.memory():
        array = numpy.arange(1000)
    view = array[10:20]
    assert f": {blocks(machine)} array" in repr(machine)
    assert blocks(machine) == 1
    del array
    assert blocks(machine) == 1
    assert view.sum() == 145
    del view
    assert blocks(machine) == 0


def test_each_thread_and_task_for_itself(machine: megalith.Machine) -> None:
    seen: dict[str, bool] = {}

    def look(name: str) -> None:
        seen[name] = is_inside(numpy.zeros(10))

    async def inside(name: str) -> None:
        with machine.memory():
            await asyncio.sleep(0)
            look(name)

    async def outside(name: str) -> None:
        await asyncio.sleep(0)
        look(name)

    async def both() -> None:
        await asyncio.gather(inside("task"), outside("other task"))

    with machine.memory():
        thread = threading.Thread(target=look, args=("thread",))
        thread.start()
        thread.join(60)
        with machine.memory():
            look("twice")
        look("once again")
    look("afterwards")
    asyncio.run(both())
    assert seen == {
        "thread": False,
        "twice": True,
        "once again": True,
        "afterwards": False,
        "task": True,
        "other task": False,
    }


def test_an_exception_ends_it(machine: megalith.Machine) -> None:
    with pytest.raises(ZeroDivisionError), machine.memory():
        1 / 0  # noqa: B018
    assert not is_inside(numpy.zeros(10))


def test_zeros_are_zeros_after_all_that_was(machine: megalith.Machine) -> None:
    for length in (10, 1000, 20_000, MIB, 3 * MIB):
        with machine.memory():
            for _ in range(20):
                zeros = numpy.zeros(length, "u1")
                assert not zeros.any(), length
                zeros[:] = 255


def test_zeros_take_no_room_before_they_are_touched(machine: megalith.Machine) -> None:
    with machine.memory():
        array = numpy.zeros(1 << 40, "u1")
    array[:: 1 << 36] = 1
    assert array[1 << 36] == 1
    assert array[(1 << 36) + 1] == 0


def test_freed_memory_goes_back_to_the_hosts(machine: megalith.Machine) -> None:
    # Ten times what the hosts have together, in pieces of all kinds.
    for round_ in range(40):
        with machine.memory():
            large = numpy.random.default_rng(round_).integers(0, 1 << 60, 8 * MIB // 8)
            middle = [large[at : at + 5000].copy() for at in range(0, 800_000, 5000)]
            small = [large[at : at + 100].copy() for at in range(0, 200_000, 100)]
            tail = large[-100:].copy()
        assert sum(map(len, middle)) == 800_000
        assert all(map(is_inside, middle))
        assert tail.tolist() == large[-100:].tolist()
        assert small[7].tolist() == large[700:800].tolist()
    del large, middle, small, tail
    assert blocks(machine) == 0


def test_arrays_grow_and_shrink(machine: megalith.Machine) -> None:
    with machine.memory():
        array = numpy.arange(10)
        for length in (11, 100, 5000, 50_000, 3 * MIB, 2000, 5):
            before = array[: min(length, len(array))].tolist()
            array.resize(length, refcheck=False)
            assert is_inside(array)
            assert array[: len(before)].tolist() == before
            array[:] = numpy.arange(length)
        counted = numpy.fromiter(iter(range(100_000)), "i8")
    assert is_inside(counted)
    assert numpy.array_equal(counted, numpy.arange(100_000))


def test_threads_free_what_others_made(machine: megalith.Machine) -> None:
    made: list[Any] = []
    wrong: list[str] = []

    def work(seed: int) -> None:
        dice = numpy.random.default_rng(seed)
        with machine.memory():
            for _ in range(300):
                length = int(dice.integers(1, 30_000))
                made.append((length % 251, numpy.full(length, length % 251, "u1")))
                if len(made) > 50:
                    value, array = made.pop(int(dice.integers(0, 20)))
                    if not is_inside(array) or not (array == value).all():
                        wrong.append(f"{value}: {array}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []
    assert all((array == value).all() for value, array in made)
    made.clear()
    assert blocks(machine) == 0


def test_no_more_addresses_is_a_memory_error(machine: megalith.Machine) -> None:
    with machine.memory():
        with pytest.raises(MemoryError):
            numpy.empty(1 << 50, "u1")
        assert is_inside(numpy.arange(5))


def test_arrays_travel_as_addresses(machine: megalith.Machine) -> None:
    with machine.memory():
        array = numpy.arange(12.0).reshape(3, 4)
        fortran = numpy.asfortranarray(array)
    with machine.executor(1) as executor:
        seen = executor.submit(add_one, array[1]).result(timeout=60)
        assert array[1].tolist() == [5, 6, 7, 8]
        assert seen.tolist() == [8, 6]
        seen[0] = 100
        assert array[1, 3] == 100, "the result is a view of the same bytes"
        executor.submit(add_one, seen).result(timeout=60)
        assert array[1].tolist() == [5, 7, 7, 101], "it can be sent once more"
        executor.submit(add_one, fortran).result(timeout=60)
        assert fortran[0].tolist() == [1, 2, 3, 4]
    del array
    assert seen.tolist() == [101, 7], "and keeps them"
    del fortran
    assert blocks(machine) == 1


def test_what_a_worker_keeps_is_nobody_elses(machine: megalith.Machine) -> None:
    with machine.memory():
        array = numpy.zeros(10)
    address, before = array.ctypes.data, blocks(machine)
    with machine.executor(1) as executor:
        executor.submit(keep, array).result(timeout=60)
        del array
        with machine.memory():
            another = numpy.zeros(10)
        assert another.ctypes.data != address
        assert blocks(machine) == before + 1
        executor.submit(add_one, another).result(timeout=60)
        again = executor.submit(give_back, 0).result(timeout=60)
        assert (again.ctypes.data, again.tolist()) == (address, [0.0] * 10)
        executor.submit(keep, again).result(timeout=60)
        del again
    # The worker has ended, and with it what it kept.
    with machine.memory():
        third = numpy.zeros(10)
    assert third.ctypes.data == address, "the bytes are given out again"
    assert third.tolist() == [0.0] * 10
    assert another.tolist() == [1.0] * 10


def test_a_task_keeps_its_arrays(machine: megalith.Machine) -> None:
    def submit(executor: Any) -> Any:
        with machine.memory():
            return executor.submit(add_one, numpy.zeros(1000))

    with machine.executor(1) as executor:
        futures = [submit(executor) for _ in range(20)]
        gc.collect()
        assert all(future.result(timeout=60).tolist() == [1.0] * 500 for future in futures)


def test_arrays_of_objects_are_copied(machine: megalith.Machine) -> None:
    with machine.memory():
        array = numpy.array([{"a": 1}, None, "text"], object)
        strings = numpy.array(["some", "long" * 100], numpy.dtypes.StringDType()) if numpy.__version__ > "2" else None
    assert not is_inside(array)
    assert strings is None or not is_inside(strings)
    with machine.executor(1) as executor:
        assert executor.submit(is_own, array).result(timeout=60)
        assert executor.submit(list, array).result(timeout=60) == [{"a": 1}, None, "text"]


def test_after_the_machine(machine: megalith.Machine) -> None:
    with machine.memory():
        array = numpy.arange(1000)
        large = numpy.arange(MIB)
        machine.close()
        with pytest.raises(MemoryError):
            numpy.zeros(10)
    with pytest.raises(AgentError, match="the machine is closed"):
        machine.memory()
    assert numpy.zeros(10).sum() == 0
    with pytest.raises(AgentError, match="one machine at a time"):
        megalith.machine(hosts=1, memory_per_host="32M")
    del array, large
    with megalith.machine(hosts=1, memory_per_host="32M") as another, another.memory():
        assert numpy.zeros(1000).sum() == 0


def test_a_machine_that_has_ended_by_itself() -> None:
    ended = in_another("""
        import megalith, numpy, os, time
        with megalith.machine(hosts=1, memory_per_host="32M") as machine:
            with machine.memory():
                arrays = [numpy.arange(100), numpy.arange(1 << 20)]
                for agent in machine._keeper.place.local.pids:
                    os.kill(agent, 9)
                while machine._space.is_open:
                    time.sleep(0.01)
                try:
                    numpy.zeros(10)
                except MemoryError:
                    print("none is left")
            arrays.clear()
            print(numpy.zeros(10).sum())
    """)
    assert ended.stdout == "none is left\n0.0\n"
    assert ended.returncode == 0


def test_what_numpy_keeps_for_itself_is_not_the_machines() -> None:
    ended = in_another("""
        import megalith, numpy
        with megalith.machine(hosts=1, memory_per_host="32M") as machine:
            with machine.memory():
                numpy.random.seed(1)
                numpy.random.default_rng(1).random(3)
                numpy.fft.fft(numpy.ones(4))
                numpy.polynomial.Polynomial([1, 2])(3)
                numpy.ma.array([1, 2], mask=[0, 1]).sum()
            print(machine._memory.count)
        print(numpy.random.random() < 1)
    """)
    assert (ended.stdout, ended.stderr) == ("0\nTrue\n", "")


def test_what_is_left_at_exit_harms_nobody() -> None:
    ended = in_another("""
        import megalith, numpy
        machine = megalith.machine(hosts=1, memory_per_host="32M")
        inside = machine.memory()
        inside.__enter__()
        arrays = [numpy.arange(length) for length in (1, 10, 10_000, 1_000_000)]
        cycle = [arrays]
        cycle.append(cycle)
        print("done")
    """)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_a_child_has_arrays_of_its_own(machine: megalith.Machine) -> None:
    with machine.memory():
        array = numpy.arange(100_000)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                own = numpy.arange(10)
                del array
                code = 0 if own.sum() == 45 else 2
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert array.sum() == 4999950000
    del array
    assert blocks(machine) == 0


def test_what_is_no_range_or_handler_is_refused(machine: megalith.Machine) -> None:
    space = machine._space
    for start, length in ((space.base + 4096, 32 * MIB), (space.base, 2 * MIB), (space.base + space.size, 32 * MIB)):
        with pytest.raises(ValueError, match="whole regions"):
            _core.NumpyHeap(space.attachment, start, length, 0)
    with pytest.raises(ValueError, match="a capsule named mem_handler"):
        _core.set_numpy_handler(object())
    assert not is_inside(numpy.zeros(10))


def test_pandas(machine: megalith.Machine) -> None:
    pandas = pytest.importorskip("pandas")
    dice = numpy.random.default_rng(3)
    keys, values = dice.integers(0, 50, 20_000), dice.random(20_000)
    with machine.memory():
        frame = pandas.DataFrame({"key": keys.copy(), "value": values.copy()})
        column = frame["value"].to_numpy()
        sums = frame.groupby("key")["value"].sum()
        joined = frame.merge(sums.rename("sum").reset_index(), on="key").sort_values("value")
    assert is_inside(column)
    plain = pandas.DataFrame({"key": keys, "value": values})
    expected = plain.groupby("key")["value"].sum()
    pandas.testing.assert_series_equal(sums, expected)
    other = plain.merge(expected.rename("sum").reset_index(), on="key").sort_values("value")
    pandas.testing.assert_frame_equal(joined, other)
    with machine.executor(1) as executor:
        held = pandas.DataFrame({"a": machine.array(values)}, copy=False)
        assert executor.submit(pandas.DataFrame.sum, held).result(timeout=60)["a"] == pytest.approx(values.sum())


def test_scikit_learn(machine: megalith.Machine) -> None:
    ensemble, linear = pytest.importorskip("sklearn.ensemble"), pytest.importorskip("sklearn.linear_model")
    dice = numpy.random.default_rng(4)
    points = dice.random((500, 8))
    labels = (points.sum(axis=1) > 4).astype(int)
    for model in (linear.LogisticRegression(), ensemble.RandomForestClassifier(10, random_state=1)):
        with machine.memory():
            inside = model.fit(points.copy(), labels.copy()).predict_proba(points)
        assert is_inside(inside)
        assert numpy.allclose(inside, model.fit(points, labels).predict_proba(points))


def test_numba(machine: megalith.Machine) -> None:
    numba = pytest.importorskip("numba", reason="numba is large and not pinned: pip install numba")

    @numba.njit  # type: ignore[untyped-decorator, unused-ignore]
    def running(array: Any) -> Any:
        total = 0.0
        for at in range(len(array)):
            total += array[at]
            array[at] = total
        return total

    with machine.memory():
        array = numpy.ones(100_000)
    assert running(array) == 100_000
    assert array[999] == 1000


def test_pyarrow(machine: megalith.Machine) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is large and not pinned: pip install pyarrow")
    compute = pytest.importorskip("pyarrow.compute")
    with machine.memory():
        array = numpy.arange(100_000)
        column = arrow.array(array)
    assert column.buffers()[1].address == array.ctypes.data, "without a copy"
    assert compute.sum(column).as_py() == array.sum()
    back = column.to_numpy()
    assert back.ctypes.data == array.ctypes.data
    del array, back
    assert blocks(machine) == 1, "Arrow keeps them"
    assert column[7].as_py() == 7
    del column
    assert blocks(machine) == 0


def test_nothing_is_deprecated(machine: megalith.Machine) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with machine.memory():
            assert is_inside(numpy.zeros(10))
