"""The secret of a key and the log of its deliveries."""

from __future__ import annotations

from tests.apikit import World


async def test_a_key_has_a_secret_of_its_own_that_can_be_replaced(world: World) -> None:
    one, two = await world.key("submit"), await world.key("submit")
    first = (await world.http.get("/v1/webhooks/secret", headers=one)).json()["secret"]
    assert first.startswith("whsec_")
    assert (await world.http.get("/v1/webhooks/secret", headers=one)).json()["secret"] == first
    other = (await world.http.get("/v1/webhooks/secret", headers=two)).json()["secret"]
    assert other != first
    new = (await world.http.post("/v1/webhooks/secret/rotate", headers=one)).json()["secret"]
    assert new != first
    assert (await world.http.get("/v1/webhooks/secret", headers=one)).json()["secret"] == new


async def test_deliveries_are_listed_to_their_owner_page_by_page_and_sent_again(
    world: World,
) -> None:
    mine, other = await world.key("submit", "read"), await world.key("submit", "read")
    media = await world.media(**mine)
    hook = {"url": "https://hooks.invalid/x", "events": ["job.canceled"]}
    for _ in range(3):
        job = await world.job(media=media, webhook=hook, headers=mine)
        await world.http.post(f"/v1/jobs/{job['id']}/cancel", headers=mine)
    path = "/v1/webhooks/deliveries"
    first = (await world.http.get(path, params={"limit": 2}, headers=mine)).json()
    assert [one["event_type"] for one in first["deliveries"]] == ["job.canceled"] * 2
    assert first["deliveries"][0]["job_id"] == job["id"]
    rest = await world.http.get(
        path, params={"limit": 2, "cursor": first["next_cursor"]}, headers=mine
    )
    assert len(rest.json()["deliveries"]) == 1
    assert rest.json()["next_cursor"] is None
    about = await world.http.get(path, params={"job_id": job["id"]}, headers=mine)
    assert len(about.json()["deliveries"]) == 1
    one = f"{path}/{first['deliveries'][0]['id']}"
    shown = (await world.http.get(one, headers=mine)).json()
    assert shown["state"] in {"pending", "failed"}
    assert isinstance(shown["tries"], list)
    again = await world.http.post(f"{one}/redeliver", headers=mine)
    assert (again.status_code, again.json()["state"]) == (202, "pending")
    assert (await world.http.get(path, headers=other)).json()["deliveries"] == []
    assert (await world.http.get(one, headers=other)).status_code == 404
    assert (await world.http.post(f"{one}/redeliver", headers=other)).status_code == 404
