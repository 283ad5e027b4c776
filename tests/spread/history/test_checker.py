"""The checker accepts what a memory does and finds what none does: planted histories, and all orders by brute force."""

import itertools
from random import Random

import pytest

from spread.history.checker import Kind, Operation, check, check_word, how_concurrent, read_log


def load(begin: int, end: int, result: int) -> Operation:
    return Operation(Kind.LOAD, 0, begin, end, result=result)


def store(begin: int, end: int, argument: int) -> Operation:
    return Operation(Kind.STORE, 0, begin, end, argument=argument)


def swap(begin: int, end: int, argument: int, result: int) -> Operation:
    return Operation(Kind.SWAP, 0, begin, end, argument=argument, result=result)


def add(begin: int, end: int, result: int) -> Operation:
    return Operation(Kind.ADD, 0, begin, end, argument=1, result=result)


def compare(begin: int, end: int, expected: int, argument: int, result: int) -> Operation:
    return Operation(Kind.COMPARE, 0, begin, end, argument=argument, expected=expected, result=result)


GOOD = {
    "nothing": [],
    "one after the other": [store(0, 1, 5), load(2, 3, 5), add(4, 5, 5), load(6, 7, 6)],
    "a load beside a store finds either": [store(0, 10, 5), load(1, 2, 0), load(3, 4, 5)],
    "the later invocation first": [store(0, 10, 5), store(1, 9, 6), load(11, 12, 5)],
    "adds in the order of their results": [add(0, 10, 2), add(0, 10, 0), add(0, 10, 1)],
    "one of two comparisons wins": [compare(0, 9, 0, 5, 0), compare(0, 9, 0, 6, 5), load(10, 11, 5)],
    "a comparison that fails changes nothing": [store(0, 1, 7), compare(2, 3, 0, 5, 7), load(4, 5, 7)],
    "touching operations in either order": [store(0, 5, 1), load(5, 9, 0)],
}
BAD = {
    "a value from nowhere": [load(0, 1, 9)],
    "a stale load": [store(0, 1, 5), load(2, 3, 0)],
    "a load that goes back": [store(0, 10, 5), load(1, 2, 5), load(3, 4, 0)],
    "a lost add": [add(0, 10, 0), add(0, 10, 0)],
    "a lost store": [store(0, 1, 5), store(2, 3, 6), load(4, 5, 5)],
    "two comparisons win": [compare(0, 9, 0, 5, 0), compare(0, 9, 0, 6, 0)],
    "a comparison that fails and changes": [store(0, 1, 7), compare(2, 3, 0, 5, 7), load(4, 5, 5)],
    "two readers of different minds": [
        store(0, 20, 5),
        store(0, 20, 6),
        load(1, 2, 5),
        load(3, 4, 6),
        load(5, 6, 5),
    ],
    "swaps that share a result": [swap(0, 9, 5, 0), swap(0, 9, 6, 0)],
    "an add that is forgotten by a swap": [add(0, 1, 0), swap(2, 3, 9, 0)],
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    assert check(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    assert check(BAD[name]) is not None


def test_words_are_apart() -> None:
    other = [Operation(Kind.LOAD, 1, 2, 3, result=0)]
    assert check([store(0, 1, 5), *other]) is None
    assert check([store(0, 1, 5), *other, Operation(Kind.LOAD, 2, 4, 5, result=5)]) is not None


def by_brute_force(operations: list[Operation]) -> bool:
    """Whether any order of all operations is one."""
    for order in itertools.permutations(operations):
        value: int | None = 0
        for place, operation in enumerate(order):
            if any(later.end < operation.begin for later in order[place:]) or value is None:
                break
            value = operation.applied(value)
        else:
            if value is not None:
                return True
    return False


def made_up(random: Random, count: int) -> list[Operation]:
    """Operations whose results may or may not be possible: values are few, so that both happen."""
    made = []
    for _ in range(count):
        begin = random.randrange(12)
        end = begin + random.randrange(8)
        kind = random.choice(list(Kind))
        value, expected, result = (random.randrange(3) for _ in range(3))
        made.append(Operation(kind, 0, begin, end, 1 if kind == Kind.ADD else value, expected, result))
    return made


def test_it_agrees_with_brute_force() -> None:
    random = Random(7)
    found = {True: 0, False: 0}
    for _ in range(3000):
        operations = made_up(random, random.randint(1, 5))
        possible = by_brute_force(operations)
        assert (check_word(operations) is None) == possible, operations
        found[possible] += 1
    assert min(found.values()) > 200, found


def really(random: Random, threads: int, count: int) -> list[Operation]:
    """What a real memory does: each operation takes effect at one instant between its ends."""
    plans = []
    for thread in range(threads):
        now = random.random()
        for number in range(count):
            begin, effect, end = sorted(now + random.random() * 3 for _ in range(3))
            plans.append((effect, begin, end, thread, number))
            now = end + random.random()
    value, made = 0, []
    for number, (_, begin, end, thread, _) in enumerate(sorted(plans)):
        kind = random.choice(list(Kind))
        argument = 1 if kind == Kind.ADD else (thread + 1) << 40 | (number + 1) << 16
        expected = value if random.random() < 0.5 else 0
        result = 0 if kind == Kind.STORE else value
        operation = Operation(kind, 0, int(begin * 1e6), int(end * 1e6), argument, expected, result)
        changed = operation.applied(value)
        assert changed is not None
        value = changed
        made.append(operation)
    return made


@pytest.mark.parametrize("seed", range(5))
def test_long_histories_of_a_real_memory(seed: int) -> None:
    random = Random(seed)
    operations = really(random, threads=6, count=500)
    assert how_concurrent(operations) > 0.5
    assert check(operations) is None
    # And with one result that nobody can have found, or one that somebody found long ago.
    for _ in range(10):
        spoilt = list(operations)
        at = random.randrange(1500, len(spoilt))
        while spoilt[at].kind == Kind.STORE:
            at = random.randrange(1500, len(spoilt))
        old = spoilt[at]
        stale = spoilt[at - 1000].argument if random.random() < 0.5 else 77
        spoilt[at] = Operation(old.kind, 0, old.begin, old.end, old.argument, old.expected, stale)
        assert check(spoilt) is not None


def test_a_log_is_read_as_it_was_written() -> None:
    log = b"".join(number.to_bytes(8, "little") for number in (10, 20, 3, 4, 5)) + (2).to_bytes(4, "little") * 2
    assert read_log(log) == [Operation(Kind.SWAP, 2, 10, 20, 3, 4, 5)]
