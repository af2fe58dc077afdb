"""Benchmarks against a neutral load and the kernel's limit; see benchmarks/README.md for the method."""
