"""The pure decisions about files."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bud.weights.errors import Permanent
from bud.weights.plan import (
    Action,
    Entry,
    Record,
    RemoteFile,
    Seen,
    checked,
    decide,
    digest,
    with_demands,
)

PLAIN = RemoteFile(path="m", size=10, version="v1")
HASHED = replace(PLAIN, sha256="a" * 64)
UNVERSIONED = replace(PLAIN, version=None)
SIZELESS = replace(PLAIN, size=None)
NOTE = Record(path="m", size=10, version="v1")
WHOLE = replace(NOTE, sha256="b" * 64)

CASES = [
    ("nothing is here", PLAIN, Seen(), (Action.FETCH, 0, 10)),
    ("a part of these bytes", PLAIN, Seen(part=4, record=NOTE), (Action.RESUME, 4, 6)),
    ("a part that is all there", PLAIN, Seen(part=10, record=NOTE), (Action.RESUME, 10, 0)),
    ("a part without a note", PLAIN, Seen(part=4), (Action.FETCH, 0, 10)),
    ("an empty part", PLAIN, Seen(part=0, record=NOTE), (Action.FETCH, 0, 10)),
    ("a part that is too long", PLAIN, Seen(part=11, record=NOTE), (Action.FETCH, 0, 10)),
    ("a part of another version", PLAIN, Seen(part=4, record=replace(NOTE, version="v0")), (Action.FETCH, 0, 10)),
    ("a part of another size", PLAIN, Seen(part=4, record=replace(NOTE, size=11)), (Action.FETCH, 0, 10)),
    ("a part, no version", UNVERSIONED, Seen(part=4, record=replace(NOTE, version=None)), (Action.FETCH, 0, 10)),
    (
        "a part, no version but a hash",
        replace(HASHED, version=None),
        Seen(part=4, record=replace(NOTE, version=None)),
        (Action.RESUME, 4, 6),
    ),
    ("a part of unknown size", SIZELESS, Seen(part=4, record=replace(NOTE, size=None)), (Action.RESUME, 4, 0)),
    ("whole and noted", PLAIN, Seen(whole=10, record=WHOLE), (Action.CHECK, 10, 0)),
    ("whole, its hash not noted", PLAIN, Seen(whole=10, record=NOTE), (Action.FETCH, 0, 10)),
    ("whole, a stranger", PLAIN, Seen(whole=10), (Action.FETCH, 0, 10)),
    ("whole, a stranger, but the hash is known", HASHED, Seen(whole=10), (Action.CHECK, 10, 0)),
    ("whole, of the wrong size", HASHED, Seen(whole=9, record=WHOLE), (Action.FETCH, 0, 10)),
    ("whole, of another version", PLAIN, Seen(whole=10, record=replace(WHOLE, version="v0")), (Action.FETCH, 0, 10)),
]


@pytest.mark.parametrize(("file", "seen", "wanted"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_only_what_is_proven_is_kept(file: RemoteFile, seen: Seen, wanted: tuple[Action, int, int]) -> None:
    step = decide(file, seen)

    assert (step.action, step.held, step.missing) == wanted


def named(*names: str) -> list[RemoteFile]:
    return [RemoteFile(path=name, size=1, version=None) for name in names]


GOOD_NAMES = ["a", "a/b/c", "ünï cödé.gguf", "..a", "a..", "...", ".hidden", "x/.bud", "a b"]
BAD_NAMES = ["", "/a", "..", "../a", "a/../b", "a/..", "./a", "a//b", "a/", ".bud", ".bud/x", "a\0b", "a\nb", "a\\b"]
BAD_NAMES += ["x" * 256, "ü" * 128, "/".join(["x" * 200] * 11), "\ud800"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_ordinary_names_are_accepted(name: str) -> None:
    assert [file.path for file in checked(named(name))] == [name]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_names_that_could_do_harm_are_refused_by_name(name: str) -> None:
    with pytest.raises(Permanent) as refusal:
        checked(named("fine", name))

    assert refusal.value.reason == "InvalidSource"
    assert repr(name) in refusal.value.message


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b/c", "a"), ("x/y", "x/y/z/w")])
def test_names_that_hide_one_another_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(Permanent, match=r"two files|both as a file and as a folder"):
        checked(named(*names))


def test_demands_become_the_hashes_of_their_files() -> None:
    files = with_demands(named("a", "b"), {"b": "c" * 64})

    assert [(file.path, file.sha256) for file in files] == [("a", None), ("b", "c" * 64)]


def test_a_demand_on_a_file_that_is_not_there_names_it_and_what_is_there() -> None:
    with pytest.raises(Permanent, match=r"spec\.sha256 names 'x'.*\(a, b\)") as refusal:
        with_demands(named("a", "b"), {"x": "c" * 64})

    assert refusal.value.reason == "UnknownFile"


def test_a_demand_that_contradicts_what_is_published_is_a_mismatch() -> None:
    with pytest.raises(Permanent, match="the source publishes") as refusal:
        with_demands([HASHED], {"m": "c" * 64})

    assert refusal.value.reason == "HashMismatch"
    assert with_demands([HASHED], {"m": "a" * 64}) == [HASHED]


def test_the_digest_is_the_hash_of_the_documented_text() -> None:
    entries = [
        Entry(path="ü", size=2, sha256="b" * 64, verified=True),
        Entry(path="a", size=1, sha256="a" * 64, verified=False),
    ]
    text = f'[{{"path":"a","sha256":"{"a" * 64}","size":1}},{{"path":"ü","sha256":"{"b" * 64}","size":2}}]'

    assert digest(entries) == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


ENTRIES = st.builds(Entry, path=st.text(), size=st.integers(0), sha256=st.just("0" * 64), verified=st.booleans())


@given(st.lists(ENTRIES, max_size=5, unique_by=lambda entry: entry.path), st.randoms())
def test_the_digest_depends_on_the_content_only(entries: list[Entry], random: object) -> None:
    turned = [replace(entry, verified=not entry.verified) for entry in reversed(entries)]

    assert digest(turned) == digest(entries)
    for index, entry in enumerate(entries):
        other = [*entries[:index], replace(entry, size=entry.size + 1), *entries[index + 1 :]]
        assert digest(other) != digest(entries)
