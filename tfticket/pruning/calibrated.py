"""`one_shot`: a trained model pruned once, by what its layers see on a few samples."""

import contextlib
import dataclasses
import functools
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np

from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_integer,
    check_number,
    check_sparsity,
    check_values,
    shown,
)
from tfticket.common.columns import aligned
from tfticket.keras_models.graph import FlatGraph
from tfticket.keras_models.kernels import has_adapter
from tfticket.keras_models.names import Pattern, choose, is_graph
from tfticket.keras_models.quantized import require_not_quantized
from tfticket.keras_models.variables import host_copy
from tfticket.pruning.blocks import (
    Stream,
    blocks_of,
    gradients,
    holders_of,
    in_turn,
    reproduce,
)
from tfticket.pruning.calibration import (
    batches_of,
    norms_of_inputs,
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
class OneShotBlock:
    """How a block was trained to make what it made before it was pruned.

    Args:
        names: Its kernels.
        pruned: Error of its outputs on the samples once they were pruned: mean square,
            relative to that of the dense outputs.
        trained: The same at the end.
    """

    names: tuple[str, ...]
    pruned: float
    trained: float


@dataclasses.dataclass(frozen=True)
class OneShotReport:
    """What `one_shot` did. `print` shows a table.

    Args:
        rows: One for each kernel, in the order in which they were pruned.
        notes: What else to know: layers that were pruned by magnitude, and why.
        blocks: With `reconstruct="block"`, one for each block.
    """

    rows: tuple[OneShotRow, ...]
    notes: tuple[str, ...]
    blocks: tuple[OneShotBlock, ...] = ()

    def __str__(self) -> str:
        cells = [("weight", "pruned", "method", "inputs", "output error")]
        for row in self.rows:
            error = "" if row.error is None else f"{row.error:.2%}"
            cells.append(
                (row.name, f"{row.sparsity:.1%}", row.method, f"{row.inputs:,}", error)
            )
        lines = aligned(cells)
        if self.blocks:
            head = ("block from", "pruned", "trained")
            of_blocks = (
                (x.names[0], f"{x.pruned:.2%}", f"{x.trained:.2%}") for x in self.blocks
            )
            lines += ["", *aligned([head, *of_blocks])]
        return "\n".join([*lines, *self.notes])


def one_shot(
    model: keras.Model,
    data: Any,
    sparsity: float | None = None,
    method: Literal["magnitude", "wanda", "sparsegpt"] = "wanda",
    structure: Unstructured | None = None,
    *,
    layer_sparsity: Literal["uniform", "owl"] = "uniform",
    sparsities: Mapping[Pattern, float] | None = None,
    reconstruct: Literal["layer", "block"] | None = None,
    epochs: int = 8,
    learning_rate: float = 0.0015,
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
        layer_sparsity: `"uniform"`, or `"owl"` (arXiv 2310.05175): blocks whose scores
            have more outliers keep more, within 0.08 of `sparsity`. A block is as
            for `reconstruct`.
        sparsities: Kernels that get a sparsity of their own, as in `sparsify`.
        reconstruct: `"layer"` solves for the kept weights of each kernel, once it is
            pruned, by least squares of its outputs. `"block"` trains the kept weights
            of each block (up to where a single value goes on, so a whole attention or
            residual block) to make what the dense model made there, by Adam on the
            same samples (arXiv 2510.14444). Weights that are not `trainable` stay.
        epochs: With `"block"`, how many times to go through the samples.
        learning_rate: With `"block"`, Adam's at the beginning; it falls to 0.
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
    check_choice("reconstruct", reconstruct, ("layer", "block", None))
    check_integer("epochs", epochs, 1)
    check_number("learning_rate", learning_rate, above=0)
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
    work = _Work(model, method, group, reconstruct, (epochs, learning_rate))
    samples = list(batches_of(data, batch_size, batches))
    if not samples:
        raise ValueError("data holds no samples.")
    _require_fit(model, samples[0], data)
    with work.put_back():
        wanted = work.sparsities(
            0.0 if sparsity is None else sparsity, sparsities, layer_sparsity, samples
        )
        with gradients(False):
            rows = list(work.run(samples, wanted, verbose))
    for note in work.notes:
        warnings.warn(note, stacklevel=2)
    return OneShotReport(tuple(rows), tuple(work.notes), tuple(work.blocks))


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

    def __init__(self, model, method, group, reconstruct, training):
        self.model, self._method, self._group = model, method, group
        self._solves = reconstruct == "layer"
        self._trains = training if reconstruct == "block" else None
        self._second = method == "sparsegpt" or self._solves
        self._masks = ModelMasks.of(model)
        self.weights = {
            name: weight
            for name, weight in self._masks.weights.items()
            if weight.is_kernel
        }
        if not self.weights:
            require_not_quantized(model, "pruned")
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
        self.blocks: list[OneShotBlock] = []

    @contextlib.contextmanager
    def put_back(self):
        """After an error, leaves the model as it was."""
        changed = [x.variable for x in self.weights.values()]
        if self._trains:
            changed += self.model.trainable_variables
        masks = self._masks.masks()
        # On disk: it is looked at only if something goes wrong.
        with tempfile.TemporaryFile() as file:
            for variable in changed:
                file.write(host_copy(variable).tobytes())
            try:
                yield
            except BaseException:
                self._masks.set_masks(masks)
                file.seek(0)
                for variable in changed:
                    empty = np.empty_like(host_copy(variable))
                    found = np.frombuffer(file.read(empty.nbytes), empty.dtype)
                    variable.assign(found.reshape(empty.shape))
                raise

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
        recorders = norms_of_inputs(self._seen(), self.model, samples)
        outliers, sizes, found = {}, {}, {}
        for number, names in enumerate(self._units()):
            seen = [x for x in names if x in recorders and recorders[x].count]
            if not seen:
                continue
            scores = np.concatenate(
                [
                    np.abs(host_copy(self.weights[name].variable).ravel())
                    * recorders[name].norm_of_weights().ravel()
                    for name in seen
                ]
            )
            unit = str(number)
            outliers[unit] = float(np.mean(scores > _OUTLIER * scores.mean()))
            sizes[unit] = scores.size
            found |= dict.fromkeys(seen, unit)
        if not outliers:
            return {}
        wanted = reconstruction.owl_sparsities(outliers, sizes, sparsity)
        return {name: wanted[unit] for name, unit in found.items()}

    def _seen(self):
        """The kernels whose inputs can be told."""
        return {k: x for k, x in self.weights.items() if not self._unseen[k]}

    def _units(self):
        """Kernels that have one sparsity, as the papers give one to each block."""
        holders = holders_of(self._masks, self.weights)
        if is_graph(self.model):
            return [x.names for x in blocks_of(FlatGraph(self.model), holders)]
        return list(holders.values())

    def run(self, samples, wanted, verbose):
        """Prunes layer after layer; a row for each kernel."""
        bar = None
        if verbose:
            bar = keras.utils.Progbar(len(self.weights), unit_name="kernel")
        holders = holders_of(self._masks, self.weights)
        seen = self._seen()
        function = functools.partial(self.model, training=False)
        whole = bool(self._trains) and not is_graph(self.model)
        targets = [function(batch) for batch in samples] if whole else None
        self._dense: Stream | None = None
        around = self._reproduced if self._trains else None
        walk = in_turn(self.model, samples, seen, holders, self._second, around)
        self._done: set[str] = set()
        for names, recorded in walk:
            for name, recorder in recorded.items():
                yield self._prune(name, recorder, wanted[name])
            for name in names:
                if name not in recorded:
                    yield self._by_magnitude(name, wanted[name])
            self._done |= set(names)
            if bar is not None:
                bar.add(len(names))
        left = [name for name in self.weights if name not in self._done]
        for name in left:  # of layers that are never called
            yield self._by_magnitude(name, wanted[name])
        if whole:
            names = tuple(self.weights)
            self._train(names, function, [self.model], samples, targets)
        # One by one they are only assigned, which is faster; now for the optimizer too.
        self._masks.set_masks(self._masks.masks())
        self._note_unseen()

    @contextlib.contextmanager
    def _reproduced(self, block, here):
        """Trains a block, once it is pruned, to make what it made before."""
        if self._dense is None:
            self._dense = here.copy()  # before the first kernel both are the same
        else:
            self._dense.run(block.before)
        inputs = here.of(block.inputs)
        self._dense.run(block.calls)
        targets = [x for (x,) in self._dense.of([block.output])]
        yield
        layers = block.layers()
        self._train(block.names, block.function(), layers, inputs, targets)
        here.put(block.inputs, inputs)
        here.run(block.calls)

    def _train(self, names, function, layers, inputs, targets):
        found = reproduce(function, layers, inputs, targets, *self._trains)
        self.blocks.append(OneShotBlock(names, *found))

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
        weight.mask.assign(rows.back(masks))
        error = None
        if moments is not None:
            error = reconstruction.output_error(kernel, found, moments)
            if recorder.count < rows.size:
                self.notes.append(
                    f"'{name}' was seen on {recorder.count} inputs of {rows.size} "
                    "features: too few to tell them apart, which damping makes up for. "
                    "Pass more samples"
                )
        method = self._method + (" + least squares" if self._solves else "")
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
        if self._solves:
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
        weight.mask.assign(mask)
        weight.variable.assign(np.where(mask, value, np.zeros_like(value)))
        return OneShotRow(name, float(1 - mask.mean()), "magnitude", 0, None)

    def _note_unseen(self):
        by_reason: dict[str, list[str]] = {}
        for name, reason in self._unseen.items():
            if reason:
                by_reason.setdefault(reason, []).append(name)
        if self._method == "magnitude" and not self._solves:
            return  # they are pruned as all others are
        self.notes += [
            f"pruned by magnitude, since {reason}: {', '.join(names)}"
            for reason, names in by_reason.items()
        ]
