"""The Runtimes that ship with the chart: right for the API, right for the engines' command lines, right to choose."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bud.api.runtime import RuntimeSpec
from bud.engines import select
from bud.engines.tiny import build_parser
from bud.errors import InvalidError
from tools.engine_flags import ENGINES, list_path

FOLDER = Path(__file__).parents[3] / "charts" / "bud-operator" / "runtimes"
DOCUMENTS: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))
}
SPECS = {name: RuntimeSpec.model_validate(document["spec"]) for name, document in DOCUMENTS.items()}

# Which list of flags a Runtime is held against, and how its image's tag names that list's version.
LISTS = {
    "vllm": ("vllm", "{version}"),
    "vllm-cpu": ("vllm", "{version}"),
    "sglang": ("sglang", "{version}"),
    "llama-cpp": ("llama-cpp", "server-{version}"),
    "llama-cpp-cuda": ("llama-cpp", "server-cuda-{version}"),
    # Tags of these two do not name the version that their list was read from; docs/runtimes.md says so.
    "text-embeddings-inference": ("text-embeddings-inference", ""),
    "text-embeddings-inference-cuda": ("text-embeddings-inference", ""),
    "whisper": ("whisper", ""),
}


def flags_of(spec: RuntimeSpec) -> set[str]:
    adapters = (*spec.adapters.args, spec.adapters.each) if spec.adapters is not None else ()
    return {arg.partition("=")[0] for arg in (*spec.args, *adapters) if re.match(r"--?[a-z]", arg)}


def listed(name: str) -> set[str]:
    lines = list_path(name).read_text().splitlines()
    return {line for line in lines if not line.startswith("#")}


def test_there_is_a_list_for_every_runtime_of_another_project() -> None:
    assert set(LISTS) == set(SPECS) - {"tiny"}
    assert {engine for engine, _ in LISTS.values()} == set(ENGINES)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_it_is_a_runtime_of_its_files_name(name: str) -> None:
    document = DOCUMENTS[name]
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    assert (document["apiVersion"], document["kind"]) == ("bud.studio/v1alpha1", "Runtime")
    assert document["metadata"] == {"name": name}
    assert SPECS[name].description


@pytest.mark.parametrize("name", LISTS)
def test_every_flag_stands_in_the_engines_own_list(name: str) -> None:
    used = flags_of(SPECS[name])
    assert used
    assert used <= listed(LISTS[name][0])


def test_every_flag_of_the_tiny_runtime_is_one_of_the_tiny_engine() -> None:
    args = [arg.replace("$(BUD_PORT)", "8080").replace("$(BUD_CPU_COUNT)", "2") for arg in SPECS["tiny"].args]
    options = build_parser().parse_args(args)
    assert (options.port, options.threads, options.alias) == (8080, 2, "$(BUD_MODEL_NAME)")
    assert SPECS["tiny"].command == ("python", "-m", "bud.engines.tiny")
    assert SPECS["tiny"].image is None


@pytest.mark.parametrize("name", ENGINES)
def test_each_list_says_where_it_was_read(name: str) -> None:
    engine = ENGINES[name]
    header = [line for line in list_path(name).read_text().splitlines() if line.startswith("#")]
    said = dict(line.removeprefix("# ").split(": ", 1) for line in header)
    assert said["version"] == engine.version
    assert said["read"]
    if engine.package:
        assert said["package"] == f"{engine.package} {engine.pin}"
        assert engine.pin in said["file"]
        assert re.fullmatch(r"[0-9a-f]{64}", said["sha256"])
    else:
        assert engine.version in said["origin"]


@pytest.mark.parametrize("name", LISTS)
def test_its_image_is_pinned_and_of_the_version_whose_flags_were_read(name: str) -> None:
    image = SPECS[name].image or ""
    registry, _, rest = image.partition("/")
    tag = rest.partition(":")[2]
    assert "." in registry
    assert re.search(r"\d", tag)
    assert "latest" not in tag
    engine, form = LISTS[name]
    assert not form or tag == form.format(version=ENGINES[engine].version)


@pytest.mark.parametrize("name", SPECS)
def test_it_runs_as_anybody_on_a_read_only_file_system(name: str) -> None:
    spec = SPECS[name]
    env = {variable.name: variable.value for variable in spec.env}
    assert spec.port >= 1024
    assert env["HOME"] in spec.writable_paths
    folders = [value for value in env.values() if value.startswith("/")]
    assert all(value.startswith(tuple(spec.writable_paths)) for value in folders)
    if any("vllm" in arg or "sglang" in arg for arg in spec.command):
        assert (env["HF_HUB_OFFLINE"], env["USER"]) == ("1", "bud")
        assert spec.shared_memory


@pytest.mark.parametrize("name", SPECS)
def test_it_listens_for_the_pods_address_on_the_operators_port(name: str) -> None:
    args = " ".join(SPECS[name].args).replace("=", " ")
    assert re.search(r"--host(name)? 0\.0\.0\.0", args)
    assert "--port $(BUD_PORT)" in args


@pytest.mark.parametrize("name", SPECS)
def test_it_refers_only_to_what_the_operator_sets(name: str) -> None:
    spec = SPECS[name]
    text = " ".join((*spec.command, *spec.args))
    assert select.references(spec) <= select.VARIABLES
    assert text.count("$") == len(re.findall(r"\$\(BUD_[A-Z_]+\)", text))
    assert "BUD_MODEL_PATH" in text or "BUD_MODEL_FILE" in text


CHOICES = [
    ("gguf", "text-generation", 0, "llama-cpp"),
    ("gguf", "text-generation", 1, "llama-cpp-cuda"),
    ("safetensors", "text-generation", 0, "vllm-cpu"),
    ("safetensors", "text-generation", 2, "vllm"),
    ("pytorch", "text-generation", 1, "vllm"),
    ("safetensors", "feature-extraction", 0, "text-embeddings-inference"),
    ("safetensors", "feature-extraction", 1, "text-embeddings-inference-cuda"),
    ("onnx", "feature-extraction", 0, "text-embeddings-inference"),
    ("safetensors", "text-ranking", 0, "text-embeddings-inference"),
    ("safetensors", "text-classification", 1, "text-embeddings-inference-cuda"),
    ("other", "automatic-speech-recognition", 0, "whisper"),
]


@pytest.mark.parametrize(("format_", "task", "gpu", "name"), CHOICES)
def test_the_engine_that_is_chosen_by_itself_is_the_sensible_one(format_: str, task: str, gpu: int, name: str) -> None:
    assert select.choose(SPECS, select.Wants(format_, task, gpu)) == name


def test_no_two_of_one_priority_compete() -> None:
    claims = [
        (format_, task, spec.accelerator, spec.priority)
        for spec in SPECS.values()
        for format_ in spec.formats
        for task in spec.tasks
    ]
    assert "Any" not in {claim[2] for claim in claims}
    assert len(claims) == len(set(claims))


@pytest.mark.parametrize("name", SPECS)
def test_only_an_engine_whose_health_generates_goes_without_the_answer_check(name: str) -> None:
    spec = SPECS[name]
    assert spec.answer_check.enabled is (spec.health_path != "/health_generate")


def test_the_runtime_that_the_docs_show_is_valid_and_fills_a_gap() -> None:
    text = (FOLDER.parents[2] / "docs" / "runtimes.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    document = yaml.safe_load(example)
    spec = RuntimeSpec.model_validate(document["spec"])
    assert spec.image == SPECS["llama-cpp"].image
    assert flags_of(spec) <= listed("llama-cpp")
    wants = select.Wants("gguf", "feature-extraction", 0)
    assert select.choose({**SPECS, document["metadata"]["name"]: spec}, wants) == "llama-cpp-embeddings"
    with pytest.raises(InvalidError):
        select.choose(SPECS, wants)


def test_the_docs_name_every_built_in_runtime_and_its_version() -> None:
    text = (FOLDER.parents[2] / "docs" / "runtimes.md").read_text()
    short = {name: name.replace("text-embeddings-inference-cuda", "…-cuda") for name in SPECS}
    assert all(f"`{name}`" in text for name in short.values())
    assert all(engine.version.removeprefix("v") in text for engine in ENGINES.values())
