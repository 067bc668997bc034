"""Benchmarks: each compares the agent, in one interleaved run, with a loop written by hand.

Only ratios are bounds: milliseconds belong to the machine and to what else it does. `scripts/bench_*` run them;
each prints a table (or JSON with --json), says whether its bounds are met and exits 0 or 1.
"""
