"""What is left after kills, signals and refusals of the volume, and what the next start makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.weights.programs import MEBI, Origin, Weights, content, sha256, wait_until

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")


def two_files(origin: Origin) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A whole file, and one whose bytes stop after three of four mebibytes."""
    files = {
        "small.bin": origin.put("small.bin", content(MEBI)),
        "large.bin": origin.put("large.bin", content(4 * MEBI)),
    }
    origin.faults({"/large.bin": {"hold_at": 3 * MEBI}})
    return {"url": {"urls": [f"{origin.url}/{name}" for name in files]}}, files


def wait_for_the_middle(weights: Weights) -> None:
    wait_until(
        lambda: (weights.target / "small.bin").exists() and weights.part_bytes() > 2 * MEBI,
        what="one file whole and the other in the middle",
    )


def test_a_kill_in_the_middle_costs_only_what_was_missing(origin: Origin, weights: Weights) -> None:
    source, files = two_files(origin)
    process = weights.start(source)
    wait_for_the_middle(weights)
    process.kill()
    process.wait()
    held = weights.part_bytes()
    assert set(weights.files()) == {"small.bin"}
    assert not (weights.target / ".bud/manifest.json").exists()
    origin.faults({})

    done = weights.run(source)

    assert done.code == 0, done.output
    assert weights.files() == files
    assert done.said[0]["progress"]["bytesTotal"] == 5 * MEBI
    (small,) = origin.log("/small.bin")
    before, after = origin.log("/large.bin")
    assert small["sent"] == MEBI
    assert (before["Range"], after["Range"]) == (None, f"bytes={held}-")
    assert after["If-Range"]
    assert after["sent"] == 4 * MEBI - held


def test_sigterm_ends_the_program_at_once_and_leaves_the_part(origin: Origin, weights: Weights) -> None:
    source, _ = two_files(origin)
    process = weights.start(source)
    wait_for_the_middle(weights)

    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    done = weights.finish(process)

    assert done.code == 143
    assert time.monotonic() - began < 2
    assert done.reason == "Interrupted"
    assert weights.part_bytes() > 2 * MEBI


def test_sigterm_is_heard_while_the_source_is_silent_about_its_files(origin: Origin, weights: Weights) -> None:
    origin.put("m.bin", content(MEBI))
    origin.faults({"/m.bin": {"hold_at": 0, "no_range": True}})
    process = weights.start({"url": {"url": f"{origin.url}/m.bin"}})
    wait_until(lambda: process.poll() is not None or origin.log("/m.bin"), what="a request")

    process.send_signal(signal.SIGTERM)

    assert weights.finish(process).code == 143


def test_a_finished_copy_is_hashed_again_but_not_fetched_again(origin: Origin, weights: Weights) -> None:
    data = origin.put("m.bin", content(MEBI))
    source = {"url": {"url": f"{origin.url}/m.bin"}}
    first, second = weights.run(source), weights.run(source)

    assert (first.code, second.code) == (0, 0)
    assert first.message == second.message
    assert len(origin.log("/m.bin")) == 1
    assert weights.files() == {"m.bin": data}


def test_while_a_copy_is_renewed_no_manifest_calls_it_whole(origin: Origin, weights: Weights) -> None:
    origin.put("m.bin", content(MEBI))
    source = {"url": {"url": f"{origin.url}/m.bin"}}
    assert weights.run(source).code == 0
    assert weights.manifest()
    origin.put("m.bin", content(MEBI, seed=2))
    origin.faults({"/m.bin": {"stop_at": MEBI // 2}})

    assert weights.run(source, BUD_WEIGHTS_TRIES="1").code == 1
    assert not (weights.target / ".bud/manifest.json").exists()


@pytest.mark.parametrize("known", [True, False], ids=["known-hash", "noted-hash"])
def test_a_finished_file_that_rotted_is_fetched_again(origin: Origin, weights: Weights, known: bool) -> None:
    data = origin.put("m.bin", content(MEBI))
    source = {"url": {"url": f"{origin.url}/m.bin"}}
    demand = {"m.bin": sha256(data)} if known else {}
    assert weights.run(source, sha256=demand).code == 0
    with (weights.target / "m.bin").open("r+b") as file:
        file.write(b"rot")

    done = weights.run(source, sha256=demand)

    assert done.code == 0, done.output
    assert weights.files() == {"m.bin": data}
    assert done.said[-1]["progress"]["bytesDone"] == MEBI


def test_a_stranger_of_the_same_name_is_not_taken_for_the_file(origin: Origin, weights: Weights) -> None:
    data = origin.put("m.bin", content(MEBI))
    (weights.target / "m.bin").write_bytes(content(MEBI, seed=2))

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}})

    assert done.code == 0, done.output
    assert weights.files() == {"m.bin": data}


def test_a_link_in_the_volume_is_not_followed(origin: Origin, weights: Weights, tmp_path: Path) -> None:
    origin.put("m.bin", content(MEBI))
    outside = tmp_path / "outside"
    (weights.target / "m.bin").symlink_to(outside)

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}})

    assert (done.code, done.reason) == (10, "InvalidSource")
    assert "symbolic link" in done.text
    assert not outside.exists()


