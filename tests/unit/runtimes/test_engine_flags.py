"""How flags are read out of an engine's sources."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools.engine_flags import (
    ENGINES,
    read_archive,
    read_argparse,
    read_clap,
    read_llama_cpp,
    read_whisper_cpp,
    render,
)

PYTHON = '''
class Other:
    not_a_flag: int = 0

class FrontendArgs(BaseFrontendArgs):
    host: str | None = None
    """Where."""
    _private = 1

class Serving(msgspec.Struct):
    model_path: A[str, Arg(help="x", aliases=["--model"])]
    tp_size: A[int, "--not-this"] = 1
    renamed: A[int, Arg(cli_name="--new-name")] = 1
    hidden: A[int, Arg(no_cli=True)] = 1

def add(group):
    group.add_argument("--port", "-p", help="--nor-this", **kwargs)
    group.add_argument(*names)
'''

LLAMA = """
add_opt(common_arg(
    {"-m", "--model"}, "FNAME", "see --not-this"));
add_opt(common_arg(
    {"--ui"}, {"--no-ui", "--no-webui"},
    "text"));
"""

WHISPER = 'else if (arg == "-m"     || arg == "--model") {} else if ( arg == "--port") {}'

CLAP = """
    /// --not-this
    #[clap(long, env)]
    #[redact(partial)]
    model_id: String,
    #[clap(default_value = "3000", long, short, env)]
    port: u16,
    #[clap(skip)]
    inner: u16,
"""


@pytest.mark.parametrize(
    ("read", "source", "flags"),
    [
        (read_argparse, PYTHON, {"--host", "--model-path", "--model", "--tp-size", "--new-name", "--port", "-p"}),
        (read_llama_cpp, LLAMA, {"-m", "--model", "--ui", "--no-ui", "--no-webui"}),
        (read_whisper_cpp, WHISPER, {"-m", "--model", "--port"}),
        (read_clap, CLAP, {"--model-id", "--port"}),
    ],
)
def test_flags_are_read_and_nothing_else(read: object, source: str, flags: set[str]) -> None:
    assert callable(read)
    assert set(read(source)) == flags


def test_wheels_source_archives_and_single_files_are_read(tmp_path: Path) -> None:
    wheel, sdist, single = tmp_path / "a.whl", tmp_path / "a.tar.gz", tmp_path / "main.rs"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pkg/args.py", "one")
        archive.writestr("pkg/other.py", "two")
    with tarfile.open(sdist, "w:gz") as tar:
        entry = tarfile.TarInfo("a-1.0/pkg/args.py")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"one"))
    single.write_text("one")
    assert read_archive(wheel, ["pkg/args.py"]) == {"pkg/args.py": "one"}
    assert read_archive(sdist, ["*/pkg/args.py"]) == {"a-1.0/pkg/args.py": "one"}
    assert read_archive(single, ["*"]) == {"main.rs": "one"}


def test_a_package_without_flags_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "main.rs"
    empty.write_text("fn main() {}")
    with pytest.raises(SystemExit, match=r"no flags found in main\.rs"):
        render(ENGINES["text-embeddings-inference"], empty, "nowhere")
