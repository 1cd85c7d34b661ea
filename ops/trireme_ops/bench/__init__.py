"""Benchmarks of the serving path: everything in one run, on one machine, reported as ratios."""
