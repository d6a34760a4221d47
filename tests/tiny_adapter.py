"""A random LoRA for the tiny model, in GGUF: it makes the model say something else."""

from pathlib import Path

import gguf
import numpy as np

from tests.tiny_model import WIDTH

RANK = 4


def write_tiny_adapter(path: Path, *, seed: int = 1, architecture: str = "llama", layers: int = 2) -> Path:
    """Write an adapter for a model of `write_tiny_model`'s default size and return its path."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0 * RANK)
    for number in range(layers):
        for part in ("attn_q", "attn_v"):
            name = f"blk.{number}.{part}.weight"
            writer.add_tensor(f"{name}.lora_a", rng.standard_normal((RANK, WIDTH), dtype=np.float32))
            writer.add_tensor(f"{name}.lora_b", rng.standard_normal((WIDTH, RANK), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
