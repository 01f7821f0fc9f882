"""The gain model as a file: numpy arrays and one JSON text, checked when read, never pickle."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.arrays import Floats, read_arrays
from router.encoder import WIDTH
from router.eye import Eye, Family, Kernel, Sight
from router.features import BUCKETS, SURFACE
from router.forest import Forest
from router.gain import GainModel
from router.words import AXES

FORMAT = 4
"""Changes with the arrays, and with what a prompt's numbers mean."""
SHIPPED = Path(__file__).with_name("weights") / "gain.npz"

_log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]


class WeightsError(ValueError):
    """A weights file that is not used. The message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A gain model, where it came from, and, if it is not what was asked for, why not."""

    model: GainModel
    path: Path
    refused: str | None = None


def save_model(model: GainModel, path: Path) -> None:
    """Write the model, whole or not at all. Raises OSError where the place cannot be written,
    WeightsError where what was written could not be read back."""
    arrays: Arrays = {}
    meta: dict[str, Any] = {"format": FORMAT, "surface": SURFACE, "eyes": {}}
    for name, eye in _eyes(model):
        arrays |= _eye_arrays(name, eye)
        meta["eyes"][name] = {
            "kernels": [
                {"first": kernel.first, "sharpness": kernel.sharpness} for kernel in eye.kernels
            ],
            "families": [asdict(family) for family in eye.families],
        }
    arrays["seen"] = model.seen
    meta["sha256"] = _digest(arrays)
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    try:
        load_model(unfinished)
    except WeightsError:
        unfinished.unlink()
        raise
    unfinished.replace(path)


def load_model(path: Path) -> GainModel:
    """The model of a file. Raises WeightsError where it is missing, damaged or of another kind."""
    try:
        arrays = read_arrays(path)
        meta = json.loads(arrays.pop("meta").tobytes())
        if meta["format"] != FORMAT or meta["surface"] != SURFACE:
            raise ValueError(f"format {meta['format']} is not this version's; train anew")
        if meta["sha256"] != _digest(arrays):
            raise ValueError("the numbers do not match their checksum")
        eyes = {name: _eye(name, arrays, found) for name, found in meta["eyes"].items()}
        seen = arrays["seen"].astype(np.uint64)
        return GainModel(eyes["plain"], eyes.get("encoded"), seen)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error} in it" if isinstance(error, KeyError) else str(error)
        raise WeightsError(f"weights {path} cannot be used: {reason}") from error


@lru_cache(maxsize=1)
def shipped_model() -> GainModel:
    """The model that comes with the package."""
    return load_model(SHIPPED)


def load_or_shipped(path: Path | None) -> Loaded:
    """The model of a file or, loudly, the shipped one where the file cannot be used."""
    if path is None:
        return Loaded(shipped_model(), SHIPPED)
    try:
        return Loaded(load_model(path), path)
    except WeightsError as error:
        _log.error("%s. Routing with the shipped weights instead.", error)
        return Loaded(shipped_model(), SHIPPED, str(error))


def _eyes(model: GainModel) -> list[tuple[str, Eye]]:
    pairs = [("plain", model.plain), ("encoded", model.encoded)]
    return [(name, eye) for name, eye in pairs if eye is not None]


def _eye_arrays(name: str, eye: Eye) -> Arrays:
    """Half precision for what is many numbers and need not be exact."""
    sight = eye.sight
    arrays: Arrays = {
        f"{name}.axes": sight.axes.astype(np.float16),
        f"{name}.middle": sight.middle,
        f"{name}.mean": sight.mean,
        f"{name}.scale": sight.scale,
        f"{name}.centres": sight.centres.astype(np.float16),
        f"{name}.reach": sight.reach,
        **eye.forest.to_arrays(f"{name}.forest"),
    }
    for index, kernel in enumerate(eye.kernels):
        arrays |= {
            f"{name}.{index}.mean": kernel.mean,
            f"{name}.{index}.scale": kernel.scale,
            f"{name}.{index}.landmarks": kernel.landmarks.astype(np.float16),
            f"{name}.{index}.heads": kernel.heads.astype(np.float16),
        }
    return arrays


def _eye(name: str, arrays: Arrays, meta: Mapping[str, Any]) -> Eye:
    def floats(part: str, *shape: int | None) -> Floats:
        found = arrays[f"{name}.{part}"].astype(np.float32)
        fits = len(shape) == found.ndim and all(
            want is None or want == have for want, have in zip(shape, found.shape, strict=True)
        )
        if not fits or not np.isfinite(found).all():
            raise ValueError(f"{name}.{part} has the wrong shape or numbers that are not finite")
        return found

    families = tuple(_family(found) for found in meta["families"])
    axes = floats("axes", WIDTH if name == "encoded" else BUCKETS + AXES, None)
    features, count = SURFACE + axes.shape[1], len(families)
    sight = Sight(
        axes,
        floats("middle", axes.shape[1]),
        floats("mean", features),
        floats("scale", features),
        floats("centres", count, None, features),
        floats("reach", count),
    )
    width = max(len(family.models) for family in families)
    kernels = []
    for index, told in enumerate(meta["kernels"]):
        mean, first = floats(f"{index}.mean", None), int(told["first"])
        landmarks = floats(f"{index}.landmarks", None, len(mean))
        heads = floats(f"{index}.heads", count, len(landmarks), width)
        scale = floats(f"{index}.scale", len(mean))
        if not 0 <= first <= features - len(mean):
            raise ValueError(f"kernel {index} of {name} looks at what is not there")
        kernels.append(Kernel(first, mean, scale, landmarks, float(told["sharpness"]), heads))
    if any(len(family.voices) != 1 + len(kernels) for family in families):
        raise ValueError(f"{name} has not one voice for each of its learners")
    forest = Forest.from_arrays(f"{name}.forest", arrays, features)
    trees = max(family.cost_trees[1] or family.trees[1] for family in families)
    if trees > len(forest.roots) or forest.values.shape[1] < width:
        raise ValueError(f"{name}.forest has fewer trees than its families name")
    return Eye(sight, forest, tuple(kernels), families)


def _family(meta: Mapping[str, Any]) -> Family:
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in meta.items()
    }
    return Family(**fields)


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
