"""`RoundPruner`: what a round of iterative pruning takes from which weights."""

from collections.abc import Mapping

import numpy as np

from tfticket.masks import pruned_count
from tfticket.patterns import Pattern
from tfticket.pruner import Pruner
from tfticket.scopes import survivors_lost


class RoundPruner:
    """Cuts the same fraction of the survivors round by round.

    Args:
        pruner: Of the model, with the scope that cuts go by.
        rate: Fraction of the survivors pruned at the end of a round, in (0, 1).
        output_rate: The same for output layers; `None` is `rate / 2`. Only with the
            scope `"layerwise"`.
        rates: Weights with a rate of their own, by pattern; 0.0 leaves them dense.
    """

    def __init__(
        self,
        pruner: Pruner,
        rate: float,
        output_rate: float | None = None,
        rates: Mapping[Pattern, float] | None = None,
    ):
        self._pruner = pruner
        self._rate = rate
        own = {}
        if pruner.scope == "layerwise":
            outputs = pruner.outputs & set(pruner.structures)
            own = dict.fromkeys(
                outputs, rate / 2 if output_rate is None else output_rate
            )
        self._rates = {**own, **pruner.named("rates", rates or {})}

    def check(self, rounds: int) -> None:
        """Refuses rates that leave a layer (globally, the model) without a weight.

        Raises:
            ValueError: Names the weight and the round.
        """
        left = self._pruner.sizes(alive=True)
        cuts = survivors_lost(self._pruner.scope, self._rates, left, self._rate)
        for names, _ in cuts if not self._pruner.allow_empty else ():
            name = names[0] if len(names) == 1 else "the model"
            rate = self._rates.get(names[0], self._rate)
            alive = sum(left[name] for name in names)
            for number in range(1, rounds + 1):
                alive -= pruned_count(alive, rate)
                if alive == 0:
                    raise ValueError(
                        f"rate={rate} leaves no weight of '{name}' after round "
                        f"{number} of rounds={rounds}. Use fewer rounds or a "
                        "lower rate."
                    )

    def masks_after(
        self, evidence: Mapping[str, Mapping[str, np.ndarray]] | None = None
    ) -> dict[str, np.ndarray]:
        """The masks of the next round; the model's stay as they are.

        Args:
            evidence: Kind to name to array, of what was followed while training.
        """
        alive = self._pruner.sizes(alive=True)
        cuts = survivors_lost(self._pruner.scope, self._rates, alive, self._rate)
        return self._pruner.masks_after(cuts, evidence)
