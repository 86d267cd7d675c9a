"""`FlopsMeter`: the operations that a sparse training takes, counted as it goes."""

import functools
import math
from typing import NamedTuple

import keras
import numpy as np

from tfticket.keras_models.calls import UNKNOWN, layer_calls
from tfticket.keras_models.names import named_weights, student_of
from tfticket.pruning.masks import ModelMasks


class TrainingFlops(NamedTuple):
    """Operations of the steps of a `fit`, two for each product with a weight.

    A step takes three passes, forward, backward to the inputs and backward to the
    weights, as in RigL's paper (arXiv 1911.11134): the first two with the weights that
    are kept, the last one for those that get a gradient. Products without a weight
    (inside attention) are counted in full, and layers without masks whose operations
    are not known are left out. Fewer operations are not faster on every machine.

    Attributes:
        flops: Operations, those of gradients beside the steps included.
        dense: Operations if nothing was pruned, of the steps alone.
        relative: `flops / dense`.
    """

    flops: int
    dense: int

    @property
    def relative(self) -> float:
        """The operations as a fraction of those of a dense training."""
        return self.flops / self.dense if self.dense else 0.0


class FlopsMeter:
    """Adds up how many weights take part in the steps of one `fit`.

    Counting is cheap; what the counts come to in operations is found when it is asked.

    Args:
        model: A wrapped model, or the `Distiller` of one, whose student counts.
        masked: Its masks.
        step: The first step of the fit.
    """

    def __init__(self, model: keras.Model, masked: ModelMasks, step: int):
        self._model, self._masked = student_of(model), masked
        self._first = self._step = step
        self._counts: tuple[dict[str, int], dict[str, int]] | None = None
        # Name to the sum of kept weights over steps, and of those with a gradient.
        self._forward = dict.fromkeys(masked.weights, 0)
        self._backward = dict.fromkeys(masked.weights, 0)
        self._gradients: list[tuple[int, dict[str, int]]] = []

    def up_to(self, step: int) -> None:
        """Counts the steps before this one, with the masks as they are since the last.

        Args:
            step: The step that comes next, by the optimizer's count.
        """
        steps = max(0, step - self._step)
        self._step = max(step, self._step)
        if not steps:
            return
        forward, backward = self._counted()
        for name in self._forward:
            self._forward[name] += steps * forward[name]
            self._backward[name] += steps * backward[name]

    def _counted(self):
        if self._counts is None:
            masks, gradients = self._masked.masks(), self._masked.gradient_masks()
            forward = {k: int(np.count_nonzero(m)) for k, m in masks.items()}
            backward = {k: int(np.count_nonzero(m)) for k, m in gradients.items()}
            self._counts = forward, forward | backward
        return self._counts

    def changed(self) -> None:
        """Takes note that masks have changed."""
        self._counts = None

    def took_gradient(self, samples: int) -> None:
        """Counts a dense gradient, taken with the masks as they are.

        Args:
            samples: Of how many samples.
        """
        if samples:
            self._gradients.append((samples, self._counted()[0]))

    def relative(self) -> float | None:
        """The operations of all steps so far, of dense ones; `None` if not known."""
        try:
            steps = self._of_steps()
        except ValueError:
            return None
        return steps.relative if steps.dense else None

    def total(self, batch_size: int) -> TrainingFlops:
        """The operations of the steps counted so far.

        Args:
            batch_size: Samples in a step.

        Raises:
            ValueError: If it is not known how often a layer uses its weights.
        """
        of, others = self._operations()
        whole = self._sizes
        steps = self._of_steps()
        gradients = sum(
            samples * (2 * (2 * of(kept) + of(whole)) + 3 * others)
            for samples, kept in self._gradients
        )
        return TrainingFlops(
            steps.flops * batch_size + gradients, steps.dense * batch_size
        )

    def _of_steps(self):
        """The operations of the steps with one sample each."""
        of, others = self._operations()
        beside = 3 * others * (self._step - self._first)
        done = 2 * (2 * of(self._forward) + of(self._backward)) + beside
        dense = 6 * of(self._sizes) * (self._step - self._first) + beside
        return TrainingFlops(done, dense)

    def _operations(self):
        """What weights counted by name come to, and what a pass takes beside them."""
        uses, others = self._uses
        return lambda counts: sum(uses[k] * n for k, n in counts.items()), others

    @functools.cached_property
    def _sizes(self):
        weights = self._masked.weights
        return {k: math.prod(w.mask.shape) for k, w in weights.items()}

    @functools.cached_property
    def _uses(self):
        """Name to uses of a masked weight, and operations of a pass beside them."""
        calls = layer_calls(self._model)
        masked = {id(w.variable) for w in self._masked.weights.values()}
        found = {
            name: calls.uses.get(id(w.variable), UNKNOWN if w.is_kernel else 0)
            for name, w in self._masked.weights.items()
        }
        beside = list(calls.products.values())
        for variable in named_weights(self._model).values():
            uses = calls.uses.get(id(variable), 0)
            if id(variable) not in masked and uses:
                size = 2 * math.prod(variable.shape)
                beside.append(uses if isinstance(uses, str) else uses * size)
        every = (*found.values(), *beside)
        why = calls.failure or next((x for x in every if isinstance(x, str)), "")
        if why:
            raise ValueError(
                f"The operations of model '{self._model.name}' are not known: {why}. "
                "tfticket.summary(model) says of which layers."
            )
        return found, sum(beside)
