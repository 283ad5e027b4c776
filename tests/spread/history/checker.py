"""Is there one order of these operations that a memory of one word could have had, and that no clock contradicts?

An operation takes effect at one instant between its invocation and its response. Words are independent
(linearizability is local: Herlihy and Wing), so each is checked by itself. The search goes through invocations and
responses in the order of time and keeps every *configuration* that can still be: the word's value, and which of the
operations under way have taken effect (Wing and Gong's search in Lowe's just-in-time form: an operation takes effect
only when a response needs it to). Since values are written once, there are few configurations.
"""

import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_RECORD: Final = struct.Struct("<QQQQQII")
_WORD: Final = 1 << 64


class Kind(IntEnum):
    """As in history.c."""

    LOAD = 0
    STORE = 1
    SWAP = 2
    ADD = 3
    COMPARE = 4


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one word; times are of one clock, in any unit."""

    kind: Kind
    word: int
    begin: int
    end: int
    argument: int = 0
    expected: int = 0
    result: int = 0
    """What was found; of a store nothing is known."""

    def applied(self, value: int) -> int | None:
        """The word's value after it, or None if it cannot have found `value`."""
        if self.kind == Kind.STORE:
            return self.argument
        if self.result != value:
            return None
        match self.kind:
            case Kind.SWAP:
                return self.argument
            case Kind.ADD:
                return (value + self.argument) % _WORD
            case Kind.COMPARE if value == self.expected:
                return self.argument
        return value


@dataclass(frozen=True)
class Impossible:
    """No order explains this: the operation whose response cannot be, and those beside it."""

    operation: Operation
    under_way: tuple[Operation, ...]
    values: tuple[int, ...]
    """What the word may have held."""

    def __str__(self) -> str:
        beside = "; ".join(map(str, self.under_way))
        held = ", ".join(map(hex, self.values))
        return f"{self.operation} cannot be: the word held one of {held}, and beside it were {beside}"


def read_log(log: bytes) -> list[Operation]:
    """The operations that history.c logged."""
    return [
        Operation(Kind(kind), word, begin, end, argument, expected, result)
        for begin, end, argument, expected, result, word, kind in _RECORD.iter_unpack(log)
    ]


def check(operations: Iterable[Operation], initial: int = 0) -> Impossible | None:
    """Checks every word; returns what is impossible, or None."""
    by_word: defaultdict[int, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_word[operation.word].append(operation)
    return next((found for word in sorted(by_word) if (found := check_word(by_word[word], initial))), None)


def check_word(operations: Sequence[Operation], initial: int = 0) -> Impossible | None:
    """Checks the operations on one word."""
    # At the same instant invocations come first: operations that touch may have been in either order.
    events = [(operation.begin, 0, number) for number, operation in enumerate(operations)]
    events += [(operation.end, 1, number) for number, operation in enumerate(operations)]
    events.sort()
    under_way: set[int] = set()
    configurations: set[tuple[int, frozenset[int]]] = {(initial, frozenset())}
    for _, is_response, number in events:
        if not is_response:
            under_way.add(number)
            continue
        after = _with(operations, under_way, configurations, number)
        under_way.discard(number)
        if not after:
            beside = tuple(operations[other] for other in sorted(under_way))
            return Impossible(operations[number], beside, tuple(sorted({value for value, _ in configurations})))
        configurations = after
    return None


def _with(
    operations: Sequence[Operation],
    under_way: set[int],
    configurations: set[tuple[int, frozenset[int]]],
    number: int,
) -> set[tuple[int, frozenset[int]]]:
    """What can be when operation `number` has taken effect; it is no longer under way then."""
    reached: set[tuple[int, frozenset[int]]] = set()
    seen = set(configurations)
    todo = list(configurations)
    while todo:
        value, effected = todo.pop()
        if number in effected:
            reached.add((value, effected - {number}))
            continue
        for other in under_way - effected:
            changed = operations[other].applied(value)
            if changed is None:
                continue
            following = (changed, effected | {other})
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return reached


def how_concurrent(operations: Iterable[Operation]) -> float:
    """The part of the operations that overlap with another on the same word: without any there is little to check."""
    by_word: defaultdict[int, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_word[operation.word].append(operation)
    total = overlapping = 0
    for same in by_word.values():
        same.sort(key=lambda operation: operation.begin)
        total += len(same)
        overlaps = [False] * len(same)
        last, last_end = 0, -1
        for number, operation in enumerate(same):
            if operation.begin <= last_end:
                overlaps[number] = overlaps[last] = True
            if operation.end > last_end:
                last, last_end = number, operation.end
        overlapping += sum(overlaps)
    return overlapping / total if total else 0.0
