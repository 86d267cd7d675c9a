"""The page of `benchmarks/dynamic.py`, and its picture."""

COLUMNS = ("method", "sparsity", "seed", "accuracy", "flops", "seconds")
