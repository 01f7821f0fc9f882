"""How a prompt is seen and judged: numbers, forest, kernel, and the families they speak of."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from router.arrays import Doubles, Floats
from router.forest import Forest


@dataclass(frozen=True, slots=True)
class Family:
    """Models that answered the same rows, and what was learned of them.

    quality, cost (models,): mean score and mean dollars, NaN where unknown. voices: weights of
    the forest and of each kernel. near, far: the factor on their word for known tasks and for
    unseen ones. trees, cost_trees: first and last + 1 in the forest. gain_mean, gain_spread: of
    the stronger half of the models over the weaker one. cost_scale (models,): dollars over
    exp(log dollars). foreign: the factor on what the other families say of its gain. cost_far:
    as `far`, on how much dearer a prompt is than the mean.
    """

    models: tuple[str, ...]
    rows: int
    quality: tuple[float, ...]
    cost: tuple[float, ...]
    voices: tuple[float, ...]
    near: float
    far: float
    trees: tuple[int, int]
    cost_trees: tuple[int, int]
    gain_mean: float
    gain_spread: float
    cost_scale: tuple[float, ...]
    foreign: float = 0.0
    cost_far: float = 0.0

    def __post_init__(self) -> None:
        lengths = {len(self.models), len(self.quality), len(self.cost)}
        if len(lengths) != 1 or not self.models:
            raise ValueError("a family's models and figures are not of one length")

    @property
    def halves(self) -> tuple[list[int], list[int]]:
        """Indices of the weaker and of the stronger half of the models."""
        return split_models(self.quality)

    @property
    def sides(self) -> Doubles:
        """What brings scores (rows, models) to the means of both halves, (models, 2)."""
        return _sides(self.quality)


@lru_cache(maxsize=256)
def split_models(quality: tuple[float, ...]) -> tuple[list[int], list[int]]:
    """Indices of the weaker and of the stronger half by mean score; a middle one is in neither."""
    order = np.argsort(quality, kind="stable").tolist()
    half = max(1, len(order) // 2)
    return order[:half], order[-half:]


@lru_cache(maxsize=256)
def _sides(quality: tuple[float, ...]) -> Doubles:
    sides = np.zeros((len(quality), 2))
    for side, half in enumerate(split_models(quality)):
        sides[half, side] = 1.0 / len(half)
    return sides


@dataclass(frozen=True, slots=True)
class Sight:
    """What of a prompt is looked at: its surface, and a few axes of what it is about.

    axes (.., k) less middle (k,) bring its n-grams and its words' meaning, or its embedding, to k
    numbers. mean,
    scale (features,) bring all numbers to one scale for distances. centres (families, n,
    features) stand for the training prompts; reach (families,) is the distance within which 99
    of 100 of a family's own prompts have a centre.
    """

    axes: Floats
    middle: Floats
    mean: Floats
    scale: Floats
    centres: Floats
    reach: Floats
    _lengths: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_lengths", lengths(self.centres).ravel())

    def look(self, form: Floats, about: Floats) -> Floats:
        """Surface (rows, SURFACE), and what prompts are about, as one (rows, features)."""
        return np.hstack([form, about @ self.axes - self.middle]).astype(np.float32)

    def place(self, inputs: Floats) -> Floats:
        """All numbers on one scale, none far out; form and subject weigh the same, (rows, ...)."""
        placed: Floats = np.clip((inputs - self.mean) * self.scale, -1.0, 1.0)
        return placed

    def distances(self, inputs: Floats) -> Doubles:
        """From each row to each family's nearest centre, in that family's reach."""
        placed = self.place(inputs)
        families, count, width = self.centres.shape
        square = squares(placed, self.centres.reshape(families * count, width), self._lengths)
        nearest = square.reshape(len(inputs), families, count).min(axis=2)
        near: Doubles = np.sqrt(nearest).astype(np.float64) / self.reach
        return near


@dataclass(frozen=True, slots=True)
class Kernel:
    """Kernel ridge on landmarks (Williams and Seeger 2001): a smooth kind of nearest neighbours.

    It sees the k numbers from `first` on of what `Sight.look` gives, less mean (k,), times scale
    (k,). landmarks (n, k): training prompts drawn at random, so seen. heads (families, n,
    models): weights of the landmarks in each family, unused columns zero.
    """

    first: int
    mean: Floats
    scale: Floats
    landmarks: Floats
    sharpness: float
    heads: Floats
    _lengths: Floats = field(init=False, repr=False)
    _beside: Floats = field(init=False, repr=False)
    """The heads of all families side by side, (n, families x models)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_lengths", lengths(self.landmarks))
        beside = np.ascontiguousarray(self.heads.transpose(1, 0, 2))
        object.__setattr__(self, "_beside", beside.reshape(len(beside), -1))

    def see(self, inputs: Floats) -> Floats:
        """The numbers that it compares, (rows, k), none far out."""
        part = inputs[:, self.first : self.first + len(self.mean)]
        seen: Floats = np.clip((part - self.mean) * self.scale, -3.0, 3.0)
        return seen

    def near(self, inputs: Floats) -> Floats:
        """Likeness of each row to each landmark, 0 to 1, (rows, n)."""
        apart = squares(self.see(inputs), self.landmarks, self._lengths)
        likeness: Floats = np.exp(-self.sharpness * apart)
        return likeness

    def predict(self, inputs: Floats) -> Doubles:
        """Deviation of each model's score from its mean, (rows, families, models)."""
        families, _, models = self.heads.shape
        said = (self.near(inputs) @ self._beside).astype(np.float64)
        return said.reshape(len(inputs), families, models)


