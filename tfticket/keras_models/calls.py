"""How a model calls its layers on one sample: shapes, uses of each weight, FLOPs."""

import dataclasses
import math
from typing import Any

import keras

from tfticket.keras_models.masked_layer import MaskedLayer
from tfticket.keras_models.names import every_layer, is_graph

layers = keras.layers

_CELLS = (layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell)
_BY_OUTPUT = (
    *(layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.SeparableConv1D, layers.SeparableConv2D),
    *_CELLS,
)
_BY_INPUT = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_KNOWN = (*_BY_OUTPUT, *_BY_INPUT, layers.EinsumDense)


def dense_flops(
    layer: keras.layers.Layer, in_shape: tuple, out_shape: tuple
) -> int | None:
    """Multiplications and additions of one sample: two for a weight and position.

    Counted are the kernels of Dense, EinsumDense, convolutions and recurrent cells, as
    if all weights were there; the window at the border counts as whole. Biases,
    activations and other layers count as none.

    Args:
        layer: A built layer.
        in_shape: Shape of its input, batch first.
        out_shape: Shape of its output.

    Returns:
        The count; `None` if the number of positions is not known.

    Example:

    >>> layer = keras.layers.Dense(3)
    >>> layer.build((None, 4))
    >>> dense_flops(layer, (None, 4), (None, 3))
    24
    """
    if not isinstance(layer, _KNOWN):
        return 0
    count = positions(layer, in_shape, out_shape)
    if count is None:
        return None
    return 2 * count * sum(math.prod(x.shape) for x in kernels(layer))


