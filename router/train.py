"""Learning the gain model from rows: families, forests, and how far to trust them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from router.arrays import Doubles, Floats
from router.data import DataError, Row
from router.encoder import Encoder
from router.eye import Eye, Family, Kernel, Sight, split_models
from router.features import ngrams, surface
from router.forest import Forest, Growth, grow, join
from router.gain import GainModel, foreign_gain, hear, nearness
from router.reading import read
from router.sketch import sketch
from router.words import meaning

FEWEST_ROWS = 40
"""Rows that the same models must have answered before anything is learned from them."""

AXES = 32
"""Numbers for what a prompt is about; the trees ask for the first half of them."""

CENTRES = 48
LANDMARKS = 1_000
SHARPNESS = {"about": 3.0, "form": 1.0}
"""Of each kernel, over the mean squared length of what it sees."""

PENALTY = 10.0
_FOLDS = 4


Rows = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
"""Which of the rows, (rows,)."""

Way = tuple[Floats, Floats]
"""A way to say what prompts are about: numbers (rows, n), and how much each of them counts (n,)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Prompts brought to raw numbers, row by row: form, n-grams, the meaning of words and, with
    an encoder, of sentences."""

    form: Floats
    terms: Floats
    words: Floats
    embedding: Floats | None

    def take(self, rows: Sequence[int] | np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> Seen:
        """The same for some of the rows."""
        part = None if self.embedding is None else self.embedding[rows]
        return Seen(self.form[rows], self.terms[rows], self.words[rows], part)


def see(prompts: Sequence[str], encoder: Encoder | None) -> Seen:
    """Raw numbers of prompts, the slow part of training."""
    readings = [read(prompt) for prompt in prompts]
    return Seen(
        np.array([surface(reading) for reading in readings], np.float32),
        np.array([ngrams(reading) for reading in readings], np.float32),
        np.array([meaning(reading) for reading in readings], np.float32),
        None if encoder is None else encoder.encode(readings),
    )


def train(
    rows: Sequence[Row],
    encoder: Encoder | None = None,
    growth: Growth | None = None,
    seen: Seen | None = None,
) -> GainModel:
    """A gain model of rows; the same rows give the same model.

    `seen`: what `see` said of the rows' prompts, where the caller kept it.
    Raises DataError where no set of models answered `FEWEST_ROWS` rows together.
    """
    growth = growth or Growth()
    seen = seen or see([row.prompt for row in rows], encoder)
    groups = _groups(rows)
    used = np.concatenate([members for _, members in groups])
    parts = [_part(rows, models, members) for models, members in groups]
    chosen = seen.take(used)
    told = sketch(rows[index].prompt for index in used)
    words = [(chosen.terms, _rareness(chosen.terms)), _unweighed(chosen.words)]
    plain = _learn(chosen.form, words, parts, growth)
    if chosen.embedding is None:
        return GainModel(plain, None, told)
    encoded = _learn(chosen.form, [_unweighed(chosen.embedding)], parts, growth)
    return GainModel(plain, encoded, told)


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one family: scores and dollars (rows, models), and each row's task."""

    models: tuple[str, ...]
    scores: Doubles
    costs: Doubles
    tasks: np.ndarray[tuple[int, ...], np.dtype[np.str_]]


def _groups(rows: Sequence[Row]) -> list[tuple[tuple[str, ...], np.ndarray]]:
    by_models: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_models[tuple(sorted(row.outcomes))].append(index)
    groups = [
        (models, np.array(members))
        for models, members in by_models.items()
        if len(members) >= FEWEST_ROWS and len(models) >= 2
    ]
    if not groups:
        raise DataError(f"no two models answered {FEWEST_ROWS} rows together")
    return groups


def _part(rows: Sequence[Row], models: tuple[str, ...], members: np.ndarray) -> _Part:
    def numbers(name: str) -> Doubles:
        values = [[getattr(rows[i].outcomes[m], name) for m in models] for i in members]
        return np.array(values, dtype=object).astype(np.float64)

    tasks = np.array([f"{rows[i].source}/{rows[i].task}" for i in members])
    return _Part(models, numbers("score"), numbers("cost"), tasks)


