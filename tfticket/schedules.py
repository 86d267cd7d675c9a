"""How much to prune, and when. Knows nothing of models."""

from collections.abc import Collection, Iterable


def round_rates(
    names: Iterable[str],
    rate: float,
    output_names: Collection[str] = (),
    output_rate: float | None = None,
) -> dict[str, float]:
    """Fraction of its survivors that each weight loses at the end of a round.

    The output layer loses half of what the others lose, as in the lottery
    ticket paper (arXiv 1803.03635): it is small, and pruned to nothing first.

    Args:
        names: Names of the weights.
        rate: Fraction in (0, 1).
        output_names: Those of `names` that belong to output layers.
        output_rate: Fraction for these, `rate / 2` if `None`.

    Example:

    >>> round_rates(["a/kernel", "b/kernel"], 0.2, ["b/kernel"])
    {'a/kernel': 0.2, 'b/kernel': 0.1}
    """
    if output_rate is None:
        output_rate = rate / 2
    return {name: output_rate if name in output_names else rate for name in names}


def check_rate(name: str, value: float) -> float:
    """A fraction strictly between 0 and 1, or a ValueError that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a float in (0, 1). Received: {name}={value!r}")
    if not 0.0 < value < 1.0:
        raise ValueError(
            f"{name} must be a fraction in (0, 1), both ends excluded: 0.2 prunes "
            f"20 % of the survivors. Received: {name}={value}"
        )
    return float(value)
