"""The papers' claims, held against a run."""
