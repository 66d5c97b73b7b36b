"""Who gets in, what they may do, what they may see, and what a foreign page may not."""

from __future__ import annotations

import base64
from typing import Any

import httpx

from app.settings import Settings
from tests.apikit import World, opened

CALLS = [
    ("POST", "/v1/jobs", "submit"),
    ("GET", "/v1/jobs", "read"),
    ("POST", "/v1/uploads", "submit"),
    ("GET", "/v1/workflows", "read"),
    ("GET", "/v1/workflows/smoke", "read"),
    ("POST", "/v1/workflows/smoke/estimate", "read"),
    ("GET", "/v1/system", "read"),
    ("POST", "/v1/system/drain", "admin"),
    ("POST", "/v1/system/resume", "admin"),
    ("GET", "/v1/keys", "admin"),
    ("POST", "/v1/keys", "admin"),
    ("DELETE", "/v1/keys/x", "admin"),
    ("GET", "/v1/webhooks/secret", "submit"),
    ("POST", "/v1/webhooks/secret/rotate", "submit"),
    ("GET", "/v1/webhooks/deliveries", "read"),
    ("GET", "/metrics", "read"),
]


def code_of(answer: httpx.Response) -> str:
    return str(answer.json()["code"])


async def test_a_call_needs_its_scope(world: World) -> None:
    keys = {name: await world.key(name) for name in ("submit", "read", "admin")}
    for method, path, scope in CALLS:
        without = await world.http.request(method, path)
        assert (without.status_code, code_of(without)) == (401, "unauthorized")
        assert without.headers["www-authenticate"].startswith("Bearer")
        for name, headers in keys.items():
            answer = await world.http.request(method, path, headers=headers)
            allowed = name in {scope, "admin"}
            assert (answer.status_code == 403) is not allowed, (method, path, name)


async def test_every_operation_but_the_open_ones_asks_for_a_key(world: World) -> None:
    await world.key("read")
    for path, operations in world.app.openapi()["paths"].items():
        for method, operation in operations.items():
            asked = path.format(
                job_id="019ab0c2-7d4e-7c11-9f3a-2b6d5e8f1a40",
                name="smoke",
                upload_id="x",
                key_id="x",
                delivery_id="x",
            )
            answer = await world.http.request(method.upper(), asked)
            assert (answer.status_code == 401) is ("security" in operation), (method, path)


async def test_a_credential_that_is_none_is_refused(world: World) -> None:
    guessed = "Bearer sd_000000000000_" + "a" * 43
    for header in ("Bearer", "Bearer ", "Basic abc", "sd_x", guessed, "Bearer \xe9", ""):
        answer = await world.http.get(
            "/v1/jobs", headers=[(b"Authorization", header.encode("latin-1"))]
        )
        assert (answer.status_code, code_of(answer)) == (401, "unauthorized"), header


async def test_a_job_is_seen_by_its_key_and_by_admin_only(world: World) -> None:
    mine = await world.key("submit", "read")
    other = await world.key("submit", "read")
    admin = await world.key("admin")
    job = await world.job(headers=mine)
    await world.succeed(job["id"])
    base = f"/v1/jobs/{job['id']}"
    for method, path in (
        ("GET", base),
        ("GET", f"{base}/video"),
        ("HEAD", f"{base}/video"),
        ("GET", f"{base}/artifacts/graph"),
        ("GET", f"{base}/artifacts/request"),
        ("GET", f"{base}/events"),
        ("POST", f"{base}/cancel"),
        ("POST", f"{base}/rerun"),
        ("DELETE", base),
    ):
        answer = await world.http.request(method, path, headers=other)
        assert answer.status_code == 404, (method, path)
    assert (await world.http.get("/v1/jobs", headers=other)).json()["jobs"] == []
    for headers in (mine, admin):
        assert (await world.http.get(base, headers=headers)).status_code == 200
        (listed,) = (await world.http.get("/v1/jobs", headers=headers)).json()["jobs"]
        session = (await world.http.get("/v1/session", headers=mine)).json()
        assert listed["key_id"] == session["key_id"] is not None


async def test_an_idempotency_key_is_its_owners_own(world: World) -> None:
    one, two = await world.key("submit", "read"), await world.key("submit", "read")
    first = await world.job(headers={**one, "Idempotency-Key": "k"})
    second = await world.job(headers={**two, "Idempotency-Key": "k"})
    assert first["id"] != second["id"]


