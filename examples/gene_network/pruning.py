"""Motif 9, its fitted drive, and its edges taken away one by one."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from scipy import optimize

from gene_network.network import GeneNetwork
from gene_network.reward import reward
from tfticket.pruning.masks import get_masks, set_masks
from tfticket.pruning.one_shot import sparsify
from tfticket.pruning.prune_model import prune

# Row a, column b: what gene b does to gene a, for W x; tenths.
MOTIF_9 = np.array(
    [
        [96, 12, -55, -36, -30, -55, 0],
        [-91, 98, 38, 27, 10, 28, 5],
        [36, -33, -38, 38, 6, 30, -25],
        [-85, -35, 80, 96, 32, 0, 75],
        [-61, -55, -35, -25, -76, 0, 1],
        [-56, -6, 100, -1, 6, 31, 25],
        [-5, 26, -25, -5, -25, -6, -1],
    ]
)
SCALE = 10
LARGEST_DRIVE = 100
# When boundaries are counted. At t = 50 the gradient has begun to fall in the last of
# 100 cells, at 90 the integration ends.
TIMES = (50.0, 70.0, 90.0)
_NAME = "network/kernel"
# Networks go in batches of this many, the last one filled up: one shape to compile.
_BATCH = 24


class Motif:
    """A signed integer matrix W as a wrapped Keras model whose edges are pruned.

    The model's layer "network" is a `GeneNetwork`; its kernel is W transposed over
    10, and the zeros of W are masked from the start, since they are no edges. Edges
    are numbered as W is: (a, b) is what gene b does to gene a.

    Args:
        weights: Integer array (genes, genes), W.
        step: Of the integration.

    Raises:
        ValueError: If `weights` is not square, or has no edge, or `step` does not fit.

    Example:

    >>> motif = gene_network.Motif(gene_network.MOTIF_9, step=0.5)
    >>> motif.edges
    46
    >>> motif.rewards(np.zeros((2, 7), int)).shape
    (2,)
    """

    def __init__(self, weights: np.ndarray, step: float = 0.125):
        weights = np.asarray(weights)
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
            raise ValueError(
                "weights must be a square matrix. Received: shape "
                f"{tuple(weights.shape)}"
            )
        if not weights.any():
            raise ValueError("weights must have an entry other than 0: an edge.")
        self.weights, self.edges = weights, int(np.count_nonzero(weights))
        self.step = step
        genes = len(weights)
        drive = keras.Input((genes,), name="drive")
        edges = keras.Input((genes, genes), dtype="bool", name="edges")
        layer = GeneNetwork(TIMES, step, name="network")
        model = keras.Model([drive, edges], layer(drive, edges=edges))
        layer.kernel.assign(weights.T / SCALE)
        self.model = prune(model)
        # XLA is three times as fast here as TensorFlow's own operations.
        self.model.compile(jit_compile=keras.backend.backend() != "torch")
        set_masks(self.model, {_NAME: weights.T != 0})
        self._whole = self.model.get_weights()

    def restore(self) -> None:
        """Brings every pruned edge back."""
        self.model.set_weights(self._whole)

    def present(self) -> np.ndarray:
        """Boolean array (genes, genes), in the layout of W: the edges that are left."""
        return get_masks(self.model)[_NAME].T

    def patterns(
        self, drives: np.ndarray, edges: np.ndarray | None = None
    ) -> np.ndarray:
        """Gene 1 of many networks: what the model, as it is pruned, computes.

        Args:
            drives: Integer array (batch, genes), D.
            edges: Boolean array (batch, genes, genes), in the layout of W: which of
                the present edges each network of the batch has. `None`: all of them.

        Returns:
            Float32 array (batch, 3, cells), at `TIMES`.

        Raises:
            ValueError: If an array has another shape.
        """
        drives = np.asarray(drives, "float32") / SCALE
        genes = len(self.weights)
        if drives.ndim != 2 or drives.shape[1] != genes or not len(drives):
            raise ValueError(
                f"drives must have shape (batch, {genes}), one D or more. "
                f"Received: shape {drives.shape}"
            )
        if edges is None:
            edges = np.ones((len(drives), genes, genes), bool)
        if np.shape(edges) != (len(drives), genes, genes):
            raise ValueError(
                f"edges must have shape {(len(drives), genes, genes)}, one matrix for "
                f"each of drives. Received: shape {np.shape(edges)}"
            )
        edges = np.swapaxes(edges, 1, 2)
        more = -len(drives) % _BATCH
        filled = [np.concatenate([x, x[:1].repeat(more, 0)]) for x in (drives, edges)]
        outputs = [
            np.asarray(
                self.model.predict_on_batch([x[start : start + _BATCH] for x in filled])
            )
            for start in range(0, len(filled[0]), _BATCH)
        ]
        return np.concatenate(outputs)[: len(drives), ..., 0]

    def rewards(
        self, drives: np.ndarray, edges: np.ndarray | None = None
    ) -> np.ndarray:
        """The `reward` of each; arguments as of `patterns`. Float64 array (batch,)."""
        return reward(self.patterns(drives, edges))

    def fit_drive(
        self, seed: int, population: int = 20, generations: int = 24
    ) -> np.ndarray:
        """Searches a D that gives the network, as it is, a high reward.

        Differential evolution (Storn and Price 1997; SciPy's, strategy best1bin)
        over integers from -100 to 100 a gene, begun uniformly at random. It finds a
        good D, not the best, and no D that anybody has published.

        Args:
            seed: Decides the search.
            population: Of the search, in multiples of the number of genes.
            generations: How many follow the first.

        Returns:
            Integer array (genes,).
        """
        genes = len(self.weights)
        found = optimize.differential_evolution(
            lambda drives: -self.rewards(drives.T),
            [(-LARGEST_DRIVE, LARGEST_DRIVE)] * genes,
            integrality=np.ones(genes, bool),
            vectorized=True,
            updating="deferred",
            init="random",
            popsize=population,
            maxiter=generations,
            tol=0,
            polish=False,
            seed=seed,
        )
        return np.rint(found.x).astype(int)

    def removal_order(
        self, method: str, drive: np.ndarray, seed: int = 0
    ) -> list[tuple[int, int]]:
        """Prunes edge by edge until one is left, and tells the order; then restores.

        Each edge is pruned by its own `tfticket.sparsify`, which scores again.

        Args:
            method: `"magnitude"`: the smallest |W| first. `"leave_one_out"`: the edge
                whose removal costs least reward, greedily. `"random"`.
            drive: Integer array (genes,), D of `"leave_one_out"`.
            seed: Of `"random"`.

        Returns:
            (a, b) of every edge but the last, in the layout of W.

        Raises:
            ValueError: If `method` is another.
        """
        criteria: dict[str, Any] = {
            "magnitude": "magnitude",
            "leave_one_out": LeaveOneEdgeOut(self, drive),
            "random": "random",
        }
        if method not in criteria:
            raise ValueError(
                f"method must be one of {list(criteria)}. Received: method={method!r}"
            )
        self.restore()
        order, before = [], self.present()
        for kept in range(self.edges - 1, 0, -1):
            sparsify(
                self.model,
                1 - kept / before.size,
                criterion=criteria[method],
                seed=seed,
            )
            after = self.present()
            ((a, b),) = np.argwhere(before & ~after)
            order.append((int(a), int(b)))
            before = after
        self.restore()
        return order

    def along(self, order: Sequence[Sequence[int]], drive: np.ndarray) -> np.ndarray:
        """Rewards as edges go in this order: float64 array (1 + edges removed,)."""
        return self.rewards(np.tile(drive, (len(order) + 1, 1)), self.masks(order))

    def masks(self, order: Sequence[Sequence[int]]) -> np.ndarray:
        """Boolean array (1 + edges removed, genes, genes): before, and after each."""
        masks = np.tile(self.weights != 0, (len(order) + 1, 1, 1))
        for number, (a, b) in enumerate(order, 1):
            masks[number:, a, b] = False
        return masks


class LeaveOneEdgeOut:
    """A criterion: less the reward of the network without that edge.

    Of a kernel as it is pruned now, every edge is left out once, all at once in one
    batch. The lowest score is the edge whose removal costs least.

    Args:
        motif: Whose model is pruned.
        drive: Integer array (genes,), D.

    Example:

    >>> motif = gene_network.Motif(np.array([[90, -40], [50, 0]]), step=0.5)
    >>> criterion = gene_network.LeaveOneEdgeOut(motif, np.array([30, 10]))
    >>> tfticket.sparsify(motif.model, 0.5, criterion=criterion)  # of 4 entries
    >>> int(motif.present().sum())
    2
    """

    def __init__(self, motif: Motif, drive: np.ndarray):
        self._motif, self._drive = motif, np.asarray(drive)

    def __call__(self, weight: np.ndarray) -> np.ndarray:
        places = np.argwhere(weight)  # in the layout of the kernel
        edges = np.ones((len(places), *weight.shape), bool)
        edges[np.arange(len(places)), places[:, 1], places[:, 0]] = False
        drives = np.tile(self._drive, (len(places), 1))
        scores = np.zeros(weight.shape)
        scores[tuple(places.T)] = -self._motif.rewards(drives, edges)
        return scores
