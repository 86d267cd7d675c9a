"""`Ticket`: a mask, the weights to start from, and where they came from."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfticket.common.arguments import check_mapping
from tfticket.keras_models.names import is_graph, named_weights
from tfticket.keras_models.variables import State
from tfticket.pruning.masks import (
    ModelMasks,
    get_masks,
    masked_layers,
    set_masks,
)
from tfticket.pruning.prune_strip import plain_copy, prune_weights, wrap
from tfticket.sparsity.topk import density
from tfticket.tickets.ticket_file import read_ticket, write_ticket


@dataclasses.dataclass(frozen=True, eq=False)
class Ticket:
    """A subnetwork with its starting point (Frankle & Carbin, arXiv 1803.03635).

    Args:
        masks: Name of the weight ("layer/kernel") to boolean array; True is
            kept.
        weights: Every weight of the model (biases and BatchNorm statistics
            too) at the step that rewinding goes back to, by name.
        provenance: Where the ticket came from, JSON-serialisable: `config`
            (the plain model's), `seed`, `criterion`, `round`, `step`, `metrics`.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ... )
    >>> ticket = tfticket.Ticket.from_model(model)
    >>> ticket.density
    1.0
    """

    masks: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        # Whether the arrays fit is for the model to say, in `apply`.
        check_mapping("masks", self.masks, "names to masks")
        check_mapping("weights", self.weights, "names to arrays")
        check_mapping("provenance", self.provenance, "what to what")

    @property
    def density(self) -> float:
        """Fraction of the maskable weights that is kept, in [0, 1]."""
        return density(self.masks)

    @classmethod
    def from_model(cls, model: keras.Model, **provenance: Any) -> "Ticket":
        """The present masks and weights of a wrapped model as a ticket.

        Args:
            model: A model wrapped by `tfticket.prune`.
            **provenance: Added to the architecture's `config`.

        Raises:
            ValueError: If the model is not wrapped.
        """
        masks = get_masks(model)
        if not masks:
            raise ValueError(
                f"Model '{model.name}' has no masks. Wrap it first: "
                "model = tfticket.prune(model)"
            )
        weights = zero_masked(State(named_weights(model)).values, masks)
        return cls(masks, weights, {"config": plain_config(model), **provenance})

    @classmethod
    def from_popup(cls, model: keras.Model, **provenance: Any) -> "Ticket":
        """A supermask as a ticket: the edges in use and their weights, to train.

        The ticket fits `strip(model)`, and where no BatchNormalization lost its
        affine parameters also the model that `popup` was given.

        Args:
            model: A model with popup layers.
            **provenance: Added to the architecture's `config`.

        Raises:
            ValueError: If the model has no popup layers.

        Example:

        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> ticket = tfticket.Ticket.from_popup(tfticket.popup(model, density=0.25))
        >>> trainable = ticket.apply(model)
        """
        layers = masked_layers(model, settable=False)
        if not any(layer.chooses_masks for _, layer in layers):
            raise ValueError(
                f"Model '{model.name}' has no popup layers. Make it with "
                "tfticket.popup(model), or of layers such as tfticket.PopupDense."
            )
        plain = plain_copy(model)
        masks = get_masks(model)
        wrapped = prune_weights(plain, list(masks))
        set_masks(wrapped, masks)
        return cls.from_model(wrapped, **provenance)

    def with_weights(self, model: keras.Model) -> "Ticket":
        """The same masks, with the weights that a model has now: those it trained to.

        Args:
            model: A model of the ticket's architecture, wrapped or plain.

        Raises:
            ValueError: If names or shapes of the weights differ.
        """
        weights = State(named_weights(model)).values
        self._require_fit(weights)
        return dataclasses.replace(self, weights=zero_masked(weights, self.masks))

    def _require_fit(self, variables):
        for name in [*variables, *self.weights]:
            mine, theirs = self.weights.get(name), variables.get(name)
            if mine is None or theirs is None or mine.shape != tuple(theirs.shape):
                raise ValueError(
                    "The ticket does not fit the model: they first differ in layer "
                    f"'{name.rpartition('/')[0]}', weight '{name}'. Shape in the "
                    f"ticket: {'none' if mine is None else mine.shape}; in the model: "
                    f"{'none' if theirs is None else tuple(theirs.shape)}"
                )

    def apply(self, model: keras.Model) -> keras.Model:
        """Gives a model the ticket's weights and masks.

        Args:
            model: A model of the ticket's architecture. A wrapped one is
                changed in place; of a plain one a wrapped copy is made.

        Returns:
            The wrapped model, ready to compile and train.

        Raises:
            ValueError: If names or shapes of the weights differ, which names the
                first layer that differs; if masks don't fit, as for
                `tfticket.set_masks`; if weights are no numbers. The model is left as
                it was.
        """
        self._require_fit(named_weights(model))
        for name, value in self.weights.items():
            if value.dtype.kind in "OSU":  # assigned, they would fail halfway
                raise ValueError(
                    f"Weight '{name}' of the ticket must be an array of numbers. "
                    f"Received: dtype {value.dtype}"
                )
        if not any(masked_layers(model)):
            graph = is_graph(model)
            model = prune_weights(model, list(self.masks)) if graph else wrap(model)
        if missing := sorted(set(self.masks) - set(get_masks(model))):
            raise ValueError(
                "The ticket does not fit the model: they first differ in weight "
                f"'{missing[0]}', which the ticket masks and the model leaves dense."
            )
        everything = {name: np.ones_like(m) for name, m in get_masks(model).items()}
        found = ModelMasks.of(model)
        masks = found.checked({**everything, **self.masks})
        variables = named_weights(model)
        for name, value in self.weights.items():
            variables[name].assign(value)
        found.set_masks(masks)
        return model

    def save(self, path: str | os.PathLike) -> None:
        """Writes the ticket to one file, whole or not at all.

        The file is a NumPy `.npz`: masks as bits, weights as they are, the rest
        as JSON. Equal tickets give equal bytes.
        """
        write_ticket(path, self.masks, self.weights, self.provenance)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Ticket":
        """Reads what `save` wrote, and nothing else that the file may hold.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or is not a ticket; names the file.
        """
        return cls(*read_ticket(path))


def zero_masked(
    weights: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The weights by name, 0.0 where one has a mask that is False."""
    return {
        name: np.where(masks[name], value, 0).astype(value.dtype)
        if name in masks
        else value
        for name, value in weights.items()
    }


def plain_config(model: keras.Model) -> dict[str, Any]:
    """The architecture of a model without wrappers, as JSON-ready data."""
    plain = plain_copy(model)
    try:
        return json.loads(plain.to_json())
    except Exception as error:
        # Of a layer or a function that Keras can't write down. Nothing is made of this.
        return {
            "class_name": type(plain).__name__,
            "layers": {x.name: type(x).__name__ for x in plain.layers},
            "without_config": f"{type(error).__name__}: {str(error).splitlines()[0]}",
        }
