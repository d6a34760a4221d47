"""The store keeps the newest, forgets what is gone, and is not fooled by late answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bud.kube.kinds import APPS, SERVICES
from bud.kube.seen import Nothing, Seen
from bud.kube.store import Store


def service(name: str, version: int, *, uid: str = "u", owner: str = "o", links: Iterable[str] = ()) -> Seen:
    return Seen(
        resource=SERVICES,
        namespace="ns",
        name=name,
        uid=uid,
        version=version,
        owner_kind="Deployment",
        owner_name=owner,
        owner_uids=frozenset(),
        deleting=False,
        fingerprint=b"",
        data=Nothing(),
        links=frozenset(links),
    )


def versions(store: Store) -> dict[str, int]:
    return {seen.name: seen.version for seen in store.all(SERVICES)}


def put(name: str, version: int) -> tuple[str, str, int]:
    return "put", name, version


def remove(name: str, version: int) -> tuple[str, str, int]:
    return "remove", name, version


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([put("a", 5)], {"a": 5}, id="an object is kept"),
        pytest.param([put("a", 5), put("a", 7)], {"a": 7}, id="a newer version wins"),
        pytest.param([put("a", 7), put("a", 5)], {"a": 7}, id="an older version loses"),
        pytest.param([put("a", 5), remove("a", 6)], {}, id="a deletion removes"),
        pytest.param(
            [put("a", 7), remove("a", 6)], {"a": 7}, id="a deletion of an older object does not remove a newer"
        ),
        pytest.param(
            [put("a", 5), remove("a", 8), put("a", 6)], {}, id="a late answer does not bring back what is gone"
        ),
        pytest.param([put("a", 5), remove("a", 8), put("a", 9)], {"a": 9}, id="an object made again is kept"),
        pytest.param(
            [remove("b", 90), put("a", 30)], {"a": 30}, id="a deletion elsewhere does not hide a late first event"
        ),
    ],
)
def test_what_is_known_after_a_series_of_events(steps: list[tuple[str, str, int]], expected: dict[str, int]) -> None:
    store = Store()
    for step, name, version in steps:
        if step == "put":
            store.put(service(name, version))
        else:
            store.remove(SERVICES, ("ns", name), version)
    assert versions(store) == expected


def test_a_list_replaces_what_is_known_but_not_what_was_seen_after_it() -> None:
    store = Store()
    for seen in (service("gone", 3), service("old", 4), service("young", 20)):
        store.put(seen)
    store.replace(SERVICES, [service("old", 9), service("new", 8)], 10)
    assert versions(store) == {"old": 9, "new": 8, "young": 20}


def test_an_object_that_a_list_lacked_is_not_brought_back_by_an_earlier_event() -> None:
    store = Store()
    store.replace(SERVICES, [], 10)
    store.put(service("ghost", 9))
    assert versions(store) == {}


def test_the_list_of_one_namespace_says_nothing_of_another() -> None:
    store = Store()
    elsewhere = replace(service("a", 3), namespace="elsewhere")
    store.put(elsewhere)
    store.put(service("gone", 3))
    store.replace(SERVICES, [], 10, namespace="ns")
    store.put(replace(service("late", 9), namespace="elsewhere"))
    store.put(service("ghost", 9))
    assert versions(store) == {"a": 3, "late": 9}


def test_children_are_found_by_owner_and_links_until_they_change() -> None:
    store = Store()
    store.put(service("a", 1, owner="x", links=["model:m"]))
    assert [s.name for s in store.children(SERVICES, namespace="ns", owner_kind="Deployment", owner_name="x")] == ["a"]
    assert [s.name for s in store.linked(SERVICES, namespace="ns", link="model:m")] == ["a"]
    assert [s.name for s in store.linked(SERVICES, namespace="", link="model:m")] == ["a"]
    store.put(service("a", 2, owner="y"))
    assert store.children(SERVICES, namespace="ns", owner_kind="Deployment", owner_name="x") == []
    assert store.linked(SERVICES, namespace="ns", link="model:m") == []


def test_listeners_hear_every_change_with_before_and_after() -> None:
    store, heard = Store(), []
    store.listen(lambda _, old, new: heard.append((old and old.version, new and new.version)))
    store.put(service("a", 1))
    store.put(service("a", 1))
    store.put(service("a", 2))
    store.remove(SERVICES, ("ns", "a"), 3)
    assert heard == [(None, 1), (1, 2), (2, None)]


@given(st.permutations([put("a", 1), put("a", 2), remove("a", 3), put("b", 4), put("b", 5)]))
def test_events_in_any_order_end_in_the_same_state(steps: list[tuple[str, str, int]]) -> None:
    store = Store()
    for step, name, version in steps:
        if step == "put":
            store.put(service(name, version))
        else:
            store.remove(SERVICES, ("ns", name), version)
    assert versions(store) == {"b": 5}


def test_what_is_derived_is_made_anew_only_when_something_changed() -> None:
    made = []

    def names(found: list[Seen]) -> list[str]:
        made.append([seen.name for seen in found])
        return made[-1]

    store = Store()
    assert store.derived(SERVICES, names) == []
    store.put(service("a", 5))
    assert store.derived(SERVICES, names) == ["a"]
    store.put(service("a", 6))
    store.put(replace(service("a", 6), resource=APPS))
    assert store.derived(SERVICES, names) == ["a"]
    assert len(made) == 2
    store.put(replace(service("a", 7), data=None))
    store.remove(SERVICES, ("ns", "a"), 8)
    assert store.derived(SERVICES, names) == []
    assert len(made) == 3
