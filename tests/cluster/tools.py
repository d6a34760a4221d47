"""The programs that tests need, each built once from Go modules at a pinned version and kept in the user's cache.

`tools.path("helm")` is the path of a program, built first if it has to be; `python -m tests.cluster tools helm`
says the same to a Makefile.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import cache, oci
from tests.cluster.cache import Say
from tests.cluster.failure import Failed
from tests.cluster.programs import DIES_WITH_PARENT

KUBERNETES = "1.34.4"
_HERE = Path(__file__).parent
_GO_IMAGE = "golang:1.26"
_PROGRESS_SECONDS = 15
_SOURCES = {".go", ".mod", ".sum", ".py"}


def _print(line: str) -> None:
    print(line, flush=True)


@dataclass(frozen=True)
class Tool:
    """`package` is a Go package to install, or a folder beside this file that holds a module of its own.

    A folder without Go code has only a go.mod, whose one `tool` is a program that `go install` refuses to build because
    its module replaces others.
    """

    name: str
    version: str
    package: str
    flags: str = "-s -w"
    links: tuple[str, ...] = ()  # further names that the program goes by
    image: bool = False  # also packed as the container image `image_name(...)`
    stages: tuple[str, ...] = ()  # files of the module's own tree that belong to the program

    @property
    def local(self) -> bool:
        """Whether the source lies beside this file."""
        return (_HERE / self.package).is_dir()

    @property
    def upstream(self) -> str:
        """The Go package of another module that it is built from; empty for code of our own."""
        if not self.local:
            return self.package
        found = re.search(r"^tool (\S+)$", (_HERE / self.package / "go.mod").read_text(), re.MULTILINE)
        return found[1] if found else ""

    def key(self) -> str:
        """A name for the cache that changes with anything that decides what is built."""
        digest = hashlib.sha256(repr(self).encode())
        sources = sorted((_HERE / self.package).iterdir()) if self.local else []
        for file in [*sources, *([_HERE / "oci.py"] if self.image else [])]:
            if file.suffix in _SOURCES:
                digest.update(file.read_bytes())
        return f"{self.name}-{self.version}-{digest.hexdigest()[:12]}"


_VERSION = "k8s.io/component-base/version.git"
_TOOLS = (
    Tool(
        "kube",
        KUBERNETES,
        "kube",
        f"-s -w -X {_VERSION}Version=v{KUBERNETES} -X {_VERSION}Major=1 -X {_VERSION}Minor=34",
        links=("kubectl",),
    ),
    Tool("pod", "1", "pod", image=True),
    Tool(
        "kwok",
        "0.8.0",
        "sigs.k8s.io/kwok/cmd/kwok",
        stages=(
            "kustomize/stage/node/fast/node-initialize.yaml",
            "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
            "kustomize/stage/pod/fast/pod-ready.yaml",
            "kustomize/stage/pod/fast/pod-complete.yaml",
            "kustomize/stage/pod/fast/pod-delete.yaml",
        ),
    ),
    Tool("coredns", "1.13.1", "github.com/coredns/coredns", image=True),
    Tool("metrics-server", "0.9.0", "sigs.k8s.io/metrics-server/cmd/metrics-server", image=True),
    Tool("helm", "3.22.0", "helm.sh/helm/v3/cmd/helm"),
    Tool("kubeconform", "0.7.0", "github.com/yannh/kubeconform/cmd/kubeconform"),
    Tool(
        "kustomize-controller",
        "1.7.3",
        "flux",
        stages=("config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml",),
    ),
    Tool("argocd", "3.1.8", "argocd"),
)


def names() -> list[str]:
    """Every program that `path` knows."""
    return sorted(name for tool in _TOOLS for name in (tool.name, *tool.links))


def path(name: str, *, say: Say = _print) -> Path:
    """The program `name`, built if it is not in the cache; raises Failed with what the build said."""
    return directory(name, say=say) / name


def image(name: str, *, say: Say = _print) -> Path:
    """The archive of the container image that holds the program `name`; it is called `image_name(name)`."""
    return directory(name, say=say) / "image.tar"


def image_name(name: str) -> str:
    """What a pod's spec calls the image that holds the program `name`."""
    return f"bud.test/{name}:{_tool(name).version}"


def directory(name: str, *, say: Say = _print) -> Path:
    """The folder that holds the program `name` and the files that belong to it."""
    tool = _tool(name)
    return cache.entry(_place(tool), lambda out: _build(tool, out, say), say=say)


