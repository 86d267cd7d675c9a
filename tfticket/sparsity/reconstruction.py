"""Masks of one layer's rows by its inputs, and weights that make up for them; arrays.

A row holds the weights that make one output, an input feature a column. What the layer
has seen is in `moments`, the mean of x x^T over its inputs.
"""

import math

import numpy as np
from scipy.linalg import lapack

from tfticket.sparsity.rows import damp

# Columns that SparseGPT goes through before it spreads their error to all later ones.
_BLOCK = 128
# And before it spreads their error within these.
_PART = 32


def lowest_of_rows(scores: np.ndarray, alive: np.ndarray, count: int) -> np.ndarray:
    """Which weights go where each row loses its lowest: those that are gone first.

    Args:
        scores: Array of (rows, columns).
        alive: Boolean array of its shape.
        count: How many of each row are gone afterwards.

    Returns:
        Boolean array. Of equal scores the later go first.

    Example:

    >>> lowest_of_rows(np.array([[3.0, 1.0, 1.0]]), np.ones((1, 3), bool), 1)
    array([[False, False,  True]])
    """
    ranked = np.where(alive, scores, -np.inf)[:, ::-1]
    order = np.argsort(ranked, axis=1, kind="stable")[:, :count]
    gone = np.zeros(scores.shape, bool)
    np.put_along_axis(gone, order, True, axis=1)
    return gone[:, ::-1]


