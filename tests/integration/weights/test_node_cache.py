"""Copies on a node's disk: pods as processes, on real files and real locks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.weights.programs import MEBI, Origin, Outcome, Weights, content, wait_until

QUOTA = 5 * MEBI


class Node:
    """A node with a cache of five mebibytes; each copy is of one file, called like the copy."""

    def __init__(self, folder: Path, files: Origin) -> None:
        self.root = folder / "cache"
        self._folder = folder
        self._files = files
        self._pods = 0

    def pod(self, copy: str, **cache: Any) -> tuple[Weights, subprocess.Popen[bytes]]:
        self._pods += 1
        place = self._folder / f"pod-{self._pods}"
        place.mkdir()
        weights = Weights(place, target=place / "unused")
        weights.target = self.root / copy
        source = {"url": {"url": f"{self._files.url}/{copy.replace('/', '-')}.bin"}}
        about = {"root": str(self.root), "sizeBytes": QUOTA, **cache}
        return weights, weights.start(source, cache=about)

    def fill(self, copy: str, **cache: Any) -> Outcome:
        """What a pod tells that ends when the copy is whole, or cannot be."""
        weights, process = self.pod(copy, **cache)
        return weights.finish(process)

    @contextlib.contextmanager
    def serving(self, copy: str, **cache: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A pod that holds the whole copy."""
        _, process = self.pod(copy, hold=True, **cache)
        try:
            wait_until(lambda: holds(process), what=f"{copy} being held")
            yield process
        finally:
            process.terminate()
            assert process.wait(timeout=20) == 0

    def copies(self) -> set[str]:
        found = (copy for space in self.root.iterdir() if space.name != ".locks" for copy in space.iterdir())
        return {copy.relative_to(self.root).as_posix() for copy in found}

    def last_used(self, copy: str, when: int) -> None:
        os.utime(self.root / ".locks" / copy, (when, when))


def holds(process: subprocess.Popen[bytes]) -> bool:
    """As the startup probe of the pod sees it."""
    return b"hold.py" in Path(f"/proc/{process.pid}/cmdline").read_bytes()


@pytest.fixture
def node(tmp_path: Path, origin: Origin) -> Node:
    for seed, name in enumerate(("a-one", "a-two", "b-three", "b-four")):
        origin.put(f"{name}.bin", content(2 * MEBI, seed))
    origin.put("a-huge.bin", content(6 * MEBI))
    return Node(tmp_path, origin)


def test_a_pod_holds_the_copy_once_it_is_whole_and_others_may_read_it(node: Node) -> None:
    with node.serving("a/one") as process:
        file = node.root / "a/one/a-one.bin"
        assert file.read_bytes() == content(2 * MEBI, 0)
        assert file.stat().st_mode & 0o444 == 0o444
        assert not [name for name in os.listdir(f"/proc/{process.pid}/task") if name != str(process.pid)]


def test_a_copy_that_is_whole_is_taken_as_it_is_when_it_is_the_models(node: Node, origin: Origin) -> None:
    digest = node.fill("a/one").message["digest"]
    with node.serving("a/one", digest=digest), node.serving("a/one", digest=digest):
        assert len(origin.log("/a-one.bin")) == 1


def test_a_file_that_is_gone_is_fetched_again(node: Node, origin: Origin) -> None:
    digest = node.fill("a/one").message["digest"]
    (node.root / "a/one/a-one.bin").unlink()
    with node.serving("a/one", digest=digest):
        assert len(origin.log("/a-one.bin")) == 2


