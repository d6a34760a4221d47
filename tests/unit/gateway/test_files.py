"""What a folder of files says while editors, mounts and people change it: look by look, without a clock."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bud.gateway.build import Built
from bud.gateway.files import Folder
from bud.gateway.reach import Reach

PROJECT = "{kind: Project, metadata: {name: default}}\n"


def key(name: str, letter: str, spec: str = "") -> str:
    return f"kind: APIKey\nmetadata: {{name: {name}}}\nspec:\n  hash: {letter * 64}\n{spec}---\n"


A, B = key("a", "a"), key("b", "b")


class Watched:
    """A folder with a Project and a key in a file each."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        self.write("project.yaml", PROJECT)
        self.write("a.yaml", A)
        self.write("sub/b.yaml", B)
        self.folder = Folder(place, Reach())
        self.built = self.look()
        assert self.keys == "ab" and not self.built.troubles

    def write(self, name: str, text: str) -> None:
        (self.place / name).parent.mkdir(exist_ok=True)
        (self.place / name).write_text(text)

    def look(self, times: int = 2) -> Built:
        """Looks so often; gives what is known then."""
        for _ in range(times):
            self.built = self.folder.look() or self.built
        return self.built

    @property
    def keys(self) -> str:
        return "".join(sorted(digest[0] for digest in self.built.catalog.keys))

    @property
    def told(self) -> str:
        return "\n".join(f"{what}: {text}" for what, text in self.built.troubles)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "objects")


def test_a_change_is_taken_once_it_is_the_same_at_two_looks(watched: Watched) -> None:
    watched.write("a.yaml", key("a", "c"))
    watched.look(1)
    assert watched.keys == "ab"
    watched.look(1)
    assert watched.keys == "bc"
    assert watched.folder.look() is None


