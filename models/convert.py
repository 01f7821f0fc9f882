"""Writes a GGUF file as an ordinary Hugging Face folder.

    python -m models.convert FILE.gguf FOLDER

A process of its own: it needs torch and a gigabyte, and whoever waits for it keeps neither.
"""

from __future__ import annotations

import sys
from pathlib import Path


def convert(gguf: Path, into: Path) -> None:
    """Dequantise to bfloat16, with tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
