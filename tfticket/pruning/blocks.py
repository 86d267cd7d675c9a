"""A model run on samples block by block, and blocks trained to do what they did before.

A block ends where a single value goes on: after a layer of a plain network, after the
sum of a residual one.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfticket.keras_models.graph import Call, FlatGraph
from tfticket.keras_models.kernels import MaskedWeight
from tfticket.keras_models.masked_layer import carrier
from tfticket.keras_models.names import every_layer, is_graph
from tfticket.keras_models.variables import State, built_optimizer
from tfticket.pruning.calibration import Recorded, Rows, recording
from tfticket.pruning.masks import ModelMasks
from tfticket.sparsity.rows import InputHessian


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Calls that follow each other, between values that are all that goes on.

    Args:
        before: Calls between the last block and the first masked kernel.
        calls: The calls from there on, in an order in which they can run.
        output: Number of the value that goes on from here.
        names: The masked weights that are used here for the first time.
    """

    before: tuple[Call, ...]
    calls: tuple[Call, ...]
    output: int
    names: tuple[str, ...]

    @property
    def inputs(self) -> list[int]:
        """Numbers of the values that the calls take from before."""
        made = {number for call in self.calls for number in call.outputs}
        taken = {number for call in self.calls for number in call.inputs}
        return sorted(taken - made)

    def function(self) -> Callable[[Sequence[Any]], Any]:
        """What the calls make of the inputs."""

        def run(inputs):
            values = dict(zip(self.inputs, inputs, strict=True))
            for call in self.calls:
                advance(call, values)
            return values[self.output]

        return run

    def layers(self) -> list[keras.layers.Layer]:
        """The layers that are called, each once."""
        found = {id(x.operation): x.operation for x in self.calls}
        return [x for x in found.values() if isinstance(x, keras.layers.Layer)]


def names_in(operation: Any, holders: Mapping[int, Sequence[str]]) -> list[str]:
    """The masked weights inside what is called.

    Args:
        operation: A layer or operation.
        holders: Names of weights by the `id` of the masked layer that holds them.
    """
    if not isinstance(operation, keras.layers.Layer):
        return []
    carriers = {id(carrier(layer)) for _, layer in every_layer(operation)}
    return [name for key in holders if key in carriers for name in holders[key]]


def blocks_of(graph: FlatGraph, holders: Mapping[int, Sequence[str]]) -> list[Block]:
    """The blocks of a graph that have masked kernels; the last goes to its end.

    Args:
        graph: The calls of a model.
        holders: As for `names_in`.
    """
    last = {number: i for i, x in enumerate(graph.calls) for number in x.inputs}
    last |= dict.fromkeys(graph.outputs, len(graph.calls))
    found: list[Block] = []
    learned: set[int] = set()  # values that depend on a weight
    live: set[int] = set()
    done: set[str] = set()
    start = first = 0
    names: list[str] = []
    for i, call in enumerate(graph.calls):
        here = [x for x in names_in(call.operation, holders) if x not in done]
        if here and not names:
            first = i
        names += here
        done |= set(here)
        if getattr(call.operation, "weights", ()) or learned & set(call.inputs):
            learned |= set(call.outputs)
        live = {x for x in live | (learned & set(call.outputs)) if last.get(x, -1) > i}
        if names and len(live) == 1:
            before, calls = graph.calls[start:first], graph.calls[first : i + 1]
            (output,) = live
            found.append(Block(tuple(before), tuple(calls), output, tuple(names)))
            start, names = i + 1, []
    if names:  # several outputs, of which the first counts
        before, calls = graph.calls[start:first], graph.calls[first:]
        output = graph.outputs[0]
        found.append(Block(tuple(before), tuple(calls), output, tuple(names)))
    return found


