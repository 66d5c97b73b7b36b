"""Jobs from the command line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.client import GatewayClient
from tests.chaos.processes import until
from tests.cli.conftest import Command, as_process
from tests.clikit import Ended
from tests.livekit import DANCE, PHOTO, Live, environment

MEDIA = ("-i", str(PHOTO), "-v", str(DANCE))
SMOKE = ("submit", "-w", "smoke", *MEDIA, "--set", "frames=5")


def said(run: Ended) -> Any:
    """What a command printed as JSON."""
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_one_command_makes_the_mp4(steadydancer: Command, tmp_path: Path) -> None:
    run = steadydancer(*SMOKE, "-o", "out.mp4", "-m", "who=me")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out.mp4").read_bytes()[4:8] == b"ftyp"
    assert "out.mp4: 64 x 112, 6 frames at 16 per second" in run.stderr
    job = said(steadydancer("status", run.stdout.strip(), "--json"))
    assert (job["status"], job["metadata"]) == ("succeeded", {"who": "me"})
    assert job["request"]["frames"] == 5


def test_detached_the_job_is_printed_and_can_be_watched(steadydancer: Command) -> None:
    job = said(steadydancer(*SMOKE, "--detach", "--json"))
    watched = steadydancer("watch", job["id"])
    assert watched.returncode == 0, watched.stderr
    assert watched.stderr.splitlines()[-1] == "succeeded"


def test_watching_as_json_prints_the_events(steadydancer: Command) -> None:
    job = steadydancer(*SMOKE, "-d").stdout.strip()
    run = steadydancer("watch", job, "--json")
    events = [json.loads(line) for line in run.stdout.splitlines()]
    assert events[0]["type"] == "job.queued"
    assert events[-1]["type"] == "job.succeeded"
    assert run.returncode == 0


def test_watching_all_as_json_prints_each_job_whenever_it_changed(
    steadydancer: Command,
) -> None:
    jobs = {steadydancer(*SMOKE, "--detach").stdout.strip() for _ in range(2)}
    run = steadydancer("watch", "--json", *jobs)
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    last = {line["id"]: line["status"] for line in lines}
    assert last == dict.fromkeys(jobs, "succeeded")
    assert all(one != other for one, other in pairwise(lines))


def test_watching_all_ends_when_all_have_ended(steadydancer: Command, gateway: Live) -> None:
    jobs = [steadydancer(*SMOKE, "-d").stdout.strip() for _ in range(2)]
    run = steadydancer("watch")
    assert run.returncode == 0, run.stderr
    with GatewayClient(gateway.url) as client:
        assert {client.get(job).status for job in jobs} == {"succeeded"}


def test_a_wrong_field_is_named_and_nothing_else_is_said(steadydancer: Command) -> None:
    run = steadydancer("submit", *MEDIA, "-p", "hi", "--set", "width=481", "--set", "height=832")
    assert run.returncode == 2
    assert run.stdout == ""
    assert "/request/width  width is 481; it must be" in run.stderr
    assert "The nearest allowed values are 480 and 496." in run.stderr


def test_a_refusal_can_be_read_as_json(steadydancer: Command) -> None:
    run = steadydancer("submit", *MEDIA, "--json")
    problem = json.loads(run.stderr[run.stderr.index("{") :])
    assert run.returncode == 2
    assert problem["errors"][0]["pointer"] == "/request/prompt"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("submit", "-i", "nowhere.jpg"), "There is no file nowhere.jpg"),
        (("submit", *MEDIA, "--set", "frames"), "is not NAME=VALUE"),
        (("submit", *MEDIA, "--priority", "1000"), "--priority"),
        (("submit", *MEDIA, "--request", "nowhere.json"), "nowhere.json"),
        (("submit", *MEDIA, "-m", "a b=c"), "/metadata"),
        (("status", "not-an-id"), "no job 'not-an-id'"),
        (("status", "../keys"), "is no id"),
        (("dance",), "No such command"),
        (("workflows", "show", "nothing"), "No workflow is called"),
        (("--url", "x"), "No such option"),
        (("system", "--url", "x"), "No such command"),
        (("list", "--url", "nonsense"), "is no URL of a gateway"),
    ],
)
def test_wrong_usage_is_told_in_words(
    steadydancer: Command, words: tuple[str, ...], told: str
) -> None:
    run = steadydancer(*words)
    assert run.returncode == 2
    assert told in run.stderr


def test_a_failed_job_is_told_with_its_reason(steadydancer: Command, gateway: Live) -> None:
    wrong = {"mode": "raise", "times": 1}
    httpx.post(f"{gateway.engine_url}/standin/misbehave", json=wrong).raise_for_status()
    run = steadydancer(*SMOKE)
    assert run.returncode == 1
    assert "(execution-error, node " in run.stderr
    again = steadydancer("watch", run.stdout.strip())
    assert again.returncode == 1
    shown = again.stderr.splitlines()
    assert shown[1] == "failed", "what lies behind is not told as if it went on"
    assert steadydancer("cancel", run.stdout.strip()).stdout == "The job had ended first: failed.\n"


def test_a_canceled_job_has_an_exit_code_of_its_own(steadydancer: Command, gateway: Live) -> None:
    with GatewayClient(gateway.url) as client:
        client.drain()
        try:
            job = steadydancer(*SMOKE, "-d").stdout.strip()
            assert steadydancer("cancel", job).stdout == "The job is canceled.\n"
        finally:
            client.resume()
    assert steadydancer("watch", job).returncode == 4


def test_the_view_of_the_whole_begins_with_what_starts_next(
    steadydancer: Command, gateway: Live
) -> None:
    with GatewayClient(gateway.url) as client:
        client.drain()
        try:
            low, high = (
                steadydancer(*SMOKE, "-d", "--priority", priority).stdout.strip()
                for priority in ("-1", "7")
            )
            shown = steadydancer("status").stdout
            assert "2 queued" in shown
            rows = [line.split()[0] for line in shown.splitlines() if line.startswith((low, high))]
            assert rows == [high, low]
            for job in (low, high):
                assert steadydancer("cancel", job).returncode == 0
        finally:
            client.resume()


def test_ctrl_c_leaves_the_job_and_says_how_to_go_on(gateway: Live, tmp_path: Path) -> None:
    with GatewayClient(gateway.url) as client:
        client.drain()
        try:
            log = tmp_path / "stderr"
            with log.open("w") as stderr:
                waiting = subprocess.Popen(
                    [sys.executable, "-m", "app.cli", *SMOKE],
                    env=environment(STEADYDANCER_URL=gateway.url),
                    stderr=stderr,
                    stdout=subprocess.DEVNULL,
                )
            until(lambda: "waiting" in log.read_text(), what="the job waits")
            waiting.send_signal(signal.SIGINT)
            assert waiting.wait(60) == 130
            text = log.read_text()
            job_id = text.partition("steadydancer watch ")[2].split()[0]
            assert client.get(job_id).status == "queued"
            assert "Traceback" not in text
            client.cancel(job_id)
        finally:
            client.resume()


def test_a_download_does_not_replace_another_file(steadydancer: Command, tmp_path: Path) -> None:
    job = steadydancer(*SMOKE).stdout.strip()
    target = tmp_path / "mine.mp4"
    target.write_text("precious")
    run = steadydancer("download", job, "-o", "mine.mp4")
    assert run.returncode == 2
    assert target.read_text() == "precious"
    run = steadydancer("download", job, "-o", "mine.mp4", "--force")
    assert run.returncode == 0
    again = steadydancer("download", job, "-o", "mine.mp4", "--json")
    assert said(again)["bytes"] == target.stat().st_size


def test_other_artifacts_can_be_had(steadydancer: Command, tmp_path: Path) -> None:
    job = steadydancer(*SMOKE).stdout.strip()
    assert steadydancer("download", job, "-a", "poster").returncode == 0
    assert (tmp_path / f"{job}-poster.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert said(steadydancer("download", job, "-a", "request"))["frames"] == 5
    assert said(steadydancer("download", job, "-a", "graph"))


def test_rerun_list_and_delete(steadydancer: Command) -> None:
    job = steadydancer(*SMOKE, "-m", "run=rerun").stdout.strip()
    again = said(steadydancer("rerun", job, "--set", "frames=9", "--json"))
    assert again["request"]["frames"] == 9
    listed = steadydancer("list", "-m", "run=rerun", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in listed] == [again["id"], job]
    assert said(steadydancer("delete", job, "--json")) == {"deleted": job}
    assert steadydancer("status", job).returncode == 2


def test_an_idempotency_key_of_ones_own_gives_the_same_job(steadydancer: Command) -> None:
    words = (*SMOKE, "-d", "--idempotency-key", "order-1729")
    assert steadydancer(*words).stdout == steadydancer(*words).stdout


def test_the_view_of_the_whole(steadydancer: Command) -> None:
    run = steadydancer("status")
    assert run.returncode == 0, run.stderr
    assert re.search(r"\d running · \d queued", run.stdout)
    assert "ComfyUI 0.28.1 ready" in run.stdout
    assert "admission: off" in run.stdout
    assert said(steadydancer("status", "--json"))["admission"] == "off"


def test_a_job_in_words(steadydancer: Command) -> None:
    job = steadydancer(*SMOKE).stdout.strip()
    run = steadydancer("status", job)
    assert f"job                {job}" in run.stdout
    assert "made video" in run.stdout
    assert job in steadydancer("list", "--status", "succeeded").stdout


@pytest.mark.parametrize("words", [("status",), ("submit", *MEDIA, "-p", "hi")])
def test_nobody_there_has_an_exit_code_of_its_own(tmp_path: Path, words: tuple[str, ...]) -> None:
    run = as_process(tmp_path, *words, "--url", "http://127.0.0.1:9")
    assert run.returncode == 3
    assert "cannot be reached" in run.stderr
    assert "Traceback" not in run.stderr


def test_requests_can_come_from_standard_input(steadydancer: Command) -> None:
    body = json.dumps({"frames": 5, "width": 96})
    run = steadydancer(
        "submit",
        "-w",
        "smoke",
        *MEDIA,
        "--request",
        "-",
        "--set",
        "width=128",
        "-d",
        "--json",
        stdin=body,
    )
    request = said(run)["request"]
    assert (request["frames"], request["width"]) == (5, 128)


def test_a_key_is_sent(steadydancer: Command) -> None:
    run = steadydancer("list", "--key", "sd_wrong")
    assert run.returncode == 2
    assert "unauthorized" in run.stderr


def test_the_price_of_a_request(steadydancer: Command) -> None:
    words = ("workflows", "estimate", "steadydancer", "--request", "-")
    run = steadydancer(*words, stdin='{"prompt": "a dancer"}')
    assert re.search(r"memory  [\d,]+ MiB \(by formula\): nobody knows", run.stdout)
    price = said(steadydancer(*words, "--json", stdin='{"prompt": "a dancer"}'))
    assert price["request"]["width"] == 480
