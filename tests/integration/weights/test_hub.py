"""Downloads from the Hub's API: a strict server of it, and olah, a mirror, over a real git repository."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.weights.origin import COMMIT, TOKEN
from tests.integration.weights.programs import MEBI, Origin, Weights, content, running
from tests.tiny_engine import free_port

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"]}).encode()


def repository(origin: Origin, repo: str = "acme/tiny") -> dict[str, bytes]:
    files = {"config.json": CONFIG, "model.safetensors": content(MEBI), "sub/notes.txt": b"hi"}
    return {name: origin.put(f"{repo}/{name}", data) for name, data in files.items()}


def hub(origin: Origin, repo: str = "acme/tiny", **more: Any) -> dict[str, Any]:
    return {"huggingFace": {"repo": repo, "endpoint": origin.url, **more}}


def test_a_repository_arrives_verified_with_its_commit(origin: Origin, weights: Weights) -> None:
    files = repository(origin)

    done = weights.run(hub(origin))

    assert done.code == 0, done.output
    assert weights.files() == files
    assert done.message["revision"] == COMMIT
    assert done.message["verification"] == "verified"
    assert (done.message["format"], done.message["task"]) == ("safetensors", "text-generation")
    assert all(entry["verified"] for entry in weights.manifest()["files"])


def test_another_revision_of_the_same_bytes_has_the_same_digest(origin: Origin, weights: Weights) -> None:
    repository(origin)

    first, second = (weights.run(hub(origin, revision=revision)) for revision in ("main", "v1"))

    assert first.message["digest"] == second.message["digest"]
    assert len(origin.log("/acme/tiny/model.safetensors")) == 1


PATTERNS: list[tuple[dict[str, Any], list[str]]] = [
    ({"allowPatterns": ["*.json"]}, ["config.json"]),
    ({"allowPatterns": ["sub/"]}, ["sub/notes.txt"]),
    ({"ignorePatterns": ["*.safetensors", "sub/*"]}, ["config.json"]),
    ({"allowPatterns": ["*.json", "*.txt"], "ignorePatterns": ["sub/*"]}, ["config.json"]),
    ({"allowPatterns": [], "ignorePatterns": []}, ["config.json", "model.safetensors", "sub/notes.txt"]),
]


@pytest.mark.parametrize(("patterns", "left"), PATTERNS, ids=str)
def test_patterns_choose_the_files(origin: Origin, weights: Weights, patterns: dict[str, Any], left: list[str]) -> None:
    repository(origin)

    done = weights.run(hub(origin, **patterns))

    assert done.code == 0, done.output
    assert sorted(weights.files()) == left


def test_patterns_that_leave_nothing_are_an_error_that_tells_what_there_is(origin: Origin, weights: Weights) -> None:
    repository(origin)

    done = weights.run(hub(origin, allowPatterns=["*.gguf"]))

    assert (done.code, done.reason) == (10, "NoFiles")
    assert "*.gguf" in done.text
    assert "model.safetensors" in done.text


REFUSALS = [
    ("acme/private-one", {}, "", ("Unauthorized", "set spec.credentialsSecretRef to a Secret with key token")),
    ("acme/private-one", {}, "hf_wrong", ("Unauthorized", "token of spec.credentialsSecretRef is not accepted")),
    ("acme/gated-one", {}, "", ("Unauthorized", "accept its terms")),
    ("acme/gated-one", {}, "hf_wrong", ("Forbidden", "accept its terms")),
    ("acme/none", {}, "", ("Unauthorized", "does not exist")),
    ("acme/none", {}, TOKEN, ("NotFound", "spec.source.huggingFace.repo")),
    ("acme/tiny", {"revision": "v9"}, "", ("NotFound", "spec.source.huggingFace.revision")),
    ("no//such", {}, "", ("InvalidSource", "spec.source.huggingFace.repo")),
]


@pytest.mark.parametrize("case", REFUSALS, ids=str)
def test_what_the_hub_refuses_is_told_with_its_remedy(
    origin: Origin, weights: Weights, case: tuple[str, dict[str, Any], str, tuple[str, str]]
) -> None:
    repo, more, token, (reason, remedy) = case
    for name in ("acme/tiny", "acme/private-one", "acme/gated-one"):
        repository(origin, name)

    done = weights.run(hub(origin, repo, **more), BUD_CREDENTIAL_token=token)

    assert (done.code, done.reason) == (10, reason), done.output
    assert remedy in done.text
    assert "trying again" not in done.output
    assert not token or token not in done.output


@pytest.mark.parametrize("variable", ["BUD_CREDENTIAL_token", "HF_TOKEN"])
def test_the_token_opens_the_repository_and_stays_with_the_hub(origin: Origin, weights: Weights, variable: str) -> None:
    files = repository(origin, "acme/private-one")

    environment: dict[str, Any] = {variable: TOKEN}
    done = weights.run(hub(origin, "acme/private-one"), **environment)

    assert done.code == 0, done.output
    assert weights.files() == files
    assert TOKEN not in done.output
    (moved,) = origin.log("/acme/private-one/model.safetensors")
    assert (moved["main"], moved["Authorization"]) == (False, None)


def test_a_file_that_is_not_what_the_hub_publishes_is_refused(origin: Origin, weights: Weights) -> None:
    repository(origin)
    origin.put("elsewhere", content(MEBI, seed=9))
    where = f"/acme/tiny/resolve/{COMMIT}/model.safetensors"
    origin.faults({where: {"status": 302, "headers": {"Location": f"{origin.second}/elsewhere"}}})

    done = weights.run(hub(origin))

    assert (done.code, done.reason) == (10, "HashMismatch")
    assert "model.safetensors" in done.text


def test_a_small_file_is_held_against_its_git_hash(origin: Origin, weights: Weights) -> None:
    repository(origin)
    origin.put("elsewhere", b"!" * len(CONFIG))
    where = f"/acme/tiny/resolve/{COMMIT}/config.json"
    origin.faults({where: {"status": 302, "headers": {"Location": f"{origin.second}/elsewhere"}}})

    done = weights.run(hub(origin))

    assert (done.code, done.reason) == (10, "HashMismatch")
    assert "config.json" in done.text


def test_a_demand_that_contradicts_the_hub_is_refused_before_any_byte(origin: Origin, weights: Weights) -> None:
    repository(origin)

    done = weights.run(hub(origin), sha256={"model.safetensors": "0" * 64})

    assert (done.code, done.reason) == (10, "HashMismatch")
    assert origin.log("/acme/tiny/model.safetensors") == []


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "sub/../../outside", ".bud/manifest.json", "a//b"])
def test_a_name_that_would_leave_the_folder_is_refused(origin: Origin, weights: Weights, name: str) -> None:
    repository(origin)
    origin.faults({"acme/tiny": {"siblings": [{"rfilename": name, "size": 1, "blobId": "0" * 40}]}})

    done = weights.run(hub(origin))

    assert (done.code, done.reason) == (10, "InvalidSource")
    assert repr(name) in done.text
    assert weights.files() == {}


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_in_trouble_is_asked_again(origin: Origin, weights: Weights, status: int) -> None:
    files = repository(origin)
    path = "/api/models/acme/tiny/revision/main"
    origin.faults({path: {"status": status, "times": 2, "headers": {"Retry-After": "0"}}})

    done = weights.run(hub(origin))

    assert done.code == 0, done.output
    assert weights.files() == files


def test_a_hub_that_cannot_be_reached_is_transient(weights: Weights) -> None:
    done = weights.run({"huggingFace": {"repo": "acme/tiny", "endpoint": "http://127.0.0.1:9"}})

    assert (done.code, done.reason) == (1, "ConnectionFailed"), done.output


def test_what_a_moved_branch_no_longer_has_is_removed(origin: Origin, weights: Weights) -> None:
    repository(origin)
    assert weights.run(hub(origin)).code == 0
    (weights.target / "mine.txt").write_text("put here by someone else")
    (origin.root / "acme/tiny/sub/notes.txt").unlink()

    done = weights.run(hub(origin))

    assert done.code == 0, done.output
    assert set(weights.files()) == {"config.json", "model.safetensors", "mine.txt"}
    assert done.message["files"] == 2


def test_the_hubs_own_task_counts_where_the_files_tell_none(origin: Origin, weights: Weights) -> None:
    origin.put("acme/image/model.safetensors", content(MEBI))
    origin.faults({"acme/image": {"info": {"pipeline_tag": "text-to-image"}}})

    done = weights.run(hub(origin, "acme/image"))

    assert (done.code, done.message["task"]) == (0, "text-to-image"), done.output


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, dict[str, bytes], str]]:
    """olah, serving a git repository with one LFS file: its address, the files and the commit."""
    repo = tmp_path / "mirrors" / "models" / "acme" / "tiny"
    large = content(300_000)
    sha256 = hashlib.sha256(large).hexdigest()
    store = repo / ".git/lfs/objects" / sha256[:2] / sha256[2:4]
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(large)}\n"
    files = {"config.json": CONFIG, "model.safetensors": pointer.encode(), "README.md": b"---\nlicense: mit\n---\n"}
    subprocess.run(["git", "init", "-q", "-b", "main", repo], check=True)
    for name, data in files.items():
        (repo / name).write_bytes(data)
    store.mkdir(parents=True)
    (store / sha256).write_bytes(large)
    git = ["git", "-C", str(repo), "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    port = free_port()
    (tmp_path / "olah.toml").write_text(
        f'[basic]\nhost = "127.0.0.1"\nport = {port}\nrepos-path = "{tmp_path}/cache"\n'
        f'mirrors-path = ["{tmp_path}/mirrors"]\n[accessibility]\noffline = true\n'
    )
    command = [str(Path(sys.executable).with_name("olah-cli")), "-c", "olah.toml"]
    with running(command, port=port, cwd=tmp_path):
        yield f"http://127.0.0.1:{port}", {**files, "model.safetensors": large}, commit


def test_a_mirror_that_lists_names_only_serves_a_verified_copy(
    mirror: tuple[str, dict[str, bytes], str], weights: Weights
) -> None:
    url, files, commit = mirror

    done = weights.run({"huggingFace": {"repo": "acme/tiny", "endpoint": url}})

    assert done.code == 0, done.output
    assert weights.files() == files
    assert (done.message["revision"], done.message["verification"]) == (commit, "verified")


def test_a_repository_that_a_mirror_lacks_is_told(mirror: tuple[str, dict[str, bytes], str], weights: Weights) -> None:
    done = weights.run({"huggingFace": {"repo": "acme/other", "endpoint": mirror[0]}})

    assert (done.code, done.reason) == (10, "Unauthorized"), done.output
    assert "does not exist" in done.text
