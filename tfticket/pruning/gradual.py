"""`GradualPruning`: masks that follow a schedule while a model trains."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import keras

from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_integer,
    check_number,
    check_values,
    optional,
)
from tfticket.keras_models.names import Pattern, join
from tfticket.pruning.engine import Pruner
from tfticket.pruning.evidence import Following
from tfticket.pruning.follower import Follower
from tfticket.pruning.masks import masked_layers
from tfticket.pruning.step_callback import StepCallback
from tfticket.pruning.targets import COSTS, Goal
from tfticket.sparsity import criteria, schedules, structures
from tfticket.sparsity.criteria import Criterion
from tfticket.sparsity.due_steps import ScheduleGroup
from tfticket.sparsity.schedules import Schedule
from tfticket.sparsity.scopes import SCOPES, Scope
from tfticket.sparsity.structures import Unstructured

# A schedule falls short if it misses this part of what it prunes in the end, or of
# what it keeps, whichever is less: few schedules are due exactly at their end.
_SLACK = 0.05


class GradualPruning(StepCallback):
    """Prunes while `fit` trains, as a schedule says (Zhu & Gupta, arXiv 1710.01878).

    Before the step that a schedule names, the lowest-scored survivors are pruned until
    its sparsity is reached. A step is an update of the optimizer, counted by its
    `iterations`: a `fit` that resumes goes on where it was, and accumulated gradients
    count once. With `steps_per_execution` above 1 pruning is late by less than one
    execution, never early. Logs get `sparsity`, that of all masked weights. In a
    `keras.distillation.Distiller` the student is pruned. If this `fit` leaves a
    schedule short of its final sparsity, it warns you when it begins, or, if it does
    not know the number of steps or stops early, when it ends.

    `tfticket.UpdatePruningStep` is another name of it.

    Args:
        schedule: A schedule of `tfticket.schedules` or TF-MOT, or any callable of the
            step that returns (should_prune, sparsity). Wrappers that have a schedule of
            their own follow that. `None`: only these are pruned.
        criterion: Name of a criterion of `tfticket.criteria`, or a function. What it
            compares with or sums up begins when `fit` does.
        scope: `"layerwise"`, `"global"`, `"isomorphic"` or `"erk"`, among the weights
            that follow the same schedule.
        structure: What is pruned together, for wrappers that don't say themselves.
        sparsities: Weights with a final sparsity of their own: by path, compiled
            regular expression or layer class. They go there as fast as the schedule
            goes to its final one; 0.0 leaves them dense.
        output_factor: Output layers get this part of the sparsity: 0.5 for half.
        data: For criteria that need gradients: (x, y), or a dataset of batches.
        loss: The loss, if not the one the model is compiled with.
        batches: How many batches of the data to take.
        seed: Seed of a random criterion.
        decay: Decay rate of the moving average of the criterion `recent_change`.
        allow_empty: Whether a weight may be left without survivors. If not, one that a
            cut through several weights would empty keeps its best unit.
        measure: What the schedule's sparsity is the fraction of: `"units"` (weights,
            blocks, channels), or, where whole channels are cut, the model's `"flops"`
            or `"parameters"`: at a sparsity of 0.5 half of them are left.

    Raises:
        TypeError: If `schedule` is not a schedule.
        ValueError: When `fit` starts, if the model has no masks or nothing a schedule,
            a pattern matches nothing, a criterion lacks its data, or the final
            sparsity would leave a weight empty.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ... )
    >>> model.compile("adam", "mse")
    >>> schedule = tfticket.schedules.CosineDecay(0.25, 0.75, 0, 4, frequency=2)
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> history = model.fit(x, y, batch_size=4, epochs=3, verbose=0,
    ...     callbacks=[tfticket.GradualPruning(schedule)])
    >>> history.history["sparsity"]
    [0.25, 0.5, 0.75]
    """

    def __init__(
        self,
        schedule: Schedule | None = None,
        criterion: str | Criterion = "magnitude",
        scope: Scope = "layerwise",
        structure: Unstructured | None = None,
        sparsities: Mapping[Pattern, float] | None = None,
        output_factor: float = 1.0,
        data: Any = None,
        loss: Any = None,
        batches: int | None = None,
        seed: int | None = None,
        decay: float = 0.99,
        allow_empty: bool = False,
        measure: Literal["units", "flops", "parameters"] = "units",
    ):
        super().__init__()
        self.measure = check_choice("measure", measure, ("units", *COSTS))
        self.schedule = None if schedule is None else schedules.get(schedule)
        self.sparsities = check_values("sparsities", sparsities)
        self.output_factor = check_number("output_factor", output_factor, 0, 1)
        self.decay = check_number("decay", decay, above=0, below=1)
        criteria.needs(criterion)
        self._arguments = {
            "criterion": criterion,
            "scope": check_choice("scope", scope, SCOPES),
            "structure": structures.get(structure),
            "allow_empty": check_bool("allow_empty", allow_empty),
            "data": data,
            "loss": loss,
            "batches": optional(check_integer, "batches", batches, 1),
            "seed": optional(check_integer, "seed", seed, 0),
        }

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._pruner = Pruner(self.model, **self._arguments)
        self._groups = self._make_groups()
        for group in self._groups:
            final = schedules.final_sparsity(group.schedule)
            if final is not None:
                own = group.own(final)
                self._pruner.check(self._pruner.cuts_to(final, own, group.names))
        self._following = None
        self._of_this_step: Exception | None = None
        self._idle = {id(group) for group in self._groups}  # have pruned nothing yet
        self._told: set[int] = set()  # groups that were warned of
        self._follower = Follower(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        self._follower.turn()
        try:
            super().on_train_batch_begin(batch, logs)
        except Exception as error:
            if self._last_step is not None:
                raise
            # Data whose length is not known may have no such batch, and a schedule of
            # one's own need not know its step.
            self._of_this_step = error

    def on_train_batch_end(self, batch, logs=None):
        if self._of_this_step is not None:
            raise self._of_this_step
        if self._following is not None:
            self._following.update()

    def on_train_end(self, logs=None):
        # What fell due within the last execution, unless that was none: Keras may
        # have counted the step that the end of the data cut off.
        if self._of_this_step is None:
            self._follow(self._iterations() - 1)
        self._follower.end()
        super().on_train_end(logs)
        last = self._iterations() - 1
        for group in self._groups if self._step is not None else ():
            nothing = id(group) in self._idle
            self._warn_if_short(group, nothing, last, f"in the steps up to {last}")

    def _make_groups(self):
        """The weights by the schedule they follow, as many groups as schedules."""
        groups = []
        for path, layer in masked_layers(self.model):
            schedule = layer.schedule or self.schedule
            if schedule is None:
                continue
            weights = [join(path, x.name) for x in layer.masked_weights()]
            names = self._pruner.units_of(weights)
            for group in groups:
                if twice := sorted(set(names) & set(group.names)):
                    if group.schedule != schedule:
                        raise ValueError(
                            f"Channels of '{twice[0]}' are made by layers with two "
                            f"schedules, and go together: {group.schedule!r} and "
                            f"{schedule!r} of layer '{path}'. Give them one."
                        )
                    names = [name for name in names if name not in twice]
            same = [group for group in groups if group.schedule == schedule]
            if same:
                same[0].names += names
            elif names:
                groups.append(ScheduleGroup(schedule, names))
        if not groups:
            raise ValueError(
                "GradualPruning has no schedule to follow. Pass one, "
                "GradualPruning(schedule=PolynomialDecay(...)), or wrap with one: "
                "tfticket.prune(model, schedule=...)."
            )
        outputs = self._pruner.outputs if self.output_factor != 1.0 else ()
        given = self._pruner.own_sparsities(self.sparsities)
        for group in groups:
            final = schedules.final_sparsity(group.schedule)
            for name in group.names:
                if name in given and final:
                    group.parts[name] = given[name] / final
                elif name in given:
                    group.fixed[name] = given[name]
                elif name in outputs:
                    group.parts[name] = self.output_factor
        return groups

    def _begin(self, step):
        self._following = Following(self.model, self._pruner.needs, self.decay)
        self._pruner.try_criterion(self._following.evidence())
        last = self._last_step
        # A `train_step` of one's own may update more than once: seen when it ends.
        known = type(self.model).train_step is keras.Model.train_step
        for group in self._groups if known and last is not None else ():
            nothing = not group.latest(0, step) and not group.prunes(step, last)
            where = f"in this fit, which trains steps {step} to {last}"
            self._warn_if_short(group, nothing, last, where)

    def _warn_if_short(self, group, nothing, last, where):
        """Says, once a fit, that a group has less pruned after a step than in the end.

        Args:
            group: The group.
            nothing: Whether its schedule prunes nothing up to that step.
            last: The step.
            where: The same in words.
        """
        final = schedules.final_sparsity(group.schedule)
        reached = group.latest(0, last) or 0.0 if final else 0.0
        short = final and final - reached > _SLACK * min(final, 1 - final)
        if id(group) in self._told or not (nothing or short) or self._is_there(group):
            return
        self._told.add(id(group))
        aim = "" if final is None else f"; its final sparsity is {final:.4g}"
        if nothing:
            text = (
                f"prunes nothing {where}{aim}. {group.names} stay as they are: give it "
                "an earlier begin_step, a smaller frequency, or train longer."
            )
        else:
            text = (
                f"ends at sparsity {reached:.4g} {where}{aim}. Give it an earlier "
                "end_step, a smaller frequency, or train longer."
            )
        warnings.warn(f"The schedule {group.schedule!r} {text}", stacklevel=4)

    def _is_there(self, group):
        """Whether the model has been at the group's final sparsity before."""
        final = schedules.final_sparsity(group.schedule)
        if not final or self.measure != "units":
            return False
        masks = self._masked.masks()
        cuts = self._pruner.cuts_left(final, group.own(final), group.names, masks)
        return all(count <= 0 for _, count in cuts)

    def _act(self, first, last):
        for group in self._groups:
            sparsity = group.latest(first, last)
            if sparsity:
                self._idle.discard(id(group))
                self._prune(group, sparsity)

    def _next_due(self, first, last):
        if self._last_step is None:
            # A schedule of one's own may know no step past the training's end.
            known = [schedules.is_periodic(x.schedule) for x in self._groups]
            last = last if all(known) else first
            if last == first:
                return first
        due = [group.next_due(first, last) for group in self._groups]
        return min([step for step in due if step is not None], default=None)

    def _prune(self, group, sparsity):
        evidence = self._following.evidence()
        if self.measure != "units":
            goal = Goal(self._pruner, group.fixed, group.names, evidence)
            sparsity = goal.sparsity_for(**{self.measure: 1 - sparsity})
        own = group.own(sparsity)
        self._pruner.prune_to(sparsity, own, group.names, evidence)
        self._following.pruned()
