"""Extremely randomised trees (Geurts, Ernst and Wehenkel 2006) in numpy: many outputs, small files.

A tree is an adaptive neighbourhood: a prompt is told what happened to the training prompts that
fell into the same leaf. Trees look at one number at a time, so that numbers of any scale mix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.arrays import Doubles, Floats

Indices = NDArray[np.intp]
"""Of nodes and of numbers: in the type that numpy itself counts with, which it need not convert."""

DEPTH = 12
"""Questions on the way to a leaf at most: bounds the time of a decision."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees with all nodes in one row of arrays; a leaf leads to itself and never to the right.

    feature, left (nodes,): the number asked for and the left child, whose neighbour is the right
    one. threshold (nodes,): greater goes right. values (nodes, outputs). roots (trees,).
    """

    feature: Indices
    threshold: Floats
    left: Indices
    values: Floats
    roots: Indices

    def leaves(self, inputs: Floats) -> Indices:
        """The leaf of each row in each tree: inputs (rows, features) to (rows, trees)."""
        node = np.broadcast_to(self.roots, (len(inputs), len(self.roots)))
        if len(inputs) == 1:
            return self._leaves_of_one(inputs[0])[None, :]
        rows = np.arange(len(inputs))[:, None]
        for _ in range(DEPTH):
            right = inputs[rows, self.feature[node]] > self.threshold[node]
            node = self.left[node] + right
        return node

    def _leaves_of_one(self, row: Floats) -> Indices:
        # A live decision is one row: `take` on flat arrays is three times as fast.
        node = self.roots
        for _ in range(DEPTH):
            right = row.take(self.feature.take(node)) > self.threshold.take(node)
            node = self.left.take(node) + right
        return node

    def predict(self, inputs: Floats) -> tuple[Doubles, Doubles]:
        """Mean and standard deviation over the trees of each output, both (rows, outputs)."""
        found = self.values[self.leaves(inputs)].astype(np.float64)
        return found.mean(axis=1), found.std(axis=1)

    def to_arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """For a weights file: values in half precision, the rest exact. See `from_arrays`.

        Children are written as steps from their parent, which pack well; a fork has no values.
        """
        step = (self.left - np.arange(len(self.left))).astype(np.int32)
        return {
            f"{name}.feature": self.feature.astype(np.uint8),
            f"{name}.threshold": self.threshold,
            f"{name}.step": step,
            f"{name}.values": self.values[step == 0].astype(np.float16),
            f"{name}.roots": self.roots.astype(np.int32),
        }

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, NDArray[Any]], features: int) -> Forest:
        """Raises ValueError where the arrays do not make trees over that many features."""
        try:
            feature = arrays[f"{name}.feature"].astype(np.intp)
            threshold = arrays[f"{name}.threshold"].astype(np.float32)
            step = arrays[f"{name}.step"].astype(np.intp)
            stored = arrays[f"{name}.values"].astype(np.float32)
            roots = arrays[f"{name}.roots"].astype(np.intp)
        except KeyError as error:
            raise ValueError(f"no array {error}") from error
        nodes, leaf = len(step), step == 0
        if not (feature.shape == threshold.shape == step.shape == (nodes,)) or stored.ndim != 2:
            raise ValueError(f"the arrays of {name} are not of one length")
        if len(stored) != leaf.sum() or not len(roots):
            raise ValueError(f"{name} has not one row of values for each leaf")
        left = step + np.arange(nodes)
        last = np.where(leaf, left, left + 1)
        if min(int(left.min()), int(roots.min())) < 0 or max(int(last.max()), roots.max()) >= nodes:
            raise ValueError(f"a node of {name} leads nowhere")
        if feature.min() < 0 or feature.max() >= features:
            raise ValueError(f"a node of {name} asks for what is not there")
        if not np.isfinite(stored).all() or np.isnan(threshold).any():
            raise ValueError(f"a number of {name} is not finite")
        values = np.zeros((nodes, stored.shape[1]), np.float32)
        values[leaf] = stored
        return cls(feature, threshold, left, values, roots)


@dataclass(frozen=True, slots=True)
class Growth:
    """How a forest grows. `leaf`: fewest rows of a leaf; `tried`: share of the features tried at
    each node; `drawn`: share of the rows that one tree sees, the others judge it.
    """

    trees: int = 80
    leaf: int = 14
    tried: float = 0.5
    drawn: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trees < 1 or self.leaf < 1:
            raise ValueError("a forest has at least one tree and a leaf at least one row")
        if not (0 < self.tried <= 1 and 0 < self.drawn < 1):
            raise ValueError("shares of features and rows are within 0 to 1")


def grow(
    inputs: Floats, targets: Doubles, values: Doubles, growth: Growth
) -> tuple[Forest, Doubles]:
    """A forest, and what the trees that did not see a row say of it, (rows, outputs of values).

    inputs (rows, features); targets (rows, outputs) decide the splits; values (rows, others)
    are averaged in the leaves. A row that every tree saw gets the mean of all rows.
    """
    generator = np.random.default_rng(growth.seed)
    rows = len(inputs)
    centred = targets - targets.mean(axis=0)
    trees, said, judges = [], np.zeros_like(values), np.zeros(rows)
    for _ in range(growth.trees):
        order = generator.permutation(rows)
        kept = max(2, int(growth.drawn * rows))
        tree = _grow_tree(inputs, centred, values, order[:kept], growth, generator)
        unseen = order[kept:]
        said[unseen] += tree.predict(inputs[unseen])[0]
        judges[unseen] += 1
        trees.append(tree)
    said = np.where(judges[:, None] > 0, said / np.maximum(judges, 1)[:, None], values.mean(axis=0))
    return join(trees), said


@dataclass(slots=True)
class _Nodes:
    feature: list[int]
    threshold: list[float]
    left: list[int]
    values: list[Doubles]

    def add(self, values: Doubles) -> int:
        """A leaf; `split` makes it a fork."""
        node = len(self.left)
        self.feature.append(0)
        self.threshold.append(np.inf)
        self.left.append(node)
        self.values.append(values)
        return node


def _grow_tree(
    inputs: Floats,
    targets: Doubles,
    values: Doubles,
    rows: NDArray[np.intp],
    growth: Growth,
    generator: np.random.Generator,
) -> Forest:
    nodes = _Nodes([], [], [], [])
    waiting = [(nodes.add(values[rows].mean(axis=0)), rows, 0)]
    while waiting:
        node, members, depth = waiting.pop()
        if depth >= DEPTH or len(members) < 2 * growth.leaf:
            continue
        split = _split(inputs[members], targets[members], growth, generator)
        if split is None:
            continue
        feature, threshold, right = split
        sides = (members[~right], members[right])
        nodes.feature[node], nodes.threshold[node] = feature, threshold
        nodes.left[node] = len(nodes.left)
        children = [nodes.add(values[side].mean(axis=0)) for side in sides]
        waiting += [(c, side, depth + 1) for c, side in zip(children, sides, strict=True)]
    return Forest(
        np.array(nodes.feature, np.intp),
        np.array(nodes.threshold, np.float32),
        np.array(nodes.left, np.intp),
        np.array(nodes.values, np.float32),
        np.zeros(1, np.intp),
    )


def _split(
    inputs: Floats, targets: Doubles, growth: Growth, generator: np.random.Generator
) -> tuple[int, float, NDArray[np.bool_]] | None:
    """The best of one random threshold for each of some random features, by variance."""
    features = inputs.shape[1]
    tried = generator.permutation(features)[: max(1, int(growth.tried * features))]
    seen = inputs[:, tried]
    low, high = seen.min(axis=0), seen.max(axis=0)
    thresholds = (low + (high - low) * generator.random(len(tried))).astype(np.float32)
    right = seen > thresholds
    count = right.sum(axis=0)
    fits = np.minimum(count, len(inputs) - count) >= growth.leaf
    if not fits.any():
        return None
    total = targets.sum(axis=0)
    above = right.T.astype(np.float64) @ targets
    below = total - above
    gain = (above**2).sum(axis=1) / np.maximum(count, 1)
    gain += (below**2).sum(axis=1) / np.maximum(len(inputs) - count, 1)
    best = int(np.argmax(np.where(fits, gain, -np.inf)))
    return int(tried[best]), float(thresholds[best]), right[:, best]


def join(trees: list[Forest]) -> Forest:
    """Several forests as one; narrower values are filled up with zeros."""
    offsets = np.cumsum([0, *(len(tree.left) for tree in trees)])[:-1]
    width = max(tree.values.shape[1] for tree in trees)
    return Forest(
        np.concatenate([tree.feature for tree in trees]),
        np.concatenate([tree.threshold for tree in trees]),
        np.concatenate([tree.left + o for tree, o in zip(trees, offsets, strict=True)]),
        np.concatenate([np.pad(t.values, ((0, 0), (0, width - t.values.shape[1]))) for t in trees]),
        np.concatenate([tree.roots + o for tree, o in zip(trees, offsets, strict=True)]),
    )
