"""The one exception tree of the operator, and how each branch is answered.

::

    BudError
    ├── WaitingError          retried with backoff, told in a condition
    │   ├── ApiUnavailable    the API server could not be reached, or answered 429 or 5xx
    │   ├── LeaseLost         another operator may write by now (bud.kube.lease)
    │   ├── ApiConflict       409: somebody else wrote first; read again, decide again
    │   └── ApiForbidden      403: a quota, an admission policy or a missing right; 500: an admission webhook that does
    │                         not answer; a person may lift it
    └── InvalidError          not retried until the spec changes; Stalled=True
        ├── NameConflict      an object of the wanted name exists and belongs to somebody else
        └── ApiRefused        the API server refused the request: 400, 404, 405 or 422

The boundary is `bud.kube.queue.Queue`: everything that is a `WaitingError`, or not a `BudError` at all, is tried
again; an `InvalidError` waits for the next change.
"""

from __future__ import annotations


class BudError(Exception):
    """Base of everything the operator raises on purpose.

    `reason` is the CamelCase word for a condition, `str(error)` the sentence for a person.
    """

    reason = "Error"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class WaitingError(BudError):
    """The cluster is not there yet; trying again may help."""

    reason = "Waiting"


class ApiUnavailable(WaitingError):
    """The API server could not be reached or is overloaded."""

    reason = "ApiUnavailable"


class ApiConflict(WaitingError):
    """409: the object changed, or the fields belong to another field manager."""

    reason = "Conflict"


class ApiForbidden(WaitingError):
    """403: a quota is spent, an admission policy objects, or a right is missing; 500: a webhook does not answer."""

    reason = "Forbidden"


def is_quota(message: str) -> bool:
    """Whether the API server's words for a 403 are those of a ResourceQuota."""
    return "exceeded quota" in message or "failed quota" in message


class InvalidError(BudError):
    """Trying again cannot help: the spec, or something a person made, must change."""

    reason = "Invalid"


class NameConflict(InvalidError):
    """An object of the wanted name exists that is not ours; it is left as it is."""

    reason = "NameConflict"


class ApiRefused(InvalidError):
    """The API server refused the request.

    `status` is the HTTP status code.
    """

    reason = "ApiRefused"

    def __init__(self, message: str, *, status: int, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.status = status
