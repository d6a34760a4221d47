"""Downloads from object stores: moto (S3), fake-gcs-server (Google) and Azurite (Azure), and a strict server's faults."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import AzureStore, S3Store

from tests.integration.weights.programs import (
    MEBI,
    Origin,
    Weights,
    azurite,
    content,
    gcs_server,
    running,
    sha256,
    wait_until,
)
from tests.tiny_engine import free_port

# Azurite's published development account.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class Bucket:
    """An empty bucket: how to write into it, how the spec names it, and the Secret that opens it."""

    put: Callable[[str, bytes], object]
    uri: str
    source: dict[str, Any]
    secret: dict[str, str]

    def fill(self, files: dict[str, bytes]) -> dict[str, bytes]:
        for name, data in files.items():
            self.put(name, data)
        return files

    def spec(self, path: str, **more: str) -> dict[str, Any]:
        return {"cloud": {"uri": f"{self.uri}/{path}", **self.source, **more}}


def ask(url: str, *, method: str, data: bytes = b"", **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    urllib.request.urlopen(urllib.request.Request(url, data, named, method=method)).close()


@contextmanager
def s3(folder: Path) -> Iterator[Bucket]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port=port, cwd=folder):
        ask(f"{url}/bucket", method="PUT")
        keys = {"AWS_ACCESS_KEY_ID": "a-key-id", "AWS_SECRET_ACCESS_KEY": "a-secret-key"}
        store = S3Store(
            "bucket",
            endpoint=url,
            region="us-east-1",
            access_key_id="a-key-id",
            secret_access_key="a-secret-key",
            client_options={"allow_http": True},
        )
        yield Bucket(
            lambda name, data: obstore.put(store, name, data),
            "s3://bucket",
            {"endpoint": url, "region": "us-east-1"},
            keys,
        )


@contextmanager
def gs(folder: Path) -> Iterator[Bucket]:
    if not (program := gcs_server()):
        pytest.skip("no fake-gcs-server, and no Go to build it with")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(program), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    with running([*command, "-public-host", f"127.0.0.1:{port}"], port=port, cwd=folder):
        ask(f"{url}/storage/v1/b", method="POST", data=b'{"name": "bucket"}', Content_Type="application/json")

        def put(name: str, data: bytes) -> None:
            where = f"{url}/upload/storage/v1/b/bucket/o?uploadType=media&name={urllib.parse.quote(name, safe='')}"
            ask(where, method="POST", data=data, Content_Type="application/octet-stream")

        yield Bucket(put, "gs://bucket", {"endpoint": url}, {})


def azure_signature() -> str:
    """A shared access signature for the whole account (the service's "create an account SAS", version 2019-12-12)."""
    given = {"sp": "rwlc", "ss": "b", "srt": "sco", "se": "2099-01-01T00:00:00Z", "sv": "2019-12-12"}
    lines = [AZURE_ACCOUNT, "rwlc", "b", "sco", "", given["se"], "", "", given["sv"], ""]
    mac = hmac.digest(base64.b64decode(AZURE_KEY), "\n".join(lines).encode(), "sha256")
    return urllib.parse.urlencode({**given, "sig": base64.b64encode(mac).decode()})


@contextmanager
def az(folder: Path) -> Iterator[Bucket]:
    if not (program := azurite()):
        pytest.skip("no azurite, and no npm to install it with")
    port = free_port()
    url = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
    command = [str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    with running([*command, "--skipApiVersionCheck", "--disableTelemetry"], port=port, cwd=folder):
        ask(f"{url}/bucket?restype=container&{azure_signature()}", method="PUT")
        store = AzureStore(
            "bucket",
            account_name=AZURE_ACCOUNT,
            account_key=AZURE_KEY,
            endpoint=url,
            client_options={"allow_http": True},
        )
        keys = {"AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY}
        yield Bucket(lambda name, data: obstore.put(store, name, data), "az://bucket", {"endpoint": url}, keys)


Kind = Callable[[Path], AbstractContextManager[Bucket]]


@pytest.fixture(scope="module", params=[s3, gs, az], ids=["s3", "gs", "az"])
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    kind: Kind = request.param
    with kind(tmp_path_factory.mktemp("store")) as made:
        yield made


@pytest.fixture(scope="module")
def s3_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with s3(tmp_path_factory.mktemp("s3")) as made:
        yield made


def secret(bucket: Bucket) -> dict[str, Any]:
    return {f"BUD_CREDENTIAL_{key}": value for key, value in bucket.secret.items()}


def test_a_folder_arrives_with_names_relative_to_it(bucket: Bucket, weights: Weights) -> None:
    files = bucket.fill({"m/model.bin": content(3 * MEBI), "m/sub/b.txt": b"hi", "m/empty": b"", "m2/other": b"no"})

    done = weights.run(bucket.spec("m/"), **secret(bucket))

    assert done.code == 0, done.output
    assert weights.files() == {name[2:]: data for name, data in files.items() if name.startswith("m/")}
    assert (done.message["verification"], done.message["bytes"]) == ("recorded", 3 * MEBI + 2)


def test_a_single_object_arrives_and_its_hash_is_compared(bucket: Bucket, weights: Weights) -> None:
    files = bucket.fill({"one/model.bin": content(MEBI)})

    done = weights.run(bucket.spec("one/model.bin"), sha256={"model.bin": sha256(content(MEBI))}, **secret(bucket))

    assert done.code == 0, done.output
    assert weights.files() == {"model.bin": files["one/model.bin"]}
    assert done.message["verification"] == "verified"


def test_what_is_not_in_the_bucket_is_told(bucket: Bucket, weights: Weights) -> None:
    done = weights.run(bucket.spec("no/such"), **secret(bucket))

    assert (done.code, done.reason) == (10, "NotFound"), done.output
    assert "spec.source.cloud.uri" in done.text


def test_a_bucket_that_is_not_there_is_told(bucket: Bucket, weights: Weights) -> None:
    if bucket.uri.startswith("gs:"):
        pytest.skip("fake-gcs-server answers 500 where the real service answers 404")
    source = bucket.spec("m/")
    source["cloud"]["uri"] = source["cloud"]["uri"].replace("bucket", "nosuch")

    done = weights.run(source, **secret(bucket))

    assert (done.code, done.reason) == (10, "NotFound"), done.output


def test_a_part_is_continued_where_it_stopped(bucket: Bucket, weights: Weights) -> None:
    files = bucket.fill({"part/model.bin": content(4 * MEBI)})
    assert weights.run(bucket.spec("part/"), **secret(bucket)).code == 0
    unfinish(weights, "model.bin", keep=MEBI)

    done = weights.run(bucket.spec("part/"), **secret(bucket))

    assert done.code == 0, done.output
    assert done.said[0]["progress"]["bytesDone"] == 0
    assert weights.files() == {"model.bin": files["part/model.bin"]}


def unfinish(weights: Weights, name: str, *, keep: int) -> None:
    """Makes the volume look as a kill would have left it after `keep` bytes."""
    (note,) = weights.target.glob(".bud/partial/*.json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"sha256": None}))
    place = weights.target / name
    note.with_suffix(".part").write_bytes(place.read_bytes()[:keep])
    place.unlink()


def test_an_object_that_changed_is_fetched_from_its_start(bucket: Bucket, weights: Weights) -> None:
    bucket.fill({"change/model.bin": content(2 * MEBI)})
    assert weights.run(bucket.spec("change/"), **secret(bucket)).code == 0
    unfinish(weights, "model.bin", keep=MEBI)
    files = bucket.fill({"change/model.bin": content(2 * MEBI, seed=2)})

    done = weights.run(bucket.spec("change/"), **secret(bucket))

    assert done.code == 0, done.output
    assert weights.files() == {"model.bin": files["change/model.bin"]}


def test_azure_opens_by_a_signature_and_never_tells_it(tmp_path: Path, weights: Weights) -> None:
    signature = azure_signature()
    keys: dict[str, Any] = {
        "BUD_CREDENTIAL_AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT,
        "BUD_CREDENTIAL_AZURE_STORAGE_SAS_TOKEN": signature,
    }
    with az(tmp_path) as bucket:
        files = bucket.fill({"m/a.bin": b"hello"})
        good = weights.run(bucket.spec("m/"), **keys)
        bad = weights.run(bucket.spec("m/"), **{**keys, "BUD_CREDENTIAL_AZURE_STORAGE_SAS_TOKEN": signature[:-8]})
        none = weights.run(bucket.spec("m/"))

    assert good.code == 0, good.output
    assert weights.files() == {"a.bin": files["m/a.bin"]}
    assert (bad.code, bad.reason) == (10, "Forbidden"), bad.output
    assert (none.code, none.reason) == (10, "InvalidSource"), none.output
    assert "AZURE_STORAGE_ACCOUNT_NAME" in none.text
    told = good.output + bad.output + str(bad.message)
    assert hashlib.sha256(signature.encode()).hexdigest() not in told
    assert urllib.parse.parse_qs(signature)["sig"][0] not in told
    assert signature.rpartition("sig=")[2][:20] not in told


def test_marks_of_folders_are_no_files(s3_bucket: Bucket, weights: Weights) -> None:
    endpoint = s3_bucket.source["endpoint"]
    s3_bucket.fill({"marked/sub/a.bin": b"x"})
    for mark in ("marked/", "marked/sub/"):
        ask(f"{endpoint}/bucket/{mark}", method="PUT")

    done = weights.run(s3_bucket.spec("marked/"), **secret(s3_bucket))

    assert done.code == 0, done.output
    assert weights.files() == {"sub/a.bin": b"x"}


def test_without_credentials_a_public_bucket_is_read_anonymously(s3_bucket: Bucket, weights: Weights) -> None:
    ask(f"{s3_bucket.source['endpoint']}/bucket/public/a.bin", method="PUT", data=b"x", **PUBLIC)

    done = weights.run(s3_bucket.spec("public/"))

    assert done.code == 0, done.output
    assert weights.files() == {"a.bin": b"x"}


def test_a_key_that_cannot_be_read_is_told_and_not_shown(weights: Weights) -> None:
    key = '{"private_key": "not a private key"}'

    done = weights.run({"cloud": {"uri": "gs://bucket/m"}}, BUD_CREDENTIAL_GOOGLE_SERVICE_ACCOUNT_KEY=key)

    assert (done.code, done.reason) == (10, "InvalidSource"), done.output
    assert "GOOGLE_SERVICE_ACCOUNT_KEY" in done.text
    assert "private key" not in done.output


PUBLIC = {"x_amz_acl": "public-read", "Content_Type": "application/octet-stream"}

STORE_FAULTS = [
    ({"status": 401}, (10, "Unauthorized")),
    ({"status": 403}, (10, "Forbidden")),
    ({"status": 400}, (10, "Refused")),
    ({"status": 429}, (1, "TooManyRequests")),
    ({"status": 503}, (1, "ServerError")),
    ({"status": 301}, (10, "Refused")),
]


@pytest.mark.parametrize(("fault", "told"), STORE_FAULTS, ids=str)
def test_a_store_that_refuses_is_told_apart_from_one_in_trouble(
    origin: Origin, weights: Weights, fault: dict[str, Any], told: tuple[int, str]
) -> None:
    origin.faults({"/bucket": fault})

    done = weights.run({"cloud": {"uri": "s3://bucket/m", "endpoint": origin.url}})

    assert (done.code, done.reason) == told, done.output
    assert ("trying again" in done.output) == (told[0] == 1)


def one_object(origin: Origin, data: bytes) -> dict[str, Any]:
    """Makes the strict server look like a bucket that lists nothing below `m.bin` and has it."""
    origin.put("bucket/m.bin", data)
    empty = b'<?xml version="1.0"?><ListBucketResult><Name>bucket</Name><KeyCount>0</KeyCount></ListBucketResult>'
    origin.put("bucket-list", empty)
    return {"cloud": {"uri": "s3://bucket/m.bin", "endpoint": origin.url}}


def test_a_store_that_falls_silent_is_left_and_the_rest_is_fetched(origin: Origin, weights: Weights) -> None:
    data = content(4 * MEBI)
    source = one_object(origin, data)
    listing = {"/bucket": {"instead": "bucket-list"}}
    origin.faults({**listing, "/bucket/m.bin": {"hold_at": 2 * MEBI + 5, "times": 1, "after": 1}})

    done = weights.run(source, BUD_WEIGHTS_STALL_SECONDS="0.5")

    assert done.code == 0, done.output
    assert weights.files() == {"m.bin": data}
    start = int(origin.log("/bucket/m.bin")[-1]["Range"].removeprefix("bytes=").removesuffix("-"))
    assert MEBI < start <= 2 * MEBI + 5


def test_a_kill_in_the_middle_costs_only_what_was_missing(origin: Origin, weights: Weights) -> None:
    data = content(4 * MEBI)
    source = one_object(origin, data)
    listing = {"/bucket": {"instead": "bucket-list"}}
    origin.faults({**listing, "/bucket/m.bin": {"hold_at": 3 * MEBI, "after": 1}})
    process = weights.start(source)
    wait_until(lambda: weights.part_bytes() > 2 * MEBI, what="two mebibytes on the volume")
    process.kill()
    process.wait()
    held = weights.part_bytes()
    origin.faults(listing)

    done = weights.run(source)

    assert done.code == 0, done.output
    assert weights.files() == {"m.bin": data}
    last = origin.log("/bucket/m.bin")[-1]
    assert (last["Range"], last["sent"]) == (f"bytes={held}-", 4 * MEBI - held)


def test_an_object_that_changes_within_one_run_is_fetched_from_its_start(origin: Origin, weights: Weights) -> None:
    source = one_object(origin, content(4 * MEBI))
    listing = {"/bucket": {"instead": "bucket-list"}}
    origin.faults({**listing, "/bucket/m.bin": {"hold_at": 3 * MEBI, "after": 1}})
    process = weights.start(source)
    wait_until(lambda: weights.part_bytes() > 2 * MEBI, what="two mebibytes on the volume")
    data = origin.put("bucket/m.bin", content(4 * MEBI, seed=2))
    origin.faults(listing)

    done = weights.finish(process)

    assert done.code == 0, done.output
    assert weights.files() == {"m.bin": data}
    assert "changed at its source" in done.output
