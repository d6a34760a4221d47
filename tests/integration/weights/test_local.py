"""Files that are on the volume already."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.weights.programs import Weights

FILES = {"models/a/config.json": b'{"architectures": ["BertModel"]}', "models/a/model.safetensors": b"x" * 100}


def fill(weights: Weights, files: dict[str, bytes] = FILES) -> None:
    for name, data in files.items():
        place = weights.target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


@pytest.mark.parametrize("path", ["models/a", "/models/a/", "models//./a"])
def test_a_folder_is_hashed_where_it_is_and_nothing_is_written(weights: Weights, path: str) -> None:
    fill(weights)

    done = weights.run({"local": {"path": path}})

    assert done.code == 0, done.output
    assert weights.files() == FILES
    assert not (weights.target / ".bud").exists()
    assert (done.message["files"], done.message["verification"]) == (2, "recorded")
    assert (done.message["format"], done.message["task"]) == ("safetensors", "feature-extraction")


def test_the_digest_does_not_depend_on_where_the_folder_lies(weights: Weights) -> None:
    fill(weights)
    there = weights.run({"local": {"path": "models/a"}})
    (weights.target / "models/a").rename(weights.target / "b")
    here = weights.run({"local": {"path": "b"}})

    assert there.message["digest"] == here.message["digest"]


def test_a_single_file_is_named_relative_to_the_volume(weights: Weights) -> None:
    fill(weights, {"models/ggml-base.bin": b"x"})
    demand = {"ggml-base.bin": hashlib.sha256(b"x").hexdigest()}

    done = weights.run({"local": {"path": "models/ggml-base.bin"}}, sha256=demand)

    assert done.code == 0, done.output
    assert (done.message["file"], done.message["verification"]) == ("models/ggml-base.bin", "verified")


def test_the_whole_volume_is_taken_without_the_file_systems_own_folder(weights: Weights) -> None:
    fill(weights, {"a.bin": b"x", "lost+found/junk": b"y"})

    done = weights.run({"local": {}})

    assert (done.code, done.message["files"]) == (0, 1)


def test_a_wrong_hash_is_refused(weights: Weights) -> None:
    fill(weights)

    done = weights.run({"local": {"path": "models/a"}}, sha256={"model.safetensors": "0" * 64})

    assert (done.code, done.reason) == (10, "HashMismatch")
    assert weights.files() == FILES


def link_to_file(target: Path) -> None:
    (target / "a.bin").symlink_to("/etc/hostname")


def link_to_folder(target: Path) -> None:
    (target / "sub").symlink_to("/etc")


def pipe(target: Path) -> None:
    os.mkfifo(target / "pipe")


def nothing(target: Path) -> None:
    pass


REFUSALS: list[tuple[Any, str, str]] = [
    (nothing, "no/such", "NotFound"),
    (nothing, "models/a/config.json/deeper", "NotFound"),
    (nothing, "", "NoFiles"),
    (nothing, "../outside", "InvalidSource"),
    (link_to_file, "", "InvalidSource"),
    (link_to_file, "a.bin", "InvalidSource"),
    (link_to_folder, "", "InvalidSource"),
    (link_to_folder, "sub/hostname", "InvalidSource"),
    (pipe, "", "InvalidSource"),
]


@pytest.mark.parametrize("case", REFUSALS, ids=[f"{row[0].__name__}-{row[1]}" for row in REFUSALS])
def test_what_is_not_a_plain_file_of_the_volume_is_refused(weights: Weights, case: tuple[Any, str, str]) -> None:
    make, path, reason = case
    make(weights.target)

    done = weights.run({"local": {"path": path}})

    assert (done.code, done.reason) == (10, reason), done.output


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_a_read_only_volume_is_enough(weights: Weights) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", weights.target], check=True)
    try:
        fill(weights)
        subprocess.run(["mount", "-o", "remount,ro", weights.target], check=True)
        done = weights.run({"local": {"path": "models/a"}})
    finally:
        subprocess.run(["umount", weights.target], check=True)

    assert done.code == 0, done.output


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="giving up rights needs root and setpriv")
def test_a_file_that_the_pods_user_cannot_read_is_told(weights: Weights) -> None:
    fill(weights, {"a.bin": b"x"})
    os.chmod(weights.target / "a.bin", 0o600)
    os.chown(weights.target / "a.bin", 12345, 12345)
    config = json.dumps({"source": {"local": {}}, "target": str(weights.target)})
    rights = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", sys.executable, "-m", "bud.weights"]

    env = {"BUD_WEIGHTS_CONFIG": config, "PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 10, done.stderr
    assert "a.bin cannot be read by user" in done.stdout
