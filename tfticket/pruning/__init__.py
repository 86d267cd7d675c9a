"""Masks on a Keras model: the wrapper, `prune`, `strip`, and all that cuts masks."""
