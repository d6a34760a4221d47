"""Downloads from plain addresses, against a strict HTTP server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.weights.programs import MEBI, Origin, Weights, content, sha256, wait_until


def test_a_file_arrives_with_its_hash_manifest_and_progress(origin: Origin, weights: Weights) -> None:
    data = origin.put("some/model.bin", content(3 * MEBI))

    done = weights.run({"url": {"url": f"{origin.url}/some/model.bin"}})

    assert done.code == 0, done.output
    assert weights.files() == {"model.bin": data}
    entry = {"path": "model.bin", "size": len(data), "sha256": sha256(data), "verified": False}
    assert weights.manifest() == {"digest": done.message["digest"], "revision": None, "files": [entry]}
    assert done.message == {
        "digest": done.message["digest"],
        "bytes": len(data),
        "files": 1,
        "revision": None,
        "verification": "recorded",
        "format": "other",
        "task": None,
        "file": "model.bin",
        "architecture": "",
        "adapter": None,
    }
    last = done.said[-1]["progress"]
    assert (last["bytesDone"], last["bytesTotal"], last["filesDone"], last["filesTotal"]) == (
        len(data),
        len(data),
        1,
        1,
    )


def test_a_user_given_hash_that_matches_makes_it_verified(origin: Origin, weights: Weights) -> None:
    data = {name: origin.put(name, content(1000, seed)) for seed, name in enumerate(("a.bin", "b.bin"))}
    source = {"url": {"urls": [f"{origin.url}/a.bin", f"{origin.url}/b.bin"]}}

    both = weights.run(source, sha256={name: sha256(bytes_).upper() for name, bytes_ in data.items()})
    one = weights.run(source, sha256={"a.bin": sha256(data["a.bin"])})

    assert (both.code, both.message["verification"]) == (0, "verified")
    assert (one.code, one.message["verification"]) == (0, "recorded")
    assert both.message["digest"] == one.message["digest"]


def test_a_file_of_the_wrong_hash_is_refused_and_removed(origin: Origin, weights: Weights) -> None:
    data = origin.put("m.bin", content(5000))

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}}, sha256={"m.bin": "0" * 64})

    assert (done.code, done.reason) == (10, "HashMismatch")
    assert "m.bin" in done.text
    assert sha256(data) in done.text
    assert "spec.sha256" in done.text
    assert weights.files() == {}
    assert weights.part_bytes() == 0


REFUSALS: list[tuple[dict[str, Any], tuple[str, str]]] = [
    ({"status": 401}, ("Unauthorized", "spec.credentialsSecretRef")),
    ({"status": 403}, ("Forbidden", "spec.credentialsSecretRef")),
    ({"status": 404}, ("NotFound", "spec.source.url")),
    ({"status": 410}, ("NotFound", "spec.source.url")),
    ({"status": 400}, ("Refused", "400")),
    ({"headers": {"Content-Encoding": "gzip"}}, ("Refused", "compressed")),
    ({"status": 302, "headers": {"Location": "ftp://127.0.0.1/m.bin"}}, ("Refused", "http")),
    ({"status": 302, "headers": {"Location": "/m.bin"}}, ("Refused", "redirects")),
]


@pytest.mark.parametrize(("fault", "told"), REFUSALS, ids=[str(row[0]) for row in REFUSALS])
def test_what_cannot_heal_is_not_tried_again(
    origin: Origin, weights: Weights, fault: dict[str, Any], told: tuple[str, str]
) -> None:
    reason, remedy = told
    origin.put("m.bin", b"x")
    origin.faults({"/m.bin": fault})

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}})

    assert (done.code, done.reason) == (10, reason), done.output
    assert remedy in done.text
    assert "trying again" not in done.output


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(origin: Origin, weights: Weights, status: int) -> None:
    data = origin.put("m.bin", content(1000))
    origin.faults({"/m.bin": {"status": status, "times": 2}})

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}})

    assert done.code == 0, done.output
    assert weights.files() == {"m.bin": data}


LASTING: list[tuple[dict[str, Any], tuple[str, str]]] = [
    ({"status": 429}, ("TooManyRequests", "raise that limit")),
    ({"status": 429, "headers": {"Retry-After": "0"}}, ("TooManyRequests", "raise that limit")),
    ({"status": 503}, ("ServerError", "use another source")),
    ({"hold_at": MEBI, "after": 1, "no_range": True}, ("Stalled", "no byte for 0.5 s; see whether the server")),
    ({"stop_at": MEBI, "after": 1, "no_range": True}, ("Truncated", "cuts long answers")),
]


@pytest.mark.parametrize(("fault", "told"), LASTING, ids=[f"{told[0]}-{fault}" for fault, told in LASTING])
def test_lasting_trouble_ends_the_run_as_transient_with_the_remedy(
    origin: Origin, weights: Weights, fault: dict[str, Any], told: tuple[str, str]
) -> None:
    reason, remedy = told
    origin.put("m.bin", content(2 * MEBI))
    origin.faults({"/m.bin": fault})

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}}, BUD_WEIGHTS_STALL_SECONDS="0.5")

    assert (done.code, done.reason) == (1, reason)
    assert remedy in done.text
    assert done.output.count("trying again") == 2


def test_retry_after_is_obeyed(origin: Origin, weights: Weights) -> None:
    origin.put("m.bin", content(1000))
    origin.faults({"/m.bin": {"status": 429, "headers": {"Retry-After": "1"}, "times": 1}})

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}})

    assert done.code == 0, done.output
    assert any("trying again in 1.0 s" in line.get("message", "") for line in done.said)


def test_a_silent_connection_is_a_fault_and_the_rest_is_fetched(origin: Origin, weights: Weights) -> None:
    data = origin.put("m.bin", content(2 * MEBI))
    origin.faults({"/m.bin": {"hold_at": MEBI, "times": 1, "after": 1}})

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}}, BUD_WEIGHTS_STALL_SECONDS="0.5")

    assert done.code == 0, done.output
    assert "no byte for 0.5 s" in done.output
    assert weights.files() == {"m.bin": data}
    assert origin.log("/m.bin")[-1]["Range"] == f"bytes={MEBI}-"


@pytest.mark.parametrize("chunked", [False, True], ids=["with-length", "chunked"])
def test_a_body_that_ends_early_is_noticed_and_continued(origin: Origin, weights: Weights, chunked: bool) -> None:
    data = origin.put("m.bin", content(2 * MEBI))
    origin.faults({"/m.bin": {"stop_at": MEBI, "times": 1, "after": 1, "chunked": chunked}})

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}})

    assert done.code == 0, done.output
    assert weights.files() == {"m.bin": data}
    assert "trying again" in done.output


def test_a_server_without_range_gives_that_file_anew(origin: Origin, weights: Weights) -> None:
    data = origin.put("m.bin", content(2 * MEBI))
    origin.faults({"/m.bin": {"stop_at": MEBI, "times": 1, "after": 1, "no_range": True}})
    source = {"url": {"url": f"{origin.url}/m.bin"}}

    first = weights.run(source, BUD_WEIGHTS_TRIES="1")
    origin.faults({"/m.bin": {"no_range": True}})
    second = weights.run(source)

    assert (first.code, second.code) == (1, 0), second.output
    assert weights.files() == {"m.bin": data}
    assert [row["sent"] for row in origin.log("/m.bin") if row["Range"]] == [2 * MEBI]


def test_a_server_that_tells_no_size_is_read_to_its_end(origin: Origin, weights: Weights) -> None:
    data = origin.put("m.bin", content(2 * MEBI))
    origin.faults({"/m.bin": {"chunked": True, "no_range": True}})

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}})

    assert done.code == 0, done.output
    assert weights.files() == {"m.bin": data}
    assert done.said[-1]["progress"]["bytesTotal"] is None


def test_a_file_that_changes_between_tries_is_fetched_from_its_start(origin: Origin, weights: Weights) -> None:
    origin.put("m.bin", content(2 * MEBI))
    origin.faults({"/m.bin": {"stop_at": MEBI, "after": 1}})
    source = {"url": {"url": f"{origin.url}/m.bin"}}
    first = weights.run(source, BUD_WEIGHTS_TRIES="1")
    assert (first.code, weights.part_bytes()) == (1, MEBI)

    data = origin.put("m.bin", content(2 * MEBI, seed=2))
    origin.faults({})
    second = weights.run(source)

    assert second.code == 0, second.output
    assert weights.files() == {"m.bin": data}


def test_a_file_that_changes_within_one_run_is_fetched_from_its_start(origin: Origin, weights: Weights) -> None:
    origin.put("m.bin", content(2 * MEBI))
    origin.faults({"/m.bin": {"hold_at": MEBI, "after": 1}})
    process = weights.start({"url": {"url": f"{origin.url}/m.bin"}})
    wait_until(lambda: weights.part_bytes() > MEBI // 2, what="half a mebibyte on the volume")
    data = origin.put("m.bin", content(3 * MEBI, seed=2))
    origin.faults({})
    done = weights.finish(process)

    assert done.code == 0, done.output
    assert weights.files() == {"m.bin": data}
    assert "changed at its source" in done.output
    assert done.message["bytes"] == 3 * MEBI


def test_without_anything_to_tell_versions_apart_a_part_is_not_trusted(origin: Origin, weights: Weights) -> None:
    data = origin.put("m.bin", content(2 * MEBI))
    origin.faults({"/m.bin": {"stop_at": MEBI, "no_validators": True}})
    source = {"url": {"url": f"{origin.url}/m.bin"}}
    assert weights.run(source, BUD_WEIGHTS_TRIES="1").code == 1
    origin.faults({"/m.bin": {"no_validators": True}})

    assert weights.run(source).code == 0
    assert origin.log("/m.bin")[-1]["Range"] is None
    assert weights.files() == {"m.bin": data}


def test_with_a_known_hash_a_part_is_continued_even_without_a_version(origin: Origin, weights: Weights) -> None:
    data = origin.put("m.bin", content(2 * MEBI))
    origin.faults({"/m.bin": {"stop_at": MEBI, "no_validators": True}})
    source = {"url": {"url": f"{origin.url}/m.bin"}}
    assert weights.run(source, sha256={"m.bin": sha256(data)}, BUD_WEIGHTS_TRIES="1").code == 1
    origin.faults({"/m.bin": {"no_validators": True}})

    done = weights.run(source, sha256={"m.bin": sha256(data)})

    assert (done.code, done.message["verification"]) == (0, "verified")
    assert origin.log("/m.bin")[-1]["Range"] == f"bytes={MEBI}-"


def test_a_part_of_bad_bytes_is_fetched_anew_before_the_hash_is_called_wrong(origin: Origin, weights: Weights) -> None:
    data = origin.put("m.bin", content(2 * MEBI))
    origin.faults({"/m.bin": {"stop_at": MEBI, "after": 1}})
    source = {"url": {"url": f"{origin.url}/m.bin"}}
    assert weights.run(source, sha256={"m.bin": sha256(data)}, BUD_WEIGHTS_TRIES="1").code == 1
    (part,) = weights.target.glob(".bud/partial/*.part")
    part.write_bytes(bytes(MEBI))
    origin.faults({})

    done = weights.run(source, sha256={"m.bin": sha256(data)})

    assert (done.code, done.message["verification"]) == (0, "verified"), done.output
    assert weights.files() == {"m.bin": data}


def test_a_file_that_is_truncated_at_its_source_is_told_as_that(origin: Origin, weights: Weights) -> None:
    header = b'{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'
    origin.put("m.safetensors", len(header).to_bytes(8, "little") + header + bytes(15))

    done = weights.run({"url": {"url": f"{origin.url}/m.safetensors"}})

    assert (done.code, done.reason) == (10, "InvalidFormat")
    assert "m.safetensors is truncated" in done.text
    assert "upload it there again" in done.text


BAD_SOURCES: list[tuple[dict[str, Any], str]] = [
    ({"url": {"url": "ftp://example.org/m.bin"}}, "http"),
    ({"url": {"url": "file:///etc/passwd"}}, "http"),
    ({"url": {"url": "http://example.org/"}}, "no file name"),
    ({"url": {"urls": ["http://example.org/a/m.bin", "http://example.org/b/m.bin"]}}, "'m.bin'"),
    ({"url": {"url": "http://example.org/%2e%2e"}}, "leaves the folder"),
    ({"url": {}}, "url"),
    ({"url": {"url": "http://example.org/m"}, "local": {"path": "m"}}, "exactly one"),
    ({}, "exactly one"),
]


@pytest.mark.parametrize(("source", "says"), BAD_SOURCES, ids=[str(row[0]) for row in BAD_SOURCES])
def test_a_source_that_makes_no_sense_is_refused(
    origin: Origin, weights: Weights, source: dict[str, Any], says: str
) -> None:
    source = {key: {k: _here(v, origin) for k, v in value.items()} for key, value in source.items()}

    done = weights.run(source)

    assert (done.code, done.reason) == (10, "InvalidSource"), done.output
    assert says in done.text


def _here(value: Any, origin: Origin) -> Any:
    if isinstance(value, list):
        return [_here(one, origin) for one in value]
    return value.replace("http://example.org", origin.url)


def test_a_hash_for_a_file_that_is_not_there_is_an_error_naming_it(origin: Origin, weights: Weights) -> None:
    origin.put("m.bin", b"x")

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}}, sha256={"other.bin": "0" * 64})

    assert (done.code, done.reason) == (10, "UnknownFile")
    assert "'other.bin'" in done.text
    assert "m.bin" in done.text


def test_nobody_listening_is_transient(weights: Weights) -> None:
    done = weights.run({"url": {"url": "http://127.0.0.1:9/m.bin"}})

    assert (done.code, done.reason) == (1, "ConnectionFailed")


def test_an_empty_file_is_a_file(origin: Origin, weights: Weights) -> None:
    origin.put("m.bin", b"")

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}})

    assert (done.code, weights.files()) == (0, {"m.bin": b""})
