"""Histories of operations on shared words, and a checker that says whether memory was one memory.

`history.c` runs threads that load, store, swap, add and compare-and-swap a few words, and logs each operation with the
time before and after it; `checker.py` looks for an order of them that a single memory could have had
(linearizability).
"""
