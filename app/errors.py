"""The gateway's errors: what went wrong, in words for the person who asked.

Nothing here knows HTTP. `api/problems.py` maps each class to a status. Every `code` is a stable
slug of the public contract (`/problems/<code>`) and is documented in `docs/problems.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that breaks a rule.

    Attributes:
        pointer: JSON pointer to the field in the request body, such as `/request/width`.
        detail: The value, the rule it breaks and what would work, in one sentence.
    """

    pointer: str
    detail: str


class GatewayError(Exception):
    """Base of every error whose text may be shown to a client.

    Attributes:
        code: Stable slug.
        title: What kind of problem it is; the same for every occurrence.
        detail: What happened this time and what would work.
        errors: The fields at fault, where fields are at fault.
        retry_after: Seconds after which the same call may succeed, where that is known.
        extra: Further public members of the problem document.
    """

    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "The gateway failed"

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after: float | None = None,
        **extra: Any,  # noqa: ANN401 - problem members are free JSON
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after = retry_after
        self.extra = extra


class InvalidRequest(GatewayError):
    """The request is well-formed but a field breaks a rule."""

    code = "invalid-request"
    title = "The request breaks a rule"


class MalformedBody(GatewayError):
    """The body is not what its content type says."""

    code = "malformed-body"
    title = "The body cannot be read"


class UnsupportedMedia(GatewayError):
    """A media file is broken, empty, of the wrong kind or too large to be decoded."""

    code = "unsupported-media"
    title = "The media file cannot be used"


class UnknownWorkflow(GatewayError):
    """No workflow of that name is installed."""

    code = "unknown-workflow"
    title = "No such workflow"


class WorkflowUnavailable(GatewayError):
    """The workflow exists, but the engine lacks nodes or model files that it needs."""

    code = "workflow-unavailable"
    title = "The workflow cannot run here"


class NeverFits(GatewayError):
    """The job needs more memory than the card has at all."""

    code = "never-fits"
    title = "The job does not fit on this card"


class NotFound(GatewayError):
    """Nothing of that kind and id is visible to the caller."""

    code = "not-found"
    title = "Not found"


class Conflict(GatewayError):
    """The resource is not in a state that allows the call."""

    code = "conflict"
    title = "Not possible in this state"


class IdempotencyMismatch(GatewayError):
    """The idempotency key was used before with another body."""

    code = "idempotency-key-reused"
    title = "The idempotency key belongs to another request"


class IdempotencyInFlight(GatewayError):
    """The first request with this idempotency key has not been answered yet."""

    code = "idempotency-in-flight"
    title = "The first request with this key is still being handled"


class RangeNotSatisfiable(GatewayError):
    """The asked byte range lies outside the file."""

    code = "range-not-satisfiable"
    title = "The byte range cannot be served"


class PayloadTooLarge(GatewayError):
    """The body or file is larger than allowed."""

    code = "payload-too-large"
    title = "Too large"


class Unauthorized(GatewayError):
    """No credential, or one that is not valid."""

    code = "unauthorized"
    title = "A valid API key is needed"


class Forbidden(GatewayError):
    """The key is valid but lacks the scope."""

    code = "forbidden"
    title = "This key may not do that"


class RateLimited(GatewayError):
    """The key has used up its rate or quota."""

    code = "rate-limited"
    title = "Too many requests"


class QueueFull(GatewayError):
    """The queue holds as many jobs as the operator allows."""

    code = "queue-full"
    title = "The queue is full"


class Draining(GatewayError):
    """The gateway is shutting down or draining and takes no new work."""

    code = "draining"
    title = "The gateway is draining"


class StorageFull(GatewayError):
    """The disk is full; nothing was stored."""

    code = "storage-full"
    title = "No room to store the job"


class StoreUnavailable(GatewayError):
    """The database or the object storage cannot be used now."""

    code = "store-unavailable"
    title = "The store is not available"


class EngineUnavailable(GatewayError):
    """ComfyUI does not answer."""

    code = "engine-unavailable"
    title = "The engine is not available"


class FetchRefused(GatewayError):
    """A URL may not be fetched, or what it gave cannot be used."""

    code = "fetch-refused"
    title = "The URL cannot be fetched"


class Misconfigured(GatewayError):
    """The gateway does not start with these settings. Seen on its command line only."""

    code = "misconfigured"
    title = "The gateway cannot start like this"


@dataclass(frozen=True, slots=True)
class Failure:
    """A way in which a job can end as `failed`.

    Attributes:
        title: What kind of failure it is.
        retryable: Whether the same request may succeed if it is sent again later.
        advice: What a person can do about it.
    """

    title: str
    retryable: bool
    advice: str


FAILURES: dict[str, Failure] = {
    "graph-refused": Failure(
        "ComfyUI refused the graph",
        retryable=False,
        advice="Check the workflow with `steadydancer doctor`; a node or input has changed.",
    ),
    "missing-model": Failure(
        "A model file is missing",
        retryable=False,
        advice="Download it with `steadydancer models download`.",
    ),
    "bad-media": Failure(
        "The engine could not read an input",
        retryable=False,
        advice="Re-encode the file as H.264 mp4 or as PNG and submit it again.",
    ),
    "execution-error": Failure(
        "A node raised an error",
        retryable=False,
        advice="Read the node's message; the same request will most likely fail again.",
    ),
    "out-of-memory": Failure(
        "The card ran out of memory",
        retryable=True,
        advice="Ask for a smaller size or fewer frames, or free the card of other processes.",
    ),
    "cuda-fault": Failure(
        "The GPU faulted",
        retryable=True,
        advice="The engine must be restarted before it can run anything; then submit again.",
    ),
    "engine-died": Failure(
        "The engine died under the job",
        retryable=True,
        advice="Submit again; if it happens again, read the engine's log.",
    ),
    "engine-stalled": Failure(
        "The engine stopped making progress",
        retryable=True,
        advice="Submit again; if it happens again, read the engine's log.",
    ),
    "output-missing": Failure(
        "The engine finished without a readable video",
        retryable=True,
        advice="Submit again; if it happens again, check the disk space of the engine.",
    ),
    "interrupted": Failure(
        "The run was interrupted from outside the gateway",
        retryable=True,
        advice="Somebody stopped it on ComfyUI's own page; submit again.",
    ),
    "poison-job": Failure(
        "The engine died twice while it ran this job",
        retryable=False,
        advice="Do not submit the same request again before the engine's log was read.",
    ),
    "deadline-exceeded": Failure(
        "The job did not end within its deadline",
        retryable=True,
        advice="Allow more time with max_queue_seconds or max_run_seconds.",
    ),
    "workflow-unavailable": Failure(
        "The workflow cannot run here any more",
        retryable=False,
        advice="Install what is missing; `steadydancer doctor` names it.",
    ),
    "media-fetch-failed": Failure(
        "An input could not be fetched",
        retryable=True,
        advice="Check that the URL is public and serves the file, or upload it.",
    ),
    "internal-error": Failure(
        "The gateway failed",
        retryable=True,
        advice="Submit again; the gateway's log has the details.",
    ),
}
"""Every `error.type` a failed job can carry."""
