"""How a SavedModel stores sparse weights: as zeros, encoded, or as CSR matrices.

For `export.saved_model`. `formats` chooses the form and `packed` is the resource that
expands encoded weights when a model is loaded.
"""
