"""`Prune`: the layer wrapper that owns the masks and makes them act."""

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

import keras

from tfticket.common.arguments import check_bool, check_instance, check_list, optional
from tfticket.keras_models.copies import copy_state
from tfticket.keras_models.internals import clear_losses, entry_layer
from tfticket.keras_models.kernels import (
    MaskedWeight,
    apply_mask,
    prunable_weights,
    weights_named,
)
from tfticket.keras_models.masked_layer import MaskedLayer
from tfticket.keras_models.names import every_layer
from tfticket.pruning.follower import require_follower
from tfticket.pruning.masking import (
    constrain,
    copy_masked,
    masked_call,
    plain_layer,
    without_masking,
)
from tfticket.pruning.optimizer_care import care_for
from tfticket.pruning.straight_through import explore
from tfticket.sparsity import schedules, structures
from tfticket.sparsity.schedules import Schedule
from tfticket.sparsity.structures import Unstructured


class _SignatureOfTheLayer:
    """A method with the signature that its object names.

    Keras hands masks, `training` and shapes to a `call` that asks for them by name, and
    reads its signature (PEP 362) when a layer is made.
    """

    def __init__(self, function):
        self.function = function

    def __get__(self, wrapper, owner=None):
        if wrapper is None:
            return self.function
        bound = functools.partial(self.function, wrapper)
        bound.__signature__ = wrapper._signature
        return bound


