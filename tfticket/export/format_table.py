"""What `format="auto"` chooses by: measured numbers, kept apart from the code.

Ratios are to the dense SavedModel, on one core with AVX-512 by TensorFlow 2.21, for
an MLP 784-2048-2048-10 with random masks.
"""

CSR = {"min_sparsity": 0.9, "min_weights": 200_000, "few_rows": 8}
"""A Dense kernel with so many zeros and values is computed on sparse; batches of up to
`few_rows` rows by `SparseTensorDenseMatMul`, larger ones by `SparseMatrixMatMul`."""

CHOICES = [
    {
        "format": "csr",
        "min_sparsity": 0.95,
        "min_csr_share": 0.9,
        "because": "measured at 95 %: 0.9x dense's time at batch 1, 0.6x at batch 64",
    },
    {
        "format": "encoded",
        "min_sparsity": 0.3,
        "min_csr_share": 0.0,
        "because": "fewer bytes, the same time once loaded",
    },
    {
        "format": "dense",
        "min_sparsity": 0.0,
        "min_csr_share": 0.0,
        "because": "too few zeros to save bytes or time",
    },
]
"""From the top, the first whose conditions hold: `min_sparsity`, of all weights of two
dimensions or more; `min_csr_share`, the part of those in layers that `CSR` takes."""
