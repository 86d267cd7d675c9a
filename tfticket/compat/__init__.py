"""TF-MOT's pruning on Keras 3, for those who come from it.

`tfmot` has the names of TF-MOT's pruning API, and `convert` carries a model that TF-MOT
pruned over to Keras 3. Behind them are `low_magnitude` (wrapping and stripping),
`policies` (which layers of a model to wrap) and `translated` (schedules, blocks and
m by n as TF-MOT counts them).
"""

from tfticket.compat import convert, tfmot

__all__ = ["convert", "tfmot"]
