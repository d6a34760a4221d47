"""The project's image, built once for each state of what goes into it: `python -m tests.image` says where it is.

With a Docker engine it is what `docker build .` makes. Without one, Debian's buildah follows the same Dockerfile, on
a base that debootstrap makes, so that no registry is needed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import cache, tools
from tests.cluster.cache import Say
from tests.cluster.failure import Failed

REPOSITORY = "bud.test/bud-operator"
_ROOT = Path(__file__).parents[1]
_FILES = ("Dockerfile", "LICENSE", "README.md", "pyproject.toml", "requirements.lock", "requirements-dev.lock")
_SUITE = "bookworm"
_BASE_PACKAGES = "python3,python3-venv,ca-certificates"
# What a base needs no more than a slim image of a registry does.
_UNUSED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
_BASE_KEY = hashlib.sha256(f"{_SUITE} {_BASE_PACKAGES} {_UNUSED}".encode()).hexdigest()[:12]
_BASE = f"bud.test/base:{_BASE_KEY}"
_PROGRAMS = ("buildah", "debootstrap")
_PIP_SETTINGS = ("extra-index-url", "index-url", "proxy", "retries", "timeout", "trusted-host")
_KEPT_IMAGES = 3
_KEPT_LAYERS = 150


@dataclass(frozen=True)
class Image:
    """An image in an archive that `Cluster.load_image` takes; `tag` changes with its content."""

    archive: Path
    tag: str

    @property
    def name(self) -> str:
        """What a pod's spec calls it."""
        return f"{REPOSITORY}:{self.tag}"


def image(*, say: Say) -> Image:
    """The image of the working tree as it is now, built unless it is in the cache; Failed when it cannot be."""
    context = _context()
    tag = _key(context)
    place = cache.root() / "images" / tag
    cache.entry(place, lambda out: _build(context, f"{REPOSITORY}:{tag}", out / "image.tar", say), say=say)
    _forget(place)
    return Image(archive=place / "image.tar", tag=tag)


def _context() -> dict[str, bytes]:
    """The files that go into the image, as they are at this moment."""
    found = [_ROOT / name for name in _FILES]
    found += [
        path for path in sorted((_ROOT / "operator").rglob("*")) if path.is_file() and "__pycache__" not in path.parts
    ]
    return {path.relative_to(_ROOT).as_posix(): path.read_bytes() for path in found}


