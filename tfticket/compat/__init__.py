"""TF-MOT's pruning on Keras 3: its names, its policies, and models that it pruned.

For code that comes from TF-MOT. `tfmot` has the names, `convert` carries a pruned
model over, and `old_h5` loads files of Keras 2 that Keras 3 refuses. Behind them are
`low_magnitude` (wrapping and stripping), `policies` (which layers to wrap),
`translated` (TF-MOT's schedules and structures) and `keras_file`, which `convert`
reads.
"""

from tfticket.compat import convert, old_h5, tfmot

__all__ = ["convert", "old_h5", "tfmot"]
