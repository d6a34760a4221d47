"""Read the command-line flags of an engine from its published package, without installing it.

    python tools/engine_flags.py vllm                     # download, read, write the list, delete the download
    python tools/engine_flags.py vllm --archive vllm.whl  # the same from a package that is here already
    python tools/engine_flags.py text-embeddings-inference --archive main.rs --origin "where the file is from"

The lists stand in tests/unit/runtimes/flags; a test holds every flag of the built-in Runtimes against them. To
move an engine to another version, change it in ENGINES, run this, and change the image's tag in
charts/bud-operator/runtimes.
"""

import argparse
import ast
import fnmatch
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

LISTS = Path(__file__).parent.parent / "tests" / "unit" / "runtimes" / "flags"


class Engine(NamedTuple):
    """Where an engine's flags are written down."""

    version: str
    package: str
    pin: str
    wheel: bool
    files: tuple[str, ...]
    read: Callable[[str], Iterable[str]]


def read_argparse(source: str) -> Iterator[str]:
    """Flags that Python code adds by `add_argument("--flag", …)`, and those that vLLM and SGLang derive.

    Both turn the annotated fields of some classes into flags, `field_name` into `--field-name`; SGLang's
    `Arg(…)` may give other names (`cli_name`, `aliases`) or none (`no_cli`).
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            yield from _strings(node.args)
        elif isinstance(node, ast.ClassDef) and _makes_flags(node):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield from _field_flags(field.target.id, field.annotation)


def read_llama_cpp(source: str) -> Iterator[str]:
    """Flags of llama.cpp's common/arg.cpp: the braced names that open each `common_arg(`."""
    for names in re.findall(r"common_arg\(\s*\{([^}]*)\}(?:\s*,\s*\{([^}]*)\})?", source):
        yield from re.findall(r'"(--?[\w-]+)"', ",".join(names))


def read_whisper_cpp(source: str) -> Iterator[str]:
    """Flags of whisper.cpp's server: what it compares `arg` with."""
    yield from re.findall(r'arg == "(--?[\w-]+)"', source)


def read_clap(source: str) -> Iterator[str]:
    """Flags of a Rust program that derives them with clap: fields marked `long`."""
    for name in re.findall(r"#\[clap\([^]]*\blong\b[^]]*\)\]\s*(?:#\[redact[^]]*\]\s*)?(\w+):", source):
        yield "--" + name.replace("_", "-")


ENGINES = {
    "vllm": Engine(
        version="v0.33.0",
        package="vllm",
        pin="0.33.0",
        wheel=True,
        files=("vllm/engine/arg_utils.py", "vllm/entrypoints/common/cli_args.py"),
        read=read_argparse,
    ),
    "sglang": Engine(
        version="v0.5.23",
        package="sglang",
        pin="0.5.23",
        wheel=True,
        files=("sglang/srt/server_args.py", "sglang/srt/arg_groups/fields/*.py"),
        read=read_argparse,
    ),
    # xllamacpp carries llama.cpp's sources; the last part of its version is llama.cpp's build number.
    "llama-cpp": Engine(
        version="b11549",
        package="xllamacpp",
        pin="2026.10.11549",
        wheel=False,
        files=("*/thirdparty/llama.cpp/common/arg.cpp",),
        read=read_llama_cpp,
    ),
    # pywhispercpp carries whisper.cpp's sources.
    "whisper": Engine(
        version="1.8.5",
        package="pywhispercpp",
        pin="1.5.1",
        wheel=False,
        files=("*/whisper.cpp/examples/server/server.cpp",),
        read=read_whisper_cpp,
    ),
    # Published as images only, so this is a commit: the list is read from its router/src/main.rs.
    "text-embeddings-inference": Engine(
        version="0236f18",
        package="",
        pin="",
        wheel=False,
        files=("*main.rs",),
        read=read_clap,
    ),
}


def list_path(name: str) -> Path:
    """The file that an engine's flags stand in."""
    return LISTS / f"{name}-{ENGINES[name].version}.txt"


def download(engine: Engine, folder: Path) -> Path:
    """Have pip fetch the package and nothing else. Raises CalledProcessError."""
    kind = ["--only-binary", ":all:"] if engine.wheel else ["--no-binary", engine.package]
    pin = f"{engine.package}=={engine.pin}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", *kind, "--dest", str(folder), pin]
    subprocess.run(command, check=True)
    return next(folder.iterdir())


def read_archive(archive: Path, patterns: Iterable[str]) -> dict[str, str]:
    """The text of the files of a wheel, a source archive or a single file whose names match, by name."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name).decode() for name in _matching(wheel.namelist(), patterns)}
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as tar:
            members = {member.name: member for member in tar if member.isfile()}
            found = {name: tar.extractfile(members[name]) for name in _matching(members, patterns)}
            return {name: file.read().decode() for name, file in found.items() if file}
    return {archive.name: archive.read_text()}


def render(engine: Engine, archive: Path, origin: str) -> str:
    """The list: a header that says where each flag was read, then one flag a line."""
    texts = read_archive(archive, engine.files)
    flags = sorted({flag for text in texts.values() for flag in engine.read(text) if flag.startswith("-")})
    if not flags:
        raise SystemExit(f"no flags found in {archive.name} (looked in {', '.join(engine.files)})")
    header = [f"version: {engine.version}", f"read: {', '.join(sorted(texts))}"]
    if engine.package:
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        header += [f"package: {engine.package} {engine.pin}", f"file: {archive.name}", f"sha256: {digest}"]
    if origin:
        header.append(f"origin: {origin}")
    return "\n".join([f"# {line}" for line in header] + flags) + "\n"


def _strings(nodes: Iterable[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _makes_flags(node: ast.ClassDef) -> bool:
    bases = {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}
    return node.name.endswith("FrontendArgs") or "Struct" in bases


def _field_flags(name: str, annotation: ast.expr) -> Iterator[str]:
    settings = {
        keyword.arg: keyword.value
        for node in ast.walk(annotation)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Arg"
        for keyword in node.keywords
    }
    if "no_cli" in settings:
        return
    names = list(_strings([settings["cli_name"]])) if "cli_name" in settings else ["--" + name.replace("_", "-")]
    aliases = settings.get("aliases")
    yield from names + list(_strings(aliases.elts) if isinstance(aliases, ast.List) else [])


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=sorted(ENGINES))
    parser.add_argument("--archive", type=Path, metavar="FILE", help="a package, or source file, that is here")
    parser.add_argument("--origin", default="", metavar="TEXT", help="where a file that is no package is from")
    options = parser.parse_args()
    engine = ENGINES[options.engine]
    if not options.archive and not engine.package:
        parser.error(f"{options.engine} is in no package index: give --archive and --origin")
    with tempfile.TemporaryDirectory() as folder:
        archive = options.archive or download(engine, Path(folder))
        text = render(engine, archive, options.origin)
    path = list_path(options.engine)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"{path}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    main()