async def test_a_key_is_shown_once_listed_without_its_secret_and_revoked_at_once(
    world: World,
) -> None:
    admin = await world.key("admin", name="root")
    made = await world.http.post(
        "/v1/keys", json={"name": "phone", "scopes": ["read"]}, headers=admin
    )
    assert made.status_code == 201
    secret, key_id = made.json()["key"], made.json()["id"]
    phone = {"Authorization": f"Bearer {secret}"}
    assert (await world.http.get("/v1/jobs", headers=phone)).status_code == 200
    listed = await world.http.get("/v1/keys", headers=admin)
    assert {key["name"] for key in listed.json()["keys"]} == {"root", "phone"}
    assert secret not in listed.text
    gone = await world.http.delete(f"/v1/keys/{key_id}", headers=admin)
    assert gone.json()["revoked_at"] is not None
    assert (await world.http.get("/v1/jobs", headers=phone)).status_code == 401


async def test_a_key_needs_a_name_and_known_scopes(world: World) -> None:
    bodies: list[dict[str, Any]] = [
        {},
        {"name": ""},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "x" * 65},
        {"name": "x", "scopes": "read"},
    ]
    for body in bodies:
        answer = await world.http.post("/v1/keys", json=body)
        assert (answer.status_code, code_of(answer)) == (422, "invalid-request"), body
    assert await world.count("api_key") == 0


async def test_on_loopback_the_first_key_ends_the_open_house(world: World) -> None:
    assert (await world.http.get("/v1/jobs")).status_code == 200
    made = await world.http.post("/v1/keys", json={"name": "root", "scopes": ["admin"]})
    assert made.status_code == 201
    assert (await world.http.get("/v1/jobs")).status_code == 401
    headers = {"Authorization": f"Bearer {made.json()['key']}"}
    assert (await world.http.get("/v1/jobs", headers=headers)).status_code == 200


async def test_elsewhere_there_is_no_open_house(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    public = settings.model_copy(update={"host": "0.0.0.0", "make_first_key": True})
    async with opened(public, photo, dance) as world:
        assert (await world.http.get("/v1/jobs")).status_code == 401
        ready = await world.http.get("/readyz")
        assert ready.json()["checks"] == []


async def test_without_keys_only_names_of_this_machine_are_answered(world: World) -> None:
    for host in ("evil.example", "evil.example:80", "10.0.0.1", "", "localhost.x", "[::2]"):
        answer = await world.http.get("/v1/jobs", headers={"Host": host})
        assert (answer.status_code, code_of(answer)) == (403, "forbidden"), host
    for host in ("localhost", "localhost:8000", "127.0.0.1:9", "[::1]:80", "me.localhost"):
        assert (await world.http.get("/v1/jobs", headers={"Host": host})).status_code == 200, host


async def test_a_foreign_page_cannot_submit_through_a_browser(world: World) -> None:
    before = await world.count("upload")
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:1"},
    ):
        answer = await world.http.post("/v1/uploads", content=world.photo, headers=headers)
        assert (answer.status_code, code_of(answer)) == (403, "forbidden"), headers
    assert await world.count("upload") == before
    own = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    answer = await world.http.post("/v1/uploads", content=world.photo, headers=own)
    assert answer.status_code == 201


async def test_a_session_stands_for_its_key_and_ends_with_it(world: World) -> None:
    key = await world.key("submit", "read")
    made = await world.http.post("/v1/session", headers=key)
    assert made.status_code == 201
    cookie = made.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert (await world.http.get("/v1/jobs")).status_code == 200, "by the cookie"
    assert (await world.http.get("/v1/session")).json()["scopes"] == ["read", "submit"]
    answer = await world.http.post(
        "/v1/uploads", content=world.photo, headers={"Origin": "https://evil.example"}
    )
    assert answer.status_code == 403, "a cookie alone does not speak for a foreign page"
    again = await world.http.post("/v1/session")
    assert again.status_code == 401, "a session does not renew itself"
    world.http.cookies.set("steadydancer_session", made.cookies["steadydancer_session"])
    assert (await world.http.delete("/v1/session")).status_code == 204
    assert (await world.http.get("/v1/jobs")).status_code == 401


async def test_a_session_ends_with_its_key(world: World) -> None:
    admin, key = await world.key("admin"), await world.key("read", name="gone")
    await world.http.post("/v1/session", headers=key)
    found = (await world.http.get("/v1/keys", headers=admin)).json()["keys"]
    key_id = next(one["id"] for one in found if one["name"] == "gone")
    await world.http.delete(f"/v1/keys/{key_id}", headers=admin)
    assert (await world.http.get("/v1/jobs")).status_code == 401


