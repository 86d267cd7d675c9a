"""Labels of channels, and which labels are tied or pinned."""

import bisect

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


class Labels:
    """Numbers that name channels; tied channels are kept or removed together.

    Ties are recorded while a graph is walked, and resolved once for all channels of a
    model.
    """

    def __init__(self):
        self._count = 0
        self._ties = []
        self._pins = []
        self._origins = []

    def fresh(self, count: int, name: str = "", kind: str = "channels") -> np.ndarray:
        """New labels, for channels that are not tied to others.

        Args:
            count: Number of channels.
            name: Name of the layer that makes them, which becomes the name of their
                group.
            kind: Kind of the units: "channels", or "heads" of an attention layer.
        """
        start = self._count
        self._count += count
        self._origins.append((start, name, kind))
        return np.arange(start, self._count)

    def tie(self, some: np.ndarray, others: np.ndarray) -> None:
        """Ties the channels of two arrays of labels, one by one."""
        if len(some) != len(others):
            raise ValueError(
                f"Only arrays of one length can be tied. Received: {len(some)} labels "
                f"and {len(others)}"
            )
        self._ties.append((some, others))

    def pin(self, labels: np.ndarray, reason: str, first: bool = False) -> None:
        """Records channels that stay for any weights, and why.

        Args:
            labels: The channels.
            reason: Why they stay.
            first: Whether this reason comes before those that are already recorded.
        """
        self._pins.insert(0 if first else len(self._pins), (labels, reason))

    def roots(self) -> np.ndarray:
        """The lowest label that each label is tied to, indexed by label."""
        if not self._count:
            return np.zeros(0, int)
        some, others = (
            np.concatenate([x[i] for x in self._ties] or [np.zeros(0, int)])
            for i in (0, 1)
        )
        shape = (self._count, self._count)
        edges = coo_array((np.ones(len(some), bool), (some, others)), shape)
        _, parts = connected_components(edges, directed=False)
        _, lowest = np.unique(parts, return_index=True)
        return lowest[parts]

    def pins(self, roots: np.ndarray) -> dict[int, str]:
        """Maps a root to the first reason why its channels are pinned."""
        reasons: dict[int, str] = {}
        for labels, reason in self._pins:
            for root in np.unique(roots[labels]).tolist():
                reasons.setdefault(root, reason)
        return reasons

    def origin(self, label: int) -> tuple[str, str]:
        """Name and kind that a label was made with."""
        place = bisect.bisect_right(self._origins, label, key=lambda x: x[0]) - 1
        return self._origins[place][1:]
