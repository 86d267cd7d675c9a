"""TF-MOT's pruning on Keras 3: its names, its policies, and models that it pruned.

For code that comes from TF-MOT. `tfmot` has the names and `convert` carries a pruned
model over. Behind them are `low_magnitude` (wrapping and stripping), `policies` (which
layers to wrap) and `translated` (schedules and structures as TF-MOT counts them).
"""

from tfticket.compat import convert, tfmot

__all__ = ["convert", "tfmot"]