async def test_the_cookie_of_a_public_https_gateway_is_secure(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    public = settings.model_copy(update={"public_url": "https://gateway.example"})
    async with opened(public, photo, dance) as world:
        made = await world.http.post("/v1/session", headers=await world.key("read"))
        assert "Secure" in made.headers["set-cookie"]


async def test_the_proxy_lets_admins_through_and_asks_browsers_for_the_key(world: World) -> None:
    admin, reader = await world.key("admin"), await world.key("read")
    path = "/v1/proxy-auth"

    def basic(headers: dict[str, str]) -> dict[str, str]:
        secret = headers["Authorization"].partition(" ")[2]
        return {"Authorization": "Basic " + base64.b64encode(f"me:{secret}".encode()).decode()}

    assert (await world.http.get(path, headers=admin)).status_code == 204
    assert (await world.http.get(path, headers=basic(admin))).status_code == 204
    assert (await world.http.get(path, headers=basic(reader))).status_code == 403
    for headers in ({}, {"Authorization": "Basic !!!"}, {"Authorization": "Basic bWU6eA=="}):
        answer = await world.http.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
    forged = {**basic(admin), "Origin": "https://evil.example", "X-Forwarded-Host": "pod:8188"}
    assert (await world.http.get(path, headers=forged)).status_code == 403
    own = {**basic(admin), "Origin": "http://pod:8188", "X-Forwarded-Host": "pod:8188"}
    assert (await world.http.get(path, headers=own)).status_code == 204


async def test_forwarding_headers_of_strangers_change_nothing(world: World) -> None:
    headers = {
        "Host": "evil.example",
        "X-Forwarded-Host": "localhost",
        "X-Forwarded-For": "127.0.0.1",
        "Forwarded": "for=127.0.0.1;host=localhost",
    }
    assert (await world.http.get("/v1/jobs", headers=headers)).status_code == 403


async def test_a_key_that_asks_too_often_is_told_when_to_come_back(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    slow = settings.model_copy(update={"requests_per_minute": 3})
    async with opened(slow, photo, dance) as world:
        key, other = await world.key("read"), await world.key("read")
        for _ in range(3):
            assert (await world.http.get("/v1/jobs", headers=key)).status_code == 200
        answer = await world.http.get("/v1/jobs", headers=key)
        assert (answer.status_code, code_of(answer)) == (429, "rate-limited")
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert (await world.http.get("/v1/jobs", headers=other)).status_code == 200


async def test_a_key_has_only_so_many_queued_jobs(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    few = settings.model_copy(update={"queued_jobs_per_key": 1})
    async with opened(few, photo, dance) as world:
        key = await world.key("submit", "read")
        media = await world.media(**key)
        job = await world.job(media=media, headers=key)
        body = {"workflow": "smoke", "request": media}
        answer = await world.http.post("/v1/jobs", json=body, headers=key)
        assert (answer.status_code, code_of(answer)) == (429, "rate-limited")
        await world.http.post(f"/v1/jobs/{job['id']}/cancel", headers=key)
        assert (await world.http.post("/v1/jobs", json=body, headers=key)).status_code == 202


async def test_pages_of_other_origins_are_not_answered_unless_listed(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    ask = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    async with opened(settings, photo, dance) as world:
        closed = await world.http.options("/v1/jobs", headers=ask)
        assert "access-control-allow-origin" not in closed.headers
        plain = await world.http.get("/v1/jobs", headers={"Origin": "https://app.example"})
        assert "access-control-allow-origin" not in plain.headers
    listed = settings.model_copy(update={"cors_origins": ("https://app.example",)})
    async with opened(listed, photo, dance) as world:
        allowed = await world.http.options("/v1/jobs", headers=ask)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in allowed.headers
        posted = await world.http.post(
            "/v1/uploads", content=world.photo, headers={"Origin": "https://app.example"}
        )
        assert posted.status_code == 201
        ask["Origin"] = "https://evil.example"
        refused = await world.http.options("/v1/jobs", headers=ask)
        assert "access-control-allow-origin" not in refused.headers


async def test_every_answer_carries_the_security_headers(world: World) -> None:
    for path in ("/v1/jobs", "/v1/nothing", "/healthz", "/openapi.json"):
        answer = await world.http.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src" in answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"]
