"""The packaged model's conversion, with a small package and a pretended converter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from models import weights
from models.weights import WeightsError

SOURCE = "package:pretend"

Convert = Callable[[Path, Path], None]


@pytest.fixture(autouse=True)
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that carries a GGUF file and cannot be imported, and an empty cache."""
    package = tmp_path / "site" / "pretend_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('only its files are wanted')")
    (package / "pretend.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setitem(weights.PACKAGED, "pretend", "pretend_weights")
    monkeypatch.setenv("FUSION_CACHE", str(tmp_path / "cache"))
    return package


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the converted model belongs."""
    return tmp_path / "cache" / "models" / "pretend"


def copying(gguf: Path, into: Path) -> None:
    (into / "model.safetensors").write_bytes(gguf.read_bytes())


def test_a_first_start_converts_and_a_second_does_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_convert", copying)
    assert weights.prepared(SOURCE) is None
    assert weights.locate(SOURCE) == str(folder)
    assert (folder / "model.safetensors").read_bytes() == b"GGUF"
    assert weights.prepared(SOURCE) == folder

    monkeypatch.setattr(weights, "_convert", _must_not_run)
    assert weights.prepare(SOURCE) == folder


def _must_not_run(gguf: Path, into: Path) -> None:
    raise AssertionError("converted a second time")


def test_the_folder_appears_whole_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watched(gguf: Path, into: Path) -> None:
        copying(gguf, into)
        assert not folder.exists()
        assert weights.prepared(SOURCE) is None

    monkeypatch.setattr(weights, "_convert", watched)
    weights.prepare(SOURCE)
    assert (folder / weights.COMPLETE).is_file()
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["pretend"]


def test_a_conversion_that_fails_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(gguf: Path, into: Path) -> None:
        copying(gguf, into)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "_convert", failing)
    with pytest.raises(Exception, match="No space left"):
        weights.prepare(SOURCE)
    assert not any(path.is_dir() for path in folder.parent.iterdir())

    monkeypatch.setattr(weights, "_convert", copying)
    assert weights.prepare(SOURCE) == folder


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'gguf'"), OSError(28, "No space left on device")]
)
def test_a_conversion_that_fails_says_why_in_one_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(gguf: Path, into: Path) -> None:
        raise error

    monkeypatch.setattr(weights, "_convert", failing)
    with pytest.raises(WeightsError, match=str(error.args[-1])):
        weights.prepare(SOURCE)


def test_half_a_folder_is_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half")
    monkeypatch.setattr(weights, "_convert", copying)
    weights.prepare(SOURCE)
    assert (folder / "model.safetensors").read_bytes() == b"GGUF"


#: A start that is killed while it converts: it has written half and waits to be killed.
VICTIM = dedent("""\
    import sys, time
    from models import weights

    def half(gguf, into):
        (into / "model.safetensors").write_bytes(b"half")
        print("half-way", flush=True)
        time.sleep(60)

    weights.PACKAGED["pretend"] = "pretend_weights"
    weights._convert = half
    weights.prepare("package:pretend")
    """)


def test_a_start_that_was_killed_half_way_is_repaired_by_the_next(
    folder: Path, packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(weights.__file__).parents[1]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(packaged.parent)])}
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM], env=environ, stdout=subprocess.PIPE, text=True
    ) as victim:
        try:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "half-way\n"
        finally:
            victim.send_signal(signal.SIGKILL)
    assert victim.returncode == -signal.SIGKILL
    leftovers = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    assert len(leftovers) == 1
    assert leftovers[0].startswith(".pretend.tmp")
    assert weights.prepared(SOURCE) is None

    monkeypatch.setattr(weights, "_convert", copying)
    assert weights.prepare(SOURCE) == folder
    assert (folder / "model.safetensors").read_bytes() == b"GGUF"
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["pretend"]


def test_two_starts_at_once_convert_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Locks of this kind belong to the open file, so two threads stand for two processes.
    conversions, found = [], []

    def slow(gguf: Path, into: Path) -> None:
        conversions.append(into)
        time.sleep(0.02)
        copying(gguf, into)

    monkeypatch.setattr(weights, "_convert", slow)
    starts = [
        threading.Thread(target=lambda: found.append(weights.prepare(SOURCE))) for _ in range(4)
    ]
    for start in starts:
        start.start()
    for start in starts:
        start.join(timeout=10)
    assert found == [folder] * 4
    assert len(conversions) == 1


def test_a_package_that_nobody_knows() -> None:
    with pytest.raises(WeightsError, match=r"No packaged model 'gpt-9'; there is: .*smollm2"):
        weights.locate("package:gpt-9")


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.PACKAGED, "pretend", "no_such_module_anywhere")
    with pytest.raises(WeightsError, match="'pretend' are not installed: run 'make install'"):
        weights.prepare(SOURCE)


def test_a_package_without_its_file(packaged: Path) -> None:
    (packaged / "pretend.gguf").unlink()
    with pytest.raises(WeightsError, match="not installed"):
        weights.prepare(SOURCE)


def test_a_folder_and_a_hub_name_pass_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weights.locate(str(tmp_path)) == str(tmp_path.resolve())
    assert weights.locate("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert weights.locate("~/mine") == str((tmp_path / "mine").resolve())


def test_what_needs_no_hub(tmp_path: Path) -> None:
    assert weights.is_local(SOURCE)
    assert weights.is_local(str(tmp_path))
    assert not weights.is_local("Qwen/Qwen3-8B")


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"FUSION_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/fusion"),
        ({"XDG_CACHE_HOME": ""}, "/home/ada/.cache/fusion"),
    ],
)
def test_where_the_cache_lies(
    environ: dict[str, str], cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FUSION_CACHE")
    monkeypatch.setenv("HOME", "/home/ada")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert weights.cache_folder() == Path(cache)
