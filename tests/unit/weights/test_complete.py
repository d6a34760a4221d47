"""Files that end before their tensors do."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

from bud.weights.complete import BLOCKS, check_complete
from bud.weights.errors import Permanent
from tests.tiny_model import write_tiny_model


def safetensors(size: int) -> bytes:
    header = json.dumps({"__metadata__": {"a": "b"}, "w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}})
    return struct.pack("<Q", len(header)) + header.encode() + bytes(size)


def aligned(path: Path) -> bytes:
    """A GGUF of another alignment, with a long vocabulary, whose last tensor is of a quantised type."""
    writer = GGUFWriter(path, "llama")
    writer.add_custom_alignment(128)
    writer.add_token_list([f"token-{i}" for i in range(3000)])
    writer.add_tensor("a", np.zeros((3,), dtype=np.float32))
    writer.add_tensor("b", np.zeros((2, 34), dtype=np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(params=["m.safetensors", "m.gguf", "aligned.gguf"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / str(request.param)
    if file.suffix == ".safetensors":
        file.write_bytes(safetensors(16))
    elif file.name == "m.gguf":
        write_tiny_model(file)
    else:
        # The writer pads the end of the last tensor to the alignment, as no reader needs.
        file.write_bytes(aligned(file)[: -(128 - 68)])
    return file


def test_a_whole_file_is_whole_and_one_byte_less_is_not(whole: Path) -> None:
    check_complete(whole.parent, [whole.name])
    data = whole.read_bytes()
    whole.write_bytes(data[:-1] if whole.name != "m.gguf" else data[:-64])
    with pytest.raises(Permanent) as told:
        check_complete(whole.parent, [whole.name])
    assert told.value.reason == "InvalidFormat"
    assert "is truncated" in told.value.message
    assert "upload it there again" in told.value.message


def test_a_file_that_is_cut_anywhere_is_not_whole(tmp_path: Path) -> None:
    small = GGUFWriter(tmp_path / "m.gguf", "llama")
    small.add_token_list(["one", "two"])
    small.add_token_scores([0.5, 0.25])
    small.add_chat_template("{{ messages }}")
    small.add_tensor("a", np.zeros((3,), dtype=np.float32))
    small.write_header_to_file()
    small.write_kv_data_to_file()
    small.write_tensors_to_file()
    small.close()
    padded = (tmp_path / "m.gguf").read_bytes()
    for name, data in (("m.gguf", padded[: -(32 - 12)]), ("m.safetensors", safetensors(16))):
        (tmp_path / name).write_bytes(data)
        check_complete(tmp_path, [name])
        assert [length for length in range(len(data)) if not _refused(tmp_path / name, data[:length])] == []


def test_a_file_that_ends_with_its_last_key_is_whole_and_one_byte_less_is_not(tmp_path: Path) -> None:
    file = tmp_path / "vocabulary.gguf"
    data = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q1sIQ4s", 1, b"k", 8, 4, b"text")
    file.write_bytes(data)
    check_complete(tmp_path, [file.name])
    assert _refused(file, data[:-1])


def _refused(file: Path, data: bytes) -> bool:
    file.write_bytes(data)
    try:
        check_complete(file.parent, [file.name])
    except Permanent as error:
        return error.reason == "InvalidFormat" and "is truncated" in error.message
    return False


@pytest.mark.parametrize(
    "data", [b"<html>" * 10, bytes(64), b"\xff" * 64, struct.pack("<Q", 99) + b"no header" * 3, b"GGUF" + b"\xff" * 64]
)
@pytest.mark.parametrize("name", ["m.safetensors", "m.gguf", "m.bin"])
def test_what_has_no_such_header_is_not_judged(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    check_complete(tmp_path, [name])


def test_the_sizes_of_blocks_are_ggmls() -> None:
    assert {kind: GGML_QUANT_SIZES[GGMLQuantizationType(kind)] for kind in BLOCKS} == BLOCKS
