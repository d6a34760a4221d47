"""Repositories of the Hugging Face Hub and of mirrors that speak its API.

huggingface_hub lists; the bytes come over the program's own client, from the commit that the revision stands for. The
Hub publishes a SHA-256 for each large (LFS) file and git's blob SHA-1 for each small one; both are compared.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

from bud.weights.config import HubSource, Settings
from bud.weights.errors import Failure, Permanent, Transient, refused
from bud.weights.plan import RemoteFile
from bud.weights.sources import Listing, Opened
from bud.weights.sources.http import Client

TOKEN_REMEDY = "set spec.credentialsSecretRef to a Secret with key token"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_TASK = re.compile(r"[a-z0-9-]{1,64}")


class HubFiles:
    """The files of one revision that the patterns leave."""

    def __init__(self, wanted: HubSource, *, credentials: Mapping[str, str], settings: Settings) -> None:
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self._wanted = wanted
        self._settings = settings
        self._token = credentials.get("token")
        self._endpoint = (wanted.endpoint or constants.ENDPOINT).rstrip("/")
        # False, not None: None would look for a token in the user's home.
        self._api = HfApi(endpoint=self._endpoint, token=self._token or False)
        self._client = Client(settings)
        self._revision = wanted.revision or "main"

    def list_files(self) -> Listing:
        with self._faults():
            info = self._api.model_info(
                self._wanted.repo,
                revision=self._revision,
                files_metadata=True,
                timeout=self._settings.stall_seconds,
            )
        if not info.sha:
            raise Permanent("InvalidSource", f"{self._where()} tells no commit of {self._revision}: not a Hub API?")
        self._revision = info.sha
        siblings = self._matching(info)
        with ThreadPoolExecutor(self._settings.parallel) as pool:
            files = tuple(pool.map(self._describe, siblings))
        tag = info.pipeline_tag
        return Listing(files=files, revision=info.sha, task=tag if tag and _TASK.fullmatch(tag) else None)

    def open(self, file: RemoteFile, offset: int) -> contextlib.AbstractContextManager[Opened]:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}

        def explain(status: int, answer: Mapping[str, str]) -> Failure:
            return self._explain(status, answer, file.path)

        return self._client.open_file(self._url(file.path), file, offset, headers=headers, explain=explain)

    def _matching(self, info: ModelInfo) -> list[RepoSibling]:
        every = info.siblings or []
        allow, ignore = self._wanted.allow_patterns, self._wanted.ignore_patterns
        kept = list(
            filter_repo_objects(
                every,
                allow_patterns=list(allow) if allow else None,
                ignore_patterns=list(ignore) if ignore else None,
                key=lambda sibling: sibling.rfilename,
            )
        )
        if not kept:
            there = ", ".join(sibling.rfilename for sibling in every[:8]) or "nothing"
            raise Permanent(
                "NoFiles",
                f"no file of {self._where()} is left by allowPatterns {list(allow or ())} and ignorePatterns "
                f"{list(ignore or ())}; the repository has {there}{', …' if len(every) > 8 else ''}",
            )
        return kept

    def _describe(self, sibling: RepoSibling) -> RemoteFile:
        if sibling.lfs:
            sha256 = sibling.lfs.sha256
            return RemoteFile(path=sibling.rfilename, size=sibling.lfs.size, version=sha256, sha256=sha256)
        if sibling.size is not None and sibling.blob_id:
            blob = sibling.blob_id
            return RemoteFile(path=sibling.rfilename, size=sibling.size, version=blob, git_sha1=blob)
        return self._describe_by_head(sibling.rfilename)

    def _describe_by_head(self, path: str) -> RemoteFile:
        """Some mirrors list names only; a file's own headers then tell size and hash, as the Hub's would."""
        with self._faults(path):
            found = get_hf_file_metadata(
                self._url(path),
                token=self._token or False,
                timeout=self._settings.stall_seconds,
                endpoint=self._endpoint,
            )
        tag = found.etag or ""
        return RemoteFile(
            path=path,
            size=found.size,
            version=f"{self._revision}:{tag}",
            sha256=tag if _SHA256.fullmatch(tag) else None,
            git_sha1=tag if _SHA1.fullmatch(tag) and found.size is not None else None,
        )

    def _url(self, path: str) -> str:
        return hf_hub_url(self._wanted.repo, path, revision=self._revision, endpoint=self._endpoint)

    def _where(self) -> str:
        host = urlsplit(self._endpoint).netloc.rpartition("@")[2]
        return f"{self._wanted.repo} at {host}"

    @contextlib.contextmanager
    def _faults(self, path: str | None = None) -> Iterator[None]:
        try:
            yield
        except HFValidationError as error:
            raise Permanent("InvalidSource", f"spec.source.huggingFace.repo: {error}") from None
        except HfHubHTTPError as error:
            answer = error.response
            raise self._explain(answer.status_code, answer.headers, path) from None
        except Failure:
            raise
        except Exception as error:
            # The library's own transport errors have no stable type: it changed HTTP clients between releases.
            raise Transient("ConnectionFailed", f"{self._where()}: {type(error).__name__}: {error}") from None

    def _explain(self, status: int, headers: Mapping[str, str], path: str | None) -> Failure:
        """The Hub says in X-Error-Code what its status leaves open; it answers 401 for what does not exist, too."""
        where, code = self._where(), headers.get("X-Error-Code", "")
        general = refused(status, headers, where if path is None else f"{path} of {where}")
        told = None if isinstance(general, Transient) else self._told(status, code, path)
        return Permanent(general.reason, told) if told else general

    def _told(self, status: int, code: str, path: str | None) -> str | None:
        where, repo = self._where(), "spec.source.huggingFace.repo"
        no_file = f"{where} has no file {path!r} at {self._revision}: correct spec.source.huggingFace"
        by_code = {
            "GatedRepo": f"{where} is gated: accept its terms on the Hub, then {TOKEN_REMEDY} of that account",
            "RevisionNotFound": f"{where} has no revision {self._revision!r}: correct spec.source.huggingFace.revision",
            "EntryNotFound": no_file,
        }
        unknown = f"{where} is private, or does not exist: {TOKEN_REMEDY}, or correct {repo}"
        refused_token = (
            f"{where}: the token of spec.credentialsSecretRef is not accepted, or the repository does not exist: renew "
            f"the token, or correct {repo}"
        )
        by_status = {
            401: refused_token if self._token else unknown,
            403: f"{where}: access denied: {TOKEN_REMEDY} that may read this repository",
            404: no_file if path else f"{where} does not exist: correct {repo}",
        }
        return by_code.get(code) or by_status.get(status)
