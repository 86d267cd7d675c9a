"""Popup layers: frozen random weights, trained scores (edge-popup, 1911.13299)."""

import inspect
import math
from typing import Any

import keras
from keras import ops

from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_density,
    check_integer,
    check_number,
    optional,
)
from tfticket.edge_popup.keras_objects import (
    check_weight_initializer,
    keras_object,
)
from tfticket.edge_popup.topk_in_graph import top_mask
from tfticket.keras_models.kernels import MaskedWeight, prunable_weights
from tfticket.keras_models.masked_layer import MaskedLayer
from tfticket.keras_models.twins import live_config
from tfticket.keras_models.variables import host_copy
from tfticket.sparsity.topk import kept_count


@keras.saving.register_keras_serializable(package="tfticket")
class SignedConstant(keras.initializers.Initializer):
    """Plus or minus one constant, each with probability a half.

    Args:
        value: The constant.
        seed: Integer; `None` draws one from Keras's global seed.

    Example:

    >>> values = tfticket.edge_popup.layers.SignedConstant(0.5)((3, 2))
    >>> bool(np.all(np.abs(values) == 0.5))
    True
    """

    def __init__(self, value: float = 1.0, seed: int | None = None):
        self.value = check_number("value", value, above=0)
        seed = optional(check_integer, "seed", seed, 0)
        self._random = keras.initializers.RandomUniform(-1.0, 1.0, seed)
        self.seed = self._random.seed

    def __call__(self, shape, dtype=None):
        uniform = self._random(shape, dtype)
        value = ops.cast(self.value, uniform.dtype)
        return ops.where(uniform < 0, -value, value)

    def get_config(self):
        return {"value": self.value, "seed": self.seed}


_register = keras.saving.register_keras_serializable(package="tfticket")
POPUP_ARGUMENTS = (
    "density",
    "score_initializer",
    "weight_initializer",
    "scale_fan",
    "score_scope",
    "score_regularizer",
    "rescale",
    "binarize",
)