def test_one_folder_is_filled_by_one_program_at_a_time(origin: Origin, weights: Weights) -> None:
    source, files = two_files(origin)
    process = weights.start(source)
    wait_for_the_middle(weights)

    other = weights.run(source)
    origin.faults({})
    process.wait(timeout=30)

    assert (other.code, other.reason) == (1, "Busy")
    assert weights.files() == files


def test_many_files_come_several_at_once_but_not_more_than_allowed(origin: Origin, weights: Weights) -> None:
    names = [f"{number}.bin" for number in range(6)]
    for name in names:
        origin.put(name, content(2 * MEBI))
    origin.faults({f"/{name}": {"hold_at": MEBI} for name in names})
    process = weights.start({"url": {"urls": [f"{origin.url}/{name}" for name in names]}}, BUD_WEIGHTS_PARALLEL="3")

    wait_until(lambda: sum(row["sent"] == MEBI for row in origin.log()) == 3, what="three files under way")
    assert len(origin.log()) == 3
    origin.faults({})
    done = weights.finish(process)

    assert done.code == 0, done.output
    assert len(weights.files()) == 6


def test_the_first_lasting_failure_ends_all_at_once(origin: Origin, weights: Weights) -> None:
    source, _ = two_files(origin)
    origin.faults({"/large.bin": {"hold_at": 3 * MEBI}, "/small.bin": {"status": 403, "after": 1}})

    done = weights.finish(weights.start(source), seconds=10)  # half of what a stalled connection is given

    assert (done.code, done.reason) == (10, "Forbidden"), done.output


def test_progress_is_told_about_once_a_second_and_every_line_is_json(origin: Origin, weights: Weights) -> None:
    source, _ = two_files(origin)
    process = weights.start(source)
    wait_until(lambda: weights.output.read_text().count("\n") >= 4, what="four lines of progress")
    origin.faults({})
    done = weights.finish(process)

    assert done.code == 0
    middle = done.said[2]["progress"]
    assert set(middle) == {"bytesDone", "bytesTotal", "bytesPerSecond", "secondsLeft", "filesDone", "filesTotal"}
    assert (middle["filesDone"], middle["filesTotal"], middle["bytesTotal"]) == (1, 2, 5 * MEBI)


@pytest.fixture
def small_volume(weights: Weights) -> Any:
    """The target as a file system of two mebibytes."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", weights.target], check=True)
    yield weights
    subprocess.run(["umount", weights.target], check=True)


@needs_root
def test_too_little_space_is_told_before_the_first_byte(origin: Origin, small_volume: Weights) -> None:
    origin.put("m.bin", content(3 * MEBI))

    done = small_volume.run({"url": {"url": f"{origin.url}/m.bin"}})

    assert (done.code, done.reason) == (10, "InsufficientSpace")
    assert "spec.storage.size to at least 1Gi" in done.text
    assert origin.log("/m.bin") == []


@needs_root
def test_a_file_that_changed_needs_no_room_beside_the_old_one(origin: Origin, small_volume: Weights) -> None:
    source = {"url": {"url": f"{origin.url}/m.bin"}}
    origin.put("m.bin", content(MEBI + MEBI // 2))
    assert small_volume.run(source).code == 0
    data = origin.put("m.bin", content(MEBI + MEBI // 2, seed=2))

    done = small_volume.run(source)

    assert done.code == 0, done.output
    assert small_volume.files() == {"m.bin": data}


@needs_root
def test_a_volume_that_fills_up_on_the_way_is_told(origin: Origin, small_volume: Weights) -> None:
    origin.put("m.bin", content(3 * MEBI))
    origin.faults({"/m.bin": {"chunked": True, "no_range": True}})

    done = small_volume.run({"url": {"url": f"{origin.url}/m.bin"}})

    assert (done.code, done.reason) == (10, "InsufficientSpace"), done.output
    assert "spec.storage.size" in done.text


@needs_root
def test_a_volume_that_is_read_only_is_told(origin: Origin, small_volume: Weights) -> None:
    origin.put("m.bin", b"x")
    subprocess.run(["mount", "-o", "remount,ro", small_volume.target], check=True)

    done = small_volume.run({"url": {"url": f"{origin.url}/m.bin"}})

    assert (done.code, done.reason) == (10, "VolumeNotWritable"), done.output


def test_outside_a_pod_no_termination_file_is_made(tmp_path: Path) -> None:
    config = {"source": {"local": {}}, "target": str(tmp_path)}
    (tmp_path / "a.bin").write_bytes(b"x")
    env = {"BUD_WEIGHTS_CONFIG": json.dumps(config)}

    done = subprocess.run([sys.executable, "-m", "bud.weights"], env=env, capture_output=True, check=False)

    assert done.returncode == 0, done.stdout
    assert not Path("/dev/termination-log").exists()
