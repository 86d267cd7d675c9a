"""`one_shot`: a trained model pruned once, by what its layers see on a few samples."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np

from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_sparsity,
    check_values,
    shown,
)
from tfticket.common.columns import aligned
from tfticket.keras_models.graph import FlatGraph
from tfticket.keras_models.kernels import has_adapter
from tfticket.keras_models.masked_layer import MaskedLayer
from tfticket.keras_models.names import Pattern, choose, is_graph
from tfticket.keras_models.variables import host_copy
from tfticket.pruning.calibration import (
    Recorded,
    Rows,
    batches_of,
    recording,
    why_not,
)
from tfticket.pruning.masks import ModelMasks
from tfticket.sparsity import reconstruction
from tfticket.sparsity.structures import NM, Axes, Unstructured

METHODS = ("magnitude", "wanda", "sparsegpt")

# What a layer sums over, and its outputs, of the rows of a kernel.
_ROWS = Axes((1,), (0,))

# Scores over so many times the mean of their layer are OWL's outliers.
_OUTLIER = 5.0


@dataclasses.dataclass(frozen=True)
class OneShotRow:
    """What became of one kernel.

    Args:
        name: As in `tfticket.get_masks`.
        sparsity: Part of it that is zero.
        method: What it was pruned by.
        inputs: How many inputs it was seen on: samples, times positions.
        error: Mean square of the change of its outputs on them, relative to the mean
            square of the outputs; `None` where only the norms of inputs were kept.
    """

    name: str
    sparsity: float
    method: str
    inputs: int
    error: float | None


@dataclasses.dataclass(frozen=True)
class OneShotReport:
    """What `one_shot` did. `print` shows a table.

    Args:
        rows: One for each kernel, in the order in which they were pruned.
        notes: What else to know: layers that were pruned by magnitude, and why.
    """

    rows: tuple[OneShotRow, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        cells = [("weight", "pruned", "method", "inputs", "output error")]
        for row in self.rows:
            error = "" if row.error is None else f"{row.error:.2%}"
            cells.append(
                (row.name, f"{row.sparsity:.1%}", row.method, f"{row.inputs:,}", error)
            )
        return "\n".join([*aligned(cells), *self.notes])


def one_shot(
    model: keras.Model,
    data: Any,
    sparsity: float | None = None,
    method: Literal["magnitude", "wanda", "sparsegpt"] = "wanda",
    structure: Unstructured | None = None,
    *,
    layer_sparsity: Literal["uniform", "owl"] = "uniform",
    sparsities: Mapping[Pattern, float] | None = None,
    reconstruct: bool = False,
    batch_size: int = 32,
    batches: int | None = None,
    verbose: bool = False,
) -> OneShotReport:
    """Prunes a trained model once, without training, by a few calibration samples.

    Layer after layer, in the order in which they are called; each sees the samples as
    the layers before it, pruned already, hand them on.

    Args:
        model: A wrapped model, pruned in place.
        data: Samples as the model takes them, without labels: an array, a dict or
            list of arrays, or an iterable (a `tf.data.Dataset`) of batches; of batches
            (x, y) the first counts. A hundred or so will do.
        sparsity: Part of each kernel to prune, in [0, 1). `None` with
            `structure=NM(...)`, which says how many stay.
        method: `"wanda"` (arXiv 2306.11695) prunes the lowest |w| times the norm of
            what the weight multiplies, in every output the same part. `"sparsegpt"`
            (arXiv 2301.00774) also makes the weights that are left make up for those
            that go. `"magnitude"` is the lowest |w| of each kernel, for comparison.
        structure: `tfticket.structures.NM(2, 4)`, or `None` for single weights.
        layer_sparsity: `"uniform"`, or `"owl"` (arXiv 2310.05175): layers whose scores
            have more outliers keep more, within 0.08 of `sparsity`.
        sparsities: Kernels that get a sparsity of their own, as in `sparsify`.
        reconstruct: Whether to solve for the kept weights of each kernel, by least
            squares of its outputs, once it is pruned.
        batch_size: Samples in a batch, of arrays.
        batches: How many batches to take. `None` is all.
        verbose: Whether to show a progress bar.

    Returns:
        `OneShotReport`. What could not be seen (kernels of recurrent layers, layers
        that the data never reaches) is pruned by magnitude, named there and warned of.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of range, the model has no masks, or there
            are no samples or NaN in what layers see. The model is then as it was.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ... )
    >>> samples = np.random.default_rng(0).normal(size=(16, 4))
    >>> report = tfticket.one_shot(model, samples, 0.5, "sparsegpt")
    >>> report.rows[0].sparsity
    0.5
    """
    check_choice("method", method, METHODS)
    check_choice("layer_sparsity", layer_sparsity, ("uniform", "owl"))
    check_bool("reconstruct", reconstruct)
    check_bool("verbose", verbose)
    sparsities = check_values("sparsities", sparsities)
    group = _group(structure)
    if group is not None and sparsity is not None:
        raise ValueError(
            f"structure={structure!r} says how many weights stay. Leave sparsity out. "
            f"Received: sparsity={sparsity!r}"
        )
    if group is None:
        sparsity = check_sparsity("sparsity", sparsity)
    elif layer_sparsity == "owl":
        raise ValueError("layer_sparsity='owl' goes with a sparsity, not with N:M.")
    work = _Work(model, method, group, reconstruct)
    samples = list(batches_of(data, batch_size, batches))
    if not samples:
        raise ValueError("data holds no samples.")
    _require_fit(model, samples[0], data)
    before = work.snapshot()
    try:
        wanted = work.sparsities(
            0.0 if sparsity is None else sparsity, sparsities, layer_sparsity, samples
        )
        rows = list(work.run(samples, wanted, verbose))
    except BaseException:
        work.restore(before)
        raise
    for note in work.notes:
        warnings.warn(note, stacklevel=2)
    return OneShotReport(tuple(rows), tuple(work.notes))


def _require_fit(model, batch, data):
    try:
        model(batch, training=False)
    except Exception as error:  # Keras's and each backend's own
        raise ValueError(
            "data must be samples as the model takes them. "
            f"{str(error).split('Arguments')[0][:300]}. "
            f"Received: data={shown(data)}"
        ) from error


def _group(structure):
    if structure is None or type(structure) is Unstructured:
        return None
    if isinstance(structure, NM):
        return structure.kept, structure.group
    raise ValueError(
        "structure must be None or tfticket.structures.NM. Blocks and channels are "
        f"pruned by tfticket.sparsify. Received: structure={structure!r}"
    )


class _Work:
    """One pruning of a model."""

    def __init__(self, model, method, group, reconstruct):
        self.model, self._method, self._group = model, method, group
        self._reconstruct = reconstruct
        self._second = method == "sparsegpt" or reconstruct
        self._masks = ModelMasks.of(model)
        self.weights = {
            name: weight
            for name, weight in self._masks.weights.items()
            if weight.is_kernel
        }
        if not self.weights:
            raise ValueError(
                f"Model '{model.name}' has no masks. Wrap it with tfticket.prune."
            )
        if adapted := [name for name, x in self.weights.items() if has_adapter(x)]:
            raise ValueError(
                f"Weights have LoRA adapters: {adapted}. Merge them first: tfticket."
                "strip(model), and prune again."
            )
        self._unseen = {name: why_not(x) for name, x in self.weights.items()}
        self.notes: list[str] = []

    def snapshot(self):
        values = {name: host_copy(x.variable) for name, x in self.weights.items()}
        return values, self._masks.masks()

    def restore(self, before):
        values, masks = before
        for name, value in values.items():
            self.weights[name].variable.assign(value)
        self._masks.set_masks(masks)

    def sparsities(self, sparsity, own, layer_sparsity, samples):
        """Sparsity of each kernel."""
        found = dict.fromkeys(self.weights, sparsity)
        if layer_sparsity == "owl":
            found |= self._owl(sparsity, samples)
        if own:
            kinds = {
                name: (self._masks.layers[name].inner_layer(), x.layer)
                for name, x in self.weights.items()
            }
            for pattern, names in choose("sparsities", own, kinds).items():
                value = check_sparsity(f"sparsities[{pattern!r}]", own[pattern])
                found |= dict.fromkeys(names, value)
        return found

    def _owl(self, sparsity, samples):
        recorders = self._recorders(self.weights, second=False)
        with recording(recorders):
            for batch in samples:
                self.model(batch, training=False)
        outliers = {}
        for name, recorder in recorders.items():
            if recorder.count:
                scores = np.abs(host_copy(self.weights[name].variable))
                scores = scores * recorder.norm_of_weights()
                outliers[name] = float(np.mean(scores > _OUTLIER * scores.mean()))
        if not outliers:
            return {}
        sizes = {name: self.weights[name].variable.shape for name in outliers}
        sizes = {name: int(np.prod(shape)) for name, shape in sizes.items()}
        return reconstruction.owl_sparsities(outliers, sizes, sparsity)

    def run(self, samples, wanted, verbose):
        """Prunes layer after layer; a row for each kernel."""
        blocks: dict[int, list[str]] = {}
        for name in self.weights:
            blocks.setdefault(id(self._masks.layers[name]), []).append(name)
        bar = keras.utils.Progbar(len(blocks), unit_name="layer") if verbose else None
        walk = self._along_graph if is_graph(self.model) else self._whole
        for names in walk(samples, blocks):
            for name, recorder in self._recorded.items():
                yield self._prune(name, recorder, wanted[name])
            for name in names - set(self._recorded):
                yield self._by_magnitude(name, wanted[name])
            if bar is not None:
                bar.add(1)
        left = [name for name in self.weights if name not in self._done]
        for name in left:  # of layers that are never called
            yield self._by_magnitude(name, wanted[name])
        self._note_unseen()

    def _along_graph(self, samples, blocks):
        """Calls every layer once it is pruned, and those with kernels before it too."""
        graph = FlatGraph(self.model)
        self._done: set[str] = set()
        last = {number: i for i, x in enumerate(graph.calls) for number in x.inputs}
        values = [
            dict(zip(graph.inputs, _flat(self.model, batch), strict=True))
            for batch in samples
        ]
        for i, call in enumerate(graph.calls):
            names = set(blocks.get(id(call.operation), ())) - self._done
            if names:
                self._recorded = self._recorders(names, self._second)
                with recording(self._recorded):
                    for known in values:
                        _called(call, known)
                yield names
                self._done |= names
            for known in values:
                made = keras.tree.flatten(_called(call, known))
                known.update(zip(call.outputs, made, strict=True))
                for number in call.inputs:
                    if last[number] == i and number not in graph.outputs:
                        known.pop(number, None)

    def _whole(self, samples, blocks):
        """Of a model without a graph: the whole of it again for each layer."""
        self._done = set()
        for names in blocks.values():
            self._recorded = self._recorders(names, self._second)
            with recording(self._recorded):
                for batch in samples:
                    self.model(batch, training=False)
            yield set(names)
            self._done |= set(names)

    def _recorders(self, names, second):
        return {
            name: Recorded(Rows(self.weights[name]), second)
            for name in self.weights
            if name in names and not self._unseen[name]
        }

    def _prune(self, name, recorder, sparsity):
        if not recorder.count:
            self._unseen[name] = "the data never reaches it"
            return self._by_magnitude(name, sparsity)
        weight, rows = self.weights[name], recorder.rows
        if not np.all(np.isfinite(recorder.norms())):
            raise ValueError(
                f"What '{name}' sees on the data is not finite. Is there a NaN in "
                "the data, or in the weights before it?"
            )
        kernel = rows.of(host_copy(weight.variable)).astype(np.float64)
        alive = rows.of(host_copy(weight.mask))
        moments = recorder.moments() if self._second else None
        masks, found = np.empty_like(alive), np.empty_like(kernel)
        for g in range(rows.groups):
            each = None if moments is None else moments[g]
            masks[g], found[g] = self._rows(
                kernel[g], alive[g], recorder.norms()[g], each, sparsity
            )
        weight.variable.assign(
            rows.back(found).astype(host_copy(weight.variable).dtype)
        )
        self._masks.set_masks({name: rows.back(masks)})
        error = None
        if moments is not None:
            error = reconstruction.output_error(kernel, found, moments)
            if recorder.count < rows.size:
                self.notes.append(
                    f"'{name}' was seen on {recorder.count} inputs of {rows.size} "
                    "features: too few to tell them apart, which damping makes up for. "
                    "Pass more samples"
                )
        method = self._method + (" + least squares" if self._reconstruct else "")
        return OneShotRow(name, float(1 - masks.mean()), method, recorder.count, error)

    def _rows(self, kernel, alive, norms, moments, sparsity):
        if self._method == "sparsegpt":
            mask, found = reconstruction.sparse_gpt(
                kernel, alive, moments, sparsity, self._group
            )
        else:
            scores = np.abs(kernel)
            if self._method == "wanda":
                scores = scores * norms
            mask = self._lowest(scores, alive, sparsity, self._method == "wanda")
            found = np.where(mask, kernel, 0)
        if self._reconstruct:
            found = reconstruction.least_squares(kernel * alive, mask, moments)
        return mask, found

    def _lowest(self, scores, alive, sparsity, by_row):
        if self._group is not None:
            return alive & ~NM(*self._group).candidates(scores, alive, _ROWS)
        if by_row:
            count = round(sparsity * scores.shape[1])
            return alive & ~reconstruction.lowest_of_rows(scores, alive, count)
        flat = scores.reshape(1, -1), alive.reshape(1, -1)
        gone = reconstruction.lowest_of_rows(*flat, round(sparsity * scores.size))
        return alive & ~gone.reshape(scores.shape)

    def _by_magnitude(self, name, sparsity):
        self._done.add(name)
        weight = self.weights[name]
        if not self._unseen[name]:
            self._unseen[name] = "the data never reaches it"
        value, alive = host_copy(weight.variable), host_copy(weight.mask)
        axes = weight.reduction_axes
        rows = np.moveaxis(np.abs(value), axes, range(-len(axes), 0))
        shape = rows.shape
        rows = rows.reshape(-1, int(np.prod(shape[len(shape) - len(axes) :])))
        living = np.moveaxis(alive, axes, range(-len(axes), 0)).reshape(rows.shape)
        mask = self._lowest(rows, living, sparsity, by_row=False).reshape(shape)
        mask = np.moveaxis(mask, range(-len(axes), 0), axes)
        self._masks.set_masks({name: mask})
        return OneShotRow(name, float(1 - mask.mean()), "magnitude", 0, None)

    def _note_unseen(self):
        by_reason: dict[str, list[str]] = {}
        for name, reason in self._unseen.items():
            if reason:
                by_reason.setdefault(reason, []).append(name)
        if self._method == "magnitude" and not self._reconstruct:
            return  # they are pruned as all others are
        self.notes += [
            f"pruned by magnitude, since {reason}: {', '.join(names)}"
            for reason, names in by_reason.items()
        ]


def _called(call, values):
    args, kwargs = call.with_values(values)
    if isinstance(call.operation, MaskedLayer):
        kwargs = {**kwargs, "training": False}
    return call.operation(*args, **kwargs)


def _flat(model, batch):
    """The tensors of a batch, in the order of the model's inputs."""
    given = keras.tree.flatten(batch)
    if len(given) != len(model.inputs):
        raise ValueError(
            f"Model '{model.name}' takes {len(model.inputs)} inputs. data has batches "
            f"of {len(given)}."
        )
    return given
