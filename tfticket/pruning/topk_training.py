"""`TopKTraining`: masks of the largest of weights that are, or become, dense again."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from tfticket.common.arguments import (
    check_choice,
    check_integer,
    check_number,
    check_sparsity,
    check_values,
    optional,
)
from tfticket.keras_models.kernels import effective_value
from tfticket.keras_models.names import Pattern
from tfticket.keras_models.variables import host_copy
from tfticket.pruning.dynamic import UpdateRecord
from tfticket.pruning.dynamic_checks import check_dense_behind
from tfticket.pruning.engine import Pruner
from tfticket.pruning.grown import Ages, cuts_that_fit
from tfticket.pruning.step_callback import StepCallback
from tfticket.sparsity import structures
from tfticket.sparsity.regrowth import Regrowth
from tfticket.sparsity.scopes import SCOPES, Scope
from tfticket.sparsity.structures import Unstructured

METHODS = ("ste", "top_kast", "ac_dc")
# Part of a fit after which AC/DC is sparse.
_END = 0.75


class TopKTraining(StepCallback):
    """Trains with the largest weights, while the others can still come back.

    The masks keep the weights of greatest magnitude, and are chosen again every
    `frequency` steps:

    - `"ste"`: the model computes with the kept weights, and all weights get their
      gradient, by a straight-through estimator (Bengio et al. 2013, arXiv 1308.3432).
    - `"top_kast"`: gradients go to the kept weights and to the next largest, up to
      `backward_sparsity` (Jayakumar et al. 2021, arXiv 2106.03517). The others stay as
      they are. `exploration` makes those that are not kept fall faster.
    - `"ac_dc"`: compressed and dense phases of `frequency` steps take turns (Peste et
      al. 2021, arXiv 2106.12379). In a compressed phase what is pruned is 0.0 and
      stays so; in a dense one it trains again, from 0.0. The first compressed phase
      begins at `begin_step`, the last one at `end_step`.

    The first two need a model of `prune(model, keep_dense=True)`, whose pruned weights
    keep their values, and AC/DC one of `prune(model)`. `strip` returns the sparse model
    of all of them. Steps are counted by the optimizer's `iterations`, as for
    `GradualPruning`. A `fit` that resumes goes on with the model's masks. Logs get
    `sparsity`, and `relative_flops` as those of `DynamicSparseTraining`.

    Args:
        sparsity: Fraction of the units (weights, blocks, channels) that is pruned, in
            [0, 1).
        method: `"ste"`, `"top_kast"` or `"ac_dc"`.
        begin_step: Step before which masks are chosen first; all weights are kept until
            then.
        end_step: Step from which masks stay. `None` is the end of the training, for
            AC/DC 75 % of the steps that the optimizer will have made when this `fit`
            ends.
        frequency: Steps from one choice to the next, and of each phase of AC/DC.
        scope: `"layerwise"`, `"global"`, `"isomorphic"` or `"erk"`.
        structure: What is pruned together, for wrappers that don't say themselves. Not
            channels that go together.
        sparsities: Weights with a sparsity of their own: by path, compiled regular
            expression or layer class; 0.0 leaves them dense.
        backward_sparsity: For `"top_kast"`: fraction of the units without a gradient,
            at most `sparsity`. `None` gives twice as many units a gradient as are kept.
        exploration: For `"top_kast"`: factor of its regularizer, 0.0 for none.

    Attributes:
        records: List of `UpdateRecord`, one for each time that masks were chosen in the
            last `fit`, with how many units went and came back.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of range or of another method; when `fit`
            starts, if the model has no masks or another kind of them, another callback
            changes them, a weight would be left empty, or it isn't known where to end.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = tfticket.prune(model, keep_dense=True)
    >>> model.compile("adam", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> ste = tfticket.TopKTraining(0.75, "ste", frequency=2)
    >>> history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[ste])
    >>> history.history["sparsity"], [record.step for record in ste.records]
    ([0.75, 0.75], [0, 2])
    >>> bool(np.all(model.layers[0].layer.kernel))  # the dense weights
    True
    >>> int(np.count_nonzero(tfticket.strip(model).layers[0].kernel))
    5
    """

    # It takes the masks for its own.
    alone = True
    logs_flops = True

    def __init__(
        self,
        sparsity: float,
        method: Literal["ste", "top_kast", "ac_dc"] = "ste",
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: int = 100,
        scope: Scope = "layerwise",
        structure: Unstructured | None = None,
        sparsities: Mapping[Pattern, float] | None = None,
        backward_sparsity: float | None = None,
        exploration: float = 0.0,
    ):
        super().__init__()
        self.sparsity = check_sparsity("sparsity", sparsity)
        self.method = check_choice("method", method, METHODS)
        self.begin_step = check_integer("begin_step", begin_step, 0)
        self.end_step = optional(check_integer, "end_step", end_step, 0)
        if self.end_step is not None and self.end_step <= begin_step:
            raise ValueError(
                "end_step must be after begin_step. Received: "
                f"begin_step={begin_step}, end_step={end_step}"
            )
        self.frequency = check_integer("frequency", frequency, 1)
        self.scope: Scope = check_choice("scope", scope, SCOPES)
        self.structure = None if structure is None else structures.get(structure)
        self.sparsities = check_values("sparsities", sparsities)
        self.backward_sparsity = optional(
            check_number, "backward_sparsity", backward_sparsity, 0, below=1
        )
        self.exploration = check_number("exploration", exploration, 0)
        if method != "top_kast" and (backward_sparsity is not None or exploration):
            raise ValueError(
                "backward_sparsity and exploration are for method='top_kast'. "
                f"Received: method={method!r}, backward_sparsity={backward_sparsity}, "
                f"exploration={exploration}"
            )
        if backward_sparsity is not None and backward_sparsity > sparsity:
            raise ValueError(
                "backward_sparsity must be at most sparsity, so that what is kept gets "
                f"a gradient. Received: backward_sparsity={backward_sparsity}, "
                f"sparsity={sparsity}"
            )
        self.records: list[UpdateRecord] = []

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._pruner = Pruner(self.model, scope=self.scope, structure=self.structure)
        own = self._pruner.own_sparsities(self.sparsities)
        self._cuts = cuts_that_fit(
            self._pruner, self._pruner.cuts_to(self.sparsity, own)
        )
        self._pruner.check(self._cuts)
        dense = [name for names, count in self._cuts if not count for name in names]
        check_dense_behind(self.model, self.method, self.structure, dense)
        self._backward = self._cuts_of_gradients(own)
        if (
            self.method == "ac_dc"
            and self.end_step is None
            and not self._updates_left()
        ):
            raise ValueError(
                "How long this fit trains is not known, so neither is where 75 % of it "
                "are. Pass end_step=, or fit with steps_per_epoch=."
            )
        for layer in set(self._masked.layers.values()):
            if getattr(layer, "exploration", None) is not None:
                layer.exploration.assign(self.exploration)
        self.records = []

    def _cuts_of_gradients(self, own):
        """The cuts that leave the units that get a gradient, by Top-KAST."""
        if self.method != "top_kast":
            return None
        sparsity = self.backward_sparsity
        if sparsity is None:
            sparsity = max(0.0, 1 - 2 * (1 - self.sparsity))
        part = sparsity / self.sparsity if self.sparsity else 0.0
        return self._pruner.cuts_to(sparsity, {k: part * s for k, s in own.items()})

    def _begin(self, step):
        self._step = step - 1  # what was due before has taken place, or never will
        last = self._last_step
        self._end = self.end_step
        if self._end is None and self.method == "ac_dc":
            self._end = int(_END * ((step if last is None else last) + 1))
        self._ages = Ages(step)
        as_they_are_to_be = (
            self._is_sparse() if self._sparse_before(step) else self._is_dense()
        )
        if not as_they_are_to_be and self._next_due(step, step) is None:
            self._update(step)
        if last is not None and not self._sparse_before(last + 1):
            warnings.warn(
                "No weight is pruned at the end of this fit, which trains steps "
                f"{step} to {last}: begin_step={self.begin_step}, "
                f"frequency={self.frequency}, end_step={self._end}. Begin and end "
                "earlier, or train longer.",
                stacklevel=3,
            )

    def _is_sparse(self):
        """Whether the masks have the sizes that they are to have."""
        sizes, alive = self._pruner.sizes(), self._pruner.sizes(alive=True)
        cut = {name: sizes[name] - alive[name] for name in sizes}
        return all(sum(cut[x] for x in names) == count for names, count in self._cuts)

    def _is_dense(self):
        return self._pruner.sizes() == self._pruner.sizes(alive=True)

    def _sparse_before(self, step):
        """Whether the masks of the step before this one are to prune."""
        if step <= self.begin_step:
            return False
        if self.method != "ac_dc" or step > self._end:
            return True
        return (step - 1 - self.begin_step) // self.frequency % 2 == 0

    def _next_due(self, first, last):
        turn = max(0, -((self.begin_step - first) // self.frequency))
        due = self.begin_step + turn * self.frequency
        end = last if self._end is None else min(last, self._end)
        found = [due] if due <= end else []
        if self.method == "ac_dc" and first <= self._end <= last:
            found.append(self._end)  # at which it is sparse for good
        return min(found, default=None)

    def _act(self, first, last):
        latest, due = None, self._next_due(first, last)
        while due is not None:
            latest, due = due, self._next_due(due + 1, last)
        if latest is not None:
            self._update(latest)

    def _update(self, step):
        """Chooses masks as they are to be from this step on."""
        before = self._masked.masks()
        before = {name: np.array(before[name]) for name in self._pruner.structures}
        everything = {name: np.ones_like(mask) for name, mask in before.items()}
        gradients: dict[str, np.ndarray] = {}
        after = everything
        if self._sparse_before(step + 1):
            scores = self._magnitudes()
            if self.method == "ac_dc" and self._is_sparse():
                return  # a phase that is sparse already
            after = self._pruner.units_after(self._cuts, scores, everything)
            if self._backward is not None:
                wider = self._pruner.units_after(self._backward, scores, everything)
                gradients = {k: wider[k] | after[k] for k in wider}
        self._masked.set_masks(after, gradients)
        found = {}
        for name, mask in after.items():
            survivors = before[name] & mask
            moved = int(np.count_nonzero(survivors != before[name]))
            found[name] = Regrowth(survivors, mask, moved)
        lived = self._ages.exchanged(step, before, found)
        dropped = {name: x.moved for name, x in found.items()}
        grown = {
            k: int(np.count_nonzero(x.mask & ~x.survivors)) for k, x in found.items()
        }
        self.records.append(UpdateRecord(step, None, dropped, grown, lived))

    def _magnitudes(self) -> dict[str, Any]:
        """Name to the magnitude of the dense weight."""
        return {
            name: np.abs(host_copy(effective_value(self._masked.weights[name])))
            for name in self._pruner.structures
        }
