"""A real, small, random language model in GGUF: `python -m tests.tiny_model OUT.gguf [--size-mb N]`.

A llama with random weights and a vocabulary of the 256 bytes, so that it needs no download, answers any text,
and makes llama.cpp do all that it does for a real model. What it says is noise.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np

WIDTH = 64
HEADS = 4
CONTEXT = 2048
CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


TOOLS_TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for message in messages %}[{{ message['role'] }}]"
    "{% if message.tool_calls %}{% for call in message.tool_calls %}"
    '~{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "{% endfor %}{% else %}{{ message['content'] }}{% endif %}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""For a model that can call tools and keep to a schema: a call begins with a byte of its own, the prompt's end has no
spaces, which this vocabulary would write otherwise than llama.cpp's grammars."""
CALL_BIAS = {"129": 60, "2": 80}
"""`logit_bias` by which such a model calls a tool wherever it may, and ends when it can: `~` and `</s>`."""


def write_tiny_model(path: Path, *, size_mb: float = 0.5, seed: int = 0, template: str = CHAT_TEMPLATE) -> Path:
    """Write a model of about `size_mb` megabytes (0.5 at least; more are more layers) and return its path."""
    rng = np.random.default_rng(seed)
    width, feed_forward = (WIDTH, 2 * WIDTH) if size_mb <= 8 else (512, 1536)
    vocabulary, kinds = _vocabulary()
    fixed = 2 * len(vocabulary) * width
    layer = 4 * width * width + 3 * width * feed_forward
    layers = max(2, round((size_mb * 1e6 / 4 - fixed) / layer))

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(feed_forward)
    writer.add_block_count(layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(width // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, vocabulary, kinds)
    writer.add_chat_template(template)
    if template != CHAT_TEMPLATE:
        writer.add_add_space_prefix(False)

    def add(name: str, *shape: int) -> None:
        tensor = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
        writer.add_tensor(f"{name}.weight", tensor if len(shape) > 1 else np.ones(shape, np.float32))

    add("token_embd", len(vocabulary), width)
    for number in range(layers):
        block = f"blk.{number}"
        add(f"{block}.attn_norm", width)
        add(f"{block}.ffn_norm", width)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{part}", width, width)
        add(f"{block}.ffn_gate", feed_forward, width)
        add(f"{block}.ffn_up", feed_forward, width)
        add(f"{block}.ffn_down", width, feed_forward)
    add("output_norm", width)
    add("output", len(vocabulary), width)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary() -> tuple[list[bytes], list[gguf.TokenType]]:
    special = [b"<unk>", b"<s>", b"</s>"]
    single = [f"<0x{byte:02X}>".encode() for byte in range(256)]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    return special + single, kinds + [gguf.TokenType.BYTE] * len(single)


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: list[bytes], kinds: list[gguf.TokenType]) -> None:
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocabulary)
    writer.add_token_scores([0.0] * len(vocabulary))
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.tiny_model", description="Write a random GGUF model.")
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    parser.add_argument("--size-mb", type=float, default=0.5, metavar="N", help="about how large (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other weights of the same shape")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    path = write_tiny_model(options.out, size_mb=options.size_mb, seed=options.seed)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
