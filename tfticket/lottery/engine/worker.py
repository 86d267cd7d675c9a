"""`Worker`: runs what is missing of chains, and measures what their trainings made."""

import contextlib
import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfticket import data, devices, models
from tfticket.common.checksums import derived_seed
from tfticket.common.runs import CHECKPOINT, versions
from tfticket.lottery.engine.branches import Branch, Origin, Start, start_of
from tfticket.lottery.engine.chains import MAIN, Chain, Setting, check_callbacks
from tfticket.lottery.engine.checkpoint import Checkpoint
from tfticket.lottery.engine.run_folder import (
    NEXT,
    OPTIMIZER,
    TICKET,
    TRAINED,
    LotteryFolder,
)
from tfticket.lottery.engine.sparse_trainings import FreezePruned, callback_for
from tfticket.lottery.engine.trainer import Order, Trained, Trainer, dataset_of
from tfticket.lottery.measures.adversarial import attacked_accuracy, parse_attack
from tfticket.lottery.measures.movement import movement
from tfticket.lottery.measures.stability import barrier
from tfticket.lottery.measures.widths import width_with
from tfticket.lottery.results import Part, PartResult
from tfticket.pruning.masks import get_masks
from tfticket.tickets.ticket import Ticket, zero_masked

# Compiled networks kept beside the experiment's own; `small_dense` has one a round.
_MOST_TRAINERS = 2
# Controls that begin with the ticket's own weights, and so where the ticket does.
_AS_THE_TICKET = (
    *("noise", "signs", "shuffled_in_signs", "sign_noise", "frozen_at_init"),
    *("stability", "transfer"),
)
# Controls whose pruned weights are not 0.
_KEEP_DENSE = ("ste", "frozen_at_init")