def sparse_gpt(
    rows: np.ndarray,
    alive: np.ndarray,
    moments: np.ndarray,
    sparsity: float,
    group: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Prunes column by column, and spreads the error over the columns to come.

    SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774): the lowest
    w^2 / [H^-1]_jj^2 of each block of 128 columns go, with H = `moments`, damped by
    1 % of its mean diagonal. Columns that were always 0 count as 0.

    Args:
        rows: Weights, (rows, columns).
        alive: Which are not pruned yet.
        moments: Mean of x x^T, (columns, columns).
        sparsity: Part that is to be pruned, of each block.
        group: (kept, of so many): N:M along the columns instead of `sparsity`.

    Returns:
        The mask, and the weights, zero where they are pruned.

    Example:

    >>> rows, inputs = np.array([[0.1, 1.0]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> mask, found = sparse_gpt(rows, rows != 0, inputs, 0.5)
    >>> mask, found.round(2)
    (array([[False,  True]]), array([[0.  , 1.09]]))
    """
    weights = np.where(alive, rows, 0).astype(np.float64)
    mask = np.array(alive)
    hessian = np.array(moments, np.float64)
    dead = np.diag(hessian) == 0
    hessian[dead, dead] = 1
    weights[:, dead] = 0
    inverse = _inverse_factor(hessian)  # in the memory of the copy
    size = rows.shape[1]
    given = 0
    width = _BLOCK if group is None else _multiple(group[1], _BLOCK)
    for start in range(0, size, width):
        stop = min(start + width, size)
        block = slice(start, stop)
        if group is None:
            scores = (weights[:, block] / np.diag(inverse)[block]) ** 2
            count = round(sparsity * stop * len(rows)) - given
            given += count
            mask[:, block] = ~_lowest(scores, mask[:, block], count)
        # Columns as rows, so that what one changes lies together in memory.
        columns = np.ascontiguousarray(weights[:, block].T)
        errors = _spread(columns, mask[:, block].T, inverse[block, block], group)
        weights[:, block] = columns.T
        weights[:, stop:] -= errors.T @ inverse[block, stop:]
    return mask, np.where(mask, weights, 0)


def _spread(columns, mask, inverse, group):
    """Prunes the columns of a block one after the other; returns their errors.

    In parts, whose errors go to the later ones together.
    """
    size = len(columns)
    errors = np.zeros(columns.shape)
    width = _PART if group is None else _multiple(group[1], _PART)
    for start in range(0, size, width):
        stop = min(start + width, size)
        for j in range(start, stop):
            if group is not None and (j - start) % group[1] == 0:
                part = slice(j, min(j + group[1], stop))
                scores = (columns[part].T / np.diag(inverse)[part]) ** 2
                count = max(0, part.stop - part.start - group[0])
                mask[part] = ~lowest_of_rows(scores, mask[part].T, count).T
            gone = np.where(mask[j], 0, columns[j])
            errors[j] = gone / inverse[j, j]
            columns[j] -= gone
            columns[j + 1 : stop] -= inverse[j, j + 1 : stop, None] * errors[j]
        here = slice(start, stop)
        columns[stop:] -= inverse[here, stop:].T @ errors[here]
    return errors


def _multiple(number, most):
    """The largest multiple of a number up to `most`, and at least the number."""
    return max(number, most - most % number)


def least_squares(
    rows: np.ndarray, mask: np.ndarray, moments: np.ndarray
) -> np.ndarray:
    """The kept weights that come closest to what the dense rows compute.

    Each row by itself, w_S = H_SS^-1 H_S: w over the kept columns S, with H =
    `moments`, damped as in `sparse_gpt`.

    Args:
        rows: The dense weights, (rows, columns).
        mask: Which of them are kept.
        moments: Mean of x x^T, (columns, columns).

    Returns:
        The weights, zero where they are pruned.

    Example:

    >>> inputs = np.array([[1.0, 0.5], [0.5, 1.0]])
    >>> kept = np.array([[True, False]])
    >>> least_squares(np.array([[1.0, 1.0]]), kept, inputs).round(2)
    array([[1.5, 0. ]])
    """
    hessian = damp(np.array(moments, np.float64))
    wanted = np.asarray(rows, np.float64) @ hessian
    found = np.zeros(rows.shape)
    for i, kept in enumerate(mask):
        if kept.any():
            part = hessian[np.ix_(kept, kept)]
            found[i, kept] = np.linalg.solve(part, wanted[i, kept])
    return found


def output_error(rows: np.ndarray, found: np.ndarray, moments: np.ndarray) -> float:
    """How far the outputs are off: the mean square, relative to the outputs' own.

    Args:
        rows: The dense weights, (rows, columns), or groups of them: (groups, rows,
            columns).
        found: The pruned ones.
        moments: Mean of x x^T, (columns, columns); of each group.

    Example:

    >>> output_error(np.array([[2.0, 1.0]]), np.array([[2.0, 0.0]]), np.eye(2))
    0.2
    """
    apart = np.asarray(rows, np.float64) - found
    size, off = (
        np.einsum("...uf,...fg,...ug->...", x, moments, x, optimize=True).sum()
        for x in (rows, apart)
    )
    return float(off / size) if size > 0 else 0.0


def owl_sparsities(
    outliers: dict[str, float],
    sizes: dict[str, int],
    sparsity: float,
    reach: float = 0.08,
) -> dict[str, float]:
    """Sparsities of layers by their share of outliers: those with more keep more.

    OWL (Yin et al. 2023, arXiv 2310.05175): densities lie around the wanted one in
    the order of the shares, all within `reach` of it. Their mean over all weights is
    the wanted one.

    Args:
        outliers: Share of scores over 5 times the layer's mean, by layer.
        sizes: Number of weights, by layer.
        sparsity: Wanted over all.
        reach: Largest distance from it.

    Example:

    >>> owl_sparsities({"a": 0.0, "b": 0.02}, {"a": 5, "b": 5}, 0.5)
    {'a': 0.58, 'b': 0.42}
    """
    low, high = min(outliers.values()), max(outliers.values())
    if high == low:
        return dict.fromkeys(outliers, sparsity)
    part = {name: (x - low) / (high - low) for name, x in outliers.items()}
    total = sum(sizes[name] for name in part)
    mean = sum(part[name] * sizes[name] for name in part) / total
    # As far as the one that is furthest from the mean may go, and none past 0 or 1.
    widest = max(mean, 1 - mean)
    scale = min(reach, sparsity, 1 - sparsity) / widest
    return {name: round(sparsity - scale * (x - mean), 12) for name, x in part.items()}


def _lowest(scores, alive, count):
    ranked = np.where(alive, scores, -np.inf).ravel()[::-1]
    gone = np.zeros(ranked.size, bool)
    gone[np.argsort(ranked, kind="stable")[: max(count, 0)]] = True
    return gone[::-1].reshape(scores.shape) | ~alive


def _inverse_factor(hessian):
    """The upper triangular U with U^T U = (H + damping)^-1, in place of the Hessian."""
    damp(hessian)
    if not math.isfinite(float(hessian.sum())):
        raise ValueError("moments must be finite. Is there a NaN in the data?")
    # It is symmetric, and LAPACK overwrites arrays in Fortran's order only.
    factor, _ = lapack.dpotrf(hessian.T, overwrite_a=True)
    inverse, _ = lapack.dpotri(factor, overwrite_c=True)  # its upper triangle
    found, wrong = lapack.dpotrf(inverse, overwrite_a=True, clean=True)
    if wrong:
        raise np.linalg.LinAlgError("The inverse of the Hessian is not positive.")
    return found
