"""How a model calls its layers on one sample: shapes, and uses of each weight."""

import dataclasses
from typing import Any

import keras

from tfticket.flops import computes_as_keras, kernels, positions
from tfticket.paths import every_layer, is_graph

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
