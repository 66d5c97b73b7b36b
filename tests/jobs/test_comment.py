"""What a video says of itself."""

from __future__ import annotations

from typing import Any, cast

import pytest

from app.jobs.task import Asked, Task


@pytest.mark.parametrize(
    ("request_", "comment"),
    [
        ({"prompt": "a secret"}, ""),
        ({"prompt": "a secret", "seed": 7}, "seed 7"),
        ({"prompt": "a secret", "seed": 7, "prompt_in_video": False}, "seed 7"),
        ({"prompt": "a dance", "seed": 7, "prompt_in_video": True}, "seed 7; a dance"),
    ],
)
def test_the_prompt_is_in_the_video_only_if_asked_for(
    request_: dict[str, Any], comment: str
) -> None:
    task = cast("Task", type("Some", (), {"request": request_}))
    asked = Asked(task, cast("Any", None), cast("Any", None), {})
    assert asked.comment == comment
