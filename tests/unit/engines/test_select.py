"""Which Runtime serves a model, and why another cannot."""

from __future__ import annotations

from typing import Any

import pytest

from bud.api.runtime import RuntimeSpec
from bud.engines.select import Wants, check, choose
from bud.errors import InvalidError


def runtime(**fields: Any) -> RuntimeSpec:
    return RuntimeSpec.model_validate({"formats": ["gguf"], "tasks": ["text-generation"]} | fields)


RUNTIMES = {
    "cpu": runtime(accelerator="CPU", priority=5),
    "gpu": runtime(accelerator="GPU", priority=5),
    "any": runtime(accelerator="Any", priority=1),
    "embed": runtime(tasks=["feature-extraction"], formats=["safetensors"]),
    "b-tie": runtime(accelerator="CPU", priority=5),
}


@pytest.mark.parametrize(
    ("wants", "expected"),
    [
        pytest.param(Wants("gguf", "text-generation", 0), "b-tie", id="the highest priority, then the first name"),
        pytest.param(Wants("gguf", "text-generation", 2), "gpu", id="one that takes GPUs when GPUs are asked for"),
        pytest.param(Wants("safetensors", "feature-extraction", 0), "embed", id="one that serves the task"),
    ],
)
def test_the_runtime_that_is_chosen(wants: Wants, expected: str) -> None:
    assert choose(RUNTIMES, wants) == expected


def test_when_none_fits_the_error_names_what_was_wanted_and_what_there_is() -> None:
    with pytest.raises(
        InvalidError, match=r"no Runtime loads onnx weights for text-generation on CPU .*any, b-tie.*runtimeRef"
    ):
        choose(RUNTIMES, Wants("onnx", "text-generation", 0))


@pytest.mark.parametrize(
    ("spec", "wants", "reason"),
    [
        (runtime(), Wants("onnx", "text-generation", 0), "FormatNotSupported"),
        (runtime(), Wants("gguf", "text-ranking", 0), "TaskNotSupported"),
        (runtime(accelerator="GPU"), Wants("gguf", "text-generation", 0), "AcceleratorNotSupported"),
        (runtime(accelerator="CPU"), Wants("gguf", "text-generation", 1), "AcceleratorNotSupported"),
        (runtime(args=["--model", "$(MODEL)"]), Wants("gguf", "text-generation", 0), "InvalidRuntime"),
    ],
)
def test_a_named_runtime_that_cannot_serve_says_why(spec: RuntimeSpec, wants: Wants, reason: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check("mine", spec, wants)
    assert caught.value.reason == reason


def test_variables_of_the_operator_and_of_the_runtime_itself_may_be_used() -> None:
    spec = runtime(args=["$(BUD_MODEL_PATH)", "$(MINE)", "$$(LITERAL)"], env=[{"name": "MINE", "value": "1"}])
    check("mine", spec, Wants("gguf", "text-generation", 0))