def test_a_file_that_grows_is_not_read_before_it_is_whole(watched: Watched) -> None:
    whole = A + key("c", "c", "  revoked: true\n")
    for end in range(len(A) + 1, len(whole) + 1, 7):
        watched.write("a.yaml", whole[:end])
        watched.look(1)
        assert watched.keys == "ab", whole[:end]
    watched.write("a.yaml", whole)
    watched.look()
    assert watched.keys == "ab"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "a.yaml: it cannot be read: expected the node content (line 1, column 2); what"),
        ("", "a.yaml: it cannot be read: it is empty; to take back what it said, delete it"),
        ("  \n", "it is empty"),
        ("# Keys of the team\n", "it is empty"),
        ("---\n---\n# Keys of the team\n", "it is empty"),
        (A + "kind: APIKey\n", "a.yaml: it cannot be read: document 2: each needs kind and metadata.name"),
        ("kind: APIKey\nkind: APIKey\nmetadata: {name: a}\n", "a field stands twice (line 2, column 1)"),
        ("{kind: [1], metadata: {name: a}}", "document 1: each needs kind"),
        ("just words", "document 1: each needs kind"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_what_it_said_before_and_holds_back_no_other(
    watched: Watched, text: str, told: str
) -> None:
    watched.write("a.yaml", text)
    watched.write("sub/b.yaml", key("b", "d"))
    watched.look()
    assert watched.keys == "ad"
    assert told in watched.told and "what it said before holds" in watched.told
    watched.write("a.yaml", key("a", "e"))
    watched.look()
    assert (watched.keys, watched.told) == ("de", "")


def test_a_file_that_may_not_be_read_is_read_once_it_may(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.write("a.yaml", key("a", "c"))
    read = os.open
    with monkeypatch.context() as patch:

        def refuse(path: str | Path, *more: int) -> int:
            if Path(path).name == "a.yaml":
                raise PermissionError(13, "Permission denied")
            return read(path, *more)

        patch.setattr(os, "open", refuse)
        watched.look(4)
        assert watched.keys == "ab" and "Permission denied; what it said before holds" in watched.told
        assert watched.folder.look() is None
    watched.look(1)
    assert (watched.keys, watched.told) == ("bc", "")


def _dangling(place: Path) -> None:
    place.symlink_to("/nonexistent")


def _device(place: Path) -> None:
    place.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("replace", "told"),
    [
        (_dangling, "No such file or directory"),
        (os.mkfifo, "it is no file; to take back what it said, delete it"),
        (_device, "it is no file; to take back what it said, delete it"),
    ],
    ids=["a link that leads nowhere", "a pipe", "a device"],
)
def test_what_is_no_file_says_what_was_there_before_until_it_is_deleted(
    watched: Watched, replace: Callable[[Path], None], told: str
) -> None:
    place, kept = watched.place / "a.yaml", watched.place.parent / "kept"
    os.link(place, kept)
    place.unlink()
    replace(place)
    watched.look()
    assert watched.keys == "ab"
    assert told in watched.told and "what it said before holds" in watched.told
    assert watched.folder.look() is None
    place.unlink()
    place.symlink_to(kept)
    watched.look()
    assert (watched.keys, watched.told) == ("ab", "")
    place.unlink()
    replace(place)
    watched.look()
    place.unlink()
    watched.look()
    assert (watched.keys, watched.told) == ("b", "")


def test_what_cannot_be_read_at_the_start_costs_itself_alone(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(PROJECT + "---\n" + A)
    (tmp_path / "b.yaml").write_text("{")
    found = Folder(tmp_path, Reach()).look()
    assert found is not None and list(found.catalog.keys) == ["a" * 64]
    assert "it says nothing" in found.troubles[0][1]


def _deleted(watched: Watched) -> None:
    (watched.place / "a.yaml").unlink()


def _nothing_of_ours(watched: Watched) -> None:
    watched.write("a.yaml", "{kind: ConfigMap, apiVersion: v1, metadata: {name: a}}")


def _left_out(watched: Watched) -> None:
    watched.write("a.yaml", key("a", "a", "  revoked: true\n"))


def _moved_elsewhere(watched: Watched) -> None:
    os.rename(watched.place / "a.yaml", watched.place.parent / "a.yaml")


@pytest.mark.parametrize("take_back", [_deleted, _nothing_of_ours, _left_out, _moved_elsewhere])
def test_what_a_person_takes_back_is_gone(watched: Watched, take_back: Callable[[Watched], None]) -> None:
    take_back(watched)
    watched.look()
    assert (watched.keys, watched.told) == ("b", "")


def test_a_file_that_is_replaced_by_way_of_none_is_never_gone(watched: Watched) -> None:
    (watched.place / "a.yaml").unlink()
    watched.look(1)
    watched.write("a.yaml", A)
    watched.look(2)
    assert watched.keys == "ab"


def test_a_file_that_is_renamed_keeps_its_objects(watched: Watched) -> None:
    os.rename(watched.place / "a.yaml", watched.place / "z.yaml")
    watched.look(1)
    assert watched.keys == "ab"
    watched.look(1)
    assert (watched.keys, watched.told) == ("ab", "")


def test_the_last_files_may_be_deleted(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(watched.place / "sub")
    for file in watched.place.glob("*"):
        file.unlink()
    watched.look()
    assert watched.keys == "" and "no key is accepted" in caplog.text


def test_a_folder_that_is_away_or_another_one_without_files_says_nothing(watched: Watched) -> None:
    elsewhere = watched.place.parent / "elsewhere"
    watched.place.rename(elsewhere)
    watched.look(5)
    assert watched.keys == "ab" and "cannot be read; what was known of it stays" in watched.told
    # As the folder below a mount that was taken away.
    watched.place.mkdir()
    watched.look(5)
    assert watched.keys == "ab" and "cannot be read" in watched.told
    watched.place.rmdir()
    (elsewhere / "a.yaml").unlink()
    elsewhere.rename(watched.place)
    watched.look()
    assert (watched.keys, watched.told) == ("b", "")


def test_a_folder_within_that_cannot_be_listed_keeps_its_files_and_no_others(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (watched.place / "a.yaml").unlink()
    watched.look()
    assert watched.keys == "b" and "sub cannot be read" in watched.told


def test_a_mounted_config_map_is_read_once_and_changes_at_once(tmp_path: Path) -> None:
    """As the kubelet writes it: https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter."""

    def publish(name: str, **files: str) -> None:
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / f"{file}.yaml").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(name)
        os.rename(tmp_path / "..data_tmp", tmp_path / "..data")
        for file in files:
            if not (tmp_path / f"{file}.yaml").is_symlink():
                (tmp_path / f"{file}.yaml").symlink_to(f"..data/{file}.yaml")
        for link in tmp_path.glob("[!.]*"):
            if not link.exists():
                link.unlink()

    publish("..2026_1", project=PROJECT, a=A, b=B)
    folder = Folder(tmp_path, Reach())
    found = folder.look()
    assert found is not None and (len(found.catalog.keys), found.troubles) == (2, [])
    publish("..2026_2", project=PROJECT, b=key("b", "c"))
    assert folder.look() is None
    shutil.rmtree(tmp_path / "..2026_1")
    found = folder.look()
    assert found is not None and (list(found.catalog.keys), found.troubles) == (["c" * 64], [])


def test_files_that_editors_hide_are_not_read(watched: Watched) -> None:
    for name in (".a.yaml", ".git/a.yaml", "a.yaml~", "a.yaml.new"):
        watched.write(name, key("c", "c"))
    watched.look()
    assert (watched.keys, watched.told) == ("ab", "")


def test_of_two_objects_of_one_name_the_first_by_path_holds_and_both_are_told(watched: Watched) -> None:
    watched.write("c.yaml", key("a", "c") + key("d", "d"))
    watched.look()
    assert watched.keys == "abd"
    place = watched.place
    told = f"{place}/c.yaml, document 1, APIKey default/a: it stands in {place}/a.yaml, document 1, too, which holds"
    assert told in watched.told
    (place / "a.yaml").unlink()
    watched.look()
    assert (watched.keys, watched.told) == ("bcd", "")


def test_the_same_name_of_another_kind_of_deployment_is_another_object(watched: Watched) -> None:
    watched.write("c.yaml", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: chat}}\n---\n"
                            "{apiVersion: bud.studio/v1alpha1, kind: Deployment, metadata: {name: chat}, spec: {modelRef: {name: m}}}")  # fmt: skip
    watched.look()
    assert watched.built.catalog.served("default", "chat") is not None and not watched.told


def test_a_list_as_kubectl_writes_it_is_refused_with_the_remedy(watched: Watched) -> None:
    watched.write("c.yaml", "{apiVersion: v1, kind: List, metadata: {resourceVersion: ''}, items: []}")
    watched.look()
    told = "c.yaml: it cannot be read: document 1: each needs kind and metadata.name; write each item of a list as a document"
    assert told in watched.told


def test_a_folder_without_files_is_told_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "objects.json").write_text("{}")
    assert Folder(tmp_path, Reach()).look() is not None
    assert f"there are no *.yaml or *.yml in {tmp_path} yet" in caplog.text


