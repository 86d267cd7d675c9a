"""`Prune`: the layer wrapper that owns the masks and makes them act."""

import keras
from keras import ops

from tfticket.prunable import prunable_weights


@keras.saving.register_keras_serializable(package="tfticket")
class Prune(keras.layers.Wrapper):
    """Wraps a layer so that masked weights are and stay exactly 0.0.

    A masked weight is kept at zero in two ways. Its gradient is masked on the
    way back, so zero weight, zero optimizer slot and zero gradient stay zero in
    every optimizer that works weight by weight, and neither gradient clipping
    nor an exponential moving average sees the pruned part. A constraint, which
    every Keras optimizer applies after its update, masks once more, for the
    optimizers that mix the entries of a matrix (Muon). The forward pass is the
    wrapped layer's own: nothing is multiplied there. One
    gap is Keras's: with `use_ema`, the average that `fit` writes over the weights at
    its very end passes no constraint. It is zero where it always saw zeros; it is
    not with Muon, or where masks were set past `tfticket.set_masks` (by
    `load_weights` on a model that has trained). `strip` and tfticket's callbacks
    mask again.

    The wrapper takes the name of its layer, so `get_layer(name)` and losses
    that are keyed by the output's name go on working.

    Args:
        layer: The `keras.layers.Layer` to wrap. It is used as it is: use
            `tfticket.prune` to wrap a copy.
        **kwargs: Arguments of `keras.layers.Layer`, `name` for one.

    Raises:
        ValueError: When built, if the layer has nothing to prune.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), tfticket.Prune(keras.layers.Dense(2))]
    ... )
    >>> bool(np.all(tfticket.get_masks(model)["dense/kernel"]))
    True
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs):
        kwargs.setdefault("name", getattr(layer, "name", None))
        # The wrapped layer casts its own inputs and variables. The masking must
        # see variables in their stored dtype, whatever the compute dtype is.
        kwargs.setdefault("dtype", "float32")
        kwargs.setdefault("trainable", getattr(layer, "trainable", True))
        super().__init__(layer, autocast=False, **kwargs)
        self.supports_masking = self.layer.supports_masking
        self.masks: list[keras.Variable] = []
        self.pruned_weights: list[keras.Variable] = []

    def build(self, input_shape=None):
        """Builds the wrapped layer, then one all-True mask a prunable weight."""
        super().build(input_shape)
        self.pruned_weights = prunable_weights(self.layer)
        if not self.pruned_weights:
            raise ValueError(
                f"Layer '{self.layer.name}' ({type(self.layer).__name__}) has no "
                "prunable weight. Leave it unwrapped, or give it a method "
                "get_prunable_weights()."
            )
        self.masks = [
            self.add_weight(
                name=f"{weight.name}_mask",
                shape=weight.shape,
                dtype="bool",
                initializer="ones",
                trainable=False,
            )
            for weight in self.pruned_weights
        ]
        for weight, mask in zip(self.pruned_weights, self.masks, strict=True):
            weight.constraint = MaskConstraint(mask, weight.constraint)
            if weight.regularizer is not None:
                weight.regularizer = MaskedRegularizer(mask, weight.regularizer)

    def call(self, inputs, *args, **kwargs):
        # An inner scope hides the outer one (Keras's JAX trainer has one), so
        # every variable of the layer goes in with its present value.
        variables = {id(v): v for v in self.layer.variables}
        values = {k: ops.convert_to_tensor(v.value) for k, v in variables.items()}
        for weight, mask in zip(self.pruned_weights, self.masks, strict=True):
            values[id(weight)] = mask_gradient(values[id(weight)], mask)
        scope = keras.StatelessScope(
            [(variables[k], value) for k, value in values.items()],
            collect_losses=True,
        )
        before = {k: scope.get_current_value(v) for k, v in variables.items()}
        with scope:
            outputs = self.layer(inputs, *args, **kwargs)
        # What the layer updated (BatchNorm statistics, a seed's state) and added
        # as a loss would end with the scope: carry it out.
        for key, variable in variables.items():
            after = scope.get_current_value(variable)
            if after is not before[key]:
                variable.assign(after)
        for loss in scope.losses:
            self.add_loss(loss)
        return outputs

    def compute_output_shape(self, *args, **kwargs):
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, *args, **kwargs):
        return self.layer.compute_mask(*args, **kwargs)

    def apply_masks(self) -> None:
        """Sets every masked weight to 0.0."""
        for weight, mask in zip(self.pruned_weights, self.masks, strict=True):
            weight.assign(apply_mask(weight, mask))


class MaskConstraint(keras.constraints.Constraint):
    """Zeroes what a mask prunes, around the constraint a user had set.

    The mask goes first, so that the user's constraint (a unit norm, say) sees
    the weights that are there, and last, so that zeros are exact whatever it
    does to them.

    Args:
        mask: Boolean variable in the shape of the weight.
        constraint: The weight's own constraint, or `None`.
    """

    def __init__(self, mask: keras.Variable, constraint=None):
        self.mask = mask
        self.constraint = constraint

    def __call__(self, weight):
        weight = apply_mask(weight, self.mask)
        if self.constraint is None:
            return weight
        return apply_mask(self.constraint(weight), self.mask)


class MaskedRegularizer(keras.regularizers.Regularizer):
    """A weight's own regularizer, whose gradient is masked as the layer's is.

    Args:
        mask: Boolean variable in the shape of the weight.
        regularizer: The weight's own, a function of it.
    """

    def __init__(self, mask: keras.Variable, regularizer):
        self.mask = mask
        self.regularizer = regularizer

    def __call__(self, weight):
        return self.regularizer(mask_gradient(ops.convert_to_tensor(weight), self.mask))


def apply_mask(value, mask):
    """`value` where the mask is True, else exactly 0.0, NaN included."""
    value = ops.convert_to_tensor(value)
    return ops.where(mask, value, ops.zeros_like(value))


def mask_gradient(value, mask):
    """The value unchanged; on the way back its gradient is masked."""
    mask = ops.convert_to_tensor(mask)

    @ops.custom_gradient
    def identity(value):
        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return apply_mask(upstream, mask)

        return value, gradient

    return identity(value)
