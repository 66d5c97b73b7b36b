"""The signing secret of a key, and the log of what was delivered to whom."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response

from app import errors
from app.access.scopes import seen_owner
from app.api.answers import CALLER, json_answer, refusals
from app.api.deps import Reader, Submitter, TheServices
from app.api.models import Delivery, DeliveryPage, DeliveryTry, WebhookSecret
from app.webhooks import deliveries, secrets
from app.webhooks.deliveries import DeliveryView

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

DeliveryId = Annotated[
    str, Path(max_length=64, pattern=r"^[A-Za-z0-9_]+$", description="The `webhook-id`.")
]


@router.get(
    "/secret",
    operation_id="get_webhook_secret",
    summary="Show the signing secret",
    response_model=WebhookSecret,
    responses=refusals(*CALLER),
)
async def get_secret(services: TheServices, caller: Submitter) -> Response:
    """Give the secret that signs the webhooks of this key's jobs; it is made at the first call."""
    secret = await services.db.write(
        lambda session: secrets.current(session, caller.id, now=services.now())
    )
    return json_answer(WebhookSecret(secret=secret))


@router.post(
    "/secret/rotate",
    operation_id="rotate_webhook_secret",
    summary="Replace the signing secret",
    response_model=WebhookSecret,
    responses=refusals(*CALLER),
)
async def rotate_secret(services: TheServices, caller: Submitter) -> Response:
    """Make a new secret. For a day messages carry two signatures, the old one's and the new's."""
    secret = await services.db.write(
        lambda session: secrets.rotate(session, caller.id, now=services.now())
    )
    return json_answer(WebhookSecret(secret=secret))


@router.get(
    "/deliveries",
    operation_id="list_webhook_deliveries",
    summary="List webhook deliveries",
    response_model=DeliveryPage,
    responses=refusals(*CALLER, errors.InvalidRequest),
)
async def list_deliveries(
    *,
    services: TheServices,
    caller: Reader,
    job_id: Annotated[str | None, Query(max_length=64, description="Only about this job.")] = None,
    state: Annotated[Literal["pending", "delivered", "failed"] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None,
        Query(
            max_length=64,
            pattern=r"^[A-Za-z0-9_]+$",
            description="`next_cursor` of the page before.",
        ),
    ] = None,
) -> Response:
    """Give the messages of the caller's jobs, newest first."""
    found = await services.db.read(
        lambda session: deliveries.list_deliveries(
            session,
            owner=seen_owner(caller),
            limit=limit + 1,
            before=cursor,
            job_id=job_id,
            state=state,
        )
    )
    shown = tuple(Delivery.model_validate(_delivery(view)) for view in found[:limit])
    more = shown[-1].id if len(found) > limit else None
    return json_answer(DeliveryPage(deliveries=shown, next_cursor=more))


@router.get(
    "/deliveries/{delivery_id}",
    operation_id="get_webhook_delivery",
    summary="Look at a delivery",
    response_model=Delivery,
    responses=refusals(*CALLER, errors.NotFound, errors.InvalidRequest),
)
async def get_delivery(delivery_id: DeliveryId, services: TheServices, caller: Reader) -> Response:
    """Give a message with every try to deliver it and what the receiver answered."""
    view, tries = await services.db.read(
        lambda session: deliveries.get_delivery(session, delivery_id, owner=seen_owner(caller))
    )
    told = tuple(DeliveryTry.model_validate(asdict(one)) for one in tries)
    return json_answer(Delivery.model_validate({**_delivery(view), "tries": told}))


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    operation_id="redeliver_webhook",
    summary="Deliver again",
    status_code=202,
    response_model=Delivery,
    responses=refusals(*CALLER, errors.NotFound, errors.InvalidRequest),
)
async def redeliver(delivery_id: DeliveryId, services: TheServices, caller: Submitter) -> Response:
    """Send a message again now, with the same id and the same bytes, whatever became of it."""
    view = await services.db.write(
        lambda session: deliveries.redeliver(
            session, delivery_id, owner=seen_owner(caller), now=services.now()
        )
    )
    services.wake_deliveries()
    return json_answer(Delivery.model_validate(_delivery(view)), status=202)


def _delivery(view: DeliveryView) -> dict[str, Any]:
    """All but the owner, who is the caller, or is seen by an admin in the job."""
    return {name: value for name, value in asdict(view).items() if name != "owner"}