def test_of_two_pods_that_start_at_once_one_fetches_and_the_other_waits(node: Node, origin: Origin) -> None:
    digest = node.fill("a/one").message["digest"]
    (node.root / "a/one/a-one.bin").unlink()
    origin.faults({"/a-one.bin": {"hold_at": MEBI, "after": 1}})
    first, fetching = node.pod("a/one", digest=digest, hold=True)
    wait_until(lambda: first.part_bytes() > MEBI // 2, what="a part of the copy")
    second, waiting = node.pod("a/one", digest=digest, hold=True)
    wait_until(lambda: "waiting for it" in second.output.read_text(), what="the second pod waiting")
    origin.faults({})
    for process in (fetching, waiting):
        wait_until(lambda process=process: holds(process), what="the copy being held")  # type: ignore[misc]
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert [row["Range"] is None for row in origin.log("/a-one.bin")] == [True, True, False]


def test_what_was_used_least_recently_goes_first_and_only_as_much_as_is_needed(node: Node) -> None:
    for copy, when in (("a/one", 2000), ("b/three", 1000)):
        assert node.fill(copy).code == 0
        node.last_used(copy, when)
    assert node.fill("a/two").code == 0
    assert node.copies() == {"a/one", "a/two", "b"} - {"b"}


def test_what_is_in_use_stays_and_the_pod_is_told_that_there_is_no_room(node: Node) -> None:
    with node.serving("a/one"), node.serving("b/three"):
        told = node.fill("b/four")
        assert (told.code, told.reason) == (1, "NodeCacheFull")
        assert "in use by 2 other copies" in told.text
        assert "--node-cache-size" in told.text
        assert "a/one" not in told.output
        assert {"a/one", "b/three"} <= node.copies()
    assert node.fill("b/four").code == 0


def test_weights_larger_than_the_cache_are_refused_for_good(node: Node) -> None:
    node.fill("a/one")
    told = node.fill("a/huge")
    assert (told.code, told.reason) == (10, "NodeCacheFull")
    assert "spec.storage.mode" in told.text
    assert "a/one" in node.copies()


def test_a_download_under_way_counts_as_what_it_will_be(node: Node, origin: Origin) -> None:
    origin.faults({"/a-one.bin": {"hold_at": 65536, "after": 1}, "/b-three.bin": {"hold_at": 65536, "after": 1}})
    pods = [node.pod(copy) for copy in ("a/one", "b/three")]
    for weights, _ in pods:
        wait_until(lambda weights=weights: weights.part_bytes() > 0, what="a download under way")  # type: ignore[misc]
    told = node.fill("b/four")
    assert (told.code, told.reason) == (1, "NodeCacheFull")
    origin.faults({})
    assert [weights.finish(process).code for weights, process in pods] == [0, 0]


def test_after_a_kill_the_part_is_continued(node: Node, origin: Origin) -> None:
    origin.faults({"/a-one.bin": {"hold_at": MEBI, "after": 1}})
    weights, process = node.pod("a/one")
    wait_until(lambda: weights.part_bytes() > MEBI // 2, what="a part of the copy")
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = weights.part_bytes()
    origin.faults({})
    assert node.fill("a/one").code == 0
    assert origin.log("/a-one.bin")[-1]["Range"] == f"bytes={left}-"


def test_what_a_kill_left_counts_and_can_be_evicted(node: Node, origin: Origin) -> None:
    origin.faults({"/a-one.bin": {"hold_at": 2 * MEBI - 1, "after": 1}})
    weights, process = node.pod("a/one")
    wait_until(lambda: weights.part_bytes() > MEBI + MEBI // 2, what="most of the copy")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with node.serving("a/two"):
        assert node.copies() == {"a/one", "a/two"}
        assert node.fill("b/three").code == 0
        assert node.copies() == {"a/two", "b/three"}


def test_another_content_than_the_models_is_a_fault(node: Node) -> None:
    told = node.fill("a/one", digest="sha256:" + "0" * 64)
    assert (told.code, told.reason) == (10, "ContentChanged")
    assert "spec.sha256" in told.text


def test_a_copy_outside_the_cache_is_refused(node: Node) -> None:
    told = node.fill("a/b/one")
    assert (told.code, told.reason) == (10, "InvalidSource")
    assert "<namespace>/<copy>" in told.text
