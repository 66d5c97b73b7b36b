"""How a child says no."""

from __future__ import annotations


class Refused(Exception):
    """The file cannot be used; the text says why and what would work."""
