"""What an executor does with tasks: one by one, many, large, and those that cannot be sent or brought back."""

from __future__ import annotations

import functools
import logging
import operator
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

import megalith
from executors import calls
from megalith.executor import Executor, WorkerLost
from megalith.here import Here, ProcessSeat


class Named:
    """A launcher whose workers know which host they are said to be on."""

    def __init__(self) -> None:
        self.seats: list[ProcessSeat] = []

    def start(self, host: str) -> ProcessSeat:
        os.environ["TEST_HOST"] = host
        try:
            self.seats.append(Here().start(host))
        finally:
            del os.environ["TEST_HOST"]
        return self.seats[-1]


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(2) as made:
        yield made


def test_lambdas_and_closures_travel(executor: Executor) -> None:
    base = 40
    assert executor.submit(lambda x: base + x, 2).result(30) == 42


def test_ten_thousand_small_tasks(executor: Executor) -> None:
    assert list(executor.map(operator.neg, range(10_000))) == list(range(0, -10_000, -1))
    assert list(executor.map(operator.neg, range(10_000), chunksize=77)) == list(range(0, -10_000, -1))


def test_large_arguments_and_results_are_whole(executor: Executor) -> None:
    large = os.urandom(1 << 20) * 100
    echoed = executor.submit(bytes, large)
    small = [executor.submit(abs, -n).result(60) for n in range(50)]
    assert small == list(range(50)), "meanwhile"
    assert echoed.result(60) == large


def test_arrays_go_beside_the_pickle_and_can_be_written(executor: Executor) -> None:
    numpy = pytest.importorskip("numpy")

    def double(array: Any) -> Any:
        array *= 2
        return array

    array = numpy.arange(3_000_000).reshape(3, -1)
    columns = numpy.asfortranarray(array)
    for given in (array, columns, array[:, ::2], array[0, :5]):
        result = executor.submit(double, given).result(60)
        assert (result == given * 2).all()
        result += 1


def test_what_cannot_be_pickled_fails_alone(executor: Executor) -> None:
    with pytest.raises(TypeError, match="pickle"):
        executor.submit(print, threading.Lock()).result(30)
    with pytest.raises(TypeError, match="pickle") as caught:
        executor.submit(threading.Lock).result(30)
    assert caught.value.__cause__ is not None, "where in the worker"
    assert executor.submit(pow, 2, 5).result(30) == 32


def test_what_cannot_be_unpickled_fails_alone(executor: Executor) -> None:
    with pytest.raises(ValueError, match="no way back"):
        executor.submit(print, calls.NoReturn()).result(30)
    with pytest.raises(pickle.UnpicklingError, match=r"the result of no_return .*no way back"):
        executor.submit(calls.no_return).result(30)
    assert executor.submit(pow, 2, 5).result(30) == 32


def test_exceptions_that_cannot_travel_tell_their_story(executor: Executor) -> None:
    with pytest.raises(pickle.PicklingError, match="Unpicklable, which a task raised") as caught:
        executor.submit(calls.raise_unpicklable).result(30)
    assert "the story of it" in str(caught.value.__cause__)
    with pytest.raises(pickle.UnpicklingError, match="the exception of raise_not_unpicklable") as other:
        executor.submit(calls.raise_not_unpicklable).result(30)
    assert "onetwo" in str(other.value.__cause__)
    assert executor.submit(pow, 2, 5).result(30) == 32


def test_a_traceback_begins_at_the_task(executor: Executor) -> None:
    with pytest.raises(ValueError, match="of mine") as caught:
        executor.submit(calls.fail, "of mine").result(30)
    said = str(caught.value.__cause__)
    assert "raise ValueError(message)" in said
    assert "megalith/worker.py" not in said


def test_callbacks_may_submit(executor: Executor) -> None:
    done: Future[int] = Future()

    def again(n: int, before: Future[int]) -> None:
        if n == 200:
            done.set_result(before.result())
        else:
            executor.submit(operator.add, before.result(), 1).add_done_callback(functools.partial(again, n + 1))

    executor.submit(abs, 0).add_done_callback(functools.partial(again, 0))
    assert done.result(60) == 200


def _until_it_raises(executor: Executor, end: float) -> None:
    while time.monotonic() < end:
        executor.submit(abs, 4).result(30)