def _key(context: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name, content in context.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def _forget(used: Path) -> None:
    """Remove images that have not been used for longest."""
    used.touch()
    places = sorted(used.parent.glob("[0-9a-f]*/"), key=lambda place: place.stat().st_mtime)
    for place in places[:-_KEPT_IMAGES]:
        shutil.rmtree(place, ignore_errors=True)


def _build(context: Mapping[str, bytes], name: str, archive: Path, say: Say) -> None:
    with tempfile.TemporaryDirectory(prefix="bud-image-") as folder, _pip_secrets() as secrets:
        for path, content in context.items():
            file = Path(folder, "context", path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        options = [*secrets, f"--iidfile={folder}/id", f"{folder}/context"]
        if tools.docker_works():
            say(f"docker build --tag {name} .")
            proxies = [f"--build-arg={key}" for key in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") if key in os.environ]
            _run("docker", "build", "--tag", name, *proxies, *options, say=say)
            _run("docker", "save", "--output", str(archive), name, say=say)
        else:
            _require(say)
            buildah = _store(say)
            say(f"buildah build --build-arg BASE={_BASE} .")
            # Without an overlay every layer that is kept is a whole copy.
            layers = f"--layers={'overlay' in buildah}".lower()
            how = (layers, "--isolation=chroot", "--network=host", f"--build-arg=BASE={_BASE}")
            quietly = ("env", f"TMPDIR={folder}")  # buildah leaves its temporary files behind when it is interrupted
            try:
                _run(*quietly, *buildah, "build", *how, *options, say=say)
            except BaseException:
                _run(*buildah, "rm", "--all", say=say)  # and its mounts
                raise
            built = Path(folder, "id").read_text().strip()
            _run(*buildah, "push", "--quiet", built, f"oci-archive:{archive}:{name}", say=say)


@contextmanager
def _pip_secrets() -> Iterator[list[str]]:
    """Options that give this machine's pip settings to a build, without a trace in the image."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    settings = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        settings[key.rpartition(".")[2]] = value.strip("'\"")
    lines = [f"{key} = {settings[key]}" for key in _PIP_SETTINGS if key in settings]
    options = []
    if certificates := settings.get("cert"):
        lines.append("cert = /run/secrets/ca")
        options += ["--secret", f"id=ca,src={certificates}"]
    if not lines:
        yield []
        return
    with tempfile.NamedTemporaryFile("w", prefix="bud-pip-") as file:
        file.write("\n".join(["[global]", *lines, ""]))
        file.flush()
        yield [*options, "--secret", f"id=pip,src={file.name}"]


def _require(say: Say) -> None:
    """See to it that buildah can work here: Failed without root; missing Debian packages are installed."""
    if os.geteuid():
        raise Failed("an image is built by a Docker engine, or by buildah as root: start the one or be the other")
    missing = [program for program in _PROGRAMS if not shutil.which(program)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Failed(f"without a Docker engine, an image is built by {' and '.join(_PROGRAMS)}: install {missing}")
    say(f"installing Debian packages: {' '.join(missing)}")
    _run("apt-get", "update", say=say)
    quietly = ("env", "DEBIAN_FRONTEND=noninteractive")
    _run(*quietly, "apt-get", "install", "-y", "--no-install-recommends", *missing, say=say)


def _store(say: Say) -> list[str]:
    """How to call buildah on a store of our own that holds the base image."""
    place = cache.root() / "buildah"
    place.mkdir(parents=True, exist_ok=True)
    # An overlay cannot lie on an overlay, which is what a container's own disk is.
    on_overlay = _run("stat", "--file-system", "--format=%T", str(place), say=say).strip() == "overlayfs"
    driver = "vfs" if on_overlay else "overlay"
    buildah = ["buildah", "--storage-driver", driver, "--root", f"{place}/root", "--runroot", f"{place}/run"]
    _run(*buildah, "rm", "--all", say=say)  # of builds that were killed
    known = _run(*buildah, "images", "--all", "--format", "{{.Name}}:{{.Tag}}", say=say).splitlines()
    if len(known) > _KEPT_LAYERS:
        shutil.rmtree(place)
        place.mkdir()
    if len(known) > _KEPT_LAYERS or _BASE not in known:
        container = _run(*buildah, "from", "scratch", say=say).strip()
        _run(*buildah, "add", "--quiet", container, str(_base(say) / "base.tar"), "/", say=say)
        _run(*buildah, "commit", "--quiet", "--rm", container, _BASE, say=say)
    return buildah


def _base(say: Say) -> Path:
    """The folder of `base.tar`: a Debian with Python, instead of an image of a registry."""
    return cache.entry(cache.root() / "bases" / f"{_SUITE}-{_BASE_KEY}", lambda out: _debootstrap(out, say), say=say)


def _debootstrap(out: Path, say: Say) -> None:
    say(f"making a base image of Debian {_SUITE} (once)")
    with tempfile.TemporaryDirectory(prefix="bud-base-") as folder:
        tree = Path(folder, "root")
        _run("debootstrap", "--variant=minbase", f"--include={_BASE_PACKAGES}", _SUITE, str(tree), say=say)
        for unused in _UNUSED:
            shutil.rmtree(tree / unused)
        _run("tar", "--directory", str(tree), "--create", "--file", str(out / "base.tar"), ".", say=say)


def _run(*argv: str, say: Say) -> str:
    """What `argv` printed, its steps said on the way; Failed with its last words if it fails."""
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, text=True)
        assert process.stdout
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                if " STEP " in line:
                    say(f"  {line.strip()[:100]}")
            process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if process.returncode:
            complaints.seek(0)
            last = "".join([*said[-15:], *complaints.readlines()[-15:]])
            raise Failed(f"{' '.join(argv)} failed:\n{last}")
        return "".join(said)


def main() -> int:
    """Build, and print the name and the archive."""
    try:
        built = image(say=lambda line: print(line, file=sys.stderr, flush=True))
    except Failed as failure:
        print(f"no image: {failure}", file=sys.stderr)
        return 1
    print(f"{built.name} {built.archive}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
