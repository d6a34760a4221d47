"""What the files are: their format, the main file for engines that load one, and the task, as a Hub pipeline tag."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from bud.weights.errors import Permanent

Format = Literal["gguf", "safetensors", "pytorch", "onnx", "other"]

_PYTORCH = re.compile(r"(?:(?:diffusion_)?pytorch_model|adapter_model|consolidated)[^/]*\.bin$|\.(?:pt|pth|ckpt)$")
_LATER_SHARD = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$")
_PROJECTOR = re.compile(r"(?:^|/)[^/]*mmproj[^/]*\.gguf$", re.IGNORECASE)
# Not what a training leaves beside its result, as `training_args.bin` and `optimizer.pt`.
_WHOLE = re.compile(
    r"(?:^|/)(?!adapter_model)[^/]*\.safetensors$|(?:^|/)(?:pytorch_model|consolidated)[^/]*\.(?:bin|pth)$"
)
CONFIG_BYTES = 1 << 20
GGUF_MAGIC = b"GGUF"
TEXT_CHARACTERS = 256
"""Of what the files say of themselves, as much as the result has room for."""

_TASK_BY_ENDING = (
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
    ("ForSpeechSeq2Seq", "automatic-speech-recognition"),
    ("ForCTC", "automatic-speech-recognition"),
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForMaskedLM", "fill-mask"),
    ("ForImageClassification", "image-classification"),
    ("ForObjectDetection", "object-detection"),
    ("Model", "feature-extraction"),
)
_GGUF_EMBEDDERS = ("bert", "embedding", "t5encoder")
# Pooling of llama.cpp's GGUF key `<architecture>.pooling_type`: 0 is none, 4 ranks, the rest embed.
_GGUF_RANK = 4


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Weights that are loaded beside a model: their type, as `lora`, and the model that they are for, "" when the files
    do not tell it."""

    type: str
    base: str


@dataclass(frozen=True, kw_only=True)
class Detected:
    """`file` is relative to the folder; None where engines load the folder, or where it is not clear which.
    `architecture` is that of the model, as `llama`; "" where the files do not tell it."""

    format: Format
    task: str | None
    file: str | None
    architecture: str = ""
    adapter: Adapter | None = None
    remark: str | None = None


def detect(root: Path, names: Sequence[str], *, published_task: str | None = None) -> Detected:
    """Looks at names first and opens only small configurations and a GGUF header.

    What the files say about the task comes before what the publisher says, so that a copy in a bucket and the
    original on the Hub are the same model. Raises `Permanent` (InvalidFormat) for a .gguf that is none.
    """
    kind = _format(names)
    file, remark = _main_file(kind, names)
    if kind == "gguf":
        keys = _keys_of_gguf(root, names, file)
        task, architecture, adapter = _task_of_gguf(keys), _text(keys, "general.architecture"), _adapter_of_gguf(keys)
    else:
        config = _json(root / "config.json") if "config.json" in names else {}
        task, architecture = _task_of_config(root, names, config), _text(config, "model_type")
        adapter = _adapter_of_config(root, names)
    return Detected(
        format=kind, task=task or published_task, file=file, architecture=architecture, adapter=adapter, remark=remark
    )


def _text(found: Mapping[str, object], key: str) -> str:
    value = found.get(key)
    return value[:TEXT_CHARACTERS] if isinstance(value, str) else ""


def _adapter_of_config(root: Path, names: Sequence[str]) -> Adapter | None:
    """PEFT's layout: `adapter_config.json` beside `adapter_model.*`, and no weights of a model."""
    if "adapter_config.json" not in names or any(_WHOLE.search(name) for name in names):
        return None
    config = _json(root / "adapter_config.json")
    return Adapter(type=_text(config, "peft_type").lower() or "lora", base=_text(config, "base_model_name_or_path"))


def _adapter_of_gguf(keys: Mapping[str, object]) -> Adapter | None:
    if keys.get("general.type") != "adapter":
        return None
    base = _text(keys, "general.base_model.0.repo_url") or _text(keys, "general.base_model.0.name")
    return Adapter(type=_text(keys, "adapter.type").lower() or "lora", base=base)


def _format(names: Sequence[str]) -> Format:
    if any(name.endswith(".safetensors") for name in names):
        return "safetensors"
    if any(name.endswith(".gguf") for name in names):
        return "gguf"
    if any(_PYTORCH.search(name) for name in names):
        return "pytorch"
    if any(name.endswith(".onnx") for name in names):
        return "onnx"
    return "other"