def test_a_callback_that_raises_or_shuts_down_harms_nothing(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(_: Future[int]) -> None:
        raise SystemExit("not from here")

    with caplog.at_level(logging.ERROR):
        executor.submit(abs, 1).add_done_callback(leave)
        assert executor.submit(abs, 2).result(30) == 2
        last = executor.submit(abs, 3)
        last.add_done_callback(lambda _: executor.shutdown(wait=True))
        assert last.result(30) == 3
    with pytest.raises(RuntimeError, match="after shutdown"):
        _until_it_raises(executor, time.monotonic() + 30)


def test_threads_submit_at_once(executor: Executor) -> None:
    sums: list[int] = []

    def submit() -> None:
        sums.append(sum(f.result(60) for f in [executor.submit(abs, n) for n in range(300)]))

    threads = [threading.Thread(target=submit) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert sums == [44_850] * 6


def test_a_task_behind_a_long_one_goes_to_an_idle_worker(executor: Executor, tmp_path: Path) -> None:
    """A worker is handed small tasks ahead. Those behind one that waits for another of them would wait for ever."""
    list(executor.map(abs, range(2000)))
    flag = tmp_path / "flag"
    waiting = [executor.submit(calls.wait_for, flag)]
    others = [executor.submit(abs, n) for n in range(20)]
    opener = executor.submit(flag.touch)
    assert waiting[0].result(60)
    assert [f.result(60) for f in others] == list(range(20))
    opener.result(60)


def test_map_is_lazy_in_its_results_and_cancels_the_rest(executor: Executor, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    results = executor.map(calls.wait_for, [flag] * 40)
    flag.touch()
    assert next(results)
    results.close()  # type: ignore[attr-defined]
    slow = executor.map(time.sleep, [0.0, *[0.3] * 40])
    assert next(slow) is None
    began = time.monotonic()
    slow.close()  # type: ignore[attr-defined]
    executor.shutdown()
    assert time.monotonic() - began < 6, "40 of them took 6 s"


def test_map_times_out(executor: Executor) -> None:
    with pytest.raises(TimeoutError):
        list(executor.map(time.sleep, [0, 0.8], timeout=0.2))
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(abs, [1], chunksize=0)


def test_pending_tasks_can_be_cancelled(tmp_path: Path) -> None:
    with Executor(1) as executor:
        first = executor.submit(calls.touch_and_wait, tmp_path / "runs", 0.5)
        assert calls.wait_for(tmp_path / "runs")
        second, third = executor.submit(abs, -2), executor.submit(abs, -3)
        assert second.cancel()
        assert not first.cancel()
        assert third.result(30) == 3
        assert wait([second], 5).done


def test_workers_are_replaced_after_so_many_tasks() -> None:
    with Executor(1, max_tasks_per_child=3) as executor:
        pids = [executor.submit(os.getpid).result(60) for _ in range(7)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]
    with Executor(2, max_tasks_per_child=40) as executor:
        assert list(executor.map(abs, range(300))) == list(range(300))


def test_workers_are_started_as_they_are_needed() -> None:
    launcher = Named()
    with Executor(4, launcher=launcher) as executor:
        assert not launcher.seats
        for _ in range(5):
            executor.submit(abs, 1).result(30)
        assert len(launcher.seats) == 1
        list(executor.map(time.sleep, [0.1] * 8))
        assert len(launcher.seats) == 4


def test_tasks_run_where_they_want_to() -> None:
    hosts = {"a": 1, "b": 1, "c": 1}
    with Executor(hosts=hosts, launcher=Named(), locality=lambda fn, args, kwargs: kwargs["where"]) as executor:
        wanted = ["a", "b", "c"] * 10

        def ask(*, where: str) -> str:
            return calls.host_of_me()

        for host in wanted:
            assert executor.submit(ask, where=host).result(60) == host, "all are idle"


def test_no_task_waits_for_the_host_that_it_wants_while_others_are_idle() -> None:
    hosts = {"a": 1, "b": 1}
    with Executor(hosts=hosts, launcher=Named(), locality=lambda fn, args, kwargs: "b") as executor:
        ran = list(executor.map(calls.slow_host_of_me, [0.3] * 12))
        assert {"a", "b"} == set(ran)
        assert ran[0] == "b"
    with Executor(hosts=hosts, launcher=Named(), locality=lambda fn, args, kwargs: "nowhere") as executor:
        assert executor.submit(abs, -3).result(60) == 3


def test_a_locality_that_fails_fails_the_task() -> None:
    with Executor(1, locality=lambda fn, args, kwargs: 1 / args[0] and None) as executor:
        with pytest.raises(ZeroDivisionError):
            executor.submit(abs, 0).result(30)
        assert executor.submit(abs, 1).result(30) == 1


class Far:
    """Stands for an array that all workers see."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __reduce__(self) -> str:
        raise TypeError("it is to travel as its address")


def test_reducers_go_first_in_both_directions() -> None:
    import megalith.pickling as p

    def reduce(far: Far) -> tuple[type[Far], tuple[int]]:
        return Far, (far.address,)

    with Executor(1, reducers={Far: reduce}, initializer=p.register, initargs=(Far, reduce)) as executor:
        assert executor.submit(lambda far: far, Far(0x1234)).result(30).address == 0x1234
    with Executor(1) as executor, pytest.raises(TypeError, match="as its address"):
        executor.submit(lambda far: far, Far(1)).result(30)


def test_a_forgotten_executor_finishes_and_ends() -> None:
    launcher = Named()
    executor = Executor(2, launcher=launcher)
    futures = [executor.submit(time.sleep, 0.05) for _ in range(6)]
    gone = weakref.ref(executor)
    del executor
    assert gone() is None
    for future in futures:
        future.result(30)
    assert all(seat._process.wait(20) == 0 for seat in launcher.seats)


def test_arguments_and_results_are_not_kept(executor: Executor) -> None:
    class Argument:
        pass

    argument = Argument()
    gone = weakref.ref(argument)
    executor.submit(id, argument).result(30)
    del argument
    end = time.monotonic() + 10
    while gone() is not None and time.monotonic() < end:
        time.sleep(0.01)
    assert gone() is None


@pytest.mark.parametrize(
    "wrong", [{"max_workers": 0}, {"hosts": {}}, {"hosts": {"a": 0}}, {"max_tasks_per_child": 0}]
)  # fmt: skip
def test_numbers_below_one_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"max_workers|at least one|max_tasks_per_child"):
        Executor(**wrong)


def test_a_launcher_that_fails_breaks_the_executor() -> None:
    class Failing:
        def start(self, host: str) -> ProcessSeat:
            raise OSError(f"{host} is away")

    with Executor(1, hosts={"b": 1}, launcher=Failing()) as executor:
        with pytest.raises(WorkerLost, match="no worker could be started on host b: b is away") as caught:
            executor.submit(abs, 1).result(30)
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(WorkerLost, match="b is away"):
            executor.submit(abs, 1)


def test_a_worker_that_speaks_something_else_breaks_the_executor() -> None:
    class Strange:
        def start(self, host: str) -> ProcessSeat:
            seat = Here().start(host)
            seat.stream.close()
            seat.stream, other = socket.socketpair()
            other.sendall(b"SSH-2.0-OpenSSH_9.2p1 and more of the kind\r\n")
            self.other = other
            return seat

    strange = Strange()
    with Executor(1, launcher=strange) as executor, pytest.raises(WorkerLost, match=r"cannot be understood.*SSH-"):
        executor.submit(abs, 1).result(30)
    strange.other.close()


class Remote:
    """A worker of which nothing is known but its stream, which is TCP's."""

    host = "far"
    description = "somewhere"
    sentinel = None
    references = None

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.stream = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "megalith.worker", "--fd", str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": str(Path(megalith.__file__).parents[1])},
                pass_fds=[theirs.fileno()],
            )
        self.killed = self.closed = 0

    def kill(self) -> None:
        self.killed += 1

    def ending(self, timeout_s: float) -> str | None:
        return None

    def close(self) -> None:
        self.closed += 1


def test_workers_are_reached_over_tcp_as_well() -> None:
    seats: list[Remote] = []

    class Far:
        def start(self, host: str) -> Remote:
            seats.append(Remote())
            return seats[-1]

    large = os.urandom(20 << 20)
    with Executor(1, launcher=Far()) as executor:
        assert executor.submit(bytes, large).result(60) == large
        assert list(executor.map(abs, range(500))) == list(range(500))
    assert seats[0].process.wait(30) == 0
    assert seats[0].closed == 1
    with (
        Executor(1, launcher=Far()) as executor,
        pytest.raises(WorkerLost, match=r"host far \(somewhere\) is gone, it is not known how, while it ran kill_me"),
    ):
        executor.submit(calls.kill_me).result(30)
    assert seats[1].process.wait(30) == -9
    assert seats[1].killed >= 1
    assert seats[1].closed == 1
