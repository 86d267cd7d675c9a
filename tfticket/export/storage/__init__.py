"""How a SavedModel stores sparse weights: dense, encoded, csr."""
