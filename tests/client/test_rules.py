"""The rules of sending again, without a server: scripts are moved by hand."""

from __future__ import annotations

import json

import pytest

from app.client import GatewayProblem, GatewayUnreachable, Preview, Retry
from app.client.calls import Call, Pause, Reply, Run, perform
from app.client.following import Following
from app.client.transport import settings_of

CALL = Call(method="GET", path="/x")
RETRY = Retry(seconds=10, first_seconds=1, most_seconds=2)


def refusal(status: int, code: str, **headers: str) -> Reply:
    body = {"type": f"/problems/{code}", "code": code, "title": "No", "status": status}
    return Reply(status, headers, json.dumps({**body, "detail": "Not now."}).encode())


def pause_of(run: Run[Reply]) -> float:
    assert isinstance(run.step, Pause)
    return run.step.seconds


def test_what_the_gateway_asks_for_is_waited() -> None:
    run = Run(perform(CALL, RETRY))
    run.go_on(refusal(503, "queue-full", **{"retry-after": "7"}))
    assert pause_of(run) == 7
    run.go_on()
    assert run.step is CALL
    run.go_on(Reply(200, {}, b"{}"))
    assert run.step is None
    assert run.result.status == 200


def test_more_than_there_is_patience_for_is_not_waited() -> None:
    run = Run(perform(CALL, RETRY))
    with pytest.raises(GatewayProblem) as caught:
        run.go_on(refusal(503, "storage", **{"retry-after": "60"}))
    assert caught.value.retry_after == 60


def test_pauses_grow_and_end() -> None:
    run = Run(perform(CALL, RETRY))
    pauses: list[float] = []

    def fail_always() -> None:
        for _ in range(100):
            run.fail(GatewayUnreachable("http://x", "gone"))
            pauses.append(pause_of(run))
            run.go_on()

    with pytest.raises(GatewayUnreachable):
        fail_always()
    assert 0.5 <= pauses[0] <= 1
    assert all(1 <= pause <= 2 for pause in pauses[1:])
    assert sum(pauses) <= RETRY.seconds


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500, 507])
def test_what_will_not_change_is_not_sent_again(status: int) -> None:
    run = Run(perform(CALL, RETRY))
    with pytest.raises(GatewayProblem):
        run.go_on(refusal(status, "some-code"))


def test_our_own_first_try_that_is_still_in_hand_is_waited_for() -> None:
    run = Run(perform(CALL, RETRY))
    run.go_on(refusal(409, "idempotency-in-flight", **{"retry-after": "1"}))
    assert pause_of(run) == 1


def test_a_proxy_that_speaks_html_is_quoted() -> None:
    run = Run(perform(CALL, Retry(seconds=0)))
    with pytest.raises(GatewayProblem) as caught:
        run.go_on(Reply(502, {}, b"<html>Bad gateway</html>"))
    assert caught.value.code == "http-502"
    assert "Bad gateway" in caught.value.problem.detail


def event(number: int, kind: str = "job.phase") -> list[str]:
    at = "2026-01-01T00:00:00Z"
    data = {"id": number, "job_id": "j", "type": kind, "at": at, "data": {}}
    return [f"id: {number}", f"event: {kind}", f"data: {json.dumps(data)}", ""]


def test_a_half_event_of_a_lost_connection_is_forgotten() -> None:
    following = Following("http://x", "j", retry=RETRY)
    following.call()
    for line in event(1)[:-1]:
        assert following.feed(line) is None
    assert "Last-Event-ID" not in following.call().headers
    found = [following.feed(line) for line in event(1)]
    assert found[-1] is not None
    assert following.call().headers["Last-Event-ID"] == "1"


def test_an_event_that_came_before_is_passed_over() -> None:
    following = Following("http://x", "j", retry=RETRY, last_event_id=4)
    following.call()
    assert [following.feed(line) for line in event(4)][-1] is None
    assert [following.feed(line) for line in event(5)][-1] is not None


def test_comments_and_events_of_a_newer_gateway_are_passed_over() -> None:
    following = Following("http://x", "j", retry=RETRY)
    following.call()
    lines = [": still here", "", "retry: 2000", "", *event(1, "job.moonwalk"), *event(2)]
    found = [one for line in lines if (one := following.feed(line)) is not None]
    assert len(found) == 1
    assert not following.ended


def test_a_preview_is_a_picture() -> None:
    following = Following("http://x", "j", retry=RETRY)
    following.call()
    data = {"job_id": "j", "number": 3, "media_type": "image/jpeg", "base64": "/9j/"}
    lines = ["event: preview", f"data: {json.dumps(data)}", ""]
    found = [following.feed(line) for line in lines][-1]
    assert isinstance(found, Preview)
    assert found.data == b"\xff\xd8\xff"


def test_a_stream_that_says_nothing_is_given_up() -> None:
    following = Following("http://x", "j", retry=Retry(seconds=3, first_seconds=1))
    gone = GatewayUnreachable("http://x", "gone")
    waited: list[float] = []

    def lose_always() -> None:
        for _ in range(100):
            following.call()
            waited.append(following.pause(gone))

    with pytest.raises(GatewayUnreachable):
        lose_always()
    assert 0 < sum(waited) <= 3


def test_whatever_arrives_starts_the_patience_again() -> None:
    following = Following("http://x", "j", retry=Retry(seconds=2, first_seconds=1, most_seconds=1))
    gone = GatewayUnreachable("http://x", "gone")
    for _ in range(20):
        following.call()
        following.feed(": still here")
        following.pause(gone)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", ""])
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="is no URL of a gateway"):
        settings_of(url, None)