def _main_file(kind: Format, names: Sequence[str]) -> tuple[str | None, str | None]:
    """The one file to load: a single one, or the first of its shards. Several candidates: none, and a remark."""
    if kind in ("safetensors", "pytorch"):
        return None, None
    if kind == "other":
        return (names[0], None) if len(names) == 1 else (None, None)
    found = sorted(name for name in names if name.endswith(f".{kind}"))
    if kind == "gguf":
        found = [name for name in found if not _LATER_SHARD.search(name) and not _PROJECTOR.search(name)]
    if len(found) == 1:
        return found[0], None
    some = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
    return None, f"several {kind} models are here ({some}): no main file is chosen; narrow the source to one"


def _task_of_config(root: Path, names: Sequence[str], config: Mapping[str, Any]) -> str | None:
    if "modules.json" in names and (root / "modules.json").stat().st_size:
        return "feature-extraction"
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    if not isinstance(first, str) or not first:
        return None
    if "vision_config" in config and first.endswith(("ForConditionalGeneration", "ForCausalLM")):
        return "image-text-to-text"
    if first.startswith("Whisper"):
        return "automatic-speech-recognition"
    if first.endswith("ForConditionalGeneration"):
        return "audio-text-to-text" if "audio_config" in config else "text2text-generation"
    return next((task for ending, task in _TASK_BY_ENDING if first.endswith(ending)), None)


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > CONFIG_BYTES:
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _keys_of_gguf(root: Path, names: Sequence[str], file: str | None) -> Mapping[str, object]:
    chosen = file or next(name for name in sorted(names) if name.endswith(".gguf"))
    try:
        with (root / chosen).open("rb") as opened:
            return _gguf_keys(opened)
    except (EOFError, ValueError, OverflowError):
        raise Permanent(
            "InvalidFormat", f"{chosen} is no GGUF file: check that the source really is the file, not a page about it"
        ) from None


def _task_of_gguf(keys: Mapping[str, object]) -> str | None:
    architecture = keys.get("general.architecture")
    if not isinstance(architecture, str) or architecture in ("clip", "") or keys.get("general.type") == "adapter":
        return None
    pooling = keys.get(f"{architecture}.pooling_type", 0)
    if pooling == _GGUF_RANK:
        return "text-ranking"
    if pooling or any(part in architecture for part in _GGUF_EMBEDDERS):
        return "feature-extraction"
    return "text2text-generation" if architecture == "t5" else "text-generation"


_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def _gguf_keys(file: BinaryIO) -> dict[str, object]:
    """The keys of a GGUF header (version 2 or later, little-endian) up to the tokenizer's, which are long.

    Source: the GGUF specification in ggml's docs/gguf.md.
    """
    magic, version, _, count = struct.unpack("<4sIQQ", exactly(file, 24))
    if magic != GGUF_MAGIC or not 2 <= version < 100 or count > 65536:
        raise ValueError("no GGUF header")
    keys: dict[str, object] = {}
    for _ in range(count):
        name = gguf_string(file)
        if name.startswith("tokenizer."):
            break
        (kind,) = struct.unpack("<I", exactly(file, 4))
        keys[name] = gguf_value(file, kind)
    return keys


def exactly(file: BinaryIO, count: int) -> bytes:
    """The next bytes, so many. Raises `EOFError` where the file ends before."""
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data


def gguf_string(file: BinaryIO) -> str:
    """A string of a GGUF header. Raises `ValueError` where there is none, `EOFError` where the file ends in it."""
    (length,) = struct.unpack("<Q", exactly(file, 8))
    if length > CONFIG_BYTES:
        raise ValueError("no GGUF string")
    return exactly(file, length).decode(errors="replace")


def gguf_value(file: BinaryIO, kind: int) -> object:
    """A value of a GGUF header; None for an array, which is passed over. Raises like `gguf_string`."""
    if kind == _STRING:
        return gguf_string(file)
    if kind in _SCALARS:
        layout = "<" + _SCALARS[kind]
        return struct.unpack(layout, exactly(file, struct.calcsize(layout)))[0]
    if kind != _ARRAY:
        raise ValueError("no GGUF type")
    inner, length = struct.unpack("<IQ", exactly(file, 12))
    if inner in _SCALARS:
        file.seek(length * struct.calcsize("<" + _SCALARS[inner]), 1)
    elif inner == _STRING and length <= CONFIG_BYTES:
        for _ in range(length):
            gguf_string(file)
    else:
        raise ValueError("no GGUF array")
    return None
