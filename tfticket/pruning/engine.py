"""`Pruner`: criterion, scope and structure together cut the masks of a model."""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfticket.common import arguments
from tfticket.common.arguments import check_choice, check_sparsity
from tfticket.keras_models.graph import output_layers
from tfticket.keras_models.names import Pattern, choose, is_graph, student_of
from tfticket.pruning.channel_units import ChannelUnits, Units
from tfticket.pruning.evidence import (
    GATHERED,
    gather,
    kinds_from_data,
    require_data,
    require_repeatable,
)
from tfticket.pruning.masks import ModelMasks, masked_layers, masked_names
from tfticket.sparsity import criteria, structures
from tfticket.sparsity.criteria import magnitude
from tfticket.sparsity.scopes import (
    SCOPES,
    Cut,
    Scope,
    after_cuts,
    pruned_by,
    survivors_lost,
)
from tfticket.sparsity.structures import Axes, Channel, Unstructured
from tfticket.sparsity.topk import pruned_count


class Pruner:
    """Cuts the masks of one wrapped model by scores.

    Every way to prune in this package ends here: `sparsify`, `GradualPruning` and
    `IterativeMagnitudePruning`. What is pruned stays pruned, counts are exact in
    units of the structure, and a cut that would leave a weight without a single
    survivor is refused.

    Args:
        model: A wrapped model, or the `Distiller` of one.
        criterion: Name of a criterion of `tfticket.criteria`, or a function.
        scope: `"layerwise"`, `"global"`, `"isomorphic"` or `"erk"`.
        structure: What is pruned together, of `tfticket.structures`, for wrappers that
            have no structure of their own.
        allow_empty: Whether a cut may leave a weight without survivors.
        keeps_one: Whether a sparsity that would leave a weight none leaves it one.
        data: What data-dependent criteria take their gradients over, with `loss` and
            `batches`, as `tfticket.pruning.evidence.gather`.
        loss: The loss, if not the one the model is compiled with.
        batches: How many batches of the data.
        seed: Seed of a random criterion.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the model has no masks, the criterion or scope is unknown, or no
            weight can be cut into units of its structure.
    """

    def __init__(
        self,
        model: keras.Model,
        criterion: str | criteria.Criterion = "magnitude",
        scope: Scope = "layerwise",
        structure: Unstructured | None = None,
        allow_empty: bool = False,
        data: Any = None,
        loss: Any = None,
        batches: int | None = None,
        seed: int | None = None,
        keeps_one: bool = False,
    ):
        self._keeps_one = keeps_one
        self.needs = criteria.needs(criterion)
        self.scope = check_choice("scope", scope, SCOPES)
        if unbuilt := [
            path for path, x in masked_layers(model) if not x.inner_layer().built
        ]:
            raise ValueError(
                f"Wrapped layers are not built: {unbuilt}. Start the model with "
                "keras.Input(shape), or call it on data first."
            )
        self.outputs = output_names(student_of(model))
        self.structures: dict[str, Unstructured] = {}
        self.axes: dict[str, Axes] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kinds: dict[str, tuple] = {}
        self.unfit: dict[str, str] = {}  # weights left out, and why
        self.masked = ModelMasks.of(model)
        self.alike: dict[str, tuple] = {}
        by_channels: dict[str, Channel] = {}
        for name, weight in self.masked.weights.items():
            layer = self.masked.layers[name]
            own = structures.get(layer.structure or structure)
            self.kinds[name] = (layer.inner_layer(), weight.layer)
            if isinstance(own, Channel) and own.grouped:
                by_channels[name] = own
                continue
            if isinstance(own, Channel) and name in self.outputs:
                continue  # its channels are the model's answers
            if not weight.is_kernel:
                continue  # masked for the sake of channels only
            self._add(name, own, weight)
        self.channels: ChannelUnits | None = None
        if by_channels:
            self._add_channels(student_of(model), by_channels)
        if self.unfit and not self.structures:
            name, why = next(iter(self.unfit.items()))
            raise ValueError(f"In weight '{name}': {why}.")
        if not self.structures:
            raise ValueError(
                f"Model '{model.name}' has no masks to prune with. Wrap it "
                "before you compile it: model = tfticket.prune(model)"
            )
        self.model = model
        self.criterion = criterion
        self.allow_empty = arguments.check_bool("allow_empty", allow_empty)
        batches = arguments.optional(arguments.check_integer, "batches", batches, 1)
        self._sizes: dict[str, int] | None = None
        self._told_unfit = False
        self._source = {"data": data, "loss": loss, "batches": batches}
        self._seed = arguments.optional(arguments.check_integer, "seed", seed, 0)
        self._require_data()

    def _add(self, name, structure, weight):
        self.structures[name] = structure
        self.axes[name] = Axes(weight.reduction_axes, weight.channel_axes)
        self.shapes[name] = shape = tuple(weight.variable.shape)
        # Of the same kind of layer, with windows of the same size.
        window = tuple(n for i, n in enumerate(shape) if i < len(shape) - 2)
        self.alike[name] = (type(weight.layer), window)
        try:
            structure.check(shape, self.axes[name])
        except ValueError as error:
            self.unfit[name] = str(error)
            for held in (self.structures, self.axes, self.shapes, self.alike):
                held.pop(name)

    def _add_channels(self, model, wanted):
        if self.scope == "erk":
            raise ValueError(
                "scope='erk' gives a kernel a density by its shape, and channels that "
                "go together are in kernels of several. Use 'layerwise', 'global' or "
                "'isomorphic' with structure=Channel()."
            )
        self.channels = ChannelUnits(model, self.masked, wanted)
        self.channels.warn()
        for name, units in self.channels.units().items():
            self.structures[name] = units
            self.axes[name] = Axes((), ())
            self.shapes[name] = (self.channels.groups[name].size,)
            self.alike[name] = self.channels.kind(name)

    def _require_data(self):
        name = criteria.name_of(self.criterion)
        data, loss = self._source["data"], self._source["loss"]
        for kind in kinds_from_data(self.criterion):
            require_repeatable(data, f"criterion='{name}'")
            require_data(kind, self.model, data, loss, name)

    def try_criterion(
        self, evidence: Mapping[str, Mapping[str, np.ndarray]] | None = None
    ) -> None:
        """Scores once for its errors, if that takes nothing but the weights."""
        if set(self.needs) & set(GATHERED):
            return
        weights = self.masked.values()
        for name in self._scored():  # one by one, for the memory of a single one
            criteria.score(self.criterion, {name: weights[name]}, evidence, self._seed)

    def named(self, argument: str, values: Mapping[Pattern, Any]) -> dict[str, Any]:
        """Values by weight, of values by pattern; the later of two patterns wins.

        Raises:
            ValueError: If a pattern matches no weight.
        """
        arguments.check_mapping(argument, values, "what is named to its value")
        chosen = choose(argument, values, self.kinds)
        self._tell_unfit(argument, values, chosen)
        found: dict[str, Any] = {}
        exact: dict[str, Pattern] = {}
        for pattern in chosen:
            for name in self.units_of(chosen[pattern]):
                other = exact.get(name, pattern)
                if isinstance(pattern, str):
                    exact[name] = pattern
                    if other != pattern and values[other] != values[pattern]:
                        raise ValueError(
                            f"{argument} gives channels that go together two values: "
                            f"{{{other!r}: {values[other]!r}, "
                            f"{pattern!r}: {values[pattern]!r}}}, and both make the "
                            f"channels of '{name}'. Name one of them."
                        )
                found[name] = values[pattern]
        return found

    def _tell_unfit(self, argument, values, chosen):
        """Says once which weights don't fit their structure and so stay dense."""
        given = {name: values[x] for x, names in chosen.items() for name in names}
        by_name = {n for x in chosen if isinstance(x, str) for n in chosen[x]}
        left = {k: why for k, why in self.unfit.items() if given.get(k) != 0.0}
        for name in by_name & set(left):
            raise ValueError(
                f"{argument} gives '{name}' {given[name]}, and it can't be cut: "
                f"{left[name]}. Give it 0.0, or leave it out."
            )
        if left and not self._told_unfit:
            listed = "; ".join(f"'{name}': {why}" for name, why in left.items())
            warnings.warn(
                f"Weights that stay dense, since they don't fit their structure: "
                f"{listed}. To say so yourself, pass {argument}="
                f"{dict.fromkeys(left, 0.0)}.",
                stacklevel=4,
            )
        self._told_unfit = True

    def units_of(self, weights: Collection[str]) -> list[str]:
        """Names of what is cut where these weights are: themselves, or groups."""
        if self.channels is None:
            return [name for name in weights if name in self.structures]
        return [
            name
            for name in self.structures
            if name in weights or set(self.channels.makers.get(name, ())) & set(weights)
        ]

    def own_sparsities(
        self, sparsities: Mapping[Pattern, float] | None
    ) -> dict[str, float]:
        """Name to the sparsity of all that is given one, checked.

        Raises:
            TypeError: If `sparsities` is no dict or holds anything but numbers.
            ValueError: If a value is out of range or a pattern matches nothing.
        """
        given = self.named("sparsities", {} if sparsities is None else sparsities)
        return {
            name: check_sparsity(f"sparsities['{name}']", value)
            for name, value in given.items()
        }

    def sizes(self, alive: bool = False) -> dict[str, int]:
        """Number of units by weight, all or those with a survivor."""
        if not alive:
            if self._sizes is None:
                ones = {name: np.ones(n, bool) for name, n in self.shapes.items()}
                self._sizes = self._count(ones)
            return dict(self._sizes)
        return self._count(self.masked.masks())

    def _count(self, masks):
        sizes = {}
        masks = self._with_channels(masks)
        for name, structure in self.structures.items():
            # Scores make no difference to how many units there are.
            scores = masks[name].view(np.int8)
            units = structure.pool(scores, masks[name], self.axes[name])[1]
            sizes[name] = int(np.count_nonzero(units))
        return sizes

    def _with_channels(self, masks):
        """Masks, and of each group of channels which are alive."""
        if self.channels is None or next(iter(self.channels.structures)) in masks:
            return masks
        return {**masks, **self.channels.alive(masks)}

    def cuts_to(
        self,
        sparsity: float,
        own: Mapping[str, float] | None = None,
        names: Collection[str] | None = None,
    ) -> list[Cut]:
        """The cuts that bring these weights to a sparsity, as `scopes.pruned_by`."""
        sizes = self.sizes()
        sizes = {k: n for k, n in sizes.items() if names is None or k in names}
        cuts = pruned_by(self.scope, sparsity, sizes, self.shapes, own, self.alike)
        if not self._keeps_one:
            return cuts
        return [(x, min(n, sum(sizes[name] for name in x) - len(x))) for x, n in cuts]

    def check(self, cuts: Sequence[Cut]) -> None:
        """Refuses cuts that are bound to empty a weight, whatever the scores."""
        sizes = self.sizes()
        for names, count in cuts:
            if any(isinstance(self.structures[name], Units) for name in names):
                continue  # some of which always stay
            if not self.allow_empty and count >= sum(sizes[name] for name in names):
                self._refuse_empty(names[0] if len(names) == 1 else "the model")

    def prune_to(
        self,
        sparsity: float,
        own: Mapping[str, float] | None = None,
        names: Collection[str] | None = None,
        evidence: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        """Prunes the model to a sparsity, counting what is pruned already.

        Args:
            sparsity: Fraction of all units that is to be pruned afterwards.
            own: Name to the sparsity of weights that have one of their own.
            names: The weights to prune, `own` among them; `None` is all.
            evidence: Kind to name to array, of what was followed while training.
        """
        masks = self.masked.masks()
        cuts = self.cuts_left(sparsity, own, names, masks)
        if any(count > 0 for _, count in cuts):
            self.masked.set_masks(self.masks_after(cuts, evidence, masks))

    def cuts_left(
        self,
        sparsity: float,
        own: Mapping[str, float] | None,
        names: Collection[str] | None,
        masks: Mapping[str, np.ndarray],
    ) -> list[Cut]:
        """As `cuts_to`, without what is pruned already."""
        sizes, alive = self.sizes(), self._count(masks)
        return [
            (names, count - sum(sizes[name] - alive[name] for name in names))
            for names, count in self.cuts_to(sparsity, own, names)
        ]

    def masks_after(
        self,
        cuts: Sequence[Cut],
        evidence: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        masks: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """The masks after cuts of so many more units; the model's stay as they are.

        Args:
            cuts: Which weights lose how many more units.
            evidence: As for `prune_to`.
            masks: The model's masks; `None` reads them.

        Raises:
            ValueError: If a score is not finite, or a weight would be left empty.
        """
        masks = self.masked.masks() if masks is None else masks
        if self._ranks_weights():
            scores, key = self.masked.values(), np.abs
        else:
            scores, key = self.scores(evidence), None
        after = self.units_after(cuts, scores, masks, key)
        if self.channels is not None:
            after = self.channels.masks(after, {k: after[k] for k in masks})
        for names, _ in () if self.allow_empty else cuts:
            for name in names:
                if name in after and not after[name].any():
                    self._refuse_empty(name)
        return after

    def units_after(
        self,
        cuts: Sequence[Cut],
        scores: Mapping[str, np.ndarray],
        masks: Mapping[str, np.ndarray],
        key: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Masks after cuts; of channels, which of each group stay.

        Args:
            cuts: Which weights lose how many more units.
            scores: What `scores` returned.
            masks: The present masks.
            key: What of the scores is compared, as in `after_cuts`.
        """
        masks = self._with_channels(masks)
        keep_one = not self.allow_empty
        after = after_cuts(
            scores, masks, cuts, self.structures, self.axes, key, keep_one
        )
        if self.channels is None:
            return after
        again = self.channels.rounded(masks, after)
        return after_cuts(scores, {**after, **again[1]}, again[0], self.structures)

    def rates(
        self,
        rate: float,
        output_rate: float | None = None,
        rates: Mapping[Pattern, float] | None = None,
    ) -> dict[str, float]:
        """Name to rate of every weight that has a rate of its own.

        Args:
            rate: Fraction of the survivors that a round prunes, in (0, 1).
            output_rate: The same for output layers; `None` is `rate / 2`. Only with
                the scope `"layerwise"`.
            rates: Weights with a rate of their own, by pattern; 0.0 leaves them dense.
        """
        own = {}
        if self.scope == "layerwise":
            of_outputs = rate / 2 if output_rate is None else output_rate
            own = dict.fromkeys(self.outputs & set(self.structures), of_outputs)
        return {**own, **self.named("rates", rates or {})}

    def check_rounds(self, rounds: int, rate: float, own: Mapping[str, float]) -> None:
        """Refuses rates that leave a layer (globally, the model) without a weight.

        Args:
            rounds: How many rounds there are to be.
            rate: Fraction of the survivors that a round prunes.
            own: What `rates` returned.

        Raises:
            ValueError: Names the weight and the round.
        """
        left = self.sizes(alive=True)
        cuts = survivors_lost(self.scope, own, left, rate, self.alike)
        for names, _ in cuts if not self.allow_empty else ():
            if isinstance(self.structures[names[0]], Units):
                continue  # some of which always stay
            name = names[0] if len(names) == 1 else "the model"
            its_rate = own.get(names[0], rate)
            alive = sum(left[name] for name in names)
            for number in range(1, rounds + 1):
                alive -= pruned_count(alive, its_rate)
                if alive == 0:
                    raise ValueError(
                        f"rate={its_rate} leaves no weight of '{name}' after round "
                        f"{number} of rounds={rounds}. Use fewer rounds or a "
                        "lower rate."
                    )

    def masks_after_round(
        self,
        rate: float,
        own: Mapping[str, float],
        evidence: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ) -> dict[str, np.ndarray]:
        """The masks of the next round; the model's stay as they are.

        Args:
            rate: Fraction of the survivors that a round prunes.
            own: What `rates` returned.
            evidence: Kind to name to array, of what was followed while training.
        """
        left = self.sizes(alive=True)
        cuts = survivors_lost(self.scope, own, left, rate, self.alike)
        return self.masks_after(cuts, evidence)

    def _ranks_weights(self):
        """Whether weights can be ranked as they are, without scores beside them."""
        return (
            criteria.get(self.criterion) is magnitude
            and all(type(s) is Unstructured for s in self.structures.values())
            and all(w.variable.dtype == "float32" for w in self.masked.weights.values())
        )

    def _scored(self):
        """Names of the weights that are scored."""
        if self.channels is None:
            return set(self.structures)
        weights = set(self.structures) - set(self.channels.structures)
        return weights | self.channels.scored()

    def scores(
        self, evidence: Mapping[str, Mapping[str, np.ndarray]] | None = None
    ) -> dict[str, np.ndarray]:
        """Scores of all that is cut: weights by their names, channels by their group's.

        Args:
            evidence: As for `prune_to`.
        """
        kinds = [kind for kind in self.needs if kind in GATHERED]
        found = dict(evidence or {})
        if kinds:
            name = criteria.name_of(self.criterion)
            found |= gather(self.model, kinds, criterion=name, **self._source)
        values = self.masked.values()
        scored = self._scored()
        weights = {name: value for name, value in values.items() if name in scored}
        scores = criteria.score(self.criterion, weights, found, self._seed)
        if self.channels is not None:
            scores |= self.channels.scores(scores)
        return scores

    def _refuse_empty(self, name):
        raise ValueError(
            f"This would leave '{name}' without a single weight, and nothing would "
            "pass it. Prune less, give it a sparsity of its own, exclude it, or pass "
            "allow_empty=True."
        )


def output_names(model: keras.Model) -> set[str]:
    """Names in `get_masks` of output layers' weights; none where no graph is known."""
    known = is_graph(model) and hasattr(model, "outputs")
    return masked_names(model, output_layers(model)) if known else set()
