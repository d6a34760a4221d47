"""The image's recipe, and the key that says when it must be built again."""

import shlex
from pathlib import Path

import pytest

from tests import image

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions() -> list[list[str]]:
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    return [shlex.split(line) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def test_every_installation_is_checked_by_hash_or_needs_no_index() -> None:
    installs = [line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if "pip" in line and " install " in line]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)


def test_the_base_is_named_by_a_tag() -> None:
    bases = [words[1] for words in instructions() if words[0] == "ARG" and words[1].startswith("BASE=")]
    assert [base.rpartition(":")[2] for base in bases] == ["3.12-slim-bookworm"]


def test_the_program_runs_as_a_number_that_kubernetes_knows_is_not_root() -> None:
    last = max(i for i, words in enumerate(instructions()) if words[0] == "FROM")
    assert ["USER", "65532:65532"] in instructions()[last:]
    assert instructions()[-1] == ["ENTRYPOINT", "[bud-operator]"]


def test_what_the_recipe_copies_is_let_through_and_nothing_else() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name
        for words in instructions()
        if words[0] == "COPY" and not words[1].startswith("--from")
        for name in words[1:-1]
    }
    assert copied == allowed


def context(monkeypatch: pytest.MonkeyPatch, root: Path, **files: str) -> dict[str, bytes]:
    names = ("Dockerfile", "pyproject.toml")
    monkeypatch.setattr(image, "_ROOT", root)
    monkeypatch.setattr(image, "_FILES", names)
    for name in names:
        (root / name).write_text("x")
    (root / "operator").mkdir()
    for name, text in files.items():
        path = root / "operator" / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return image._context()


def test_compiled_files_do_not_make_another_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = context(monkeypatch, tmp_path, a="1")
    (tmp_path / "operator/__pycache__").mkdir()
    (tmp_path / "operator/__pycache__/a.pyc").write_text("2")
    assert image._key(image._context()) == image._key(made)


def test_another_line_of_code_makes_another_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = context(monkeypatch, tmp_path, a="1")
    (tmp_path / "operator/a").write_text("2")
    assert image._key(image._context()) != image._key(made)
