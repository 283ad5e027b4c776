"""Input files for tests and benchmarks: made from a seed when needed, never committed.

Every generator streams to a path, uses a few MB of memory whatever the size, and gives the same bytes for the
same arguments on every run.
"""
