"""CPython's own tests of executors, run on ours.

Where they come from: :mod:`cpython`. What is about the internals of the two executors that come with
Python is left out by name, and why is said here; what those tests hold, ``test_executor_*.py`` hold of ours.
"""

from __future__ import annotations

import importlib
import multiprocessing
import unittest
from typing import Any

import pytest

import cpython
from megalith.executor import Executor

_NAME = "test_concurrent_futures"
_PROCESSES = "looks into ProcessPoolExecutor's _processes"
_SCRIPT = "its script makes executors of concurrent.futures by name"
_OWN_FUTURE = "breaks ProcessPoolExecutor as a whole; with us only the task's own future"

LEFT_OUT = {
    "test_interpreter_shutdown": _SCRIPT,
    "test_submit_after_interpreter_shutdown": _SCRIPT,
    "test_hang_gh83386": _SCRIPT,
    "test_killed_child": _PROCESSES,
    "test_saturation": _PROCESSES,
    "test_idle_process_reuse_one": _PROCESSES,
    "test_idle_process_reuse_multiple": _PROCESSES,
    "test_max_tasks_per_child": _PROCESSES,
    "test_max_tasks_per_child_defaults_to_spawn_context": "is about multiprocessing's contexts",
    "test_ressources_gced_in_workers": "needs the key of multiprocessing's managers, which only its own children have",
    "test_exit_at_task_unpickle": _OWN_FUTURE,
    "test_error_at_task_unpickle": _OWN_FUTURE,
    "test_error_during_result_unpickle_in_result_handler": _OWN_FUTURE,
    "test_exit_during_result_unpickle_in_result_handler": _OWN_FUTURE,
    "test_shutdown_deadlock_pickle": "looks into ProcessPoolExecutor's _executor_manager_thread",
}
"""And as a whole: ThreadPool… (threads), ProcessPoolShutdownTest (internals), FutureTests (no executor in them)."""


_found = cpython.find(_NAME)
if _found is None:
    pytest.skip(cpython.missing(_NAME), allow_module_level=True)
cpython.make_importable(_found)
_modules = [importlib.import_module(f"test.{_NAME}")]
if _found.is_dir():
    _modules += [importlib.import_module(f"test.{_NAME}.{path.stem}") for path in sorted(_found.glob("[a-z]*.py"))]


def _from_suite(name: str) -> Any:
    return next(getattr(module, name) for module in _modules if hasattr(module, name))


class _Suited(Executor):
    """What the suite asks an executor for beside the interface."""

    def __init__(self, max_workers: int | None = None, mp_context: object = None, **more: Any) -> None:
        super().__init__(max_workers, **more)

    @property
    def _broken(self) -> str | None:
        return self._pool._broken


class _Mixin(_from_suite("ExecutorMixin")):  # type: ignore[misc]
    executor_type = _Suited

    def get_context(self) -> object:
        return multiprocessing.get_context("spawn")


def _case(name: str) -> type[unittest.TestCase]:
    base = _from_suite(name)
    without = dict.fromkeys(LEFT_OUT.keys() & set(dir(base)))
    bases = (base, _Mixin, _from_suite("BaseTestCase"))
    return type(name, bases, {**without, "__module__": __name__, "__test__": True})


class TestInitializer(_case("InitializerMixin")):  # type: ignore[misc]
    """`initializer` runs before tasks."""


class TestFailingInitializer(_case("FailingInitializerMixin")):  # type: ignore[misc]
    """One that raises breaks the executor, and says so in the log."""


class TestShutdown(_case("ExecutorShutdownTest")):  # type: ignore[misc]
    """What is done, refused and cancelled."""


class TestWait(_case("WaitTests")):  # type: ignore[misc]
    """`concurrent.futures.wait`."""


class TestAsCompleted(_case("AsCompletedTests")):  # type: ignore[misc]
    """`concurrent.futures.as_completed`."""


class TestExecutor(_case("ProcessPoolExecutorTest")):  # type: ignore[misc]
    """`submit` and `map`: all of ExecutorTest, and what ProcessPoolExecutor's users see beyond it."""


class TestDeadlock(_case("ExecutorDeadlockTest")):  # type: ignore[misc]
    """Crashes, exits and errors at every step of a task."""


def test_what_is_left_out_is_there() -> None:
    known = {name for case in (TestShutdown, TestExecutor, TestDeadlock) for name in dir(case)}
    assert LEFT_OUT.keys() <= known
