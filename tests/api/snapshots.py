"""Writes docs/openapi.json and docs/problems.md from the code: `python -m tests.api.snapshots`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from app.api.health import explanations
from app.errors import FAILURES
from app.main import create_app
from app.settings import Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"

INTRO = """\
# Problems

Every error of the API is an [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem document
with the media type `application/problem+json`:

```json
{
  "type": "/problems/invalid-request",
  "code": "invalid-request",
  "title": "The request breaks a rule",
  "status": 422,
  "detail": "width is 481; it must be an integer from 256 to 1,280, a multiple of 16. ...",
  "errors": [
    {"pointer": "/request/width", "detail": "width is 481; it must be ... 480 and 496."}
  ]
}
```

- `code` is stable: programs decide by it. `title` and `detail` are for people and may change.
- `type` leads to the explanation: `GET /problems/{code}` answers on every gateway.
- `errors` names the fields at fault. `pointer` is a JSON pointer into the body that was sent (for a
  rerun under `/overrides`); for a parameter or header it is the name after a slash.
- `Retry-After` stands in the headers where a later try can succeed.
- Some problems carry more: `never-fits` has `need_mib`, `card_mib` and `fits` (changes that can be
  sent as they are), `workflow-unavailable` has `missing`, `internal-error` has `request_id`.

This page is written from the code by `python -m tests.api.snapshots`.

## Answers
"""

FAILED = """\
## Failed jobs

A job that ends as `failed` carries one of these as `error.type`, with the same `title`, an
`advice`, and `retryable`.
"""


def problems() -> str:
    """The text of docs/problems.md."""
    told = explanations()
    answers = sorted(
        (one for one in told.values() if one.status is not None),
        key=lambda one: (one.status or 0, one.code),
    )
    parts = [INTRO]
    parts += [
        f"### `{one.code}`\n\n**{one.status}** · {one.title}\n\n{one.description}\n"
        for one in answers
    ]
    parts.append(FAILED)
    parts += [
        f"### `{code}`\n\n{failure.title}"
        f"{' · worth a retry' if failure.retryable else ''}\n\n{failure.advice}\n"
        for code, failure in sorted(FAILURES.items())
    ]
    return "\n".join(parts)


def openapi() -> str:
    """The text of docs/openapi.json."""
    with tempfile.TemporaryDirectory() as data:
        app = create_app(Settings(data_dir=Path(data), admission="off"))
    return json.dumps(app.openapi(), indent=2) + "\n"


if __name__ == "__main__":
    (DOCS / "openapi.json").write_text(openapi(), encoding="utf-8")
    (DOCS / "problems.md").write_text(problems(), encoding="utf-8")
