"""`Following`: what criteria ask for of a training, gathered while it runs."""

from collections.abc import Collection

import keras
import numpy as np

from tfticket.evidence import ChangeTracker
from tfticket.model_masks import get_pruned_weights

# Kinds of evidence that only a training gives.
FOLLOWED = ("initial", "change", "recent_change")


class Following:
    """Follows a training for the criteria that compare with or sum up its steps.

    Args:
        model: A wrapped model, with the weights that count as `initial`.
        needs: Kinds of evidence, of `tfticket.criteria.needs`; those that are not
            of a training are left out.
        decay: Of the moving average `recent_change`.
    """

    def __init__(self, model: keras.Model, needs: Collection[str], decay: float):
        self._initial = None
        if "initial" in needs:
            values = get_pruned_weights(model)
            self._initial = {name: np.array(value) for name, value in values.items()}
        decays = {"change": None, "recent_change": decay}
        self._trackers = [
            ChangeTracker(model, decays[kind]) for kind in needs if kind in decays
        ]

    def update(self) -> None:
        """After each execution of the training step."""
        for tracker in self._trackers:
            tracker.update()

    def evidence(self) -> dict[str, dict[str, np.ndarray]]:
        """Kind to name to array."""
        found = {tracker.kind: tracker.values() for tracker in self._trackers}
        if self._initial is not None:
            found["initial"] = self._initial
        return found

    def pruned(self) -> None:
        """After a pruning, whose zeros are no training."""
        for tracker in self._trackers:
            tracker.reset(keep=True)