class Popup(MaskedLayer):
    """What popup layers share; goes before the Keras layer it turns into one.

    The forward pass uses the `density` fraction of the kernel's edges with the
    highest absolute scores, exactly `round(density * n)` of them, ties by index.
    The kernel is frozen, a bias is zero and frozen; only scores are trained. On
    the way back selection is passed straight through (Ramanujan et al. 2020, arXiv
    1911.13299): every score s, of a used edge or not, gets the gradient
    `dL/d(effective weight) * weight * sign(s)`, the last factor because edges
    compete by absolute score.

    Args:
        *args: Arguments of the Keras layer. Its `use_bias` is `False` by default.
        density: Fraction of the edges kept, in (0, 1].
        score_initializer: Keras initializer of the scores; `None` is the paper's,
            uniform over ±1/sqrt(fan_in).
        weight_initializer: `"signed_constant"` (±sqrt(2/fan_in), the paper's best),
            `"kaiming_normal"` (standard deviation sqrt(2/fan_in)), or any Keras
            initializer. In place of the layer's own `kernel_initializer`.
        scale_fan: Whether those two are scaled by sqrt(1/density), as fewer edges
            feed a unit.
        score_scope: `"layerwise"`, or `"global"`: edges of all layers compete, in
            a model made by `tfticket.popup`.
        score_regularizer: Keras regularizer of the scores; `L2(d / 2)` is what
            papers call a weight decay of d.
        rescale: Whether kept weights are multiplied by n / kept (dynamic rescaling
            of Zhou et al. 2019, arXiv 1905.01067).
        binarize: Whether kept weights are replaced by their sign times their mean
            magnitude (multi-prize tickets, Diffenderfer & Kailkhura 2021, arXiv
            2103.09377).
        **kwargs: Arguments of the Keras layer.

    Raises:
        ValueError: If `density` is outside (0, 1] or, when built, keeps no edge;
            if an argument is unknown; if the frozen kernel was made trainable.
        TypeError: If the kernel's initializer, regularizer or constraint is given.
    """

    built: Any
    kernel: Any
    bias: Any
    name: Any
    _plain_class: type[keras.layers.Layer]
    # What the Keras layer is told of a kernel, and these are not.
    _kernel_arguments = (
        "kernel_initializer",
        "kernel_regularizer",
        "kernel_constraint",
    )

    def __init__(
        self,
        *args: Any,
        density: float = 0.5,
        score_initializer: Any = None,
        weight_initializer: Any = "signed_constant",
        scale_fan: bool = False,
        score_scope: str = "layerwise",
        score_regularizer: Any = None,
        rescale: bool = False,
        binarize: bool = False,
        **kwargs: Any,
    ):
        for name in self._kernel_arguments:
            if kwargs.get(name) is not None:
                raise TypeError(
                    f"The kernel of {type(self).__name__} is frozen: it takes "
                    f"weight_initializer and score_regularizer, not {name}. "
                    f"Received: {name}={kwargs[name]!r}"
                )
        density = check_density("density", density)
        check_choice("score_scope", score_scope, ("layerwise", "global"))
        for flag, value in (
            ("scale_fan", scale_fan),
            ("rescale", rescale),
            ("binarize", binarize),
        ):
            check_bool(flag, value)
        weight_initializer = check_weight_initializer(weight_initializer)
        if "use_bias" in inspect.signature(self._plain_class).parameters:
            kwargs.setdefault("use_bias", False)
        super().__init__(*args, **kwargs)
        self.density = density
        self.score_initializer = optional(
            keras_object, "score_initializer", score_initializer
        )
        self.weight_initializer = weight_initializer
        self.scale_fan = scale_fan
        self.score_scope = score_scope
        self.score_regularizer = optional(
            keras_object, "score_regularizer", score_regularizer
        )
        self.rescale = rescale
        self.binarize = binarize
        self._global_mask = None

    def add_weight(self, *args: Any, name: Any = None, **kwargs: Any) -> Any:
        """As Keras's, but kernel and bias are made frozen.

        What is made trainable, `trainable = True` on a model would thaw later.
        """
        if name in ("kernel", "bias"):
            kwargs["trainable"] = False
        return super().add_weight(*args, name=name, **kwargs)  # type: ignore[misc]

    def build(self, input_shape: Any) -> None:
        """Builds the Keras layer, sets frozen weights, and gives the kernel scores."""
        super().build(input_shape)  # type: ignore[misc]
        if not isinstance(getattr(self, "kernel", None), keras.Variable):
            raise TypeError(
                f"Popup layer '{self.name}' has no kernel that its scores could choose "
                f"from: {self._plain_class.__name__} made none."
            )
        kernel = self.kernel
        shape = tuple(kernel.shape)
        size, fan_in = math.prod(shape), self._fan_in(shape)
        kept = kept_count(size, self.density)
        kernel.assign(self._initializer(fan_in)(shape, dtype=kernel.dtype))
        if self.bias is not None:
            self.bias.assign(ops.zeros(self.bias.shape, self.bias.dtype))
        limit = 1 / math.sqrt(fan_in)
        self.scores = self._add(
            "scores",
            shape,
            self.score_initializer or keras.initializers.RandomUniform(-limit, limit),
            regularizer=self.score_regularizer,
        )
        self.kept = self._add(
            "kept",
            (),
            keras.initializers.Constant(kept),
            dtype="int32",
            trainable=False,
        )
        # That of the step before, where the next one begins to search; a mask never
        # depends on it.
        self.threshold = self._add("threshold", (), "zeros", trainable=False)

    def _add(self, name, shape, initializer, dtype="float32", **kwargs):
        # Not cast: in half precision too many scores would tie.
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            dtype=dtype,
            autocast=False,
            **kwargs,
        )

    def call(self, inputs, *args, **kwargs):
        if self.kernel.trainable:
            raise ValueError(
                f"The kernel of popup layer '{self.name}' must stay frozen: only its "
                "scores are trained. Received: kernel.trainable=True"
            )
        # An inner scope hides the outer one (Keras's JAX trainer has one), so the
        # bias goes in with its present value.
        if self.score_scope == "layerwise":
            mask, threshold = self._choose()
            self.threshold.assign(threshold)
        else:
            mask = self.mask()
        values = [(self.kernel, self.effective_kernel(mask))]
        if self.bias is not None:
            values.append((self.bias, ops.convert_to_tensor(self.bias.value)))
        with keras.StatelessScope(values):
            return super().call(inputs, *args, **kwargs)

    def mask(self) -> Any:
        """Boolean tensor in the shape of the kernel: the edges in use."""
        if self.score_scope == "layerwise":
            return self._choose()[0]
        if self._global_mask is None:
            raise ValueError(
                f"Popup layer '{self.name}' has score_scope='global' and can't choose "
                "edges by itself. Use it in a model made by tfticket.popup(model, "
                "score_scope='global')."
            )
        return self._global_mask

    def _choose(self):
        scores = ops.abs(ops.stop_gradient(self.scores))
        return top_mask(scores, self.kept, self.threshold)

    def effective_kernel(self, mask: Any = None) -> Any:
        """The kernel in the compute dtype as the forward pass uses it."""
        mask = self.mask() if mask is None else mask
        # TensorFlow watches the variable itself, frozen or not.
        weights = ops.stop_gradient(self.kernel.value)
        if self.binarize or self.rescale:
            kept = ops.cast(self.kept, weights.dtype)
            if self.score_scope == "global":
                kept = ops.sum(ops.cast(mask, weights.dtype))
        if self.binarize:
            magnitude = ops.sum(ops.where(mask, ops.abs(weights), 0)) / kept
            weights = ops.sign(weights) * magnitude
        if self.rescale:
            weights = weights * (math.prod(self.kernel.shape) / kept)
        return _straight_through(ops.abs(self.scores.value), weights, mask)

    def quantize(self, *args, **kwargs):
        self._refuse("quantized")

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        self._refuse("given LoRA weights")

    def get_config(self):
        config = super().get_config()
        for name in self._kernel_arguments:
            config.pop(name)
        weights = self.weight_initializer
        return {
            **config,
            "density": self.density,
            "score_initializer": keras.initializers.serialize(self.score_initializer),
            "weight_initializer": weights
            if isinstance(weights, str)
            else keras.initializers.serialize(weights),
            "scale_fan": self.scale_fan,
            "score_scope": self.score_scope,
            "score_regularizer": keras.regularizers.serialize(self.score_regularizer),
            "rescale": self.rescale,
            "binarize": self.binarize,
        }

    chooses_masks = True

    def masked_weights(self) -> list[MaskedWeight]:
        """The kernel with the edges in use."""
        if not self.built:
            return []
        kernel, *_ = prunable_weights(self)
        return [MaskedWeight(**vars(kernel), mask=self.mask())]

    def lasting_weights(self) -> list[keras.Variable]:
        """Kernel and bias: scores and what belongs to them are of the training."""
        return [x for x in (self.kernel, self.bias) if x is not None]

    def copy_to(self, plain: Any) -> None:
        """Gives the Keras layer the weights of the edges in use."""
        plain.kernel.assign(host_copy(self.effective_kernel()))
        if plain.bias is not None:
            plain.bias.assign(host_copy(self.bias))

    def plain(self) -> keras.layers.Layer:
        """The Keras layer that this one stands for, not built."""
        config = {
            k: v for k, v in live_config(self).items() if k not in POPUP_ARGUMENTS
        }
        return self._plain_class.from_config(config)

    def save_own_variables(self, store):
        for variable in self._own():
            store[variable.name] = variable

    def load_own_variables(self, store):
        wanted = {variable.name: tuple(variable.shape) for variable in self._own()}
        found = {name: tuple(store[name].shape) for name in sorted(store.keys())}
        if wanted != found:
            raise ValueError(
                f"The weights of popup layer '{self.name}' don't match what is loaded. "
                f"Expected: {wanted}. Received: {found}"
            )
        for variable in self._own():
            variable.assign(store[variable.name])

    def _refuse(self, what):
        raise ValueError(
            f"Popup layer '{self.name}' can't be {what}. Make it a plain layer first, "
            "with tfticket.strip."
        )

    def _own(self):
        own = [self.kernel, self.scores, self.kept, self.threshold, self.bias]
        return [variable for variable in own if variable is not None]

    def _initializer(self, fan_in):
        if not isinstance(self.weight_initializer, str):
            return self.weight_initializer
        std = math.sqrt(2 / fan_in / (self.density if self.scale_fan else 1))
        if self.weight_initializer == "kaiming_normal":
            return keras.initializers.RandomNormal(stddev=std)
        return SignedConstant(std)

    def _fan_in(self, shape):
        return math.prod(shape[:-1])