def _learn(form: Floats, ways: list[Way], parts: list[_Part], growth: Growth) -> Eye:
    starts = np.cumsum([0, *(len(part.scores) for part in parts)])
    spans = [slice(a, b) for a, b in pairwise(starts)]
    sight = _sight(form, ways, spans)
    inputs = sight.look(form, _beside(ways))
    smooths = [_smooth(inputs, what, parts) for what in SHARPNESS]
    families, forests, heads, first = [], [], [], 0
    for part, span in zip(parts, spans, strict=True):
        family, grown, head = _family(inputs[span], part, growth, smooths, first)
        families.append(family)
        forests += grown
        heads.append(head)
        first += sum(len(forest.roots) for forest in grown)
    kernels = tuple(
        replace(smooth.kernel, heads=np.stack(learned))
        for smooth, learned in zip(smooths, zip(*heads, strict=True), strict=True)
    )
    eye = Eye(sight, join(forests), kernels, tuple(families))
    if len(families) == 1:
        return eye
    worth = [
        _foreign(eye, inputs[span], part, i)
        for i, (part, span) in enumerate(zip(parts, spans, strict=True))
    ]
    return replace(
        eye, families=tuple(replace(f, foreign=w) for f, w in zip(families, worth, strict=True))
    )


def _foreign(eye: Eye, inputs: Floats, part: _Part, own: int) -> float:
    """The slope of a family's gain on what families that never saw its rows say of it."""
    distances = eye.sight.distances(inputs)
    said = foreign_gain(hear(eye, inputs, distances), nearness(distances), own)
    weaker, stronger = eye.families[own].halves
    gain = part.scores[:, stronger].mean(axis=1) - part.scores[:, weaker].mean(axis=1)
    said, gain = said - said.mean(), gain - gain.mean()
    return float(np.clip((said * gain).sum() / max(float((said**2).sum()), 1e-9), 0.05, 1.0))


