"""Benchmarks: each prints a table; docs/benchmarks.md holds the last one."""
