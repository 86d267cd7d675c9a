"""`DynamicSparseTraining`: masks of constant size whose weights go and come back."""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import keras
import numpy as np

from tfticket.common.arguments import (
    check_choice,
    check_integer,
    check_rate,
    check_sparsity,
    check_values,
)
from tfticket.keras_models.names import Pattern
from tfticket.pruning.dynamic_checks import (
    check_initializer,
    check_layers,
    check_structure,
    check_trains,
)
from tfticket.pruning.engine import Pruner
from tfticket.pruning.grown import Ages, initial_values, units_kept
from tfticket.pruning.growth import Growth, check_method, check_source
from tfticket.pruning.step_callback import StepCallback
from tfticket.sparsity import criteria
from tfticket.sparsity.criteria import Criterion
from tfticket.sparsity.regrowth import (
    DECAYS,
    Decay,
    drop_and_grow,
    drop_fraction_at,
    exchanged,
    random_mask,
)
from tfticket.sparsity.structures import Unstructured

# Part of a fit after which masks stay as they are, as in RigL's paper.
_END = 0.75


@dataclasses.dataclass(frozen=True)
class UpdateRecord:
    """One update of the masks by `DynamicSparseTraining` or `TopKTraining`.

    Attributes:
        step: The step before which it was due, by the optimizer's count.
        drop_fraction: Fraction of the survivors that was to be dropped; `None` of
            `TopKTraining`, which takes the largest.
        dropped: Name of the weight to the number of units dropped.
        grown: Name of the weight to the number of units grown.
        lived: Name of the weight to the mean number of steps for which the dropped
            units had been kept, since they grew or this `fit` began.
    """

    step: int
    drop_fraction: float | None
    dropped: dict[str, int]
    grown: dict[str, int]
    lived: dict[str, float] = dataclasses.field(default_factory=dict)