def kernels(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The kernels of a Dense, a convolution or a cell, two of some."""
    return [x for x in layer.weights if x.name.endswith("kernel")]


def positions(
    layer: keras.layers.Layer, in_shape: tuple, out_shape: tuple
) -> int | None:
    """How often a sample, or a batch of so many, uses each value of the kernels.

    A Dense uses each once for every vector that it maps, a convolution for every place
    of its output, a transposed one for every place of its input, and a recurrent cell
    once a step.

    Args:
        layer: A built layer.
        in_shape: Shape of its input, batch first, `None` for one sample.
        out_shape: Shape of its output, of a cell that of its first.

    Returns:
        The count; `None` if it is open, or not known: the layer is of another kind, has
        a `call` of its own, is quantized or has LoRA weights.

    Example:

    >>> layer = keras.layers.Conv2D(8, 3)
    >>> layer.build((None, 32, 32, 3))
    >>> positions(layer, (None, 32, 32, 3), (None, 30, 30, 8))
    900
    """
    if not (isinstance(layer, _KNOWN) or _is_convolutional_cell(layer)):
        return None
    adapted = getattr(layer, "lora_enabled", False)
    quantized = getattr(layer, "quantization_mode", None)
    if adapted or quantized or not computes_as_keras(layer):
        return None
    shape = in_shape if isinstance(layer, _BY_INPUT) else out_shape
    if isinstance(layer, layers.EinsumDense):
        places = _einsum_places(layer, in_shape)
    elif getattr(layer, "data_format", None) == "channels_first":
        places = (shape[0], *shape[2:])
    else:
        places = shape[:-1]
    if places is None:
        return None
    places = (places[0] or 1, *places[1:])
    return None if None in places else math.prod(places)


def _einsum_places(layer, in_shape):
    """Lengths of the input's axes that are not the kernel's; None if that is not all.

    An axis that only one term has is summed before the product or copied after it.
    """
    inputs, rest = layer.equation.replace(" ", "").replace("...", "0").split(",")
    kernel, outputs = rest.split("->")
    both = inputs + kernel
    for term in (inputs, kernel, outputs):
        if len(set(term)) < len(term):
            return None
    if any((x in outputs) + (x in inputs) + (x in kernel) < 2 for x in both):
        return None
    # An ellipsis stands at one end, for as many axes as are left.
    spread = len(in_shape) - len(inputs) + 1
    labels = "".join(x * spread if x == "0" else x for x in inputs)
    return tuple(
        n for x, n in zip(labels, in_shape, strict=True) if x not in kernel
    ) or (1,)


def _is_convolutional_cell(layer):
    # ConvLSTM's has no public class.
    return hasattr(layer, "state_size") and type(layer).__name__ == "ConvLSTMCell"


def computes_as_keras(layer: keras.layers.Layer) -> bool:
    """Whether the layer's `call` is Keras's, or a masked layer's that is like it."""
    if isinstance(layer, MaskedLayer):
        return layer.is_plain_inside
    owner = next(x for x in type(layer).__mro__ if "call" in vars(x))
    return owner.__module__.startswith("keras.")


# What an open length of the input is taken to be: what then differs is open too.
_LENGTHS = (32, 64)
OPEN = "the input's size is open"
UNKNOWN = "not known how often the layer uses it"


@dataclasses.dataclass
class LayerCalls:
    """What one pass of a sample through a model came to.

    Args:
        outputs: Shape of each layer's (first) output by the layer's `id`, batch left
            out, `None` for an open length.
        uses: How often each value of a weight is used, by the `id` of its variable; or
            why that is not known. Weights of unknown layers are not in it.
        failure: Why there was no pass.
    """

    outputs: dict[int, tuple[int | None, ...]] = dataclasses.field(default_factory=dict)
    uses: dict[int, int | str] = dataclasses.field(default_factory=dict)
    failure: str = ""


def layer_calls(model: keras.Model) -> LayerCalls:
    """Follows the shapes of one sample through a model; nothing is computed.

    Layers inside layers and those of a subclassed model are seen as they are called,
    each as often as it is; those of `RNN` and `TimeDistributed` once a step.

    Args:
        model: A built model of any kind.

    Example:

    >>> model = keras.Sequential([keras.Input((5, 4)), keras.layers.Dense(2)])
    >>> layer_calls(model).outputs[id(model.layers[0])]
    (5, 2)
    """
    if not model.built:
        return LayerCalls(failure="the model is not built")
    args, kwargs = _inputs(model)
    specs = keras.tree.flatten((args, kwargs))
    if not specs:
        return LayerCalls(failure="the shapes of the model's inputs are not known")
    is_open = any(None in spec.shape[1:] for spec in specs)
    passes = []
    for length in _LENGTHS if is_open else _LENGTHS[:1]:
        filled = keras.tree.map_structure(
            lambda spec, n=length: _filled(spec, n), (args, kwargs)
        )
        try:
            passes.append(_Pass(model).of(*filled))
        except Exception as error:
            # Models may hold any code, and the rest of a summary needs none of this.
            why = OPEN if is_open else f"tracing raised {type(error).__name__}"
            return LayerCalls(failure=why)
    return _common(*passes) if is_open else passes[0]


def _inputs(model):
    """Arguments of a call, as tensors without values."""
    if is_graph(model):
        graph = model._functional if isinstance(model, keras.Sequential) else model
        return (graph.input,), {}
    shapes = model.get_build_config() or {}

    def specs(structure):
        return keras.tree.map_shape_structure(
            lambda shape: keras.KerasTensor((None, *shape[1:])), structure
        )

    if "input_shape" in shapes:
        return (specs(shapes["input_shape"]),), {}
    named = shapes.get("shapes_dict", {})
    return (), {k.removesuffix("_shape"): specs(shape) for k, shape in named.items()}


def _filled(spec, length):
    batch, *rest = spec.shape
    shape = (batch or 1, *(length if n is None else n for n in rest))
    return keras.KerasTensor(shape, spec.dtype)


def _common(some, others):
    """What two passes have in common."""
    outputs = {
        key: tuple(a if a == b else None for a, b in zip(x, y, strict=True))
        for key, x in some.outputs.items()
        if len(y := others.outputs.get(key, ())) == len(x)
    }
    uses = {k: x if others.uses.get(k) == x else OPEN for k, x in some.uses.items()}
    return LayerCalls(outputs, uses)


class _Pass:
    """One pass, with every layer's `call` watched while it lasts."""

    def __init__(self, model):
        self._model = model
        self._calls = LayerCalls()
        self._steps = 1
        self._paused = False

    def of(self, args, kwargs):
        layers = [layer for _, layer in every_layer(self._model)]
        watched = [layer for layer in layers if "call" not in vars(layer)]
        for layer in watched:
            # Past __setattr__, which tracks what layers hold.
            vars(layer)["call"] = self._watch(layer, layer.call)
        try:
            _Traced(self._run).compute_output_spec(*args, **kwargs)
        finally:
            for layer in watched:
                del vars(layer)["call"]
        return self._calls

    def _run(self, *args, **kwargs):
        first = keras.tree.flatten((args, kwargs))[0]
        self._batch, self._trace = first.shape[0], _trace(first)
        return self._model(*args, **kwargs)

    def _watch(self, layer, call):
        def watched(*args, **kwargs):
            if self._paused:
                return call(*args, **kwargs)
            given = keras.tree.flatten((args, kwargs))
            given = given[0] if given and hasattr(given[0], "shape") else None
            if isinstance(layer, (keras.layers.RNN, keras.layers.TimeDistributed)):
                self._step(layer, given)
                self._paused = True
                try:
                    outputs = call(*args, **kwargs)
                finally:
                    self._paused = False
            else:
                outputs = call(*args, **kwargs)
            made = keras.tree.flatten(outputs)
            made = made[0] if made and hasattr(made[0], "shape") else None
            if made is not None:
                self._calls.outputs.setdefault(id(layer), tuple(made.shape)[1:])
                if given is not None:
                    self._count(layer, given, made)
            return outputs

        return watched

    def _step(self, layer, sequence):
        """One step of a layer that repeats another, counted as all of them."""
        if sequence.shape[1] is None:
            return
        before = self._steps
        self._steps *= sequence.shape[1]
        if isinstance(layer, keras.layers.RNN):
            layer.cell(sequence[:, 0], layer.get_initial_state(sequence.shape[0]))
        else:
            layer.layer(sequence[:, 0])
        self._steps = before

    def _count(self, layer, given, made):
        in_shape, out_shape = tuple(given.shape), tuple(made.shape)
        if _only_reads(layer):
            used, places = [x for x in layer.weights if x.name == "embeddings"], 0
        else:
            used, places = kernels(layer), positions(layer, in_shape, out_shape)
        if places is None:
            return
        # What a traced loop calls is seen once, however often it runs.
        looped = _trace(given) not in (None, self._trace)
        if looped or None in (*in_shape, *out_shape) or places % self._batch:
            self._calls.uses.update((id(weight), UNKNOWN) for weight in used)
            return
        for weight in used:
            self._add(weight, self._steps * places // self._batch)

    def _add(self, variable, count):
        before = self._calls.uses.get(id(variable), 0)
        known = isinstance(before, int)
        self._calls.uses[id(variable)] = before + count if known else before


class _Traced(keras.Operation):
    """A function of tensors, for Keras to run it on shapes alone."""

    def __init__(self, function: Any):
        super().__init__()
        self.call = function


def _only_reads(layer):
    """Whether it looks rows of its weight up and multiplies nothing."""
    if not isinstance(layer, keras.layers.Embedding):
        return False
    return computes_as_keras(layer) and not getattr(layer, "lora_enabled", False)


def _trace(tensor):
    """The graph, or JAX's trace, that a tensor belongs to; None outside of any."""
    return getattr(tensor, "graph", None) or getattr(tensor, "_trace", None)