class Stream:
    """What the values of a graph are on batches, as far as it was run.

    Args:
        graph: The calls of a model.
        batches: Tensors of each batch, in the order of the graph's inputs.
    """

    def __init__(self, graph: FlatGraph, batches: Iterable[Sequence[Any]]):
        self._last = {x: id(c) for c in graph.calls for x in c.inputs}
        self._outputs = set(graph.outputs)
        self.values = [dict(zip(graph.inputs, x, strict=True)) for x in batches]

    def copy(self) -> "Stream":
        """Another one at the same place."""
        other = object.__new__(Stream)
        other._last, other._outputs = self._last, self._outputs
        other.values = [dict(x) for x in self.values]
        return other

    def look(self, call: Call) -> None:
        """Runs a call, for what sees its inputs."""
        for known in self.values:
            called(call, known)

    def run(self, calls: Iterable[Call]) -> None:
        """Runs calls, and forgets values that no later one takes."""
        for call in calls:
            gone = {x for x in call.inputs if self._last[x] == id(call)}
            for known in self.values:
                advance(call, known)
                for number in gone - self._outputs:
                    known.pop(number, None)

    def of(self, numbers: Sequence[int]) -> list[list[Any]]:
        """These values, batch by batch."""
        return [[known[x] for x in numbers] for known in self.values]

    def put(self, numbers: Sequence[int], values: Iterable[Sequence[Any]]) -> None:
        """Values that were forgotten."""
        for known, each in zip(self.values, values, strict=True):
            known.update(zip(numbers, each, strict=True))


def called(call: Call, values: dict[int, Any]) -> Any:
    """What a call makes of values by number; outside of a training, in inference."""
    args, kwargs = call.with_values(values)
    return call.operation(*args, **kwargs)


def advance(call: Call, values: dict[int, Any]) -> None:
    """Adds what a call makes to values by number."""
    made = keras.tree.flatten(called(call, values))
    values.update(zip(call.outputs, made, strict=True))


@contextlib.contextmanager
def gradients(kept: bool) -> Iterator[None]:
    """Whether PyTorch keeps what a way back needs; other backends are told when to.

    Args:
        kept: If not, samples leave nothing in memory.
    """
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    with torch.set_grad_enabled(kept):
        yield


def in_turn(
    model: keras.Model,
    samples: Sequence[Any],
    weights: Mapping[str, MaskedWeight],
    holders: Mapping[int, Sequence[str]],
    second: bool,
    around: Callable[[Block, Stream], contextlib.AbstractContextManager] | None = None,
) -> Iterator[tuple[list[str], dict[str, Recorded]]]:
    """Goes through a model on samples, and yields kernels with what they have seen.

    Kernels may be changed before the next are asked for, which then see what comes of
    it. Of a graph, each call is made twice: to record, and once its kernels may have
    changed. Another model runs whole for every layer.

    Args:
        model: A model with masks.
        samples: Batches of tensors.
        weights: Its masked kernels that can be seen.
        holders: Names of all masked kernels by the `id` of what carries the masks.
        second: As of `Recorded`.
        around: Function of a block of the graph and the values at its beginning; what
            it returns is entered while the block is gone through.

    Yields:
        The names of kernels of one call, and the records of those that can be seen.
    """

    def recorders(names):
        seen = (x for x in names if x in weights)
        return {name: Recorded(Rows(weights[name]), second) for name in seen}

    if not is_graph(model):
        for names in holders.values():
            recorded = recorders(names)
            with recording(recorded):
                for batch in samples:
                    model(batch, training=False)
            yield list(names), recorded
        return
    graph = FlatGraph(model)
    stream = Stream(graph, [flat_inputs(model, batch) for batch in samples])
    done: set[str] = set()
    for block in blocks_of(graph, holders):
        stream.run(block.before)
        with around(block, stream) if around else contextlib.nullcontext():
            for call in block.calls:
                names = [x for x in names_in(call.operation, holders) if x not in done]
                if names:
                    recorded = recorders(names)
                    with recording(recorded):
                        stream.look(call)
                    yield names, recorded
                    done |= set(names)
                stream.run([call])


def holders_of(masks: ModelMasks, names: Iterable[str]) -> dict[int, list[str]]:
    """Names of masked weights by the `id` of what carries their masks.

    Args:
        masks: The masks of a model.
        names: The weights.
    """
    holders: dict[int, list[str]] = {}
    for name in names:
        holders.setdefault(id(masks.layers[name]), []).append(name)
    return holders


