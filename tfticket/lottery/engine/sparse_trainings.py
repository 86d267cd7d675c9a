"""Controls that need a callback: those that find masks, and frozen pruned weights."""

from collections.abc import Mapping

import keras
import numpy as np

from tfticket.lottery.engine.branches import Branch
from tfticket.pruning.dynamic import DynamicSparseTraining
from tfticket.pruning.gradual import GradualPruning
from tfticket.pruning.masks import ModelMasks
from tfticket.pruning.topk_training import TopKTraining
from tfticket.sparsity.schedules import PolynomialDecay

# Masks change this often in a training, and up to this part of it.
_UPDATES, _END = 100, 0.75


def callback_for(
    branch: Branch,
    density: float,
    iterations: int,
    data: tuple[np.ndarray, np.ndarray],
    seed: int,
) -> keras.callbacks.Callback:
    """What trains a dense start down to a density, shared out by ERK.

    Args:
        branch: One that `Branch.finds_masks`.
        density: Fraction of the masked weights to keep.
        iterations: Steps of the training.
        data: Images and labels that RigL's gradients are taken over.
        seed: Seed of what is drawn.
    """
    sparsity, kind = 1 - density, branch.kind
    end = max(1, int(_END * iterations))
    every = max(1, iterations // _UPDATES)
    if kind == "gradual":
        schedule = PolynomialDecay(0.0, sparsity, 0, end, frequency=every)
        return GradualPruning(schedule, scope="erk")
    if kind == "ste":
        return TopKTraining(sparsity, "ste", end_step=end, frequency=every, scope="erk")
    return DynamicSparseTraining(
        sparsity,
        kind,
        end_step=end,
        frequency=every,
        scope="erk",
        data=data if kind == "rigl" else None,
        seed=seed,
    )


class FreezePruned(keras.callbacks.Callback):
    """Trains what masks keep, and holds the other weights where they are.

    Args:
        masks: Name to boolean array, for a model of `prune(..., keep_dense=True)`.
    """

    def __init__(self, masks: Mapping[str, np.ndarray]):
        super().__init__()
        self._masks = masks

    def on_train_begin(self, logs=None):
        ModelMasks(self.model).set_masks({}, gradient_masks=self._masks)
