"""Reading JSON bodies: bounded, strict, and with words for everything that is wrong in one."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TypeAlias, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from app.api.problems import invalid, pointer
from app.errors import FieldError, InvalidRequest, MalformedBody, PayloadTooLarge

Model = TypeVar("Model", bound=BaseModel)

MAX_DEPTH = 16
"""Nothing that the API takes is nested deeper."""

MAX_VALUES = 1_000
"""Nothing that the API takes has more values; to judge each of a megabyte's takes seconds."""

_MOST_DIGITS = 100


def media_type(request: Request) -> str:
    """The body's media type, without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_model(
    request: Request, model: type[Model], *, limit: int, optional: bool = False
) -> Model:
    """Read a JSON body as a wire model.

    Args:
        request: The request.
        model: What the body must be.
        limit: Most bytes.
        optional: Take an empty body for an empty object.

    Raises:
        PayloadTooLarge: The body is larger than `limit`.
        MalformedBody: It is not JSON.
        InvalidRequest: It is JSON, but breaks a rule.
    """
    data = await read_bytes(request, limit=limit)
    if optional and not data.strip():
        data = b"{}"
    elif media_type(request) != "application/json":
        raise HTTPException(
            415, "This call takes a body of the type application/json; say so in Content-Type."
        )
    return parse_model(data, model)


async def read_bytes(request: Request, *, limit: int) -> bytes:
    """Read a body of at most `limit` bytes.

    Raises:
        PayloadTooLarge: It is larger; no more was read.
    """
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise PayloadTooLarge(
                f"The JSON body is larger than the {limit:,} bytes taken. Media belong into "
                "file parts or uploads, not into the JSON."
            )
    return bytes(data)


def parse_model(data: bytes, model: type[Model], *, what: str = "The body") -> Model:
    """Read JSON text as a wire model, nothing coerced.

    Args:
        data: The text.
        model: What it must be.
        what: What the text is, for the words.

    Raises:
        MalformedBody: It is not JSON.
        InvalidRequest: It is JSON, but breaks a rule.
    """
    value = parse_json(data, what=what)
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"{what} must be a JSON object.", errors=[FieldError("", "It must be a JSON object.")]
        )
    try:
        return model.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise invalid(error, model) from None


def parse_json(data: bytes, *, what: str = "The body") -> object:
    """Read JSON text as RFC 8259 has it: no NaN, no repeated names, no lone surrogates.

    Raises:
        MalformedBody: It is something else, or nested too deep.
        InvalidRequest: A text in it holds what cannot be stored, or a number has no finite value.
    """
    objects = itertools.count()

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if next(objects) > MAX_VALUES or len(pairs) > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES:,} values")
        return _no_repeats(pairs)

    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=made,
            parse_constant=_no_constant,
            parse_int=_whole,
        )
    except UnicodeDecodeError as error:
        raise MalformedBody(f"{what} is not UTF-8 (at byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise MalformedBody(
            f"{what} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise MalformedBody(f"{what} is nested too deep; {MAX_DEPTH} levels are taken.") from None
    except ValueError as error:
        raise MalformedBody(f"{what} cannot be taken as JSON: {error}.") from None
    faults = list(_faults(value, what))
    if faults:
        raise InvalidRequest(" ".join(fault.detail for fault in faults), errors=faults)
    return value


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {name[:64]!r} stands twice in one object")
            seen.add(name)
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number in it has more than {_MOST_DIGITS} digits")
    return int(text)


_Path: TypeAlias = tuple[str | int, ...]


def _faults(value: object, what: str) -> Iterator[FieldError]:
    """What JSON allows and the gateway cannot keep, wherever it stands."""
    for path, one in _values(value, what):
        if isinstance(one, str):
            if fault := _text_fault(one):
                yield FieldError(pointer(path), f"{_name(path)} {fault}")
        elif isinstance(one, float) and not math.isfinite(one):
            yield FieldError(pointer(path), f"{_name(path)} is too large for a number.")
        elif isinstance(one, dict):
            for fault in filter(None, map(_text_fault, one)):
                yield FieldError(pointer(path), f"A name in the object {fault}")


def _values(value: object, what: str) -> Iterator[tuple[_Path, object]]:
    """Every value with its path. Not recursive: what is nested deep must not break the stack."""
    todo: list[tuple[_Path, object]] = [((), value)]
    seen = 0
    while todo:
        path, one = todo.pop()
        seen += 1
        inner: Sequence[tuple[str | int, object]] = ()
        if isinstance(one, dict):
            inner = list(one.items())
        elif isinstance(one, list):
            inner = list(enumerate(one))
        if len(path) > MAX_DEPTH:
            raise MalformedBody(f"{what} is nested too deep; {MAX_DEPTH} levels are taken.")
        if seen + len(inner) > MAX_VALUES:
            raise MalformedBody(f"{what} has more than {MAX_VALUES:,} values.")
        todo += [((*path, name), member) for name, member in inner]
        yield path, one


def _name(path: _Path) -> str:
    return str(path[-1])[:80] if path else "The text"


def _text_fault(text: str) -> str | None:
    if "\x00" in text:
        return "contains a NUL character; leave it out."
    if text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text):
        return None
    return "contains half of a surrogate pair, which is no character; leave it out."
