"""What a receiver sees, whatever happens in between."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlmodel import Session
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from app.database import Database
from app.errors import NotFound
from app.outbound import Outbound
from app.webhooks import deliveries, outbox, secrets
from app.webhooks.deliveries import DeliveryView
from app.webhooks.delivery import backoff
from app.webhooks.secrets import OVERLAP
from tests.webhooks.conftest import Receiver, SkewedClock, parsed, put, until

pytestmark = pytest.mark.both_databases

Deliver = Callable[..., Any]


async def listed(
    db: Database,
    **filters: Any,
) -> tuple[DeliveryView, ...]:
    return await db.read(
        lambda s: deliveries.list_deliveries(s, **{"owner": None, "limit": 100, **filters})
    )


def more_than(receiver: Receiver, count: int) -> bool:
    return len(receiver.received) > count


async def states(db: Database) -> set[str]:
    return {view.state for view in await listed(db)}


async def test_a_message_arrives_as_it_was_stored_and_verifies(
    db: Database, clock: SkewedClock, receiver: Receiver, deliver: Deliver
) -> None:
    await put(db, clock, receiver.url)
    secret = await db.write(lambda s: secrets.current(s, "k", now=clock()))
    async with deliver():
        await until(lambda: len(receiver.received) == 1)

        async def delivered() -> bool:
            return await states(db) == {"delivered"}

        await until(delivered)
    (got,) = receiver.received
    assert got.headers["content-type"] == "application/json"
    assert Webhook(secret).verify(got.body, got.headers) == parsed(got)
    assert parsed(got)["data"]["n"] == 0
    (view,) = await listed(db)
    assert view.id == got.id
    assert view.attempts == 1
    assert view.delivered_at is not None
    for forged in (got.body.replace(b"succeeded", b"canceled"), got.body + b" "):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(forged, got.headers)


async def test_a_message_of_a_transaction_that_fails_is_never_sent(
    db: Database, clock: SkewedClock, receiver: Receiver, deliver: Deliver
) -> None:
    def work(session: Session) -> None:
        outbox.enqueue(
            session,
            job_id="j",
            owner=None,
            url=receiver.url,
            event_type="job.failed",
            payload={},
            now=clock(),
        )
        raise LookupError

    with pytest.raises(LookupError):
        await db.write(work)
    await put(db, clock, receiver.url)
    async with deliver():
        await until(lambda: len(receiver.received) == 1)
    assert len(await listed(db)) == 1


async def test_both_secrets_sign_during_a_rotation_and_only_the_new_one_after(
    db: Database, clock: SkewedClock, receiver: Receiver, deliver: Deliver
) -> None:
    old = await db.write(lambda s: secrets.current(s, "k", now=clock()))
    new = await db.write(lambda s: secrets.rotate(s, "k", now=clock()))
    assert old != new
    assert await db.write(lambda s: secrets.current(s, "k", now=clock())) == new
    async with deliver() as loop:
        await put(db, clock, receiver.url)
        loop.notify()
        await until(lambda: len(receiver.received) == 1)
        for secret in (old, new):
            Webhook(secret).verify(receiver.received[0].body, receiver.received[0].headers)
        clock.advance(OVERLAP.total_seconds())
        await put(db, clock, receiver.url)
        loop.notify()
        await until(lambda: len(receiver.received) == 2)
    assert len(receiver.received[0].headers["webhook-signature"].split()) == 2
    assert len(receiver.received[1].headers["webhook-signature"].split()) == 1
    assert await db.write(lambda s: secrets.sweep(s, now=clock())) == 1
    assert await db.write(lambda s: secrets.signing(s, "k", now=clock())) == (new,)


async def test_no_two_owners_share_a_secret(db: Database, clock: SkewedClock) -> None:
    def work(session: Session) -> list[str]:
        return [secrets.current(session, owner, now=clock()) for owner in ("a", "b", None)]

    first = await db.write(work)
    assert len(set(first)) == 3
    assert await db.write(work) == first


@pytest.mark.parametrize("status", [301, 400, 404, 408, 429, 500, 503])
async def test_any_answer_but_2xx_and_410_is_tried_again_with_the_same_id_and_bytes(
    db: Database, clock: SkewedClock, receiver: Receiver, deliver: Deliver, status: int
) -> None:
    receiver.status, receiver.answer = status, b"x" * 5000
    await put(db, clock, receiver.url)
    async with deliver() as loop:

        async def put_off() -> bool:
            (view,) = await listed(db)
            _, tries = await db.read(lambda s: deliveries.get_delivery(s, view.id, owner="k"))
            return len(tries) == 1

        await until(put_off)
        receiver.status = 204
        receiver.answer = b""
        clock.advance(10)
        loop.notify()

        async def delivered() -> bool:
            return await states(db) == {"delivered"}

        await until(delivered)
    first, second = receiver.received
    assert first.id == second.id
    assert first.body == second.body
    view, tries = await db.read(lambda s: deliveries.get_delivery(s, first.id, owner="k"))
    assert [one.status_code for one in tries] == [status, 204]
    assert len(tries[0].answer) == 2048
    assert view.attempts == 2


async def test_a_receiver_that_asks_for_time_is_given_it(
    db: Database, clock: SkewedClock, receiver: Receiver, deliver: Deliver
) -> None:
    receiver.status, receiver.head = 429, "Retry-After: 600\r\n"
    await put(db, clock, receiver.url)
    async with deliver():

        async def put_off() -> bool:
            (view,) = await listed(db)
            due = view.next_attempt_at
            return due is not None and (due - clock()).total_seconds() > 500

        await until(put_off)


async def test_410_ends_a_message_at_once(
    db: Database, clock: SkewedClock, receiver: Receiver, deliver: Deliver
) -> None:
    receiver.status = 410
    await put(db, clock, receiver.url)
    async with deliver():

        async def failed() -> bool:
            return await states(db) == {"failed"}

        await until(failed)
    assert len(receiver.received) == 1


async def test_a_dead_receiver_is_given_up_after_a_day_and_can_be_tried_again_by_hand(
    db: Database, clock: SkewedClock, receiver: Receiver, deliver: Deliver
) -> None:
    receiver.status = 500
    begun = clock()
    await put(db, clock, receiver.url)
    async with deliver() as loop:
        while await states(db) == {"pending"}:
            before = len(receiver.received)
            loop.notify()
            await until(partial(more_than, receiver, before))

            async def settled() -> bool:
                (view,) = await listed(db)
                _, tries = await db.read(lambda s: deliveries.get_delivery(s, view.id, owner=None))
                return len(tries) == view.attempts

            await until(settled)
            (view,) = await listed(db)
            if view.next_attempt_at is not None:
                clock.advance(max(0.0, (view.next_attempt_at - clock()).total_seconds()))
        assert await states(db) == {"failed"}
        assert 12 <= len(receiver.received) <= 60
        assert 12 <= (clock() - begun).total_seconds() / 3600 <= 24.1
        assert len({got.id for got in receiver.received}) == 1

        receiver.status = 200
        message = receiver.received[0]
        await db.write(lambda s: deliveries.redeliver(s, message.id, owner="k", now=clock()))
        loop.notify()

        async def delivered() -> bool:
            return await states(db) == {"delivered"}

        await until(delivered)
    assert receiver.received[-1].id == message.id
    assert receiver.received[-1].body == message.body


async def test_a_message_whose_sender_died_is_sent_again_with_the_same_id(
    db: Database, clock: SkewedClock, receivers: Callable[..., Any], deliver: Deliver
) -> None:
    async with receivers(held=True) as receiver:
        await put(db, clock, receiver.url)
        async with deliver():
            await until(lambda: len(receiver.received) == 1)
        receiver.gate.set()
        async with deliver() as loop:
            clock.advance(60)
            loop.notify()
            await until(lambda: len(receiver.received) == 2)

            async def delivered() -> bool:
                return await states(db) == {"delivered"}

            await until(delivered)
        assert receiver.received[0].id == receiver.received[1].id


async def test_a_slow_target_does_not_hold_up_another(
    db: Database, clock: SkewedClock, receivers: Callable[..., Any], deliver: Deliver
) -> None:
    async with receivers(held=True) as slow, receivers() as quick:
        await put(db, clock, slow.url, n=40)
        await put(db, clock, quick.url, n=20)
        async with deliver(concurrency=6, per_target=3):
            await until(lambda: len(quick.received) == 20)
            assert len(slow.received) == 3
            slow.gate.set()
            await until(lambda: len(slow.received) == 40)
        assert slow.most_open <= 3
        assert len({got.id for got in slow.received}) == 40


async def test_asking_again_while_a_try_is_under_way_sends_once_more(
    db: Database, clock: SkewedClock, receivers: Callable[..., Any], deliver: Deliver
) -> None:
    async with receivers(held=True) as receiver:
        await put(db, clock, receiver.url)
        async with deliver(per_target=1) as loop:
            await until(lambda: len(receiver.received) == 1)
            message = receiver.received[0].id
            await db.write(lambda s: deliveries.redeliver(s, message, owner="k", now=clock()))
            receiver.gate.set()
            loop.notify()
            await until(lambda: len(receiver.received) == 2)

            async def delivered() -> bool:
                return await states(db) == {"delivered"}

            await until(delivered)


async def test_a_target_that_is_not_public_is_never_connected_to(
    db: Database, clock: SkewedClock, receiver: Receiver, deliver: Deliver
) -> None:
    await put(db, clock, receiver.url)
    guarded = Outbound()
    async with deliver(outbound=guarded):

        async def tried() -> bool:
            (view,) = await listed(db)
            _, tries = await db.read(lambda s: deliveries.get_delivery(s, view.id, owner=None))
            return bool(tries) and "public internet" in str(tries[0].error)

        await until(tried)
    assert receiver.received == []


async def test_a_url_that_cannot_even_be_read_does_not_stop_the_others(
    db: Database, clock: SkewedClock, receiver: Receiver, deliver: Deliver
) -> None:
    await put(db, clock, "http://[::1")
    await put(db, clock, receiver.url)
    async with deliver():
        await until(lambda: len(receiver.received) == 1)


async def test_the_log_shows_only_the_owners_messages_page_by_page(
    db: Database, clock: SkewedClock
) -> None:
    for owner in ("a", "b", None):
        await put(db, clock, "http://x.example/", owner=owner, n=3)
    assert len(await listed(db)) == 9
    mine = await listed(db, owner="a")
    assert [view.owner for view in mine] == ["a"] * 3
    first = await listed(db, owner="a", limit=2)
    rest = await listed(db, owner="a", limit=2, before=first[-1].id)
    assert [view.id for view in (*first, *rest)] == [view.id for view in mine]
    assert len(await listed(db, job_id="job-1")) == 3
    assert await listed(db, state="failed") == ()
    with pytest.raises(NotFound):
        await db.read(lambda s: deliveries.get_delivery(s, mine[0].id, owner="b"))
    with pytest.raises(NotFound):
        await db.write(lambda s: deliveries.redeliver(s, mine[0].id, owner="b", now=clock()))


async def test_the_sweep_forgets_old_messages_with_their_tries_and_never_a_pending_one(
    db: Database, clock: SkewedClock, receiver: Receiver, deliver: Deliver
) -> None:
    await put(db, clock, receiver.url)
    async with deliver():

        async def delivered() -> bool:
            return await states(db) == {"delivered"}

        await until(delivered)
    await put(db, clock, receiver.url)
    later = clock()
    assert await db.write(lambda s: deliveries.sweep(s, before=later)) == 1
    (left,) = await listed(db)
    assert left.state == "pending"


def test_backoff_is_spread_over_its_whole_bound_which_doubles_up_to_three_hours() -> None:
    rng = random.Random(1)
    for number, bound in ((1, 5), (2, 10), (5, 80), (30, 10_800), (1000, 10_800)):
        waits = [backoff(number, rng) for _ in range(2000)]
        assert min(waits) >= 1
        assert max(waits) <= bound
        assert min(waits) < max(1.2, bound * 0.05)
        assert statistics.mean(waits) == pytest.approx(bound / 2, rel=0.1)
