"""What can go wrong for a caller of the client."""

from __future__ import annotations

from app.wire import Problem, ProblemField


class ClientError(Exception):
    """Base of every error that the client raises."""


class InvalidArgument(ClientError, ValueError):
    """A URL, an id or a name that cannot be one. Nothing was sent."""


class GatewayUnreachable(ClientError):
    """No answer came: nothing listens there, or the connection was lost.

    Attributes:
        url: Base URL of the gateway.
    """

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"The gateway at {url} cannot be reached: {why}.")
        self.url = url


class GatewayProblem(ClientError):
    """The gateway refused the call.

    Attributes:
        problem: The problem document (RFC 9457).
        retry_after: Seconds after which the same call may succeed, where the gateway says so.
    """

    def __init__(self, problem: Problem, *, retry_after: float | None = None) -> None:
        super().__init__(f"{problem.title}: {problem.detail}")
        self.problem = problem
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    @property
    def code(self) -> str:
        """The stable slug, such as `invalid-request`."""
        return self.problem.code

    @property
    def errors(self) -> tuple[ProblemField, ...]:
        """The fields at fault, with their JSON pointers."""
        return self.problem.errors


class WaitTimedOut(ClientError):
    """The job had not ended when the time to wait was over. It goes on all the same."""


class DownloadFailed(ClientError):
    """The file that arrived is not the one that the gateway announced."""
