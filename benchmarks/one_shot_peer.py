"""Wanda and SparseGPT as a plain loop in PyTorch, from the papers' formulas."""

import numpy as np


def pruned(
    rows: np.ndarray, x: np.ndarray, method: str, pattern: str
) -> tuple[np.ndarray, np.ndarray]:
    """The mask and the weights of one linear layer.

    Args:
        rows: Its weights, (outputs, inputs).
        x: Inputs that it has seen, (inputs seen, inputs).
        method: "wanda" or "sparsegpt".
        pattern: A sparsity, or "2:4".
    """
    import torch

    weights = torch.tensor(rows, dtype=torch.float64)
    seen = torch.tensor(x, dtype=torch.float64)
    run = wanda if method == "wanda" else sparse_gpt
    mask, found = run(weights, seen, pattern)
    return mask.numpy(), found.numpy()


def lowest(scores, pattern):
    """Which go: of each row its lowest part, or two of every four."""
    import torch

    gone = torch.zeros_like(scores, dtype=torch.bool)
    if pattern == "2:4":
        for j in range(0, scores.shape[1], 4):
            order = scores[:, j : j + 4].topk(2, dim=1, largest=False).indices
            gone.scatter_(1, j + order, True)
        return gone
    count = round(float(pattern) * scores.shape[1])
    return gone.scatter_(1, scores.topk(count, dim=1, largest=False).indices, True)


def wanda(weights, seen, pattern):
    """arXiv 2306.11695."""
    mask = ~lowest(weights.abs() * seen.norm(dim=0), pattern)
    return mask, weights * mask


def sparse_gpt(weights, seen, pattern):
    """arXiv 2301.00774, for layers of one block of columns."""
    import torch

    weights, columns = weights.clone(), weights.shape[1]
    hessian = 2 / len(seen) * seen.T @ seen
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(columns)
    inverse = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    scores = weights**2 / inverse.diagonal() ** 2
    gone = torch.zeros_like(weights, dtype=torch.bool)
    if pattern != "2:4":
        count = round(float(pattern) * weights.numel())
        gone = scores <= scores.flatten().sort().values[count - 1]
    for j in range(columns):
        if pattern == "2:4" and j % 4 == 0:
            part = slice(j, j + 4)
            scores = weights[:, part] ** 2 / inverse.diagonal()[part] ** 2
            gone[:, part] = lowest(scores, pattern)
        kept = weights[:, j] * ~gone[:, j]
        error = (weights[:, j] - kept) / inverse[j, j]
        weights[:, j:] -= error[:, None] * inverse[j, j:]
        weights[:, j] = kept
    return ~gone, weights * ~gone
