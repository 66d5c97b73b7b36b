"""What a process writes to its log, seen from outside."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import logging, sys
import structlog
from app.telemetry import bound, configure_logging
configure_logging(log_format=sys.argv[1], level="info")
with bound(job_id="j1", attempt=2):
    structlog.stdlib.get_logger("gateway").info("started", engine="e0", odd=object)
    logging.getLogger("uvicorn.error").warning("from %s", "uvicorn")
logging.getLogger("uvicorn.access").info("twice")
logging.getLogger("sqlalchemy.engine").info("SELECT 1")
structlog.stdlib.get_logger("gateway").debug("too fine")
try:
    raise ValueError("bad\\nline")
except ValueError:
    structlog.stdlib.get_logger("gateway").exception("failed")
print("result")
"""


def run(log_format: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, log_format],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    return done.stdout, done.stderr


def test_every_line_is_one_json_object_whoever_wrote_it() -> None:
    out, err = run("auto")
    assert out == "result\n"
    started, library, failed = (json.loads(line) for line in err.splitlines())
    assert started["event"] == "started"
    assert started["level"] == "info"
    assert started["logger"] == "gateway"
    assert started["timestamp"].endswith("Z")
    assert (started["job_id"], started["attempt"], started["engine"]) == ("j1", 2, "e0")
    assert (library["event"], library["level"]) == ("from uvicorn", "warning")
    assert library["job_id"] == "j1"
    assert "job_id" not in failed
    assert "ValueError: bad\nline" in failed["exception"]


def test_the_console_form_is_for_people() -> None:
    _, err = run("console")
    first = err.splitlines()[0]
    assert "started" in first
    assert "job_id=j1" in first
    assert not first.startswith("{")
    assert "SELECT" not in err
    assert "too fine" not in err
