"""Whether a file ends where its own header says: an upload that broke off gives a file that is whole to its server.

Sources: the safetensors format (8 bytes of length, JSON with `data_offsets`, data), and ggml's docs/gguf.md.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from bud.weights.detect import GGUF_MAGIC, exactly, gguf_string, gguf_value
from bud.weights.errors import Permanent

HEADER_BYTES = 16 << 20
"""The longest safetensors header that is read: ten times those of large models, and reading takes memory."""

BLOCKS = {
    **dict.fromkeys((0, 26), (1, 4)),  # F32, I32
    **dict.fromkeys((1, 25, 30), (1, 2)),  # F16, I16, BF16
    **dict.fromkeys((27, 28), (1, 8)),  # I64, F64
    24: (1, 1),  # I8
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
}
"""Elements and bytes of a block, by ggml's number of the type; of other types only the start of a tensor is known."""


def check_complete(root: Path, names: Sequence[str]) -> None:
    """Raises `Permanent` (InvalidFormat) for a file that ends before its header or its tensors do.

    Files of other formats, and what is no such header, are not judged.
    """
    for name in names:
        measure = _SIZES.get(Path(name).suffix)
        if measure is None:
            continue
        with (root / name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                wanted = measure(file)
            except EOFError:
                raise _truncated(name, f"it ends within its header, after {size} bytes") from None
            except (ValueError, OverflowError, KeyError, TypeError, AttributeError):
                continue
        if size < wanted:
            raise _truncated(name, f"its header speaks of {wanted} bytes, it has {size}")


def _truncated(name: str, fault: str) -> Permanent:
    return Permanent(
        "InvalidFormat",
        f"{name} is truncated: {fault}: the file is not whole at its source; upload it there again",
    )


def _safetensors(file: BinaryIO) -> int:
    (length,) = struct.unpack("<Q", exactly(file, 8))
    if not 2 <= length <= HEADER_BYTES:
        raise ValueError("no safetensors header")
    data = file.read(length)
    if data and not data.startswith(b"{"):
        raise ValueError("no safetensors header")
    if len(data) < length:
        raise EOFError
    header = json.loads(data)
    ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
    return 8 + int(length) + max(ends, default=0)


def _gguf(file: BinaryIO) -> int:
    magic, version, tensors, count = struct.unpack("<4sIQQ", exactly(file, 24))
    if magic != GGUF_MAGIC or not 2 <= version < 100 or max(tensors, count) > 1 << 20:
        raise ValueError("no GGUF header")
    alignment = 32
    for _ in range(count):
        name = gguf_string(file)
        (kind,) = struct.unpack("<I", exactly(file, 4))
        value = gguf_value(file, kind)
        if name == "general.alignment" and isinstance(value, int) and value > 0:
            alignment = value
    ends = [_tensor_end(file) for _ in range(tensors)]
    start = -(-file.tell() // alignment) * alignment
    return start + max(ends) if ends else file.tell()


def _tensor_end(file: BinaryIO) -> int:
    gguf_string(file)
    (dimensions,) = struct.unpack("<I", exactly(file, 4))
    if dimensions > 8:
        raise ValueError("no GGUF tensor")
    shape = struct.unpack(f"<{dimensions}Q", exactly(file, 8 * dimensions))
    kind, offset = struct.unpack("<IQ", exactly(file, 12))
    elements, size = BLOCKS.get(kind, (1, 0))
    return int(offset + math.prod(shape) // elements * size)


_SIZES = {".safetensors": _safetensors, ".gguf": _gguf}
