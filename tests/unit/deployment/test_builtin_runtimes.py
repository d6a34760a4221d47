"""What a Deployment becomes with each of the Runtimes that the chart brings."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bud.api.runtime import RuntimeSpec
from bud.deployment.plan import plan
from bud.engines.select import Wants, choose
from tests import goldens
from tests.unit.deployment.views import model, view

FOLDER = Path(__file__).parents[3] / "charts/bud-operator/runtimes"
BUILTIN = {
    document["metadata"]["name"]: RuntimeSpec.model_validate(document["spec"])
    for document in (yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml")))
}


@pytest.mark.parametrize("name", BUILTIN)
def test_the_objects_of_a_built_in_runtime(name: str) -> None:
    runtime = BUILTIN[name]
    gpus = {"gpu": 2, "gpuType": "L4"} if runtime.accelerator == "GPU" else {}
    file = "" if runtime.formats[0] in ("safetensors", "pytorch") else "weights.bin"
    served = model(format=runtime.formats[0], task=runtime.tasks[0], bytes=8_000_000_000, file=file)
    changed = view({"runtimeRef": {"name": name}, "resources": gpus}, model=served, runtimes=BUILTIN)
    goldens.check(f"runtime/{name}", [document for _, document in plan(changed).objects])


@pytest.mark.parametrize(
    ("wants", "expected"),
    [
        (Wants("gguf", "text-generation", 0), "llama-cpp"),
        (Wants("gguf", "text-generation", 1), "llama-cpp-cuda"),
        (Wants("safetensors", "text-generation", 0), "vllm-cpu"),
        (Wants("safetensors", "text-generation", 4), "vllm"),
        (Wants("safetensors", "feature-extraction", 0), "text-embeddings-inference"),
        (Wants("safetensors", "text-ranking", 1), "text-embeddings-inference-cuda"),
        (Wants("other", "automatic-speech-recognition", 0), "whisper"),
    ],
)
def test_the_runtime_that_is_chosen_for_a_model(wants: Wants, expected: str) -> None:
    assert choose(BUILTIN, wants) == expected
