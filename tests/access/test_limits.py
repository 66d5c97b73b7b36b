"""Quotas hold to the last unit, per key."""

from __future__ import annotations

import time

import pytest

from app.access.limits import Limiter
from app.access.scopes import LOCAL, Caller, Scope
from app.errors import RateLimited

A = Caller(id="a", name="a", scopes=frozenset({Scope.SUBMIT}))
B = Caller(id="b", name="b", scopes=frozenset({Scope.ADMIN}))


def limiter() -> Limiter:
    return Limiter(requests_per_minute=5, upload_bytes_per_hour=1000, queued_jobs=2, watchers=2)


class Time:
    """Stands in for the `time` module of the library, which takes no clock."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.real = time.time

    def __call__(self) -> float:
        return self.real() + self.offset


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(time, "time", fake)
    return fake


def test_the_request_after_the_last_is_refused_with_a_wait_and_only_for_that_key() -> None:
    limits = limiter()
    for _ in range(5):
        limits.request(A)
    with pytest.raises(RateLimited) as refused:
        limits.request(A)
    assert refused.value.retry_after is not None
    assert 1 <= refused.value.retry_after <= 60
    limits.request(B)


def test_the_wait_that_is_told_is_long_enough(moved: Time) -> None:
    limits = limiter()
    for _ in range(5):
        limits.request(A)
    with pytest.raises(RateLimited) as refused:
        limits.request(A)
    assert refused.value.retry_after is not None
    moved.offset += refused.value.retry_after + 0.1
    limits.request(A)


def test_uploads_are_counted_by_their_bytes_and_a_refused_one_costs_nothing() -> None:
    limits = limiter()
    limits.upload(A, 600)
    with pytest.raises(RateLimited, match="1,000 bytes"):
        limits.upload(A, 401)
    limits.upload(A, 400)
    with pytest.raises(RateLimited) as refused:
        limits.upload(A, 1)
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 1
    limits.upload(A, 0)
    limits.upload(B, 1000)


def test_the_queue_quota_refuses_the_job_that_would_be_one_too_many() -> None:
    limits = limiter()
    limits.queued(A, 1)
    with pytest.raises(RateLimited, match="2 queued jobs"):
        limits.queued(A, 2)


def test_the_loopback_caller_is_not_counted() -> None:
    limits = limiter()
    for _ in range(50):
        limits.request(LOCAL)
        limits.upload(LOCAL, 10**9)
        limits.queued(LOCAL, 10**6)


def test_open_streams_are_counted_per_key_and_given_back() -> None:
    limits = limiter()
    with limits.watching(A), limits.watching(LOCAL):
        limits.may_watch(A)
        with limits.watching(A):
            with pytest.raises(RateLimited) as refused:
                limits.may_watch(A)
            assert refused.value.retry_after is not None
            limits.may_watch(B)
            limits.may_watch(LOCAL)
        limits.may_watch(A)
