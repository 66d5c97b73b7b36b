"""The real nginx with the real template, in front of a small engine and a small gateway."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import connect
from websockets.sync.server import Server, ServerConnection, serve

from tests.docker.programs import program
from tests.ports import free_port

TEMPLATE = Path(__file__).resolve().parents[2] / "docker" / "proxy.conf.template"
ADMIN = {"Authorization": "Bearer admin-key"}
BASIC = "Basic " + base64.b64encode(b"any:admin-key").decode()


class Asked(BaseHTTPRequestHandler):
    """The gateway's answer to the proxy's question, and a note of what was asked."""

    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.seen.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        credential = self.headers.get("Authorization", "")
        if credential in {ADMIN["Authorization"], BASIC}:
            self.send_response(204)
        elif credential:
            self.send_response(403)
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="ComfyUI"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


def headers_of(connection: ServerConnection, request: Request) -> Response | None:
    """Answer plain HTTP with the headers that arrived; let a websocket through."""
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return None
    body = json.dumps({key.lower(): value for key, value in request.headers.raw_items()})
    return connection.respond(HTTPStatus.OK, body)


def echo(connection: ServerConnection) -> None:
    request = connection.request
    assert request is not None
    connection.send(json.dumps({k.lower(): v for k, v in request.headers.raw_items()}))
    for message in connection:
        connection.send(message)


class Proxied:
    """A running proxy and what stands behind it."""

    def __init__(self, url: str, asked: list[dict[str, str]], gateway: ThreadingHTTPServer) -> None:
        self.url = url
        self.asked = asked
        self.gateway = gateway


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Proxied]:
    nginx = program("nginx", "nginx-light")
    asked: list[dict[str, str]] = []
    handler = type("Handler", (Asked,), {"seen": asked})
    gateway = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    engine: Server = serve(echo, "127.0.0.1", 0, process_request=headers_of)
    threads = [Thread(target=one.serve_forever) for one in (gateway, engine)]
    for thread in threads:
        thread.start()
    port = free_port()
    places = {
        "@RUN@": str(tmp_path),
        "@PAGE_PORT@": f"127.0.0.1:{port}",
        "@GATEWAY@": f"127.0.0.1:{gateway.server_port}",
        "@ENGINE@": f"127.0.0.1:{engine.socket.getsockname()[1]}",
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for place, value in places.items():
        text = text.replace(place, value)
    config = tmp_path / "proxy.conf"
    config.write_text(text, encoding="utf-8")
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen([nginx, "-c", str(config)], stdout=log, stderr=log)
    try:
        wait_for(port, child, tmp_path / "log")
        yield Proxied(f"http://127.0.0.1:{port}", asked, gateway)
    finally:
        child.terminate()
        child.wait(timeout=60)
        engine.shutdown()
        gateway.shutdown()
        for thread in threads:
            thread.join(timeout=10)
        gateway.server_close()


def wait_for(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert child.poll() is None, log.read_text(encoding="utf-8")
        with socket.socket() as trying:
            if trying.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(log.read_text(encoding="utf-8"))


def test_without_a_key_a_browser_is_asked_for_one(proxied: Proxied) -> None:
    answer = httpx.get(f"{proxied.url}/object_info")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="ComfyUI"'


def test_a_key_that_is_no_admins_is_turned_away(proxied: Proxied) -> None:
    answer = httpx.get(f"{proxied.url}/", headers={"Authorization": "Bearer other"})
    assert answer.status_code == 403


@pytest.mark.parametrize("credential", [ADMIN["Authorization"], BASIC])
def test_an_admin_passes_and_no_credential_reaches_the_engine(
    proxied: Proxied, credential: str
) -> None:
    sent = {
        "Authorization": credential,
        "Cookie": "steadydancer_session=secret",
        "Origin": proxied.url,
        "Sec-Fetch-Site": "same-origin",
    }
    answer = httpx.get(f"{proxied.url}/view?filename=a%20b.png", headers=sent)
    assert answer.status_code == 200
    arrived = answer.json()
    assert not {"authorization", "cookie", "origin", "sec-fetch-site"} & set(arrived)
    assert proxied.asked[-1]["path"] == "/v1/proxy-auth"


def test_the_gateway_hears_the_origin_and_the_hosts_true_name(proxied: Proxied) -> None:
    sent = {**ADMIN, "Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"}
    httpx.get(proxied.url, headers=sent)
    asked = proxied.asked[-1]
    assert asked["origin"] == "https://evil.example"
    assert asked["x-forwarded-host"] == proxied.url.removeprefix("http://")


def test_a_websocket_passes_with_a_key(proxied: Proxied) -> None:
    url = proxied.url.replace("http", "ws", 1) + "/ws?clientId=a"
    with connect(url, additional_headers=ADMIN, proxy=None) as socket_:
        arrived = json.loads(socket_.recv(timeout=60))
        socket_.send(b"preview" * 1000)
        assert socket_.recv(timeout=60) == b"preview" * 1000
    assert "authorization" not in arrived


def test_a_websocket_without_a_key_is_refused(proxied: Proxied) -> None:
    url = proxied.url.replace("http", "ws", 1) + "/ws"
    with pytest.raises(InvalidStatus) as refused, connect(url, proxy=None):
        pass
    assert refused.value.response.status_code == 401


def test_the_question_itself_cannot_be_asked_from_outside(proxied: Proxied) -> None:
    assert httpx.get(f"{proxied.url}/_who_may_pass", headers=ADMIN).status_code == 404


def test_while_the_gateway_is_gone_nobody_passes(proxied: Proxied) -> None:
    proxied.gateway.shutdown()
    proxied.gateway.socket.close()
    assert httpx.get(proxied.url, headers=ADMIN).status_code == 500
