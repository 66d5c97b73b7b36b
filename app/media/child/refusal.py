"""How a child says no."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault
    """The file cannot be used; the text says why and what would work."""