@keras.saving.register_keras_serializable(package="tfticket")
class Prune(MaskedLayer, keras.layers.Wrapper):
    """Wraps a layer so that masked weights are and stay exactly 0.0.

    A masked weight is kept at zero in two ways. Its gradient is masked on the
    way back, so zero weight, zero optimizer slot and zero gradient stay zero in
    every optimizer that works weight by weight, and neither gradient clipping
    nor an exponential moving average sees the pruned part. A constraint, which
    every Keras optimizer applies after its update, masks once more, for the
    optimizers that mix the entries of a matrix (Muon). The forward pass is the
    wrapped layer's own: nothing is multiplied there. The
    average that an optimizer keeps with `use_ema` passes no constraint, so a wrapper
    has the optimizer of the model that trains mask it too; in a loop of your own with
    an optimizer of its own, call `tfticket.pruning.optimizer_care.care_for(optimizer)`
    before the first step.

    The wrapper takes the name of its layer, so `get_layer(name)` and losses
    that are keyed by the output's name go on working.

    Args:
        layer: The `keras.layers.Layer` to wrap, a composite one or a whole model
            too: every prunable weight inside gets a mask. It is used as it is: use
            `tfticket.prune` to wrap a copy.
        schedule: When and how far to prune this layer, as of `tfticket.schedules`;
            the callback `GradualPruning` follows it. `None`: as the callback says.
        structure: What is pruned together, as of `tfticket.structures`. `None`: as
            the callback says.
        weights: Names of the weights that get masks, "kernel" or "cell/kernel". `None`
            is every kernel; channels that go as a whole need masks on biases and
            normalizations too, which `tfticket.prune(model, structure=Channel())` sees
            to.
        keep_dense: Whether pruned weights keep their values behind the mask: the layer
            computes with 0.0 in their place, and their gradient goes on to the values,
            so that the weights can come back. For `tfticket.TopKTraining`.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        TypeError: If `schedule` is not a schedule or `structure` not a structure.
        ValueError: When built, if the layer has nothing to prune; when it trains with
            a schedule that no callback follows.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), tfticket.Prune(keras.layers.Dense(2))]
    ... )
    >>> bool(np.all(tfticket.get_masks(model)["dense/kernel"]))
    True
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        schedule: Schedule | None = None,
        structure: Unstructured | None = None,
        weights: Collection[str] | None = None,
        keep_dense: bool = False,
        **kwargs: Any,
    ):  # pragma: no mutate block (Keras reads its arguments)
        check_instance("layer", layer, keras.layers.Layer, "a keras.layers.Layer")
        weights = optional(check_list, "weights", weights, "a list of names")
        for name in weights or ():
            check_instance("weights", name, str, "a list of names")
        kwargs.setdefault("name", getattr(layer, "name", None))
        # The wrapped layer casts its own inputs and variables. The masking must
        # see variables in their stored dtype, whatever the compute dtype is.
        kwargs.setdefault("dtype", "float32")
        kwargs.setdefault("trainable", getattr(layer, "trainable", True))
        signature = inspect.signature(layer.call)
        self._passes_training = "training" in signature.parameters
        if not self._passes_training:
            # Asked for all the same, to know whether a schedule should be followed.
            training = inspect.Parameter("training", inspect.Parameter.KEYWORD_ONLY)
            parameters = [
                *signature.parameters.values(),
                training.replace(default=None),
            ]
            parameters.sort(key=lambda x: x.kind)
            signature = signature.replace(parameters=parameters)
        self._signature = signature
        super().__init__(layer, autocast=False, **kwargs)
        self.supports_masking = self.layer.supports_masking
        self.schedule = None if schedule is None else schedules.get(schedule)
        self.structure = None if structure is None else structures.get(structure)
        self.masked_names = None if weights is None else tuple(weights)
        self.keep_dense = check_bool("keep_dense", keep_dense)
        self.exploration: keras.Variable | None = None
        self.masks: list[keras.Variable] = []
        self._masked: tuple[MaskedWeight, ...] = ()

    def __call__(self, *args, **kwargs):
        if not self.layer.built:
            # A layer of several inputs is built from all of their shapes, which
            # Keras passes to a `build` that names each of them: not to ours.
            self.layer(*_symbolic(args), **_symbolic(kwargs))
        return super().__call__(*args, **kwargs)

    def build(self, input_shape=None):
        """Builds the wrapped layer, then an all-True mask for each weight to prune."""
        super().build(input_shape)
        if self.masked_names is None:
            prunable = prunable_weights(self.layer)
        else:
            prunable = weights_named(self.layer, self.masked_names)
        if not prunable:
            raise ValueError(
                f"Layer '{self.layer.name}' ({type(self.layer).__name__}) has no "
                "prunable weight. Leave it unwrapped, or give it a method "
                "get_prunable_weights()."
            )
        self.masks = [self._add_mask(weight, "mask") for weight in prunable]
        self._masked = tuple(
            MaskedWeight(
                **vars(weight),
                mask=mask,
                gradient_mask=self._add_mask(weight, "gradient_mask")
                if self.keep_dense and not weight.is_statistic
                else None,
            )
            for weight, mask in zip(prunable, self.masks, strict=True)
        )
        constrain(self._masked)
        if self.keep_dense:
            self.exploration = self.add_weight(
                name="exploration", shape=(), initializer="zeros", trainable=False
            )
            explore(self._masked, self.exploration)

    def _add_mask(self, weight, kind):
        return self.add_weight(
            name=f"{weight.name.replace('/', '_')}_{kind}",
            shape=weight.variable.shape,
            dtype="bool",
            initializer="ones",
            trainable=False,
        )

    def get_build_config(self):
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config):
        if not self.layer.built and config:
            self.layer.build_from_config(config["layer"])
        if self.layer.built:
            self.build()

    def inner_layer(self) -> keras.layers.Layer:
        return self.layer

    @property
    def pruned_weights(self) -> list[keras.Variable]:
        """The variables that carry masks, in the order of `masks`."""
        return [weight.variable for weight in self._masked]

    def masked_weights(self) -> list[MaskedWeight]:
        """The weights that carry masks, in the order of `masks`."""
        return list(self._masked)

    def plain(self) -> keras.layers.Layer:
        """A copy of the wrapped layer, without LoRA."""
        return plain_layer(self.layer)

    def twin(self, copy: Callable[[Any], Any]) -> "Prune":
        inner = without_masking(copy(self.layer))
        made = Prune(
            *(inner, self.schedule, self.structure, self.masked_names, self.keep_dense),
            name=self.name,
            trainable=self.trainable,
        )
        if inner.built:
            made.build()
        return made

    def copy_to(self, plain: keras.layers.Layer) -> None:
        """Gives a plain layer the values, masks applied, LoRA weights merged."""
        self._require_no_other_adapters()
        copy_masked(self, plain)

    def copy_from(self, plain: keras.layers.Layer) -> None:
        """Takes over the values of a plain layer; masks stay."""
        copy_state(plain, self.layer)

    def _require_no_other_adapters(self):
        ours = {id(weight.layer) for weight in self._masked}
        for path, layer in every_layer(self.layer):
            if getattr(layer, "lora_enabled", False) and id(layer) not in ours:
                raise ValueError(
                    f"Layer '{path}' in '{self.name}' has LoRA weights and no mask, so "
                    "they can't be merged. Merge them first, or include the layer."
                )

    @_SignatureOfTheLayer
    def call(self, *args, **kwargs):
        if kwargs.get("training"):
            require_follower(self)
            care_for(getattr(entry_layer(self), "optimizer", None))
        if not self._passes_training:
            kwargs.pop("training", None)
        outputs, losses = masked_call(self, self.layer, args, kwargs)
        # From now on they are ours; in an outer scope (JAX) they would count twice.
        clear_losses(self.layer)
        for loss in losses:
            self.add_loss(loss)
        return outputs

    def compute_output_shape(self, *args, **kwargs):
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        if not self._passes_training:
            kwargs.pop("training", None)
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, *args, **kwargs):
        return self.layer.compute_mask(*args, **kwargs)

    def get_config(self):
        config = super().get_config()
        if self.masked_names is not None:
            config["weights"] = list(self.masked_names)
        if self.keep_dense:
            config["keep_dense"] = True
        for name, value in (("schedule", self.schedule), ("structure", self.structure)):
            if value is not None:
                config[name] = keras.saving.serialize_keras_object(value)
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for name in ("schedule", "structure"):
            if config.get(name) is not None:
                config[name] = keras.saving.deserialize_keras_object(
                    config[name], custom_objects=custom_objects
                )
        return super().from_config(config, custom_objects=custom_objects)

    def apply_masks(self) -> None:
        """Sets every masked weight to 0.0."""
        for weight in self._masked:
            weight.variable.assign(apply_mask(weight.variable, weight.mask))


def _symbolic(arguments):
    """The arguments with placeholders for tensors, to build a layer with."""

    def placeholder(value):
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            dtype = keras.backend.standardize_dtype(value.dtype)
            return keras.KerasTensor(value.shape, dtype)
        return value

    return keras.tree.map_structure(placeholder, arguments)
