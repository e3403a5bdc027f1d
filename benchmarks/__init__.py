"""Benchmarks of the steps against a reference implementation and against the limit; see bench.py."""
