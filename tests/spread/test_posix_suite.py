"""The Open POSIX test suite's thread interfaces: the same verdicts as natively.

The suite (linux-test-project/ltp, testcases/open_posix_testsuite) is not part of this repository: MEGALITH_POSIX_SUITE
names its directory. Cases that fork, which is refused (docs/limits.md), are left out; one that needs another refused
call may differ.
"""

import pytest

from spread import posix_suite
from spread.machine import THREE, WANDERING, Machine

ROOT = posix_suite.suite()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("machine", [THREE, WANDERING], ids=lambda machine: machine.name, indirect=True)
@pytest.mark.parametrize("interface", posix_suite.interfaces(ROOT) if ROOT else ["(all)"])
def test_same_verdicts(machine: Machine, mark: str, interface: str) -> None:
    if ROOT is None:
        pytest.skip(f"set {posix_suite.VARIABLE} to the directory of the Open POSIX test suite")
    if reason := posix_suite.why_not_confined():
        pytest.skip(reason)
    results = list(posix_suite.compare(ROOT, interface, machine, mark))
    differences = [result for result in results if result]
    print("\n".join(map(str, differences)))
    assert [str(one) for one in differences if one.reason is None] == []