@_register
class PopupDense(Popup, keras.layers.Dense):
    """`keras.layers.Dense` of frozen weights and trained scores; see `Popup`.

    Example:

    >>> layer = tfticket.PopupDense(10, density=0.3)
    >>> layer(np.ones((2, 20), "float32")).shape
    TensorShape([2, 10])
    >>> int(np.sum(layer.mask()))
    60
    """

    _plain_class = keras.layers.Dense


@_register
class PopupEinsumDense(Popup, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` of frozen weights and trained scores; see `Popup`.

    `bias_axes` makes a bias as in Keras, but a zero and frozen one.
    """

    _plain_class = keras.layers.EinsumDense

    def _fan_in(self, shape):
        inputs, rest = self.equation.replace(" ", "").split(",")
        kernel, output = rest.split("->")
        return math.prod(
            n
            for axis, n in zip(kernel, shape, strict=True)
            if axis in inputs and axis not in output
        )


@_register
class PopupConv1D(Popup, keras.layers.Conv1D):
    """`keras.layers.Conv1D` of frozen weights and trained scores; see `Popup`."""

    _plain_class = keras.layers.Conv1D


@_register
class PopupConv2D(Popup, keras.layers.Conv2D):
    """`keras.layers.Conv2D` of frozen weights and trained scores; see `Popup`.

    Example:

    >>> layer = tfticket.PopupConv2D(8, 3, density=0.5, padding="same")
    >>> layer(np.ones((1, 6, 6, 4), "float32")).shape
    TensorShape([1, 6, 6, 8])
    """

    _plain_class = keras.layers.Conv2D


@_register
class PopupConv3D(Popup, keras.layers.Conv3D):
    """`keras.layers.Conv3D` of frozen weights and trained scores; see `Popup`."""

    _plain_class = keras.layers.Conv3D


@_register
class PopupDepthwiseConv2D(Popup, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` of frozen weights and trained scores.

    See `Popup`. The fan-in of an edge is that of its channel: the kernel's area.
    """

    _plain_class = keras.layers.DepthwiseConv2D
    _kernel_arguments = (
        "depthwise_initializer",
        "depthwise_regularizer",
        "depthwise_constraint",
    )

    def _fan_in(self, shape):
        return math.prod(shape[:-2])


POPUP_LAYERS: dict[type[keras.layers.Layer], type[Popup]] = {
    twin._plain_class: twin
    for twin in (
        PopupDense,
        PopupEinsumDense,
        PopupConv1D,
        PopupConv2D,
        PopupConv3D,
        PopupDepthwiseConv2D,
    )
}


def _straight_through(magnitudes, weights, mask):
    """The masked weights; on the way back selection counts as the identity."""

    @ops.custom_gradient
    def select(magnitudes):
        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return ops.cast(upstream * weights, magnitudes.dtype)

        return ops.where(mask, weights, ops.zeros_like(weights)), gradient

    return select(magnitudes)