def _family(
    inputs: Floats, part: _Part, growth: Growth, smooths: Sequence[_Smooth], first: int
) -> tuple[Family, list[Forest], list[Floats]]:
    """Learn one family and measure, on rows that were kept from the learner, what it is worth.

    Splits are judged by all models' scores and not by their contrasts alone: how hard a prompt
    is for all is better known, and tells much of where they differ.
    """
    quality = part.scores.mean(axis=0)
    deviation = part.scores - quality
    seen = inputs[:, : inputs.shape[1] - AXES // 2]
    forest, said = grow(seen, part.scores, part.scores, growth)
    nears = [smooth.near(inputs) for smooth in smooths]
    heads = [s.head(near, deviation) for s, near in zip(smooths, nears, strict=True)]
    words = [said - quality, *(_crossed(near, deviation) for near in nears)]
    voices = _voices(words)
    both = _sum(voices, words)
    slope = _slope(_contrasts(both), _contrasts(deviation))
    weaker, stronger = (halves := split_models(tuple(quality.tolist())))
    gain = slope * (both[:, stronger].mean(axis=1) - both[:, weaker].mean(axis=1))
    forests, cost_trees, scale, cost_far = [forest], (0, 0), np.ones(len(quality)), 0.0
    if np.isfinite(part.costs).all():
        cost_forest, scale = _grow_costs(seen, part.costs, growth)
        cost_trees = (first + growth.trees, first + growth.trees + len(cost_forest.roots))
        forests.append(cost_forest)
        cost_far = _far_cost_slope(seen, part, growth)
    family = Family(
        models=part.models,
        rows=len(inputs),
        quality=tuple(quality.tolist()),
        cost=tuple(part.costs.mean(axis=0).tolist()),
        voices=voices,
        near=slope,
        far=min(slope, _far_slope(seen, nears, part, growth, voices)),
        trees=(first, first + growth.trees),
        cost_trees=cost_trees,
        gain_mean=float(np.subtract(*(quality[half].mean() for half in reversed(halves)))),
        gain_spread=float(gain.std()),
        cost_scale=tuple(scale.tolist()),
        cost_far=cost_far,
    )
    return family, forests, heads


def _grow_costs(inputs: Floats, costs: Doubles, growth: Growth) -> tuple[Forest, Doubles]:
    """Trees for the logarithm of dollars, and what brings their exponential to the mean."""
    logs = _logs(costs)
    forest, said = grow(inputs, logs, logs, _finer(growth))
    return forest, costs.mean(axis=0) / np.exp(said).mean(axis=0)


def _logs(costs: Doubles) -> Doubles:
    logs: Doubles = np.log(costs + 1e-7)
    return logs


def _finer(growth: Growth) -> Growth:
    """For costs, which are less noisy than scores."""
    return replace(growth, leaf=max(4, growth.leaf // 2), trees=max(1, growth.trees // 2))


@dataclass(frozen=True, slots=True)
class _Smooth:
    """A kernel whose heads are still empty, and the basis (n, n) that makes a ridge on
    likenesses the ridge of the kernel itself: their inverse square root.
    """

    kernel: Kernel
    basis: Floats

    def near(self, inputs: Floats) -> Floats:
        near: Floats = self.kernel.near(inputs) @ self.basis
        return near

    def head(self, near: Floats, deviation: Doubles) -> Floats:
        head = np.zeros((near.shape[1], self.kernel.heads.shape[2]), np.float32)
        head[:, : deviation.shape[1]] = self.basis @ _ridge(near, deviation)
        return head


def _smooth(inputs: Floats, what: str, parts: list[_Part]) -> _Smooth:
    """A kernel on what prompts are about, or on their form; its landmarks are of all families."""
    surface_width = inputs.shape[1] - AXES
    first, count = (surface_width, AXES) if what == "about" else (0, surface_width)
    seen = inputs[:, first : first + count]
    # The axes have their own measure, the first ones the greatest; counts and shares have none.
    scale = np.ones(count) if what == "about" else 1.0 / np.maximum(seen.std(axis=0), 1e-6)
    drawn = np.random.default_rng(0).choice(len(seen), min(LANDMARKS, len(seen)), replace=False)
    width = max(len(part.models) for part in parts)
    empty = np.zeros((len(parts), len(drawn), width), np.float32)
    mean, scale = seen.mean(axis=0), scale.astype(np.float32)
    kernel = Kernel(first, mean, scale, np.zeros((0, count), np.float32), 1.0, empty)
    compared = kernel.see(inputs)
    sharpness = SHARPNESS[what] / max(float((compared**2).sum(axis=1).mean()), 1e-9)
    kernel = replace(kernel, landmarks=compared[drawn], sharpness=sharpness)
    alike = kernel.near(inputs[drawn]).astype(np.float64)
    size, directions = np.linalg.eigh(alike + 1e-5 * np.eye(len(drawn)))
    return _Smooth(kernel, (directions / np.sqrt(np.maximum(size, 1e-5))).astype(np.float32))


def _ridge(near: Floats, deviation: Doubles) -> Floats:
    inner = near.astype(np.float64)
    square = inner.T @ inner + PENALTY * np.eye(inner.shape[1])
    return np.linalg.solve(square, inner.T @ deviation).astype(np.float32)


def _crossed(near: Floats, deviation: Doubles) -> Doubles:
    """What the kernel says of each row when learned from the other folds."""
    fold = np.random.default_rng(0).permutation(len(near)) % _FOLDS
    said = np.zeros_like(deviation)
    for number in range(_FOLDS):
        there, here = fold != number, fold == number
        said[here] = near[here] @ _ridge(near[there], deviation[there])
    return said


def _voices(words: Sequence[Doubles]) -> tuple[float, ...]:
    """Weights that let all learners speak equally loud: equal parts of their mean loudness."""
    loud = [float((said - said.mean(axis=1, keepdims=True)).std()) for said in words]
    mean = sum(loud) / len(loud)
    return tuple(mean / len(loud) / max(one, 1e-9) for one in loud)


def _sum(voices: Sequence[float], words: Sequence[Doubles]) -> Doubles:
    total: Doubles = np.tensordot(np.array(voices), np.array(words), 1)
    return total


def _slope(said: Doubles, happened: Doubles) -> float:
    """Least squares of what happened on what was said, within 0 to 1.5."""
    return float(np.clip((said * happened).sum() / max((said**2).sum(), 1e-9), 0.0, 1.5))


def _contrasts(values: Doubles) -> Doubles:
    """What tells models apart, (rows, models)."""
    apart: Doubles = values - values.mean(axis=1, keepdims=True)
    return apart


def _far_slope(
    inputs: Floats, nears: list[Floats], part: _Part, growth: Growth, voices: tuple[float, ...]
) -> float:
    """The slope on tasks that neither trees nor kernels ever saw."""
    fewer = _fewer(growth)
    said, happened = np.zeros_like(part.scores), np.zeros_like(part.scores)
    for here in _unseen(part.tasks, growth.seed):
        there = ~here
        scores = part.scores[there]
        mean = scores.mean(axis=0)
        forest, _ = grow(inputs[there], scores, scores, fewer)
        words = [forest.predict(inputs[here])[0] - mean]
        words += [near[here] @ _ridge(near[there], scores - mean) for near in nears]
        said[here] = _sum(voices, words)
        happened[here] = part.scores[here] - mean
    return _slope(_contrasts(said), _contrasts(happened))


def _far_cost_slope(inputs: Floats, part: _Part, growth: Growth) -> float:
    """The slope of the logarithm of dollars, less its mean, on tasks that trees never saw."""
    fewer, logs = _fewer(_finer(growth)), _logs(part.costs)
    said, happened = np.zeros_like(logs), np.zeros_like(logs)
    for here in _unseen(part.tasks, growth.seed):
        there = ~here
        mean = logs[there].mean(axis=0)
        forest, _ = grow(inputs[there], logs[there], logs[there], fewer)
        said[here] = forest.predict(inputs[here])[0] - mean
        happened[here] = logs[here] - mean
    return min(1.0, _slope(said, happened))


def _fewer(growth: Growth) -> Growth:
    """Enough for a slope."""
    return replace(growth, trees=max(10, growth.trees // 4))


def _unseen(tasks: np.ndarray[tuple[int, ...], np.dtype[np.str_]], seed: int) -> Iterator[Rows]:
    """Which rows to keep from a learner so that it never sees their tasks, fold by fold; none
    where there are few tasks, and so nothing to be told of others."""
    names, of_row = np.unique(tasks, return_inverse=True)
    if len(names) >= 2 * _FOLDS:
        fold = np.random.default_rng(seed).permutation(len(names)) % _FOLDS
        for number in range(_FOLDS):
            yield fold[of_row] == number


def _rareness(terms: Floats) -> Floats:
    """Inverse document frequency, one for each bucket."""
    weight: Floats = np.log((len(terms) + 1.0) / ((terms > 0).sum(axis=0) + 1.0))
    return weight.astype(np.float32)


def _unweighed(numbers: Floats) -> Way:
    return numbers, np.ones(numbers.shape[1], np.float32)


def _beside(ways: list[Way]) -> Floats:
    return np.hstack([numbers for numbers, _ in ways])


def _directions(ways: list[Way]) -> Floats:
    """Axes of all ways to say what prompts are about, side by side, (columns, AXES).

    Each way has as many axes and varies as much as any other, whatever its own measure.
    """
    blocks, each = [], AXES // len(ways)
    for place, (numbers, weight) in enumerate(ways):
        weighed = numbers * weight
        centred = weighed - weighed.mean(axis=0)
        found = _axes(centred, each)
        size = np.sqrt(((centred @ found) ** 2).sum(axis=1).mean())
        block = np.zeros((numbers.shape[1], AXES), np.float32)
        # Prompts that hardly differ lie on no axis: what is left there is rounding.
        block[:, place * each : (place + 1) * each] = weight[:, None] * found / max(size, 1e-3)
        blocks.append(block)
    axes = np.vstack(blocks)
    about = _beside(ways) @ axes
    # Turned so that the axes that vary most come first: trees ask for those alone.
    turned: Floats = axes @ _axes(about - about.mean(axis=0), AXES)
    return turned


def _sight(form: Floats, ways: list[Way], spans: list[slice]) -> Sight:
    """Axes of what prompts are about, and centres of each family's prompts, from these rows."""
    directions = _directions(ways)
    middle = _beside(ways).mean(axis=0)
    blocks = [form.shape[1], AXES]
    blank = np.zeros((len(spans), 1, sum(blocks)), np.float32)
    ones = np.ones(sum(blocks), np.float32)
    sight = Sight(directions, middle @ directions, 0 * ones, ones, blank, ones[: len(spans)])
    inputs = sight.look(form, _beside(ways))
    mean = inputs.mean(axis=0)
    # Form and subject count the same in a distance, however many numbers each has.
    share = np.concatenate([np.full(block, 1.0 / np.sqrt(block)) for block in blocks])
    scale = (share / np.maximum(inputs.std(axis=0), 1e-6)).astype(np.float32)
    placed = np.clip((inputs - mean) * scale, -1.0, 1.0)
    centres = np.stack([_centres(placed[span], CENTRES) for span in spans])
    sight = replace(sight, mean=mean, scale=scale, centres=centres)
    reach = [
        np.quantile(sight.distances(inputs[span])[:, index], 0.99)
        for index, span in enumerate(spans)
    ]
    return replace(sight, reach=np.maximum(np.array(reach, np.float32), 1e-6))


def _axes(centred: Floats, most: int) -> Floats:
    """The directions of greatest variance, (columns, most), zeros where there are fewer.

    By a randomised range finder (Halko, Martinsson and Tropp 2011).
    """
    rows, columns = centred.shape
    count = min(most, columns, rows)
    start = np.random.default_rng(0).standard_normal((columns, min(columns, count + 16)))
    basis = centred @ start.astype(np.float32)
    for _ in range(3):
        basis = np.linalg.qr(basis)[0]
        basis = centred @ (centred.T @ basis)
    basis = np.linalg.qr(basis)[0]
    directions = np.linalg.svd(basis.T @ centred, full_matrices=False)[2]
    found = np.zeros((columns, most), np.float32)
    found[:, :count] = directions[:count].T
    return found


def _centres(placed: Floats, count: int) -> Floats:
    """k-means, from points drawn at random; repeated points where there are fewer."""
    generator = np.random.default_rng(0)
    centres = placed[generator.choice(len(placed), count, replace=len(placed) < count)].copy()
    for _ in range(12):
        square = (centres**2).sum(axis=1) - 2.0 * placed @ centres.T
        nearest = square.argmin(axis=1)
        for index in range(count):
            members = placed[nearest == index]
            if len(members):
                centres[index] = members.mean(axis=0)
    return centres
