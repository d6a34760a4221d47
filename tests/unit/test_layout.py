"""What must hold of the tree as a whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tools import generate

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")
OTHER_LOCKS = [f"tests/integration/gateway/libraries/{name}.lock" for name in ("langchain", "schemathesis")]


def tracked() -> list[Path]:
    """Files that git tracks, or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_operator_is_a_folder_and_no_package() -> None:
    # It would be imported instead of the standard library's `operator`.
    assert not list((ROOT / "operator").glob("*.py"))


@pytest.mark.parametrize("name", [*LOCKS, *OTHER_LOCKS])
def test_a_lock_pins_every_package_with_hashes_and_names_no_index(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert all(
        re.match(r"[a-z0-9._-]+(\[[a-z0-9,._-]+\])?==\S+", entry) and "--hash=sha256:" in entry for entry in entries
    )
    assert not re.search(r"://|--index|--find-links", text)


@pytest.mark.parametrize("name", OTHER_LOCKS)
def test_another_lock_stands_on_the_development_lock(name: str) -> None:
    pins = [set(re.findall(r"^([a-z0-9._-]+)", (ROOT / lock).read_text(), re.MULTILINE)) for lock in (name, LOCKS[1])]
    assert not pins[0] & pins[1]


def test_every_library_of_the_image_is_in_the_development_lock_at_the_same_version() -> None:
    pins = [set(re.findall(r"^(\S+==\S+)", (ROOT / name).read_text(), re.MULTILINE)) for name in LOCKS]
    assert pins[0] <= pins[1]


@pytest.mark.parametrize("path", generate.crds(), ids=lambda path: str(path.relative_to(ROOT)))
def test_definitions_are_those_of_the_models(path: Path) -> None:
    assert path.read_text() == generate.crds()[path], "run `make crds`"


@pytest.mark.parametrize("folder", generate.CRD_FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_of_definitions_holds_no_other(folder: Path) -> None:
    made = {path.name for path in generate.crds() if path.parent == folder}
    assert {path.name for path in folder.iterdir()} - {"kustomization.yaml"} == made


def test_the_kustomization_of_definitions_lists_them_all() -> None:
    listed = yaml.safe_load((ROOT / "crds/kustomization.yaml").read_text())["resources"]
    assert set(listed) == {path.name for path in generate.crds()}


def test_only_the_operator_and_its_connection_know_kopf() -> None:
    users = {
        path.relative_to(ROOT / "operator/bud").as_posix()
        for path in sources("operator")
        if re.search(r"^\s*(import|from) kopf\b", path.read_text(), re.MULTILINE)
    }
    assert users == {"ours.py", "kube/connect.py"}


def test_no_file_names_a_place_of_this_machine() -> None:
    # A place right below / may well be one within an image, too.
    places = [f"{place}/" for place in (ROOT, Path.home(), Path(sys.prefix)) if len(place.parts) > 2]
    found = [path for path in tracked() if any(place in path.read_text(errors="replace") for place in places)]
    assert not found


@pytest.mark.parametrize("folder", ["operator", "tests", "tools"])
def test_no_module_is_longer_than_400_lines(folder: str) -> None:
    long = {
        str(path.relative_to(ROOT)): n for path in sources(folder) if (n := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_the_versions_of_package_chart_and_image_agree() -> None:
    project = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    chart = yaml.safe_load((ROOT / "charts/bud-operator/Chart.yaml").read_text())
    assert project is not None
    assert chart["version"] == chart["appVersion"] == project[1]
