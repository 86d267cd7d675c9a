"""How a model calls its layers on one sample: shapes, and numbers of operations.

This is the only counter of operations. It reports a layer of an unknown kind as unknown
and never as 0.
"""

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping

import keras

from tfticket.keras_models.graph import Traced
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


_ATTENTION = (
    *(layers.MultiHeadAttention, layers.GroupQueryAttention),
    *(layers.Attention, layers.AdditiveAttention),
)


def kernels(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The kernels of a Dense, a convolution or a cell; some have two."""
    return [x for x in layer.weights if x.name.endswith("kernel")]


def positions(
    layer: keras.layers.Layer, in_shape: tuple, out_shape: tuple
) -> int | None:
    """How often a sample, or a batch, uses each value of the kernels.

    A Dense uses each value once per vector that it maps, a convolution once per place
    of its output, a transposed convolution once per place of its input, and a recurrent
    cell once per step.

    Args:
        layer: A built layer.
        in_shape: Shape of its input, batch first, `None` for one sample.
        out_shape: Shape of its output; for a cell, of its first output.

    Returns:
        The count. `None` if a size is open or the count is not known, because the layer
        is of another kind, has its own `call`, is quantized or has LoRA weights.

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
    """Lengths of the input's axes that the kernel lacks; `None` for unusual equations.

    If only one term has an axis, it is summed before the product or copied after it.
    """
    inputs, rest = layer.equation.replace(" ", "").replace("...", "0").split(",")
    kernel, outputs = rest.split("->")
    both = inputs + kernel
    for term in (inputs, kernel, outputs):
        if len(set(term)) < len(term):
            return None
    if any((x in outputs) + (x in inputs) + (x in kernel) < 2 for x in both):
        return None
    # An ellipsis is at one end and stands for all other axes.
    spread = len(in_shape) - len(inputs) + 1
    labels = "".join(x * spread if x == "0" else x for x in inputs)
    return tuple(
        n for x, n in zip(labels, in_shape, strict=True) if x not in kernel
    ) or (1,)


def _is_convolutional_cell(layer):
    # ConvLSTM's has no public class.
    return hasattr(layer, "state_size") and type(layer).__name__ == "ConvLSTMCell"


def attention_flops(
    layer: keras.layers.Layer,
    query: tuple[int, ...],
    value: tuple[int, ...],
    key: tuple[int, ...] | None = None,
) -> int:
    """Multiplications and additions of the two products inside an attention layer.

    These are the scores (queries by keys) and the weighted sums of the values. No
    weight takes part, so pruning saves none of them. Masks save none either, because
    every pair of positions is computed. Scores that are a sum over features instead of
    a product (`AdditiveAttention`, `score_mode="concat"`) count as if they were one.

    Args:
        layer: A `MultiHeadAttention`, `GroupQueryAttention`, `Attention` or
            `AdditiveAttention`.
        query: Shape of its query, batch first.
        value: Shape of its value.
        key: Shape of its key; `None` for the shape of the value.

    Returns:
        The count for the whole batch.

    Example:

    >>> layer = keras.layers.MultiHeadAttention(num_heads=2, key_dim=3)
    >>> attention_flops(layer, (1, 5, 8), (1, 7, 8))
    840
    """
    key = key or value
    axes, heads = (len(query) - 2,), 1
    key_size, value_size = query[-1], value[-1]
    if isinstance(layer, layers.MultiHeadAttention):
        config = layer.get_config()
        axes = tuple(config["attention_axes"] or range(1, len(query) - 1))
        heads = config["num_heads"]
        key_size, value_size = config["key_dim"], config["value_dim"]
    elif isinstance(layer, layers.GroupQueryAttention):
        config = layer.get_config()
        heads = config["num_query_heads"]
        key_size = value_size = config["head_dim"]
    others = math.prod(n for i, n in enumerate(query[:-1]) if i not in axes)
    pairs = math.prod(query[i] * key[i] for i in axes)
    return 2 * others * heads * pairs * (key_size + value_size)


def computes_as_keras(layer: keras.layers.Layer) -> bool:
    """Whether the layer computes what a layer of Keras computes.

    This is so if its `call` is Keras's own, or if it carries masks and sets
    `is_plain_inside`.
    """
    if isinstance(layer, MaskedLayer):
        return layer.is_plain_inside
    owner = next(x for x in type(layer).__mro__ if "call" in vars(x))
    return owner.__module__.startswith("keras.")


# Two lengths for an open axis of the input: what differs between them is open too.
_LENGTHS = (32, 64)
OPEN = "the input's size is open"
UNKNOWN = "it is not known how often the layer uses it"


@dataclasses.dataclass
class LayerCalls:
    """The operations of one pass of a sample through a model.

    Args:
        outputs: Shape of each layer's (first) output by the layer's `id`, without the
            batch; `None` for an open length.
        uses: How often each value of a weight is used, by the `id` of its variable, or
            why that is not known. Weights of unknown layers are missing.
        products: Operations of the products inside each attention layer, which use no
            weight, by the layer's `id`, or why they are not known.
        failure: Why there was no pass.
    """

    outputs: dict[int, tuple[int | None, ...]] = dataclasses.field(default_factory=dict)
    uses: dict[int, int | str] = dataclasses.field(default_factory=dict)
    products: dict[int, int | str] = dataclasses.field(default_factory=dict)
    failure: str = ""


def layer_calls(model: keras.Model) -> LayerCalls:
    """Follows the shapes of one sample through a model and computes nothing.

    It counts every call of a layer inside a layer or a subclassed model; those of `RNN`
    and `TimeDistributed` count once per step.

    Args:
        model: A built model of any kind.

    Example:

    >>> model = keras.Sequential([keras.Input((5, 4)), keras.layers.Dense(2)])
    >>> layer_calls(model).outputs[id(model.layers[0])]
    (5, 2)
    """
    if not model.built:
        return _failed(model, "the model is not built")
    args, kwargs = _inputs(model)
    specs = keras.tree.flatten((args, kwargs))
    if not specs:
        return _failed(model, "the shapes of the model's inputs are not known")
    is_open = any(None in spec.shape[1:] for spec in specs)
    passes = []
    for length in _LENGTHS if is_open else _LENGTHS[:1]:
        filled = keras.tree.map_structure(
            lambda spec, n=length: _filled(spec, n), (args, kwargs)
        )
        try:
            passes.append(_Pass(model).of(*filled))
        except Exception as error:
            # Models may contain any code, and the rest of a summary does not need this.
            why = OPEN if is_open else f"tracing raised {type(error).__name__}"
            return _failed(model, why)
    return _common(*passes) if is_open else passes[0]


def _failed(model, why):
    attention = {
        id(layer): why
        for _, layer in every_layer(model)
        if isinstance(layer, _ATTENTION)
    }
    return LayerCalls(products=attention, failure=why)


def _inputs(model):
    """Arguments of a call, as tensors without values."""
    if isinstance(model, keras.Sequential) and getattr(model, "inputs", None):
        return tuple(model.inputs), {}  # it takes one
    if is_graph(model) and not isinstance(model, keras.Sequential):
        return (model.input,), {}
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
    """The results that two passes have in common."""
    outputs = {
        key: tuple(a if a == b else None for a, b in zip(x, y, strict=True))
        for key, x in some.outputs.items()
        if len(y := others.outputs.get(key, ())) == len(x)
    }
    uses, products = (
        {k: x if b.get(k) == x else OPEN for k, x in a.items()}
        for a, b in ((some.uses, others.uses), (some.products, others.products))
    )
    return LayerCalls(outputs, uses, products)


@contextlib.contextmanager
def calls_replaced(
    replacements: Mapping[keras.layers.Layer, Callable],
) -> Iterator[None]:
    """A context in which layers run other functions in place of their `call`.

    An attribute of the instance hides the method of its class. No other thread may use
    the model meanwhile.

    Args:
        replacements: Maps a layer to a function with the arguments of the layer's
            `call`.
    """
    for layer, function in replacements.items():
        layer.call = function
    try:
        yield
    finally:
        for layer in replacements:
            del layer.call


class _Pass:
    """One pass, which watches every layer's `call`."""

    def __init__(self, model):
        self._model = model
        self._calls = LayerCalls()
        self._steps = 1
        self._paused = False

    def of(self, args, kwargs):
        layers = [layer for _, layer in every_layer(self._model)]
        watched = {
            layer: self._watch(layer, layer.call)
            for layer in layers
            if "call" not in vars(layer)
        }
        with calls_replaced(watched):
            Traced(self._run).compute_output_spec(*args, **kwargs)
        return self._calls

    def _run(self, *args, **kwargs):
        first = keras.tree.flatten((args, kwargs))[0]
        self._batch, self._trace = first.shape[0], _trace(first)
        return self._model(*args, **kwargs)

    def _watch(self, layer, call):
        def watched(*args, **kwargs):
            if self._paused:
                return call(*args, **kwargs)
            given = _first(args, kwargs)
            if isinstance(layer, (keras.layers.RNN, keras.layers.TimeDistributed)):
                self._step(layer, given)
                self._paused = True
                try:
                    outputs = call(*args, **kwargs)
                finally:
                    self._paused = False
            else:
                outputs = call(*args, **kwargs)
            made = _first(outputs)
            if made is not None:
                self._calls.outputs.setdefault(id(layer), tuple(made.shape)[1:])
                if given is not None:
                    self._count(layer, given, made)
            if isinstance(layer, _ATTENTION):
                self._count_products(layer, call, args, kwargs)
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
        for weight in used:
            if None in (*in_shape, *out_shape):
                places = None
            self._add(self._calls.uses, weight, given, places)

    def _count_products(self, layer, call, args, kwargs):
        given = inspect.signature(call).bind(*args, **kwargs).arguments
        if "inputs" in given:  # query, value and perhaps key, as one list
            tensors = given["inputs"]
        else:
            tensors = [given[x] for x in ("query", "value", "key") if x in given]
        shapes = [tuple(x.shape) for x in tensors if x is not None]
        open_length = any(None in shape for shape in shapes)
        known = not open_length and computes_as_keras(layer)
        count = attention_flops(layer, *shapes) if known else None
        self._add(self._calls.products, layer, tensors[0], count)

    def _add(self, counts, counted, given, count):
        """Adds the operations of a call on the whole batch; `None` if not known.

        Args:
            counts: Where to add them: `uses` or `products`.
            counted: A weight, or a layer.
            given: A tensor among the call's arguments.
            count: The operations, or uses, of the whole batch.
        """
        # A call in a traced loop is seen once, no matter how often the loop runs.
        looped = _trace(given) not in (None, self._trace)
        before = counts.get(id(counted), 0)
        if looped or count is None or count % self._batch:
            counts[id(counted)] = UNKNOWN
        elif isinstance(before, int):
            counts[id(counted)] = before + self._steps * count // self._batch


def _only_reads(layer):
    """Whether a layer only looks up rows of its weight, and multiplies nothing."""
    if not isinstance(layer, keras.layers.Embedding):
        return False
    return computes_as_keras(layer) and not getattr(layer, "lora_enabled", False)


def _first(*values):
    """The first of some tensors, if there is one."""
    flat = keras.tree.flatten(values)
    return flat[0] if flat and hasattr(flat[0], "shape") else None


def _trace(tensor):
    """The graph, or JAX's trace, that a tensor belongs to; `None` without one."""
    return getattr(tensor, "graph", None) or getattr(tensor, "_trace", None)