# What is kept of a training and what was measured of it: files, and fields of the
# result.
_Kept = tuple[dict[str, Ticket], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Job:
    """A training to do: where it starts, and what is done with it in the end."""

    trainer: Trainer
    start: Start
    inputs: Sequence[str]
    callbacks: Sequence[keras.callbacks.Callback] = ()
    after: Callable[[Part, "Job", Trained], _Kept] = lambda *_: ({}, {})
    # Those that count, if they are not those of the network.
    masks: Mapping[str, np.ndarray] | None = None

    @property
    def begin(self) -> int:
        """The iteration that it begins at."""
        return self.trainer.recipe.begins_at(self.start.step)


class Stopwatch:
    """The seconds of a part: `train` in `fit`, and `between` for everything else."""

    def __init__(self):
        self._began, self._trained = time.monotonic(), 0.0

    @contextlib.contextmanager
    def training(self):
        began = time.monotonic()
        yield
        self._trained += time.monotonic() - began

    @property
    def seconds(self) -> dict[str, float]:
        whole = time.monotonic() - self._began
        return {"train": self._trained, "between": whole - self._trained}


class Worker:
    """Runs what is missing of chains, one after another, in one process.

    Args:
        setting: What the experiment sets.
        on_evaluation: Called with (part, steps done, steps in all) as trainings go on.
    """

    def __init__(
        self,
        setting: Setting,
        on_evaluation: Callable[[Part, int, int], None] | None = None,
    ):
        self._setting = setting
        self._folder = LotteryFolder(setting.folder)
        self._on_evaluation = on_evaluation
        self._trainers: dict[Any, Trainer] = {}
        self._strategy = devices.strategy(setting.strategy)
        devices.make_deterministic()

    def run(self, chain: Chain, on_part: Callable[[PartResult, bool], None]) -> None:
        """Does what is missing of a chain.

        Args:
            chain: What to run.
            on_part: Called with the result of each part, and whether it was missing.
        """
        with self._strategy.scope():
            for part in chain.parts:
                on_part(*self._run(part))

    def finished(self, part: Part) -> PartResult | None:
        """The result of a part; `None` if it, or some measure of it, is missing."""
        result = self._folder.result(part)
        return None if result is None or self._attacks_missing(result) else result

    def _attacks_missing(self, result):
        return [x for x in self._setting.attacks if x not in result.attacks]

    def _run(self, part):
        result = self._folder.result(part)
        fresh = result is None
        if result is None:
            result = self._train(part)
        return self.measured(result), fresh

    def measured(self, result: PartResult) -> PartResult:
        """The result with the measures that it lacks."""
        missing = self._attacks_missing(result)
        return self._attack(result, missing) if missing else result

    def check(self) -> Trainer:
        """Loads data, builds the network and tries the rates, before any training.

        Raises:
            ValueError: If something does not fit.
        """
        with self._strategy.scope():
            trainer = self._trainer(self._setting.recipe)
            trainer.check_rounds(self._setting.rounds)
        return trainer

    def dataset(self, name: str) -> data.Dataset:
        """The data of that name, loaded once, as the recipe says."""
        if name == self._setting.recipe.dataset and self._setting.dataset is not None:
            return self._setting.dataset
        return self._loaded(name)

    @functools.cached_property
    def _loaded(self):
        setting = self._setting
        return functools.cache(
            lambda name: dataset_of(
                setting.recipe, setting.data_dir, setting.download, name
            )
        )

    def _trainer(self, recipe, factor=1.0, keep_dense=False):
        key = (recipe, factor, keep_dense)
        if key not in self._trainers:
            if len(self._trainers) > _MOST_TRAINERS:
                # Not the experiment's own: all controls ask for it.
                own = (self._setting.recipe, 1.0, False)
                del self._trainers[next(k for k in self._trainers if k != own)]
            build = self._setting.build or functools.partial(
                models.build,
                recipe.model,
                width=recipe.width,
                dropout=recipe.dropout,
            )
            self._trainers[key] = Trainer(
                *(recipe, self.dataset(recipe.dataset), build, factor),
                *(self._setting.stops, keep_dense),
            )
        return self._trainers[key]

    def _train(self, part):
        watch = Stopwatch()
        job = self.job(part)
        trainer, begin = job.trainer, job.begin
        checkpoint = self._checkpoint(part, job, begin)
        with watch.training():
            trained = trainer.train_ticket(
                job.start.ticket,
                self.order(part, begin),
                job.start.optimizer,
                checkpoint,
                functools.partial(self._tell, part, trainer.recipe.iterations),
                job.callbacks,
                begin,
                self._observers(part),
            )
        result = self.finish(part, job, trained, lambda: watch.seconds)
        checkpoint.remove()
        return result

    def job(self, part: Part) -> Job:
        """What there is to do for a part, whose tickets are there."""
        return self._main(part) if part.branch == MAIN else self._control(part)

    def finish(
        self,
        part: Part,
        job: Job,
        trained: Trained,
        seconds: Callable[[], dict[str, float]],
    ) -> PartResult:
        """Measures a training, whose weights the model has, and writes its files."""
        trainer, masks = job.trainer, trained.masks
        provenance = self._provenance(part, trainer)
        tickets = {
            TICKET: Ticket(
                masks, zero_masked(job.start.ticket.weights, masks), provenance
            )
            if job.callbacks
            else dataclasses.replace(job.start.ticket, provenance=provenance),
            TRAINED: Ticket(masks, zero_masked(trained.weights, masks)),
        }
        more, measured = job.after(part, job, trained)
        result = PartResult(
            part=part,
            **self._counted(masks if job.masks is None else job.masks),
            iterations=trainer.recipe.iterations,
            **_evaluated(trainer, trained, bool(job.callbacks)),
            **measured,
            seconds=seconds(),
            versions=versions(),
            first_iteration=job.begin,
            rewound_to=job.start.step,
        )
        self._folder.finish(result, {**tickets, **more}, trained.metrics, job.inputs)
        return result

    def _observers(self, part):
        """The user's callbacks of a part."""
        callbacks = self._setting.callbacks
        return check_callbacks(callbacks(part) if callable(callbacks) else callbacks)

    def _checkpoint(self, part, job, begin):
        name = self._folder.name_of(part.path)
        clock = f"/from_{begin}" if begin else ""
        return Checkpoint(
            self._folder.folder(part) / CHECKPOINT,
            f"{name['run']}/{name['part']}/{_fingerprint(job.start.ticket)}{clock}",
            # What a criterion has summed up is in no checkpoint.
            None if job.trainer.recipe.sums_up else self._setting.checkpoint_seconds,
        )

    def _tell(self, part, steps, done):
        if self._on_evaluation is not None:
            self._on_evaluation(part, done, steps)

    def order(self, part: Part, begin: int = 0) -> Order:
        """The order in which a part that begins at an iteration sees the data."""
        kind = part.branch.partition(":")[0]
        if self._setting.recipe.same_order and kind != "stability":
            kind, part = MAIN, Part(part.seed, round=part.round)
        if begin and kind in (MAIN, "late_rewind"):
            part = Part(part.seed)  # the dense training goes on
        if self._setting.as_one_fit:
            return Order(part.seed, part.round * self._setting.recipe.iterations)
        words = ("order", part.branch, part.copy, part.round)
        return Order(derived_seed(part.seed, *words))

    def _counted(self, masks):
        # Of the experiment's network: a smaller one has the density of its ticket.
        network = self._trainer(self._setting.recipe).model
        size = sum(mask.size for mask in get_masks(network).values())
        layers = {k: [int(np.count_nonzero(m)), m.size] for k, m in masks.items()}
        kept = sum(count for count, _ in layers.values())
        return {"density": kept / size, "parameters": kept, "layers": layers}

    def _trainer_of(self, part):
        recipe = self._setting.recipe
        if part.branch == MAIN:
            return self._trainer(recipe, recipe.retrain_factor if part.round else 1.0)
        branch = Branch.parse(part.branch)
        recipe = branch.recipe(recipe)
        if branch.kind == "small_dense":
            recipe = dataclasses.replace(recipe, width=self._width(part))
        return self._trainer(recipe, keep_dense=branch.kind in _KEEP_DENSE)

    def _width(self, part):
        ticket = self._folder.ticket(Part(part.seed, round=part.round))
        wanted = sum(int(np.count_nonzero(mask)) for mask in ticket.masks.values())
        recipe = self._setting.recipe
        images = self.dataset(recipe.dataset)
        return width_with(
            *(recipe.model, images.image_shape, images.classes, wanted),
            exclude=recipe.excluded,
        )

    def _main(self, part):
        recipe = self._setting.recipe
        trainer = self._trainer_of(part)
        initial = trainer.initial_weights(part.seed)
        if part.round == 0:
            start, inputs = Start(trainer.dense(initial)), []
        else:
            start, inputs = self._next_start(part, recipe.rewind_to, initial)
        return Job(trainer, start, inputs, after=self._pruned)

    def _next_start(self, part, rewind_to, initial):
        """Where a round after the first begins, and the files that this is in."""
        before = dataclasses.replace(part, round=part.round - 1)
        optimizer, used = None, [NEXT]
        if rewind_to is None:
            weights = self._folder.ticket(before, TRAINED).weights
            used.append(TRAINED)
            if self._setting.as_one_fit:
                optimizer = self._folder.ticket(before, OPTIMIZER).weights
                used.append(OPTIMIZER)
        elif rewind_to == 0:
            weights = initial
        else:
            found = self.prefix(part.seed, rewind_to)
            weights, optimizer = found["weights"], found["optimizer"]
        masks = self._folder.ticket(before, NEXT).masks
        ticket = Ticket(masks, zero_masked(weights, masks))
        start = Start(ticket, optimizer, rewind_to or 0)
        return start, [f"{before.path}/{name}" for name in used]

    def _control(self, part):
        branch = Branch.parse(part.branch)
        trainer = self._trainer_of(part)
        seed = derived_seed(part.seed, part.branch, part.copy, part.round)
        main = Part(part.seed, round=part.round)
        if branch.kind == "small_dense":
            start = Start(trainer.dense(trainer.initial_weights(seed)))
            return Job(trainer, start, [f"{main.path}/{TICKET}"])
        if branch.finds_masks:
            start = Start(trainer.dense(trainer.initial_weights(seed)))
            callback = callback_for(
                *(branch, self._folder.ticket(main).density),
                *(trainer.recipe.iterations, trainer.rigl_data, seed),
            )
            return Job(trainer, start, [f"{main.path}/{TICKET}"], [callback])
        origin, inputs = self._origin(branch, main)
        start = start_of(branch, origin, trainer, seed, part.seed)
        step = self._setting.recipe.rewind_to
        if branch.kind in _AS_THE_TICKET and step and not branch.is_of_dense:
            optimizer = None
            if trainer.recipe.begins_at(step):
                optimizer = self.prefix(part.seed, step)["optimizer"]
            start = Start(start.ticket, optimizer, step)
        if branch.kind == "frozen_at_init":
            callback = FreezePruned(origin.ticket.masks)
            return Job(
                *(trainer, start, inputs, [callback], self._still_frozen),
                masks=origin.ticket.masks,
            )
        if branch.kind == "stability":
            return Job(trainer, start, inputs, after=self._with_barrier)
        return Job(trainer, start, inputs)

    def _origin(self, branch, main):
        rounds = {
            "one_shot": 0,
            "lr_rewind": main.round - 1,
            "fine_tune": main.round - 1,
        }
        inputs, trained, prefix = [f"{main.path}/{TICKET}"], None, None
        if branch.kind in rounds:
            source = dataclasses.replace(main, round=rounds[branch.kind])
            trained = self._folder.ticket(source, TRAINED)
            inputs.append(f"{source.path}/{TRAINED}")
        elif branch.kind == "stability":  # the barrier is to it
            inputs.append(f"{main.path}/{TRAINED}")
        if branch.step:
            prefix = self.prefix(main.seed, branch.step)
        initial = self._trainer(self._setting.recipe).initial_weights(main.seed)
        ticket = self._folder.ticket(main)
        return Origin(ticket, initial, trained, prefix), sorted(inputs)

    @functools.cached_property
    def prefix(self) -> Callable[[int, int], dict[str, dict[str, np.ndarray]]]:
        """Weights and optimizer of a replicate's dense training after some steps."""

        @functools.lru_cache(maxsize=4)
        def prefix(seed, steps):
            trainer = self._trainer(self._setting.recipe)
            dense = trainer.dense(trainer.initial_weights(seed))
            return trainer.prefix(dense, self.order(Part(seed)), steps)

        return prefix

    def _pruned(self, part, job, trained):
        tickets, measured = {}, {}
        if self._setting.as_one_fit and self._setting.recipe.rewind_to is None:
            tickets[OPTIMIZER] = Ticket({}, trained.optimizer)
        try:
            kept = job.trainer.next_masks(part.seed, trained)
        except ValueError:
            if part.round < self._setting.rounds:
                raise
            # Nothing is left to prune, and nothing more is asked for.
        else:
            tickets[NEXT] = Ticket(kept, {})
            measured["movement"] = self._movement(part, job, trained, kept)
        return tickets, measured

    def _movement(self, part, job, trained, kept):
        ticket = job.start.ticket
        initial = job.trainer.initial_weights(part.seed)
        return movement(
            {name: ticket.weights[name] for name in ticket.masks},
            {name: trained.weights[name] for name in ticket.masks},
            ticket.masks,
            kept,
            {name: float(np.std(initial[name])) for name in ticket.masks},
        )

    def _still_frozen(self, part, job, trained):
        for name, mask in job.masks.items():
            before, after = job.start.ticket.weights[name], trained.weights[name]
            if not np.array_equal(before[~mask], after[~mask]):
                raise ValueError(
                    f"Branch 'frozen_at_init' holds pruned weights, and '{name}' has "
                    "moved: weight decay, a regularizer or an optimizer that mixes "
                    "weights (Muon) does so. Train without it."
                )
        return {}, {}

    def _with_barrier(self, part, job, trained):
        main = Part(part.seed, round=part.round)
        other = self._folder.ticket(main, TRAINED)
        found = barrier(
            lambda weights: job.trainer.evaluate("test", weights),
            other.weights,
            trained.weights,
        )
        return {}, {"barrier": found}

    def _attack(self, result, names):
        part = result.part
        trainer = self._trainer_of(part)
        trainer.put(self._folder.ticket(part, TRAINED))
        data_ = trainer.dataset
        found = {}
        for name in names:
            method, size = parse_attack(name)
            found[name] = attacked_accuracy(
                trainer.model,
                *data_.test,
                method=method,
                # Normalised by channel, as the inputs are.
                epsilon=size / data_.std,
                low=-data_.mean / data_.std,
                high=(1.0 - data_.mean) / data_.std,
            )
        result = dataclasses.replace(result, attacks={**result.attacks, **found})
        self._folder.amend(part.path, result.as_json())
        return result

    def _provenance(self, part, trainer):
        return {
            "config": trainer.config,
            "seed": part.seed,
            "criterion": trainer.recipe.criterion,
            "branch": part.branch,
            "copy": part.copy,
            "round": part.round,
            "step": self._setting.recipe.rewind_to,
        }


def _evaluated(trainer, trained, changed):
    """At the end of a training, and with the weights of the early stop."""

    def validation(evaluation):
        names = ("loss", "accuracy")
        return {name: trained.metrics[f"val_{name}"][evaluation] for name in names}

    # A training ends with a validation; averages and callbacks change weights later.
    later = changed or trainer.recipe.averages_weights
    return {
        "early_stop_iteration": trained.metrics["iteration"][trained.best],
        "test": trainer.evaluate("test", trained.weights),
        "validation": trainer.evaluate("validation") if later else validation(-1),
        "early_stop_test": trainer.evaluate("test", trained.best_weights),
        "early_stop_validation": validation(trained.best),
    }


def _fingerprint(ticket):
    found = hashlib.sha256()
    for values in (ticket.masks, ticket.weights):
        for name in sorted(values):
            found.update(name.encode())
            found.update(np.ascontiguousarray(values[name]).tobytes())
    return found.hexdigest()
