"""Faults at random moments on real agents: a seed makes a plan, a plan is played, and every ending is judged.

```text
plan.py      seed → hosts, rounds; each round a program, a mode and a schedule of faults        (pure)
programs.py  programs whose right result is known from a native run
arena.py     hosts in namespaces on a small disk, with proxies between their agents
proxy.py     the proxy: bytes late, slow, broken or harmed
faults.py    makes the faults of a schedule happen, and undoes them
verdict.py   how a round may end, given what was really done to it                              (pure)
remains.py   what nobody may leave behind; what everybody was doing when it hung
play.py      one plan, round after round
tally.py     what has been counted over many plans
```

`python -m chaos --seconds 60 --seed 7` from `tests/`; docs/reliability.md says more.
"""
