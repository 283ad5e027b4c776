"""Runs a command and writes its peak memory: `python -I -S meter.py OUT COMMAND…`.

A process of its own, because the kernel carries the largest resident set over exec: a command started by
pytest itself would be charged with pytest's memory. This interpreter's own (some 10 MB) is the floor instead.
"""

import json
import os
import sys


def main() -> None:
    """Runs the command, writes what wait4(2) says to OUT, and ends as the command ended."""
    out, *command = sys.argv[1:]
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    with open(out, "w", encoding="ascii") as file:
        json.dump({"peak_bytes": usage.ru_maxrss * 1024, "cpu_seconds": usage.ru_utime + usage.ru_stime}, file)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
