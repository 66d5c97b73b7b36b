"""Holds answers and message streams against the recordings."""

from __future__ import annotations

import difflib
import json
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.contract.normal import Names, headers, shape
from tests.contract.recording import Recording

Message = dict[str, Any]

MACHINE = {"/system_stats", "/api/system_stats"}
"""Answers about the machine: names and types are compared, not figures."""

NOT_SERVED = {"/extensions"}
"""JavaScript files of the frontend: nothing reads them without a browser."""

MID_RUN = {("08_reconnect_same_client", "first"), ("08_reconnect_same_client", "second")}
"""Sockets closed or opened in mid-run: how many steps they see depends on the moment."""

RACING = {"03_success_progress_previews", "14_same_prompt_id_twice"}
"""Prompts posted so close together that the counts in between depend on who is faster."""


def compare_answer(
    recording: Recording,
    event: Any,
    answer: httpx.Response,
    names: Names,
    size: int | None,
) -> None:
    """One HTTP answer: status, the headers that matter, and the body."""
    where = f"{event['method']} {event['path']}"
    path = urlsplit(event["path"]).path
    if path in NOT_SERVED:
        return
    assert answer.status_code == event["status"], f"{where}: {answer.text[:400]}"
    expected_headers = headers(event["response_headers"], size)
    actual = {name: answer.headers.get(name) for name in expected_headers}
    same(where, actual, expected_headers)
    for name in ("etag", "last-modified"):
        recorded = name in {header.lower() for header in event["response_headers"]}
        assert (name in answer.headers) == recorded, f"{where}: {name}"
    _compare_body(recording, event, answer, names, where)


def _compare_body(
    recording: Recording,
    event: Any,
    answer: httpx.Response,
    names: Names,
    where: str,
) -> None:
    recorded = event["response"]
    path = urlsplit(event["path"]).path
    if isinstance(recorded, dict) and recorded.get("binary"):
        expected = recorded["length"]
        if event["status"] == 206 and expected < 1000:
            assert len(answer.content) == expected, where
        else:
            assert len(answer.content) == int(answer.headers["content-length"]), where
        return
    if isinstance(recorded, str):
        assert answer.text == recorded, where
        return
    body = answer.json()
    if path in MACHINE:
        same(where, shape(body), shape(recorded))
        return
    if path == "/api/jobs" and event["status"] == 200:
        _compare_jobs(recorded, body, names, where, own=recording.name.startswith("03_"))
        return
    same(where, names.actual(body), names.expected(recorded))


def _compare_jobs(
    recorded: dict[str, Any], body: dict[str, Any], names: Names, where: str, *, own: bool
) -> None:
    """A list of jobs. The real server still knew jobs of other scenarios."""
    assert set(body) == set(recorded), where
    assert set(body["pagination"]) == set(recorded["pagination"]), where
    if own:
        known = set(names.ids)
        expected = [job for job in recorded["jobs"] if job["id"] in known]
        actual = [job for job in body["jobs"] if job["id"] in names.ids.values()]
        same(where, names.actual(actual), names.expected(expected))
        return
    same(where, [_keys(job) for job in body["jobs"]], [_keys(job) for job in recorded["jobs"]])


def _keys(job: dict[str, Any]) -> list[str]:
    return [job["status"], *sorted(job)]


def same(where: str, actual: Any, expected: Any) -> None:
    """Fail with the lines that differ, the recording's marked with a minus."""
    if actual == expected:
        return
    recorded, given = (
        json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).splitlines()
        for value in (expected, actual)
    )
    lines = list(difflib.unified_diff(recorded, given, "recorded", "stand-in", n=4, lineterm=""))
    raise AssertionError("\n".join([where, *lines[:60]]))


def compare_stream(
    recording: Recording,
    socket: str,
    recorded: list[Message],
    received: list[Message],
    names: Names,
) -> None:
    """All that one socket received, in order."""
    where = f"{recording.name}, socket {socket}"
    expected = [_essence(names.expected(_content(event))) for event in recorded]
    actual = [_essence(names.actual(event)) for event in received]
    cut_off = _cut_off(expected)
    if (recording.name, socket) in MID_RUN:
        assert any(_is_step(message) for message in actual), where
        expected = [message for message in expected if not _is_step(message)]
        actual = [message for message in actual if not _is_step(message)]
    expected = _without_steps(expected, cut_off)
    actual = _without_steps(actual, cut_off)
    same(where, _talk(actual), _talk(expected))
    _compare_status(recording, _status(expected), _status(actual), where)


def _compare_status(
    recording: Recording, expected: list[Message], actual: list[Message], where: str
) -> None:
    if recording.name in RACING:
        most = max(_remaining(message) for message in expected)
        same(where, actual[0], expected[0])
        same(where, [shape(m) for m in actual[1:2]], [shape(m) for m in expected[1:2]])
        assert all(0 <= _remaining(message) <= most for message in actual), where
    else:
        same(where, actual, expected)


def _remaining(message: Message) -> int:
    return int(message["data"]["status"]["exec_info"]["queue_remaining"])


def _content(event: Message) -> Message:
    if "binary" in event:
        kept = {"event_type", "metadata", "image_format", "image_magic_hex"}
        picture = {name: value for name, value in event["binary"].items() if name in kept}
        picture["image_magic_hex"] = picture["image_magic_hex"][:8]
        return {"binary": picture}
    return {"message": event["message"]}


def _essence(event: Message) -> Message:
    inner: Message = event.get("message", event)
    return inner


def _is_step(message: Message) -> bool:
    """A report from the middle of a node: progress, its state, or a preview."""
    if "binary" in message or message.get("type") == "progress":
        return True
    if message.get("type") != "progress_state":
        return False
    nodes = message["data"]["nodes"].values()
    return any(node["state"] == "running" and node["value"] > 0 for node in nodes)


def _cut_off(messages: list[Message]) -> set[str]:
    """Prompts that were interrupted, or whose server was killed: how far they got is a race."""

    def of(*kinds: str) -> set[str]:
        return {m["data"]["prompt_id"] for m in messages if m.get("type") in kinds}

    ended = of("execution_success", "execution_error")
    return of("execution_start") - ended


def _without_steps(messages: list[Message], prompts: set[str]) -> list[Message]:
    """An interrupt or a kill lands at whichever step comes next."""
    return [
        message
        for message in messages
        if not (_is_step(message) and message.get("data", {}).get("prompt_id") in prompts)
    ]


def _talk(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message.get("type") != "status"]


def _status(messages: list[Message]) -> list[Message]:
    """Status messages on their own: how they fall between the others is a race."""
    return [message for message in messages if message.get("type") == "status"]
