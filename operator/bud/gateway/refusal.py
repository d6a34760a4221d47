"""What the gateway answers when it cannot serve: the error object of the API, whatever went wrong.

::

    Refusal                     an answer with an error object; `status`, `type`, `code`, `param`
    ├── Invalid                 400  the request cannot be served by anyone
    ├── Unauthenticated         401  no key, or none that is known
    ├── NotAllowed              403  the key may not do this
    ├── UnknownModel            404  with `param: model`, `code: model_not_found`
    ├── NotFound                404  another thing is missing
    ├── Limited                 429  a limit or a budget is used up
    └── Unavailable             503  nothing that could answer can be reached

Types follow the reference: `invalid_request_error`, `authentication_error`, `permission_error`, `not_found_error`,
`rate_limit_error`, `api_error`, `overloaded_error`.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson


class Refusal(Exception):
    """An answer with an error object.

    `headers` are sent with it. `message` is for a person: it names the field and the remedy, and never holds a key, an
    address of an upstream, or what the upstream said of its own credentials.
    """

    status = 500
    type = "api_error"
    code: str | None = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = dict(headers or {})
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status

    def forget(self) -> None:
        """Lets go of where it came up, and of all that is held there."""
        self.__traceback__ = self.__cause__ = self.__context__ = None

    def body(self) -> bytes:
        """The error object, as JSON."""
        told = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": told})


class Invalid(Refusal):
    """The request cannot be served by anyone; `status` may be another 4xx, such as 413."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class Unauthenticated(Refusal):
    """No key, or none that is known."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class NotAllowed(Refusal):
    """The key may not do this."""

    status = 403
    type = "permission_error"
    code = "insufficient_permissions"


class UnknownModel(Refusal):
    """No such model, or not for this project."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model '{model}' does not exist", param="model")


class NotFound(Refusal):
    """Something other than a model is missing."""

    status = 404
    type = "not_found_error"
    code = "not_found"


class Limited(Refusal):
    """A limit or a budget is used up; `limit` says which kind, for metrics: `upstream` is not the gateway's own."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    limit = "upstream"


class Unavailable(Refusal):
    """Nothing that could answer can be reached; trying again may help."""

    status = 503
    type = "overloaded_error"
    code = "upstream_unavailable"


def timed_out(message: str) -> Refusal:
    """The refusal (504) of what was not done in time."""
    return Refusal(message, status=504, code="timeout", headers={"x-should-retry": "true"})


def of_status(status: int, message: str, *, param: str | None = None, code: str | None = None) -> Refusal:
    """The refusal that tells of an upstream's own error, whose status stays unless it speaks of its credentials."""
    if not 200 <= status < 600:
        return Unavailable(f"the model answered with status {status}, which there is not")
    if status in (401, 403):
        words = "the provider refuses the gateway's credentials; ask who runs it"
        return Unavailable(words, code="provider_credentials")
    kind = {404: NotFound, 429: Limited, 503: Unavailable}.get(status, Invalid if status < 500 else Refusal)
    if code is None and kind is Refusal:
        code = "not_implemented" if status == 501 else "upstream_error"
    again = {"x-should-retry": "false"} if status == 501 else None
    return kind(message, param=param, code=code, status=status, headers=again)
