from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from cli_driver import Cli
from megalith import doctor

if TYPE_CHECKING:
    from megalith._core import UserfaultfdProbe

NEEDED = 1 << 5 | 1 << 10 | 1 << 12
FINE = {"available": True, "kernel_faults": True, "features": NEEDED, "needed": NEEDED, "error": None, "via": "syscall"}


def probe(**changes: Any) -> UserfaultfdProbe:
    return cast("UserfaultfdProbe", FINE | changes)


CHECKS = [
    (doctor.check_machine("x86_64"), "ok", None),
    (doctor.check_machine("aarch64"), "fail", "x86-64"),
    (doctor.check_kernel("5.19.0-1"), "ok", None),
    (doctor.check_kernel("7.0"), "ok", None),
    (doctor.check_kernel("6.1.0-37-amd64"), "ok", None),
    (doctor.check_kernel("5.10.0-33-amd64"), "fail", "apt install -t bullseye-backports linux-image-amd64"),
    (doctor.check_userfaultfd(probe(), device=True), "ok", None),
    (doctor.check_userfaultfd(probe(via="device"), device=True), "ok", None),
    (
        doctor.check_userfaultfd(probe(kernel_faults=False), device=False),
        "fail",
        "sysctl -w vm.unprivileged_userfaultfd=1",
    ),
    (
        doctor.check_userfaultfd(probe(available=False, error="EPERM"), device=True),
        "fail",
        "chmod 666 /dev/userfaultfd",
    ),
    (
        doctor.check_userfaultfd(probe(available=False, error="Function not implemented"), device=False),
        "fail",
        "CONFIG_USERFAULTFD=y",
    ),
    (doctor.check_userfaultfd(probe(features=NEEDED ^ 1 << 12), device=False), "fail", "install a newer kernel"),
    (doctor.check_seccomp("Name:\tx\nSeccomp:\t0\n"), "ok", None),
    (doctor.check_seccomp("Name:\tx\nSeccomp:\t2\n"), "warn", "seccomp=unconfined"),
    (doctor.check_files(20_000, 20_000), "ok", None),
    (doctor.check_files(-1, -1), "ok", None),
    (doctor.check_files(256, 4096), "warn", "ulimit -n 4096"),
    (doctor.check_maps(65_530), "ok", None),
    (doctor.check_maps(1000), "warn", "sysctl -w vm.max_map_count=262144"),
    (doctor.check_memory(8 << 30, None), "ok", None),
    (doctor.check_memory(8 << 30, 64 << 20), "warn", "raise the control group's limit"),
    (doctor.check_memory(64 << 20, None), "warn", "end what takes the memory"),
    (doctor.check_overcommit(0), "ok", None),
    (doctor.check_overcommit(2), "warn", "sysctl -w vm.overcommit_memory=0"),
    (doctor.check_swap(0), "ok", None),
    (doctor.check_swap(1 << 30), "ok", None),
    (doctor.check_space(None), "ok", None),
    (doctor.check_space("File too large"), "fail", "ulimit -f unlimited"),
    (doctor.check_execution(None), "ok", None),
    (doctor.check_execution("Permission denied"), "fail", "vm.memfd_noexec=0"),
]


@pytest.mark.parametrize(("check", "state", "mend"), CHECKS)
def test_what_is_wrong_comes_with_the_line_that_mends_it(check: doctor.Check, state: str, mend: str | None) -> None:
    assert check.state == state
    if mend is None:
        assert check.mend is None
    else:
        assert mend in (check.mend or "")
        assert "\n" not in (check.mend or "")


def test_a_missing_feature_is_named() -> None:
    assert "WP_HUGETLBFS_SHMEM" in doctor.check_userfaultfd(probe(features=NEEDED ^ 1 << 12), device=False).found


def test_doctor_exits_with_what_it_found(cli: Cli) -> None:
    bad = {"probe": {"available": False, "kernel_faults": False, "error": "Operation not permitted"}}
    done = cli("doctor", wish=bad)
    assert done.returncode == 1
    assert "fail  userfaultfd" in done.stdout
    done = cli("doctor", "--json", wish=bad)
    found = json.loads(done.stdout)
    assert (done.returncode, found["schema_version"], found["healthy"]) == (1, 1, False)
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert states["userfaultfd"] == "fail"
    assert len(states) == 12


def test_warnings_do_not_fail() -> None:
    assert doctor.healthy([doctor.Check("a", "ok", ""), doctor.Check("b", "warn", "", "x")])
    assert not doctor.healthy([doctor.Check("a", "fail", "", "x")])
