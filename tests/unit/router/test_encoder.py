"""The sentence encoder: like texts are near, the same text is looked at once, layers can be left
out."""

from __future__ import annotations

import numpy as np
import pytest

from router.encoder import ALL_LAYERS, LAYERS, WIDTH, Encoder, load_encoder
from router.onnx_file import ending_at
from router.reading import read

TEXTS = ["What is 31 times 44?", "How much is 17 times 23?", "Name a bird that cannot fly."]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    found = load_encoder()
    if found is None:
        pytest.skip("the encoder's packages are not installed")
    return found


def test_like_texts_are_near(encoder: Encoder) -> None:
    sums, other, bird = encoder.encode([read(text) for text in TEXTS])
    assert sums.shape == (WIDTH,)
    assert [*map(np.linalg.norm, (sums, other, bird))] == pytest.approx([1, 1, 1], abs=1e-5)
    assert sums @ other > sums @ bird + 0.1


@pytest.mark.parametrize(
    "text", ["", "\x00", "\ud800", "x " * 500_000, "这是一个没有空格的句子吗？"]
)
def test_any_text_has_an_embedding(encoder: Encoder, text: str) -> None:
    assert np.isfinite(encoder.encode([read(text)])).all()


def test_the_same_text_is_looked_at_once(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encoder.encode([read("Have I been here before?")])
    monkeypatch.setattr(Encoder, "states", lambda *_: pytest.fail("looked at again"))
    assert (encoder.encode([read("Have I been here before?")]) == first).all()


def test_fewer_layers_are_another_encoder(encoder: Encoder) -> None:
    whole = load_encoder(ALL_LAYERS)
    assert whole is not None and LAYERS < ALL_LAYERS
    tokens = [read(TEXTS[0]).tokens]
    assert whole.states(tokens).shape == encoder.states(tokens).shape
    assert not np.allclose(whole.states(tokens), encoder.states(tokens), atol=0.1)


def test_a_file_without_that_state_is_refused() -> None:
    node = bytes([0x12, 1, ord("a")])  # its output is called a
    graph = bytes([0x0A, len(node), *node])
    model = bytes([0x08, 8, 0x3A, len(graph), *graph])
    assert (
        ending_at(model, "a") == model[:3] + bytes([len(graph) + 5]) + graph + b"\x62\x03\x0a\x01a"
    )
    with pytest.raises(ValueError, match="nothing in the ONNX file makes b"):
        ending_at(model, "b")
    with pytest.raises(ValueError, match="not an ONNX file"):
        ending_at(b"\x07", "a")
