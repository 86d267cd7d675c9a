"""How masks act on a layer: on the way back, after an optimizer's update, in losses."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import ops

from tfticket.keras_models.copies import copy_by_name, copy_state
from tfticket.keras_models.internals import value_is_there
from tfticket.keras_models.kernels import (
    MaskedWeight,
    apply_mask,
    effective_value,
    has_adapter,
)
from tfticket.keras_models.names import every_layer, weights_by_path
from tfticket.keras_models.twins import copy_layer, live_config


def constrain(weights: Iterable[MaskedWeight]) -> None:
    """Has masks act on weights after each update, and on what regularizes them.

    Args:
        weights: The weights, their variables not constrained by a mask yet.
    """
    for weight in weights:
        variable, mask = weight.variable, weight.mask
        if weight.keeps_dense or (not variable.trainable and weight.is_statistic):
            continue  # its values are to stay, or no optimizer sees it
        variable.constraint = MaskConstraint(mask, variable.constraint)
        if variable.regularizer is not None:
            variable.regularizer = MaskedRegularizer(mask, variable.regularizer)


def masked_call(
    owner: Any, call: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Any, list[Any]]:
    """Calls a layer so that gradients of its masked weights are masked.

    An inner scope hides the outer one (Keras's JAX trainer has one), so every variable
    of the layer goes in with its present value. What the layer updates meanwhile
    (BatchNorm statistics, the state of a seed) is carried out of the scope.

    Args:
        owner: The `MaskedLayer` whose `masked_weights()` are masked.
        call: Function to call: the layer itself, or its `call`.
        args: Arguments of it.
        kwargs: Keyword arguments of it.

    Returns:
        The outputs, and the losses that were added inside.

    Raises:
        ValueError: If the layer has other weights than when it was masked.
    """
    layer = owner.inner_layer()
    masked = owner.masked_weights()
    variables = {id(v): v for v in (*layer.variables, *_states(layer))}
    values = {k: ops.convert_to_tensor(v.value) for k, v in variables.items()}
    if any(id(weight.variable) not in variables for weight in masked):
        raise ValueError(
            f"Layer '{layer.name}' has other weights than when it was wrapped: was "
            "it quantized since? Call tfticket.strip(model), then quantize that."
        )
    adapted = []
    for weight in masked:
        mask = weight.mask
        if isinstance(weight.variable.constraint, MaskConstraint):
            weight.variable.constraint.see(mask)
        value = values[id(weight.variable)]
        if has_adapter(weight):
            # What the layer would add to its kernel is added here, where the
            # sum can be masked.
            value = effective_value(weight)
            if not weight.keeps_dense:
                value = apply_mask(value, mask)
            adapted.append(weight.layer)
        if weight.keeps_dense:
            value = mask_gradient(value, weight.gradient_mask, forward=mask)
        elif not weight.is_statistic:
            value = mask_gradient(value, mask)
        values[id(weight.variable)] = value
    scope = keras.StatelessScope(
        [(variables[k], value) for k, value in values.items()],
        collect_losses=True,
    )
    before = {k: scope.get_current_value(v) for k, v in variables.items()}
    with scope, _adapters_off(adapted):
        outputs = call(*args, **kwargs)
    masks = {id(x.variable): x.mask for x in masked if not x.keeps_dense}
    for key, variable in variables.items():
        after = scope.get_current_value(variable)
        if after is not before[key]:
            mask = masks.get(key)
            variable.assign(after if mask is None else apply_mask(after, mask))
    return outputs, list(scope.losses)


def plain_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A copy of a layer without what masks put on its weights, and without LoRA.

    Args:
        layer: The layer that a masked one holds.
    """
    if not getattr(layer, "lora_enabled", False):
        return without_masking(copy_layer(layer))
    config = live_config(layer)
    for name in ("lora_rank", "lora_alpha"):
        config.pop(name, None)
    return layer.__class__.from_config(config)


def copy_masked(owner: Any, plain: keras.layers.Layer) -> None:
    """Gives a plain layer the values of a masked one, masks applied, LoRA merged.

    Args:
        owner: The `MaskedLayer`.
        plain: A built layer of the kind inside it.
    """
    layer, masked = owner.inner_layer(), owner.masked_weights()
    merged = {weight.name for weight in masked if has_adapter(weight)}
    if not merged:
        copy_state(layer, plain)
    values = {x.name: apply_mask(x.value(), x.mask) for x in masked}
    # A kernel that LoRA froze is free again once merged.
    copy_by_name(values, weights_by_path(layer), plain, freed=merged)


def _states(layer):
    """What stateful recurrent layers keep beside their weights."""
    for _, part in every_layer(layer):
        for state in keras.tree.flatten(getattr(part, "states", None)):
            if isinstance(state, keras.Variable):
                yield state


class MaskConstraint(keras.constraints.Constraint):
    """Zeroes what a mask prunes, around the constraint a user had set.

    The mask goes first, so that the user's constraint (a unit norm, say) sees
    the weights that are there, and last, so that zeros are exact whatever it
    does to them.

    Args:
        mask: Boolean variable in the shape of the weight.
        constraint: The weight's own constraint, or `None`.
    """

    def __init__(self, mask: keras.Variable, constraint: Any = None):
        self.mask = mask
        self.constraint = constraint
        self._seen = None

    def see(self, mask: keras.Variable) -> None:
        """Takes note of the mask that the forward pass of a step has.

        Keras's JAX trainer hands masks to the model and not to the optimizer, whose
        constraints find the variable empty.
        """
        if keras.backend.backend() == "jax":
            self._seen = ops.convert_to_tensor(mask)

    def __call__(self, weight):
        return self._applied(weight, self.constraint)

    def mask_value(self, value):
        """What the mask leaves of a value in the weight's shape."""
        return self._applied(value, None)

    def _applied(self, weight, constraint):
        if self._seen is not None:
            return self._as_seen(weight, constraint)
        return self._masked(weight, self.mask, constraint)

    def _as_seen(self, weight, constraint):
        import jax

        here = value_is_there(self.mask)
        if here and not isinstance(self._seen, jax.core.Tracer):
            return self._masked(weight, self.mask, constraint)
        try:
            return self._masked(weight, self._seen, constraint)
        except jax.errors.UnexpectedTracerError:
            # Of a step traced before, or of an inner function (`jax.checkpoint`).
            self._seen = None
        if here:
            return self._masked(weight, self.mask, constraint)
        # Zero weights, slots and gradients are still zero.
        weight = ops.convert_to_tensor(weight)
        return weight if constraint is None else constraint(weight)

    @staticmethod
    def _masked(weight, mask, constraint):
        weight = apply_mask(weight, mask)
        if constraint is None:
            return weight
        return apply_mask(constraint(weight), mask)


def without_masking(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer, its variables with the constraints that they had without masks."""
    for variable in layer.weights:
        if isinstance(getattr(variable, "constraint", None), MaskConstraint):
            variable.constraint = variable.constraint.constraint
        if isinstance(getattr(variable, "regularizer", None), MaskedRegularizer):
            variable.regularizer = variable.regularizer.regularizer
    return layer


class MaskedRegularizer(keras.regularizers.Regularizer):
    """A weight's own regularizer, whose gradient is masked as the layer's is.

    Args:
        mask: Boolean variable in the shape of the weight.
        regularizer: The weight's own, a function of it.
    """

    def __init__(self, mask: keras.Variable, regularizer: Any):
        self.mask = mask
        self.regularizer = regularizer

    def __call__(self, weight):
        return self.regularizer(mask_gradient(ops.convert_to_tensor(weight), self.mask))


def mask_gradient(value, mask, forward=None):
    """The value unchanged, or masked by `forward`; on the way back its gradient is."""
    # The value that holds now: on TensorFlow a variable would be read on the way back,
    # when a `StatelessScope` that holds another mask is over.
    mask = _present(mask)
    kept = None if forward is None else _present(forward)

    @ops.custom_gradient
    def identity(value):
        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return apply_mask(upstream, mask)

        return value if kept is None else apply_mask(value, kept), gradient

    return identity(value)


def _present(mask):
    """A mask as a tensor of the value that holds now."""
    return ops.convert_to_tensor(
        mask.value if isinstance(mask, keras.Variable) else mask
    )


@contextlib.contextmanager
def _adapters_off(layers):
    """Makes layers compute with their kernel alone, LoRA left out."""
    for layer in layers:
        layer.lora_enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.lora_enabled = True
