"""Keys, the dashboard's sessions, and the question of the reverse proxy."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Path, Request, Response

from app import errors
from app.access import keys, sessions
from app.access.keys import KeyView
from app.access.scopes import Scope, require
from app.api.answers import BODY, CALLER, json_answer, json_body, refusals
from app.api.body import read_model
from app.api.deps import Admin, Reader, TheDoorman, TheServices
from app.api.doorman import COOKIE, session_token
from app.api.examples import KEY
from app.api.models import CreatedKey, Key, KeyList, NewKey, Session
from app.api.problems import of_error
from app.errors import Conflict, Forbidden, Unauthorized

router = APIRouter(tags=["access"])


# --- keys ----------------------------------------------------------------------------------------


@router.get(
    "/v1/keys",
    operation_id="list_keys",
    summary="List the API keys",
    response_model=KeyList,
    responses=refusals(*CALLER),
)
async def list_keys(services: TheServices, _caller: Admin) -> Response:
    """Give every key without its secret, revoked ones included."""
    found = await services.db.read(keys.list_keys)
    return json_answer(KeyList(keys=tuple(Key.model_validate(_key(view)) for view in found)))


@router.post(
    "/v1/keys",
    operation_id="create_key",
    summary="Make an API key",
    status_code=201,
    response_model=CreatedKey,
    responses=refusals(*CALLER, *BODY),
    openapi_extra={"requestBody": json_body("NewKey", **KEY)},
)
async def create_key(
    request: Request, services: TheServices, doorman: TheDoorman, _caller: Admin
) -> Response:
    """Make a key. Its secret is in this answer and nowhere else.

    On a gateway that needed no key so far, the first one ends that: from then on every call needs
    one. Make the first with the scope `admin`.
    """
    asked = await read_model(request, NewKey, limit=services.limits.max_body_bytes)
    made = await services.db.write(
        lambda session: keys.create(
            session,
            name=asked.name,
            scopes=[Scope(scope) for scope in asked.scopes],
            now=services.now(),
        )
    )
    doorman.keys_changed()
    answer = CreatedKey.model_validate({**_key(made.view), "key": made.key})
    return json_answer(answer, status=201)


@router.delete(
    "/v1/keys/{key_id}",
    operation_id="revoke_key",
    summary="Revoke an API key",
    response_model=Key,
    responses=refusals(*CALLER, errors.NotFound),
)
async def revoke_key(
    key_id: Annotated[str, Path(examples=["8f2c0a1b9d3e"])],
    services: TheServices,
    doorman: TheDoorman,
    _caller: Admin,
) -> Response:
    """End a key and its sessions at once. Its jobs stay, and are seen by `admin` keys."""
    view = await services.authenticator.revoke(key_id)
    doorman.keys_changed()
    services.feed.publish_all()  # streams of this key end now
    return json_answer(Key.model_validate(_key(view)))


def _key(view: KeyView) -> dict[str, Any]:
    return {
        "id": view.id,
        "name": view.name,
        "scopes": tuple(scope.value for scope in view.scopes),
        "created_at": view.created_at,
        "revoked_at": view.revoked_at,
        "last_used_at": view.last_used_at,
    }


# --- sessions ------------------------------------------------------------------------------------


@router.post(
    "/v1/session",
    operation_id="open_session",
    summary="Exchange a key for a cookie",
    status_code=201,
    response_model=Session,
    responses=refusals(*CALLER, errors.Conflict),
)
async def open_session(request: Request, services: TheServices, caller: Reader) -> Response:
    """Open a session of the dashboard: send the key as Bearer, and get a cookie for twelve hours.

    The cookie is for what a browser loads by itself: videos and event streams. It ends with the
    key.
    """
    key_id = caller.id
    if key_id is None:
        raise Conflict("This gateway needs no key, so there is nothing to sign in with.")
    if request.headers.get("authorization") is None:
        raise Unauthorized("Send the key itself as `Authorization: Bearer KEY`.")
    opened = await services.db.write(
        lambda session: sessions.open_session(session, key_id=key_id, now=services.now())
    )
    answer = json_answer(
        Session(
            name=caller.name,
            scopes=tuple(scope.value for scope in sorted(caller.scopes)),
            key_id=key_id,
            expires_at=opened.expires_at,
        ),
        status=201,
    )
    answer.set_cookie(
        COOKIE,
        opened.token,
        max_age=int(sessions.LIFETIME.total_seconds()),
        path="/",
        secure=(services.public_url or "").startswith("https:"),
        httponly=True,
        samesite="strict",
    )
    return answer


@router.get(
    "/v1/session",
    operation_id="get_session",
    summary="Say who is calling",
    response_model=Session,
    responses=refusals(*CALLER),
)
async def get_session(caller: Reader) -> Response:
    """Give the name and scopes of the caller, whichever way it came."""
    scopes = tuple(scope.value for scope in sorted(caller.scopes))
    return json_answer(Session(name=caller.name, scopes=scopes, key_id=caller.id))


@router.delete(
    "/v1/session",
    operation_id="close_session",
    summary="Sign out",
    status_code=204,
    response_class=Response,
    responses=refusals(errors.Forbidden, errors.StoreUnavailable),
)
async def close_session(request: Request, services: TheServices, doorman: TheDoorman) -> Response:
    """End the session of the cookie, if there is one, and have the browser forget it."""
    doorman.same_site(request)
    token = session_token(request)
    if token is not None:
        await services.authenticator.close_session(token)
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


# --- the reverse proxy ---------------------------------------------------------------------------


@router.get("/v1/proxy-auth", include_in_schema=False)
async def proxy_auth(request: Request, services: TheServices, doorman: TheDoorman) -> Response:
    """Say whether the reverse proxy may let a request through to ComfyUI's own page.

    That page can run anything, so only `admin` may. A browser is asked for a name (any) and a
    password (the key), since the session's cookie need not belong to the proxy's host.
    """
    try:
        _same_origin(request)
        authorization = request.headers.get("authorization", "")
        if authorization.lower().startswith("basic "):
            caller = await services.authenticator.authenticate(_password(authorization))
        else:
            caller = await doorman.caller(request)
        require(caller, Scope.ADMIN)
    except Unauthorized as error:
        return of_error(error, headers={"WWW-Authenticate": 'Basic realm="ComfyUI"'})
    return Response(status_code=204)


def _same_origin(request: Request) -> None:
    """Refuse what another site's page sends: a browser adds the password by itself."""
    origin = request.headers.get("origin")
    host = request.headers.get("x-forwarded-host", request.headers.get("host"))
    if origin is not None and urlsplit(origin).netloc != host:
        raise Forbidden("A page of another site sent this.")


def _password(authorization: str) -> str:
    try:
        text = base64.b64decode(authorization[6:].strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError) as error:
        raise Unauthorized("The Authorization header cannot be read.") from error
    return text.partition(":")[2]
