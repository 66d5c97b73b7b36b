"""Programs of the operating system that these tests need."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """Its path; without it the test is skipped, or fails where nothing may be skipped."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        words = f"{name} is not installed (Debian package {package})"
        if os.environ.get("GATEWAY_TEST_NO_SKIP") == "1":
            pytest.fail(words)
        pytest.skip(words)
    return path
