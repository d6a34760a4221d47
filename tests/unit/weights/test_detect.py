"""Formats, main files and tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from bud.weights.detect import Adapter, detect
from bud.weights.errors import Permanent
from tests.tiny_adapter import write_tiny_adapter


def gguf(path: Path, architecture: str = "llama", **keys: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture)
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_array("some.strings", ["a", "b"])
    writer.add_bool("some.flag", True)
    for key, value in keys.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_token_list(["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


FORMATS = [
    (["config.json", "model.safetensors", "pytorch_model.bin"], "safetensors", None),
    (["config.json", "pytorch_model-00001-of-00002.bin"], "pytorch", None),
    (["unet/diffusion_pytorch_model.bin"], "pytorch", None),
    (["model.pth"], "pytorch", None),
    (["onnx/model.onnx", "config.json"], "onnx", "onnx/model.onnx"),
    (["a.onnx", "b.onnx"], "onnx", None),
    (["ggml-base.bin"], "other", "ggml-base.bin"),
    (["a.bin", "b.bin"], "other", None),
    (["a.gguf", "README.md"], "gguf", "a.gguf"),
    (["a-00001-of-00003.gguf", "a-00002-of-00003.gguf", "a-00003-of-00003.gguf"], "gguf", "a-00001-of-00003.gguf"),
    (["a-Q4.gguf", "mmproj-a-f16.gguf"], "gguf", "a-Q4.gguf"),
    (["a-Q4.gguf", "a-Q8.gguf"], "gguf", None),
    (["q4/a-00001-of-00002.gguf", "q4/a-00002-of-00002.gguf", "b.gguf"], "gguf", None),
]


@pytest.mark.parametrize(("names", "kind", "file"), FORMATS, ids=[" ".join(row[0]) for row in FORMATS])
def test_format_and_main_file_follow_from_the_names(
    tmp_path: Path, names: list[str], kind: str, file: str | None
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
        if name.endswith(".gguf"):
            gguf(tmp_path / name)

    found = detect(tmp_path, names)

    assert (found.format, found.file) == (kind, file)
    assert bool(found.remark) == (file is None and kind in ("gguf", "onnx"))


CONFIGS: list[tuple[dict[str, Any], str | None]] = [
    ({"architectures": ["LlamaForCausalLM"]}, "text-generation"),
    ({"architectures": ["GPT2LMHeadModel"]}, "text-generation"),
    ({"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}}, "image-text-to-text"),
    ({"architectures": ["Qwen2AudioForConditionalGeneration"], "audio_config": {}}, "audio-text-to-text"),
    ({"architectures": ["WhisperForConditionalGeneration"]}, "automatic-speech-recognition"),
    ({"architectures": ["T5ForConditionalGeneration"]}, "text2text-generation"),
    ({"architectures": ["Wav2Vec2ForCTC"]}, "automatic-speech-recognition"),
    ({"architectures": ["BertForSequenceClassification"]}, "text-classification"),
    ({"architectures": ["XLMRobertaModel"]}, "feature-extraction"),
    ({"architectures": []}, None),
    ({"architectures": [7]}, None),
    ({"architectures": "LlamaForCausalLM"}, None),
    ({"architectures": ["Unheard"]}, None),
    ({}, None),
]


@pytest.mark.parametrize(("config", "task"), CONFIGS, ids=[str(row[0]) for row in CONFIGS])
def test_the_task_follows_from_the_architecture(tmp_path: Path, config: dict[str, Any], task: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert detect(tmp_path, ["config.json", "m.safetensors"]).task == task


def test_what_the_publisher_says_counts_only_where_the_files_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{ no json")
    assert detect(tmp_path, ["config.json"], published_task="text-to-image").task == "text-to-image"
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert detect(tmp_path, ["config.json"], published_task="text-to-image").task == "text-generation"


def test_sentence_transformers_are_known_by_their_modules(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[{}]")
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')

    assert detect(tmp_path, ["modules.json", "config.json", "m.safetensors"]).task == "feature-extraction"


GGUF = [
    ("llama", {}, "text-generation"),
    ("qwen3", {"pooling_type": 3}, "feature-extraction"),
    ("qwen3", {"pooling_type": 4}, "text-ranking"),
    ("nomic-bert", {"pooling_type": 0}, "feature-extraction"),
    ("gemma-embedding", {}, "feature-extraction"),
    ("t5", {}, "text2text-generation"),
    ("clip", {}, None),
]


@pytest.mark.parametrize(("architecture", "keys", "task"), GGUF, ids=str)
def test_the_task_of_a_gguf_is_in_its_header(
    tmp_path: Path, architecture: str, keys: dict[str, int], task: str | None
) -> None:
    gguf(tmp_path / "m.gguf", architecture, **keys)

    assert detect(tmp_path, ["m.gguf"]).task == task


@pytest.mark.parametrize("data", [b"", b"<!DOCTYPE html>" * 10, b"GGUF\3\0\0\0", b"GGUF" + b"\xff" * 100])
def test_a_page_that_calls_itself_gguf_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(data)

    with pytest.raises(Permanent, match=r"m\.gguf is no GGUF file") as refusal:
        detect(tmp_path, ["m.gguf"])

    assert refusal.value.reason == "InvalidFormat"


PEFT: list[tuple[object, Adapter]] = [
    ({"peft_type": "LORA", "base_model_name_or_path": "a/b"}, Adapter(type="lora", base="a/b")),
    ({"peft_type": "IA3", "base_model_name_or_path": None}, Adapter(type="ia3", base="")),
    ({}, Adapter(type="lora", base="")),
    ([], Adapter(type="lora", base="")),
    ({"base_model_name_or_path": "x" * 999}, Adapter(type="lora", base="x" * 256)),
]


@pytest.mark.parametrize(("config", "expected"), PEFT, ids=[str(row[0])[:60] for row in PEFT])
@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_of_peft_says_what_it_was_made_for(
    tmp_path: Path, config: object, expected: Adapter, weights: str
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))

    left = ["training_args.bin", "checkpoint-5/optimizer.pt", f"checkpoint-5/{weights}"]
    assert detect(tmp_path, ["README.md", "adapter_config.json", weights, *left]).adapter == expected


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin", "a/model-00001-of-00002.safetensors"])
def test_a_whole_model_with_an_adapters_configuration_beside_it_is_a_model(tmp_path: Path, weights: str) -> None:
    for name in ("adapter_config.json", "config.json"):
        (tmp_path / name).write_text('{"model_type": "llama"}')

    found = detect(tmp_path, ["adapter_config.json", "adapter_model.safetensors", "config.json", weights])

    assert (found.adapter, found.architecture) == (None, "llama")


def test_an_adapter_in_gguf_says_so_and_which_architecture_it_is_for(tmp_path: Path) -> None:
    write_tiny_adapter(tmp_path / "a.gguf", architecture="qwen3")
    gguf(tmp_path / "m.gguf")

    found = detect(tmp_path, ["a.gguf"])

    assert (found.adapter, found.architecture, found.task) == (Adapter(type="lora", base=""), "qwen3", None)
    assert detect(tmp_path, ["m.gguf"]).adapter is None


def test_an_adapter_in_gguf_may_name_its_base(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_type("adapter")
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, "Llama 3.2 1B")
    writer.add_base_model_repo_url(0, "https://huggingface.co/meta-llama/Llama-3.2-1B")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()

    found = detect(tmp_path, ["a.gguf"]).adapter

    assert found == Adapter(type="lora", base="https://huggingface.co/meta-llama/Llama-3.2-1B")
