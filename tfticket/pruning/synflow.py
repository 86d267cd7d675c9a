"""SynFlow's objective, and its gradient by the size of every masked weight."""

import re

import keras
import numpy as np
from keras import ops

from tfticket.keras_models.copies import clone_with
from tfticket.keras_models.gradients import gradient_of, tensors
from tfticket.keras_models.graph import input_structure
from tfticket.keras_models.masked_layer import inner_layer
from tfticket.keras_models.names import (
    every_layer,
    is_graph,
    named_weights,
    student_of,
)
from tfticket.keras_models.twins import live_config
from tfticket.pruning.masks import masked_weights

# Identity for what is positive, or a shift and scale of the input.
_PASSED_THROUGH = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.Normalization,
    keras.layers.PReLU,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.Softmax,
)
# By name, since some of them are younger than the oldest Keras that works.
_REFUSED = {
    "AdditiveAttention",
    "Attention",
    "GroupNormalization",
    "GroupedQueryAttention",
    "LayerNormalization",
    "MultiHeadAttention",
    "RMSNormalization",
    "RNN",
    "UnitNormalization",
}


def synaptic_flow(model: keras.Model) -> dict[str, np.ndarray]:
    """dR/d|w|, where R is the sum of the outputs of the network without its signs.

    Tanaka et al. 2020 (arXiv 2006.05467): every weight and bias is taken by its
    absolute value and the input is ones, so that everything in the network is
    positive and R sums over all ways from input to output. It is worked out in
    float64 (JAX without x64: float32) on a copy in inference mode; the model is only
    read. In the copy

    - activations are linear, those inside layers and those that are layers or
      functions of the graph. A ReLU is linear there as it is; a softmax would make R
      constant, a tanh would say that large weights let nothing through;
    - BatchNormalization scales by |gamma| and the moving variance, and subtracts no
      mean (zero in the untrained networks of the paper): flow would become negative;
    - `Rescaling` and `Normalization` layers leave the ones as they are.

    Args:
        model: A wrapped Sequential or Functional model with inputs of known shape.

    Returns:
        Name of the weight, as in `tfticket.get_masks`, to float64 array. A pruned
        weight has one too, what it would have at size zero.

    Raises:
        NotImplementedError: For layers that are not linear in a way that can be taken
            out: attention, recurrent layers, normalization over the features of a
            sample.
        ValueError: If a weight's flow is zero throughout, or overflows; or an
            input's shape is not known.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    ... )
    >>> synaptic_flow(model)["dense/kernel"]
    array([[1., 1., 1.],
           [1., 1., 1.]])
    """
    model = student_of(model)
    _require_linear(model)
    copy = clone_with(model, _linear, _copy_sizes)
    _pass_operations_through(copy)
    inputs = keras.tree.map_structure(_ones, input_structure(copy))
    variables = named_weights(copy)
    masked = masked_weights(model)
    weights = [variables[name] for name in masked]

    def objective(values):
        with keras.StatelessScope(list(zip(weights, values, strict=True))):
            outputs = copy(inputs, training=False)
        return sum(ops.sum(x) for x in keras.tree.flatten(outputs)), None

    values = tensors(weights)
    flows, _ = gradient_of(objective, values)
    found = {}
    for (name, own), weight, flow in zip(masked.items(), weights, flows, strict=True):
        found[name] = ops.convert_to_numpy(flow)
        score = ops.convert_to_numpy(weight) * found[name]
        _check(name, score, ops.convert_to_numpy(own.mask))
    return found


class _PassThrough(keras.layers.Layer):
    """The identity, however the layer that it stands for is called."""

    def call(self, inputs, *args, **kwargs):
        return inputs


def _check(name, score, mask):
    if not np.all(np.isfinite(score)):
        raise ValueError(
            f"SynFlow overflows in weight '{name}': weights this large can't be "
            "scored. Load or initialise the model again."
        )
    if mask.any() and not score.any():
        raise ValueError(
            f"SynFlow is zero throughout weight '{name}': no way from input to "
            "output goes through it. A layer before or after is pruned away, or starts "
            "at zero (a BatchNormalization with gamma 0). Prune less at once, or "
            "exclude it."
        )


def _require_linear(model):
    if not is_graph(model):
        raise NotImplementedError(
            f"Model '{model.name}' ({type(model).__name__}) is subclassed, and "
            "SynFlow works on a copy of the layers' graph. Rebuild it as a Functional "
            "model, or use another criterion."
        )
    for _, layer in every_layer(model):
        kinds = {kind.__name__ for kind in type(layer).__mro__}
        if kinds & _REFUSED:
            raise NotImplementedError(
                f"SynFlow is for networks that are linear but for their activations. "
                f"Layer '{layer.name}' ({type(layer).__name__}) is not. Use another "
                "criterion: magnitude, snip or grasp."
            )


def _linear(layer):
    """A layer's float64 copy without wrapper and activation, not built."""
    layer = inner_layer(layer)
    if isinstance(layer, _PASSED_THROUGH):
        return _PassThrough(name=layer.name, dtype=_precision())
    return layer.__class__.from_config(_linear_config(live_config(layer)))


def _pass_operations_through(copy):
    """Makes `keras.ops.softmax` and other activations of the graph the identity."""
    for _, graph in every_layer(copy):
        for operation in getattr(graph, "operations", ()):
            snake = re.sub(r"(?<!^)(?=[A-Z])", "_", type(operation).__name__).lower()
            if isinstance(operation, keras.layers.Layer):
                continue
            if callable(getattr(keras.activations, snake, None)):
                operation.call = lambda inputs, *args, **kwargs: inputs


def _linear_config(config):
    """The same configuration, float64 and linear, into the layers it holds."""
    if isinstance(config, (list, tuple)):
        return type(config)(_linear_config(part) for part in config)
    if not isinstance(config, dict):
        return config
    made = {key: _linear_config(value) for key, value in config.items()}
    if "activation" in made:
        made["activation"] = "linear"
    if "dtype" in made and _is_float(made["dtype"]):
        made["dtype"] = _precision()
    return made


def _precision():
    """float64, since flow through many layers leaves the range of float32."""
    if keras.backend.backend() == "jax":
        import jax

        return "float64" if jax.config.jax_enable_x64 else "float32"
    return "float64"


def _is_float(dtype):
    policy = keras.dtype_policies.get(dtype)
    return keras.backend.is_float_dtype(policy.compute_dtype)


def _copy_sizes(source, target):
    source = inner_layer(source)
    if isinstance(target, _PassThrough):
        return
    values = source.get_weights()
    target.set_weights([np.abs(np.asarray(value, "float64")) for value in values])
    for _, layer in every_layer(target):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))


def _ones(tensor):
    shape = tuple(tensor.shape)[1:]
    if None in shape:
        raise ValueError(
            f"SynFlow feeds ones and needs to know the input's shape. Input "
            f"'{tensor.name}' has shape {tuple(tensor.shape)}: build the model with "
            "a fixed one."
        )
    return ops.ones((1, *shape), tensor.dtype)