@pytest.mark.parametrize("coded", ["c2stMQ==", "c2st\nMQ==\n", "c2s\r\ntMQ=="])
def test_base64_is_read_as_the_api_server_does(watched: Watched, coded: str) -> None:
    secret = {"kind": "Secret", "metadata": {"name": "c"}, "data": {"apiKey": coded}}
    watched.write("c.yaml", yaml.safe_dump(secret))
    watched.write(
        "d.yaml",
        "kind: Provider\nmetadata: {name: p}\nspec: {kind: OpenAI, models: [{name: m}], credentialsSecretRef: {name: c}}",
    )
    watched.look()
    (target,) = watched.built.catalog.names["default"]["m"].targets
    assert not watched.told and target.headers["Authorization"] == "Bearer sk-1"


@pytest.mark.parametrize(
    "document",
    [
        "{apiVersion: v1, kind: Service, metadata: {name: a_b}}",
        "{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: c}}",
        "{apiVersion: project.openshift.io/v1, kind: Project, metadata: {name: c}}",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: c}}",
        "{apiVersion: bud.studio/v1alpha1, kind: Model, metadata: {name: c}}",
    ],
)
def test_what_the_gateway_has_no_use_for_is_passed_over(watched: Watched, document: str) -> None:
    watched.write("c.yaml", document)
    watched.look()
    assert (watched.keys, watched.told) == ("ab", "")


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("kind: APIKey\nmetadata: {name: c}\nspec: {limit: {requestsPerDay: 1}}",
         "document 2, APIKey default/c: spec.limit: there is no such field; did you mean limits?; the object is left out"),
        ("kind: APIKey\nmetadata: {name: c}\nspec: {limits: {requestsPerHour: 1}}",
         "spec.limits.requestsPerHour: there is no such field; did you mean requestsPer"),
        ("kind: APIKey\nmetadata: {name: c}\nspec: {limits: {requestsPerDay: many}, xyzzy: 1}",
         "spec.limits.requestsPerDay: Input should be a valid integer, unable to parse string as an integer; "
         "spec.xyzzy: there is no such field; there are"),
        ("kind: Provider\nmetadata: {name: c}\nspec: {kind: OpenAI, models: [{name: m}, {name: n, priceing: {}}]}",
         "Provider default/c: spec.models[1].priceing: there is no such field; did you mean pricing?"),
        ("kind: Provider\nmetadata: {name: c}\nspec: {kind: OpenAI, baseUrl: 'http://a', models: [{name: m}]}", "did you mean baseURL?"),
        ("kind: Project\nmetadata: {name: c}\nlimits: {requestsPerDay: 1}", "Project c: limits: there is no such field here; write it below spec"),
        ("kind: Project\nmetadata: {name: c}\nspecs: {}", "specs: there is no such field here; did you mean spec?"),
        ("kind: APIKey\nmetadata: {name: c, namspace: x}", "metadata.namspace: there is no such field; did you mean namespace?"),
        ("kind: Secret\nmetadata: {name: c}\nstringdata: {}", "Secret default/c: stringdata: there is no such field here; did you mean stringData?"),
        ("{apiVersion: bud.studio/v2, kind: APIKey, metadata: {name: c}}", "APIKey default/c: apiVersion: write bud.studio/v1alpha1; the object"),
        ("{apiVersion: bud.studio/v1alpha1, kind: Secret, metadata: {name: c}}", "Secret default/c: apiVersion: write v1"),
        ("kind: APIKey\nmetadata: {name: c, creationTimestamp: soon}", "APIKey default/c: it cannot be read"),
        ("kind: ApiKey\nmetadata: {name: c}", "ApiKey default/c: kind: there is no such kind; did you mean APIKey?; the object is left out"),
        ("{apiVersion: bud.studio/v1alpha1, kind: Keys, metadata: {name: c}}", "Keys default/c: kind: there is no such kind; "),
        ("{apiVersion: bud-studio/v1alpha1, kind: APIKey, metadata: {name: c}}", "APIKey default/c: apiVersion: write bud.studio/v1alpha1"),
        ("{apiVersion: v1, kind: secret, metadata: {name: c}}", "secret default/c: kind: there is no such kind; did you mean Secret?"),
        ("{kind: Deployment, metadata: {name: c}}", "Deployment default/c: apiVersion: write bud.studio/v1alpha1; the object is left out"),
        ("kind: Project\nmetadata: {name: c, namespace: d}\nspec: {namespce: x}", "Project c: spec.namespce: there is no such field"),
        ("kind: APIKey\nmetadata: {name: My_Key}", "APIKey default/My_Key: metadata.name: 'My_Key' is no name in Kubernetes: at most 253 small"),
        (f"kind: APIKey\nmetadata: {{name: {'c' * 254}}}", "is no name in Kubernetes: at most 253 small letters, digits and - ., with"),
        ('kind: APIKey\nmetadata: {name: "c\\n"}', "metadata.name: 'c\\n' is no name"),
        ("kind: APIKey\nmetadata: {name: c, namespace: a.b}", "APIKey a.b/c: metadata.namespace: 'a.b' is no name in Kubernetes: at most 63 small"),
        ("kind: APIKey\nmetadata: {name: c, namespace: ''}", "metadata.namespace: '' is no name"),
        ("kind: Secret\nmetadata: {name: c}\ndata: {key: 'c2s t'}", "Secret default/c: it holds what is neither base64 nor text"),
    ],
)  # fmt: skip
def test_what_is_mistyped_is_told_by_file_document_object_and_path_with_a_remedy(
    watched: Watched, document: str, told: str
) -> None:
    watched.write("c.yaml", f"{key('d', 'd')}{document}")
    watched.look()
    assert told in watched.told and f"{watched.place}/c.yaml, document 2" in watched.told
    assert watched.keys == "abd"
