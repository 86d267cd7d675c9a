"""Numbers for `format="auto"`, which `benchmarks/export.py --table` writes.

Ratios are to the dense SavedModel, for an MLP 784-2048-2048-10 with random masks.
"""

import json
import pathlib

_TABLE = json.loads(pathlib.Path(__file__).with_suffix(".json").read_text())

CSR: dict[str, float] = _TABLE["csr"]
"""A Dense kernel with so many zeros and values is computed on sparse; batches of up to
`few_rows` rows by `SparseTensorDenseMatMul`, larger ones by `SparseMatrixMatMul`."""

CHOICES: list[dict] = _TABLE["choices"]
"""From the top, the first whose conditions hold: `min_sparsity`, of all weights of two
dimensions or more; `min_csr_share`, the part of those in layers that `CSR` takes."""