class Hessians(Mapping):
    """The `InputHessian` of each kernel, computed when it is asked for.

    Those of one call are held at a time. Asked for in the order of the model, all
    come from one pass through it.

    Args:
        model: A model with masks.
        names: Its kernels.
        samples: Batches of tensors.
    """

    def __init__(
        self, model: keras.Model, names: Iterable[str], samples: Sequence[Any]
    ):
        self._masks = ModelMasks.of(model)
        self._weights = {name: self._masks.weights[name] for name in names}
        self._model, self._samples = model, samples
        self._walk: Iterator | None = None
        self._held: dict[str, Recorded] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __getitem__(self, name: str) -> InputHessian:
        again = self._walk is None
        while name not in self._held:
            if self._walk is None:
                self._walk = in_turn(
                    self._model,
                    self._samples,
                    self._weights,
                    holders_of(self._masks, self._weights),
                    second=True,
                )
            with gradients(False):
                _, self._held = next(self._walk, ([], {}))
            if not self._held:
                self._walk = None
                if again:
                    raise ValueError(
                        f"The data never reaches '{name}'. Exclude its layer."
                    )
                again = True
        found = self._held[name]
        return InputHessian(found.rows, found.moments())


def flat_inputs(model: keras.Model, batch: Any) -> list[Any]:
    """The tensors of a batch, in the order of a graph's inputs.

    Raises:
        ValueError: If there are more or fewer than the model takes.
    """
    given = keras.tree.flatten(batch)
    if len(given) != len(model.inputs):
        raise ValueError(
            f"Model '{model.name}' takes {len(model.inputs)} inputs. data has batches "
            f"of {len(given)}."
        )
    return given


def reproduce(
    function: Callable[[Any], Any],
    layers: Collection[keras.layers.Layer],
    inputs: Sequence[Any],
    targets: Sequence[Any],
    epochs: int,
    learning_rate: float,
) -> tuple[float, float]:
    """Trains layers until a function of them makes the targets, as far as it can.

    Masks hold, as in any training. The order of the batches is always the same. If the
    training makes the error larger, the weights are put back.

    Args:
        function: Function of one of the inputs that calls the layers.
        layers: The layers, built.
        inputs: What it is called with, batch by batch.
        targets: What it is to make of each.
        epochs: How many times to go through the batches.
        learning_rate: Adam's first; it falls to 0 as a cosine does.

    Returns:
        The error before and after: mean square of what outputs are off, relative to
        that of the targets.
    """
    model = _Reproduction(function, layers)
    trained = {str(i): x for i, x in enumerate(model.trainable_variables)}
    before = _error(function, inputs, targets)
    if not trained or before == 0.0:
        return before, before
    state = State(trained)
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * len(inputs))
    model.compile(keras.optimizers.Adam(rate), "mse", jit_compile="auto")
    built_optimizer(model)  # TensorFlow traces a step that makes variables twice
    order = np.random.default_rng(0)
    step = _step(model, inputs, targets)
    with gradients(True):
        for _ in range(epochs):
            for i in order.permutation(len(inputs)):
                step(inputs[i], targets[i])
    after = _error(function, inputs, targets)
    if not after < before:  # NaN counts as larger
        state.restore()
        return before, before
    return before, after


class _Inference(keras.layers.Layer):
    """Layers that are called as in inference, whatever happens around them."""

    def __init__(self, function, layers):
        super().__init__(name="inference")
        self.function = function
        self.parts = list(layers)
        self.built = True

    def call(self, inputs, training=None):
        return self.function(inputs)


class _Reproduction(keras.Model):
    """A model of a function, which runs as in inference while it is trained."""

    def __init__(self, function, layers):
        super().__init__(name="reproduction")
        self.inference = _Inference(function, layers)
        self.built = True

    def call(self, inputs, training=None):
        return self.inference(inputs, training=False)


def _error(function, inputs, targets):
    off = size = 0.0
    with gradients(False):
        for given, wanted in zip(inputs, targets, strict=True):
            found = ops.cast(function(given), "float32")
            wanted = ops.cast(wanted, "float32")
            off += float(ops.sum(ops.square(found - wanted)))
            size += float(ops.sum(ops.square(wanted)))
    return off / size if size > 0 else 0.0


def _step(model, inputs, targets):
    """A training step, on TensorFlow traced once for batches of all lengths.

    Tracing and compiling a block takes longer than it trains.
    """
    if keras.backend.backend() != "tensorflow":
        return model.train_on_batch
    import tensorflow as tf

    def spec(*batches):
        shapes = zip(*(x.shape for x in batches), strict=True)
        same = [sizes[0] if len({*sizes}) == 1 else None for sizes in shapes]
        return tf.TensorSpec(same, batches[0].dtype)

    signature = [
        keras.tree.map_structure(spec, *batches) for batches in (inputs, targets)
    ]
    return tf.function(
        lambda x, y: model.train_step((x, y)),
        input_signature=signature,
        autograph=False,
    )
