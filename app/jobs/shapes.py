"""A shape from the text under which a job's row keeps it."""

from __future__ import annotations

from app.workflows.values import Shape


def parse_shape(key: str) -> Shape:
    """Read `Shape.key` back.

    Raises:
        ValueError: The text is no shape's key.
    """
    models, size = key.rsplit("/", 1)
    workflow, variant = models.split("/", 1)
    width, height, frames = (int(part) for part in size.split("x"))
    return Shape(workflow, variant, width, height, frames)