def cached_directories() -> list[Path]:
    """The folders of the programs that are in the cache already, for a PATH."""
    return [place for tool in _TOOLS if (place := _place(tool)).is_dir()]


def is_cached(name: str) -> bool:
    """Whether `path(name)` would find the program instead of building it."""
    return _place(_tool(name)).is_dir()


def _place(tool: Tool) -> Path:
    return cache.root() / "tools" / tool.key()


def _tool(name: str) -> Tool:
    for tool in _TOOLS:
        if name in (tool.name, *tool.links):
            return tool
    raise Failed(f"there is no tool called {name!r}; there are: {', '.join(names())}")


def _build(tool: Tool, out: Path, say: Say) -> None:
    say(f"building {tool.name} {tool.version} (once; kept in {cache.root() / 'tools'})")
    flags = ["-trimpath", "-ldflags", tool.flags]
    if tool.local:
        argv = ["build", *flags, "-o", str(out / tool.name), tool.upstream or "."]
        _go(argv, out=out, source=_HERE / tool.package, cgo=not (tool.image or tool.upstream), say=say)
    else:
        module = f"{tool.package}@v{tool.version}"
        _go(["install", *flags, module], out=out, cgo=False, say=say)
    for link in tool.links:
        (out / link).symlink_to(tool.name)
    if tool.image:
        inside = f"/{tool.name}"
        files = {inside: out / tool.name}
        oci.pack(files, name=image_name(tool.name), entrypoint=[inside], archive=out / "image.tar")
    if tool.stages:
        tree = _module(tool, out, say)
        for stage in tool.stages:
            shutil.copyfile(tree / stage, out / Path(stage).name)


def _module(tool: Tool, out: Path, say: Say) -> Path:
    """The folder of the module that `tool` was built from."""
    module = tool.upstream.partition("/cmd/")[0]
    said = _go(["mod", "download", "-json", f"{module}@v{tool.version}"], out=out, cgo=False, say=say)
    return Path(json.loads(said)["Dir"])


def _go(argv: Sequence[str], *, out: Path, source: Path | None = None, cgo: bool, say: Say) -> str:
    settings = {"GOBIN": str(out), "GOWORK": "off", "GOFLAGS": "-mod=readonly -buildvcs=false" if source else ""}
    if not cgo:  # an image of one file needs a program of one file
        settings["CGO_ENABLED"] = "0"
    where = source or out
    command = _toolchain(where, out, settings)
    return _run([*command, *argv], cwd=where, env={**os.environ, **settings}, say=say)


def _toolchain(where: Path, out: Path, settings: dict[str, str]) -> list[str]:
    """How to call Go: the one installed here, else one in a container that sees the same paths."""
    if shutil.which("go"):
        return ["go"]
    if not docker_works():
        raise Failed("the test cluster is built from source: install Go >= 1.24, or start a Docker engine")
    modules = cache.root() / "go"
    modules.mkdir(parents=True, exist_ok=True)
    settings = {
        "CGO_ENABLED": "0",
        **settings,
        "HOME": str(modules),
        "GOPATH": str(modules),
        "GOCACHE": str(modules / "build"),
    }
    mounts = [part for place in (where, out, modules) for part in ("--volume", f"{place}:{place}")]
    variables = [part for key, value in settings.items() for part in ("--env", f"{key}={value}")]
    user = f"{os.getuid()}:{os.getgid()}"
    return ["docker", "run", "--rm", "--user", user, "--workdir", str(where), *mounts, *variables, _GO_IMAGE, "go"]


def docker_works() -> bool:
    """Whether there is a Docker engine that answers this user."""
    if not shutil.which("docker"):
        return False
    try:
        said = subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return False
    return said.returncode == 0


def _run(argv: Sequence[str], *, cwd: Path, env: dict[str, str], say: Say) -> str:
    """What `argv` wrote; a line now and then while it works; Failed with its last words if it fails."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as words, tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen([*DIES_WITH_PARENT, *argv], cwd=cwd, env=env, stdout=words, stderr=complaints)
        try:
            while True:
                try:
                    process.wait(_PROGRESS_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  … {time.monotonic() - start:.0f} s")
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            complaints.seek(0)
            raise Failed(f"{' '.join(argv)} failed:\n" + "".join(complaints.readlines()[-20:]))
        words.seek(0)
        return words.read()