class DynamicSparseTraining(StepCallback):
    """Trains at a constant sparsity, with weights that go and come back.

    Masks of an exact size are drawn before the first step. At every update the
    survivors of least magnitude are dropped in each weight, and exactly as many of
    those that were pruned before are grown, as `method` says:

    - `"rigl"`: where the gradient of the dense weight is largest (Evci et al. 2020,
      arXiv 1911.11134).
    - `"momentum"`: where the moving average of these gradients is largest (Dettmers &
      Zettlemoyer 2019, arXiv 1907.04840). It is of the updates of one `fit`.
    - `"set"`: at random (Mocanu et al. 2018, arXiv 1707.04780).
    - A criterion: where it scores highest, of the gradient of the dense weight for
      example. Pruned weights are 0.0, so it has to take `gradient`, `initial` or
      `generator`, and nothing else but the weight.
    - `"static"`: there are no updates.

    What is dropped is 0.0 at once. What is grown starts at 0.0 or as `initializer`
    says, its optimizer slots at rest.

    Updates are due before the steps `begin_step + frequency`, `begin_step + 2 *
    frequency` and so on up to `end_step`, counted by the optimizer's `iterations`, as
    for `GradualPruning`. With `steps_per_execution` above 1, of several that are due
    within an execution the latest takes place. A `fit` that resumes goes on with the
    masks of the model, and with the draws and batches that would have come. Logs get
    `sparsity` and `relative_flops`, the operations of all steps so far as a fraction of
    those of dense ones; `training_flops` has the cost of gradients too. Of a
    `keras.distillation.Distiller` the student is trained so.

    Args:
        sparsity: Fraction of the units (weights, blocks, channels) that is pruned, in
            [0, 1). Where the structure is N:M it prunes as far as that goes. `None`
            only with `start="present"`, or where N:M decides everywhere.
        method: `"rigl"`, `"momentum"`, `"set"`, `"static"`, the name of a criterion of
            `tfticket.criteria`, or a function.
        drop_fraction: Fraction of each weight's survivors to drop at an update, in (0,
            1): `round(drop_fraction * survivors)`, fewer if fewer can grow. One
            survivor always stays.
        decay: `"cosine"` takes the fraction to 0 at `end_step`, `"constant"` keeps it.
        begin_step: Step at which the decay begins.
        end_step: Last step at which an update may be due. `None` is 75 % of the steps
            that the optimizer will have made when this `fit` ends.
        frequency: Steps from one update to the next.
        start: `"random"` draws masks of the exact size: among the survivors where
            there are more, and keeps a mask that has that size. `"present"` keeps all
            masks, as of a ticket or of `set_masks`, and refuses those of another size.
        scope: `"layerwise"` prunes every weight alike, `"erk"` by its shape.
        structure: What goes and comes back together, for wrappers that don't say
            themselves: `Unstructured()`, `Block`, `Channel(grouped=False)`, or `NM`,
            of which every group keeps its number. `NM(k, n)` with a group as long as
            the fan-in keeps k inputs of each unit (arXiv 2305.02299).
        sparsities: Weights with a sparsity of their own: by path, compiled regular
            expression or layer class; 0.0 leaves them dense.
        data: For gradients: (x, y), of which 128 samples are a batch, or a dataset of
            batches. Each update takes the next ones, and starts again after the last.
        loss: The loss, if not the one the model is compiled with.
        batches: How many batches to take at each update.
        seed: Seed of what is drawn. `None`: another one each time.
        momentum: Decay rate of the average of `"momentum"`, in (0, 1).
        initializer: What grown weights start as: the name of a Keras initializer, or
            one. It draws a weight of the whole shape, of which they take their part.

    Attributes:
        records: List of `UpdateRecord`, one for each update of the last `fit`.
        densities: Name of the weight to the fraction of its units that is kept, those
            of ERK for example.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of range; when `fit` starts, if the model has
            no masks, another callback changes them, a structure is not one of these, a
            weight would be left empty, or it isn't known where to end; while it
            trains, if weights or gradients are NaN or infinite.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    ... )
    >>> model.compile("adam", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> rigl = tfticket.DynamicSparseTraining(
    ...     0.5, data=(x, y), frequency=2, decay="constant", end_step=5, seed=0
    ... )
    >>> history = model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[rigl])
    >>> [(record.step, record.grown["dense/kernel"]) for record in rigl.records]
    [(2, 3), (4, 3)]
    >>> history.history["sparsity"]
    [0.5, 0.5, 0.5]
    """

    # It would not know what another callback prunes meanwhile.
    alone = True
    logs_flops = True

    def __init__(
        self,
        sparsity: float | None,
        method: Literal["rigl", "set", "momentum", "static"] | str | Criterion = "rigl",
        drop_fraction: float = 0.3,
        decay: Decay = "cosine",
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: int = 100,
        start: Literal["random", "present"] = "random",
        scope: Literal["layerwise", "erk"] = "layerwise",
        structure: Unstructured | None = None,
        sparsities: Mapping[Pattern, float] | None = None,
        data: Any = None,
        loss: Any = None,
        batches: int = 1,
        seed: int | None = None,
        momentum: float = 0.9,
        initializer: str | keras.initializers.Initializer = "zeros",
    ):
        super().__init__()
        self.method = check_method(method)
        self.drop_fraction = check_rate("drop_fraction", drop_fraction)
        self.decay: Decay = check_choice("decay", decay, DECAYS)
        self.begin_step = check_integer("begin_step", begin_step, 0)
        self.frequency = check_integer("frequency", frequency, 1)
        if (
            end_step is not None
            and check_integer("end_step", end_step, 0) <= begin_step
        ):
            raise ValueError(
                "end_step must be after begin_step. Received: "
                f"begin_step={begin_step}, end_step={end_step}"
            )
        self.end_step = end_step
        self.start = check_choice("start", start, ("random", "present"))
        if sparsity is None and sparsities:
            raise ValueError(
                "sparsities are of some weights, and sparsity has to say that of the "
                f"others. Received: sparsity=None, sparsities={sparsities}"
            )
        self.sparsity = (
            None if sparsity is None else check_sparsity("sparsity", sparsity)
        )
        self.scope = check_choice("scope", scope, ("layerwise", "erk"))
        if structure is not None:
            check_structure(structure)
        self.structure = structure
        self.sparsities = check_values("sparsities", sparsities)
        self.batches = check_integer("batches", batches, 1)
        check_source(self.method, data, loss)
        self.data, self.loss = data, loss
        self.seed = None if seed is None else check_integer("seed", seed, 0)
        self.momentum = check_rate("momentum", momentum)
        self.initializer = check_initializer(initializer)
        self.records: list[UpdateRecord] = []
        self.densities: dict[str, float] = {}

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        check_layers(self.model, self.structure)
        self._pruner = Pruner(self.model, scope=self.scope, structure=self.structure)
        self._kept = self._counts()
        sizes = self._pruner.sizes()
        self.densities = {name: n / sizes[name] for name, n in self._kept.items()}
        self._sparse = [name for name, n in self._kept.items() if n < sizes[name]]
        self.records = []
        self._seed = self.seed
        if self._seed is None:
            self._seed = np.random.SeedSequence().entropy
        self._growth = None
        if self.method != "static":
            weights = {name: self._masked.weights[name] for name in self._sparse}
            check_trains(weights)
            self._growth = Growth(
                *(self.method, self.model, weights, self._generator, self.momentum),
                *(self.data, self.loss, self.batches),
            )
        ends_by_itself = self.method != "static" and self.end_step is None
        if ends_by_itself and not self._updates_left():
            raise ValueError(
                "How long this fit trains is not known, so neither is where 75 % of it "
                "are. Pass end_step=, or fit with steps_per_epoch=."
            )

    def _counts(self):
        """Name to the number of units kept, all of them where a weight stays dense."""
        sizes, alive = self._pruner.sizes(), self._pruner.sizes(alive=True)
        kept = alive
        if self.sparsity is not None or self.start == "random":
            kept = units_kept(self._pruner, self.sparsity, self.sparsities)
        for name, count in kept.items():
            if count < 1:
                raise ValueError(
                    f"'{name}' would keep none of its {sizes[name]} units, and nothing "
                    "would pass it. Use a lower sparsity, give it one of its own, or "
                    "exclude it."
                )
            if self.start == "present" and count != alive[name]:
                raise ValueError(
                    f"start='present' keeps masks as they are, and '{name}' has "
                    f"{alive[name]} of {sizes[name]} units where sparsity="
                    f"{self.sparsity} keeps {count}. Pass sparsity=None, or "
                    "start='random'."
                )
        if kept == sizes:
            raise ValueError(
                "Every weight would stay dense, so none could be dropped or grown. "
                f"Received: sparsity={self.sparsity}, start={self.start!r}"
            )
        return kept

    def _begin(self, step):
        self._step = step - 1  # what was due before has taken place, or never will
        masks = self._masked.masks()
        drawn = {
            name: random_mask(
                masks[name], keep, self._generator(name, 0), *self._units(name)
            )
            for name, keep in self._kept.items()
        }
        starts = any(drawn[name] is not masks[name] for name in drawn)
        if starts:
            self._masked.set_masks(drawn)
        self._ages = Ages(step)
        last = self._last_step
        self._end = self.end_step
        if self._end is None:
            self._end = 0 if last is None else int(_END * (last + 1))
        if self.method == "static" or last is None:
            return
        # A training that goes on after its `end_step` has had its updates.
        none_before = starts or self._next_due(0, step) is None
        if none_before and self._next_due(step, last) is None:
            warnings.warn(
                f"No update of the masks is due in this fit, which trains steps {step} "
                f"to {last}: begin_step={self.begin_step}, frequency={self.frequency}, "
                f"end_step={self._end}. Update more often, or train longer.",
                stacklevel=3,
            )

    def _due(self, first: int, last: int) -> Iterator[int]:
        """The steps in first..last before which an update is due."""
        if self.method == "static":
            return iter(())
        turn = max(1, -((self.begin_step - first) // self.frequency))
        begin = self.begin_step + turn * self.frequency
        return iter(range(begin, min(last, self._end) + 1, self.frequency))

    def _next_due(self, first, last):
        return next(self._due(first, last), None)

    def _act(self, first, last):
        latest = max(self._due(first, last), default=None)
        if latest is not None:
            self._update(latest)

    def _update(self, step):
        fraction = drop_fraction_at(
            step, self.begin_step, self._end, self.drop_fraction, self.decay
        )
        sizes, alive = self._pruner.sizes(), self._pruner.sizes(alive=True)
        if not any(exchanged(alive[n], sizes[n], fraction) for n in self._sparse):
            none = dict.fromkeys(self._sparse, 0)
            self.records.append(UpdateRecord(step, fraction, none, dict(none)))
            return
        masks, values = self._masked.masks(), self._masked.values()
        before = self._growth.samples
        turn = (step - self.begin_step) // self.frequency
        growth = self._growth.scores(step, turn, values)
        self._meter.took_gradient(self._growth.samples - before)
        found = {}
        for name in self._sparse:
            scores = criteria.score("magnitude", {name: values[name]})[name]
            found[name] = drop_and_grow(
                scores, growth[name], masks[name], fraction, *self._units(name)
            )
        lived = self._ages.exchanged(step, masks, found)
        # What grows is 0.0, its slots at rest, whatever another callback has loaded
        # into the model.
        self._masked.set_masks(
            {name: x.mask for name, x in found.items()},
            kept={name: x.survivors for name, x in found.items()},
        )
        self._start_grown(found, turn)
        counts = {name: x.moved for name, x in found.items()}
        self.records.append(UpdateRecord(step, fraction, counts, dict(counts), lived))

    def _start_grown(self, found, turn):
        """Gives grown weights the values that they start with, if not 0.0."""
        if isinstance(self.initializer, keras.initializers.Zeros):
            return
        for name, (survivors, mask, _) in found.items():
            variable = self._masked.weights[name].variable
            seed = int(self._generator(f"{name} grown", turn).integers(2**31))
            drawn = initial_values(self.initializer, seed, variable)
            grown = keras.ops.convert_to_tensor(mask & ~survivors)
            variable.assign(keras.ops.where(grown, drawn, variable.value))

    def _generator(self, name, turn):
        return criteria.generator_for(name, self._seed, turn)

    def _units(self, name):
        return self._pruner.structures[name], self._pruner.axes[name]
