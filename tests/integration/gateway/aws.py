"""What AWS demands of a request and how it frames a stream, written from its documents and its own model of the service.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html and
https://smithy.io/2.0/aws/amazon-eventstream.html.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
import zlib
from functools import cache
from typing import Any
from urllib.parse import quote, unquote

import orjson
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

ACCESS, SECRET, TOKEN, REGION = "AKIDEXAMPLE", "wJalrXUtnFEMI", "session", "us-east-1"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)


class Refused(Exception):
    """An error that AWS tells."""

    def __init__(self, kind: str, status: int, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.status = status


@cache
def _service() -> ServiceModel:
    return ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"))


def place(raw_path: str) -> tuple[str, str]:
    """The model and the operation that a path names. Raises `Refused`."""
    found = re.fullmatch(r"/model/([^/]+)/(converse|converse-stream)", raw_path)
    if found is None:
        raise Refused("UnknownOperationException", 404, raw_path)
    return unquote(found[1]), {"converse": "Converse", "converse-stream": "ConverseStream"}[found[2]]


def validate(operation: str, body: dict[str, Any]) -> None:
    """Raises `Refused` for a request that AWS's own model of the service does not allow."""
    report = ParamValidator().validate(body, _service().operation_model(operation).input_shape)
    if report.has_errors():
        raise Refused("ValidationException", 400, report.generate_report())


def verify(method: str, raw_path: str, headers: dict[str, str], body: bytes) -> None:
    """Raises `Refused` for a request that is not signed as it must be."""
    low = {name.lower(): value.strip() for name, value in headers.items()}
    found = _AUTHORIZATION.fullmatch(low.get("authorization", ""))
    if found is None:
        raise Refused("AccessDeniedException", 403, "Missing Authentication Token")
    access, day, region, service, names, signature = found.groups()
    if (access, region, service) != (ACCESS, REGION, "bedrock") or low.get("x-amz-security-token") != TOKEN:
        raise Refused("UnrecognizedClientException", 403, "The security token included in the request is invalid.")
    signed = names.split(";")
    if not {"host", "x-amz-date", "x-amz-security-token"} <= set(signed):
        raise Refused("InvalidSignatureException", 403, "a header that must be signed is not")
    lines = "".join(f"{name}:{low[name]}\n" for name in signed)
    canonical = "\n".join((method, quote(raw_path, safe="/"), "", lines, names, hashlib.sha256(body).hexdigest()))
    scope = f"{day}/{region}/{service}/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", low["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{SECRET}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    if not hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), signature):
        raise Refused("InvalidSignatureException", 403, "The request signature we calculated does not match.")


def event(kind: str, payload: dict[str, Any], *, fault: bool = False) -> bytes:
    """One message of a stream of events."""
    told = {":message-type": "exception" if fault else "event", ":exception-type" if fault else ":event-type": kind}
    told[":content-type"] = "application/json"
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in told.items()
    )
    body = orjson.dumps(payload)
    prelude = struct.pack("!II", len(headers) + len(body) + 16, len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack("!I", zlib.crc32(message))
