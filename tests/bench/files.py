"""Large files: mp4 downloads beside nginx, ranges, uploads; rate and memory."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

from tests.bench.kit import Lab, MemoryWatch, Served
from tests.bench.load import Seen, drive, get
from tests.bench.seed import fill, store_video
from tests.bench.table import Figure, Goal, Row, ms_of, number, spread_of
from tests.chaos.processes import SAMPLES, until
from tests.ports import free_port

_MIB = 1 << 20
_CONF = """daemon off; error_log {folder}/error.log; pid {folder}/nginx.pid; worker_processes 1;
events {{}}
http {{
  access_log off; sendfile on; tcp_nopush on; types {{ video/mp4 mp4; }}
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


def download_rows(lab: Lab) -> list[Row]:
    """Downloads of three sizes and a range in the largest, each beside nginx with the same file."""
    found = []
    for mib in lab.sizes.downloads_mib:
        directory, folder = lab.folder("gateway"), lab.folder("nginx")
        path = folder / "video.mp4"
        padded(path, mib * _MIB)
        job_id = fill(directory, 20)[-1]
        store_video(directory, job_id, path)
        with lab.gateway(directory=directory) as served:
            found += _downloads(lab, served, f"/v1/jobs/{job_id}/video", folder, mib)
    return found


def _downloads(lab: Lab, served: Served, path: str, folder: Path, mib: int) -> list[Row]:
    size = mib * _MIB
    assert served.call("HEAD", path)[1]["content-length"] == str(size)
    middle = f"bytes={size // 2}-{size // 2 + _MIB - 1}"
    count = max(2, min(100, 256 // mib))
    ours: list[float] = []
    theirs: list[float] = []
    # First, while the gateway is fresh, and apart: who samples takes time from who serves.
    with MemoryWatch(served.pid) as memory:
        for _ in range(lab.sizes.repeats):
            drive(served.url, [get(path)], count=count).only(200)
    with nginx(folder) as (url, reason):
        for _ in range(lab.sizes.repeats):
            ours.append(_rate(drive(served.url, [get(path)], count=count).only(200)))
            if url:
                theirs.append(_rate(drive(url, [get("/video.mp4")], count=count).only(200)))
        ranges = drive(served.url, [get(path, Range=middle)], count=100).only(206)
        near = drive(url, [get("/video.mp4", Range=middle)], count=100).only(206) if url else None
    rate, other = spread_of(ours, "MB/s"), spread_of(theirs, "MB/s") if theirs else None
    largest = mib == max(lab.sizes.downloads_mib)
    goal = None
    if largest and other is not None:
        goal = Goal("≥ 60 % of nginx", rate.median >= 0.6 * other.median)
    missing = f"nginx was not run: {reason}" if reason else ""
    rows = [
        Row(
            name=f"mp4 download, {mib} MiB",
            figure=rate,
            versus="nginx, the same file",
            versus_figure=other,
            goal=goal,
            note=missing
            or "One client, which reads and throws away. The file is a real mp4 with a `free` box "
            "that fills it up.",
        )
    ]
    if largest:
        rows += [
            Row(
                name=f"memory grown by downloading {mib} MiB",
                figure=Figure(memory.growth, f"most, {count * lab.sizes.repeats} runs", "MiB"),
                goal=Goal("≤ 20 MB", memory.growth * 1.048576 <= 20),
                note="The gateway's own process, from its start on.",
            ),
            Row(
                name=f"range of 1 MiB in the middle of {mib} MiB",
                figure=ms_of(ranges.latencies),
                versus="nginx, the same range",
                versus_figure=None if near is None else ms_of(near.latencies),
                note=missing,
            ),
        ]
    return rows


def _rate(seen: Seen) -> float:
    """MB (10^6 bytes) a second."""
    return seen.body_bytes / seen.seconds / 1e6


@contextmanager
def nginx(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve a folder by nginx: its address, or why there is none."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        yield "", "it is not installed"
        return
    port = free_port()
    conf = folder / "nginx.conf"
    conf.write_text(_CONF.format(folder=folder, port=port))
    folder.chmod(0o755)
    folder.parent.chmod(0o755)  # its worker may be another user
    with (folder / "nginx.log").open("wb") as log:
        child = subprocess.Popen(
            [program, "-c", str(conf), "-e", str(folder / "error.log")], stdout=log, stderr=log
        )
    try:
        reason = ""
        try:
            until(lambda: _serves(port), seconds=10, what="nginx answers")
        except AssertionError as error:
            reason = f"{error}: {(folder / 'error.log').read_text()[-200:]}"
        yield ("" if reason else f"http://127.0.0.1:{port}"), reason
    finally:
        child.terminate()
        child.wait(10)


def _serves(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("HEAD", "/video.mp4")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def upload_rows(lab: Lab) -> list[Row]:
    """An upload of a large mp4: rate, and how much the gateway grows."""
    rates, grown, trees, plain = [], [], [], []
    size = lab.sizes.upload_mib * _MIB
    with lab.gateway() as served:
        served.uploads()  # the process that probes is there already
        path = lab.directory / "large.mp4"
        for number_ in range(lab.sizes.repeats):
            padded(path, size, number_)
            with MemoryWatch(served.pid) as memory:
                _sent(served.url, path)
            grown.append(memory.growth)
            trees.append(memory.tree_growth)
        for number_ in range(lab.sizes.repeats):  # apart: who samples takes time from who stores
            padded(path, size, number_)
            plain.append(_copied(path, lab.directory / "copy.mp4"))
            rates.append(_sent(served.url, path))
    most = max(grown)
    said = f"{lab.sizes.upload_mib} MiB"
    return [
        Row(
            name=f"upload of {said}",
            figure=spread_of(rates, "MB/s"),
            versus="a copy and fsync of the file",
            versus_figure=spread_of(plain, "MB/s"),
            note="Received, stored, hashed, probed and committed.",
        ),
        Row(
            name=f"memory grown by uploading {said}",
            figure=spread_of(grown, "MiB"),
            goal=Goal("≤ 20 MB", most * 1.048576 <= 20),
            note="The gateway's own process; the most of all repeats counts. With the decoders' "
            f"processes (PSS): {number(max(trees))} MiB.",
        ),
    ]


def padded(path: Path, size: int, number_: int = 0) -> None:
    """The sample dance with a `free` box behind it, whose content differs from run to run."""
    dance = (SAMPLES / "dance.mp4").read_bytes()
    free = size - len(dance)
    with path.open("wb") as file:
        file.write(dance + free.to_bytes(4, "big") + b"free")
        piece = os.urandom(_MIB - 1) + bytes([number_])
        left = free - 8
        while left:
            left -= file.write(piece[:left])


def _copied(source: Path, target: Path) -> float:
    began = perf_counter()
    with source.open("rb") as reading, target.open("wb") as writing:
        shutil.copyfileobj(reading, writing, _MIB)
        writing.flush()
        os.fsync(writing.fileno())
    took = perf_counter() - began
    target.unlink()
    return source.stat().st_size / took / 1e6


def _sent(url: str, path: Path) -> float:
    """Upload a file; MB (10^6 bytes) a second until the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=300, blocksize=_MIB)
    began = perf_counter()
    with path.open("rb") as file:
        headers = {"Content-Length": str(path.stat().st_size)}
        connection.request("POST", "/v1/uploads", file, headers)
        answer = connection.getresponse()
        text = answer.read()
    took = perf_counter() - began
    connection.close()
    assert answer.status == 201, text[:500]
    return path.stat().st_size / took / 1e6
