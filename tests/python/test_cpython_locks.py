"""CPython's own tests of locks (``test.lock_tests``), run on a machine's."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

import cpython
import megalith

pytest.importorskip("numpy")

_NAME = "lock_tests"
LEFT_OUT = {
    "test_at_fork_reinit": "is about a forked child, which has no memory of the machine",
    "test_acquire": "of ConditionTests gives it a lock of threading; others of that name stay",
}

_found = cpython.find(_NAME)
if _found is None:
    pytest.skip(cpython.missing(_NAME), allow_module_level=True)
cpython.make_importable(_found)
_suite = importlib.import_module(f"test.{_NAME}")
_machines: list[megalith.Machine] = []


def setUpModule() -> None:
    """One machine for all."""
    _machines.append(megalith.machine(hosts=2, memory_per_host="32M"))


def tearDownModule() -> None:
    """Nobody uses it any more."""
    _machines.pop().close()


def _case(name: str) -> Any:
    base = getattr(_suite, name)
    left_out = LEFT_OUT.keys() if name == "ConditionTests" else LEFT_OUT.keys() - {"test_acquire"}
    without = dict.fromkeys(left_out & set(dir(base)))
    return type(name, (base,), {**without, "__module__": __name__, "__test__": True})


def _condition(lock: Any = None) -> Any:
    return _machines[0].Condition(lock)


class TestLock(_case("LockTests")):  # type: ignore[misc]
    """`m.Lock()`."""

    @staticmethod
    def locktype() -> Any:
        return _machines[0].Lock()


class TestRLock(_case("RLockTests")):  # type: ignore[misc]
    """`m.RLock()`."""

    @staticmethod
    def locktype() -> Any:
        return _machines[0].RLock()


class TestEvent(_case("EventTests")):  # type: ignore[misc]
    """`m.Event()`."""

    @staticmethod
    def eventtype() -> Any:
        return _machines[0].Event()


class TestCondition(_case("ConditionTests")):  # type: ignore[misc]
    """`m.Condition()`."""

    condtype = staticmethod(_condition)


class TestSemaphore(_case("SemaphoreTests")):  # type: ignore[misc]
    """`m.Semaphore()`."""

    @staticmethod
    def semtype(*arguments: Any, **options: Any) -> Any:
        return _machines[0].Semaphore(*arguments, **options)


class TestBoundedSemaphore(_case("BoundedSemaphoreTests")):  # type: ignore[misc]
    """`m.BoundedSemaphore()`."""

    @staticmethod
    def semtype(*arguments: Any, **options: Any) -> Any:
        return _machines[0].BoundedSemaphore(*arguments, **options)


class TestBarrier(_case("BarrierTests")):  # type: ignore[misc]
    """`m.Barrier()`."""

    @staticmethod
    def barriertype(*arguments: Any, **options: Any) -> Any:
        return _machines[0].Barrier(*arguments, **options)