@dataclass(frozen=True, slots=True)
class Beside:
    """The numbers of all families side by side, so that one product serves them all.

    quality, cost (families, models), sides (families, models, 2): as in `Family`, zeros where one
    has fewer models. ways (families, models): what a gain of one adds to each model, a half up
    or down. voices (families, learners). near, far, cost_far, gain_mean, gain_spread (families,).
    shares (2 x families, trees): what brings the words of all trees to each family's mean of scores
    and, after those, of log dollars. places: of each model, the rows, family and column of each
    family that it is of, the one with most rows last. likes: the same by bare name, since two
    families may spell one model differently.
    """

    quality: Doubles
    cost: Doubles
    sides: Doubles
    ways: Doubles
    voices: Doubles
    near: Doubles
    far: Doubles
    cost_far: Doubles
    gain_mean: Doubles
    gain_spread: Doubles
    shares: Doubles
    places: Mapping[str, Sequence[tuple[int, int, int]]]
    likes: Mapping[str, Sequence[tuple[int, int, int]]]

    @classmethod
    def of(cls, families: Sequence[Family], trees: int) -> Beside:
        """Of these families, whose forest has so many trees."""
        width = max(len(family.models) for family in families)
        quality, cost = np.zeros((2, len(families), width))
        sides = np.zeros((len(families), width, 2))
        shares = np.zeros((2 * len(families), trees))
        places: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        likes: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for index, family in enumerate(families):
            quality[index, : len(family.models)] = family.quality
            cost[index, : len(family.models)] = family.cost
            sides[index, : len(family.models)] = family.sides
            for row, (first, last) in (
                (index, family.trees),
                (len(families) + index, family.cost_trees),
            ):
                shares[row, first:last] = 1.0 / max(last - first, 1)
            for column, name in enumerate(family.models):
                places[name].append((family.rows, index, column))
                likes[bare(name)].append((family.rows, index, column))

        def each(figure: str) -> Doubles:
            return np.array([getattr(family, figure) for family in families], np.float64)

        return cls(
            quality,
            cost,
            sides,
            0.5 * np.sign(sides[:, :, 1] - sides[:, :, 0]),
            each("voices"),
            each("near"),
            each("far"),
            each("cost_far"),
            each("gain_mean"),
            each("gain_spread"),
            shares,
            {name: sorted(found) for name, found in places.items()},
            {name: sorted(found) for name, found in likes.items()},
        )

    def place(self, name: str, home: int) -> tuple[int, int]:
        """Family and column of a model: at home, there also by its bare name, or else where most
        rows are; -1, -1 for an unknown one."""
        found = self.places.get(name, ())
        for places in (found, self.likes.get(bare(name), ())):
            for _, family, column in places:
                if family == home:
                    return family, column
        return found[-1][1:] if found else (-1, -1)

    def home(self, names: Iterable[str]) -> int:
        """The family that most of these models are of, by their bare names; of several the one
        that spells most as they are spelt, then the one of most rows; -1 if there is none."""
        alike, spelt = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        for name in {*names}:
            alike.update({place[:2] for place in self.likes.get(bare(name), ())})
            spelt.update(place[:2] for place in self.places.get(name, ()))
        return max(alike, key=lambda at: (alike[at], spelt[at], at))[1] if alike else -1


@dataclass(frozen=True, slots=True)
class Eye:
    """One way to see and judge a prompt; there is one with the encoder and one without."""

    sight: Sight
    forest: Forest
    kernels: tuple[Kernel, ...]
    families: tuple[Family, ...]
    beside: Beside = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "beside", Beside.of(self.families, len(self.forest.roots)))

    @property
    def id(self) -> str:
        """Changes with what is seen of a prompt, so that what was learned on line is not mixed."""
        sight = self.sight
        return f"{zlib.crc32(sight.mean.tobytes() + sight.axes[:8].tobytes()):08x}"


def bare(name: str) -> str:
    """A model's name in small letters, without its maker's before a slash."""
    return name.rpartition("/")[2].lower()


def lengths(rows: Floats) -> Floats:
    """Squared lengths over the last axis."""
    square: Floats = (rows**2).sum(axis=-1)
    return square


def squares(rows: Floats, others: Floats, lengths_of_others: Floats) -> Floats:
    """Squared distances of every row to every other, (rows, others), never below zero."""
    square = lengths(rows)[:, None] + lengths_of_others - (2.0 * rows) @ others.T
    apart: Floats = np.maximum(square, 0.0)
    return apart
