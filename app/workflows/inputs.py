"""The typed request of a workflow, built from its manifest, and the words for what is wrong in it.

Nothing is coerced: a text is no number, and true is no 1.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic import create_model as make_model

from app.errors import FieldError, InvalidRequest
from app.wire import Base64Ref, MediaRef, UploadRef, UrlRef
from app.workflows.manifest import FieldSpec, Manifest

_TYPES: dict[str, type] = {"integer": int, "number": float, "boolean": bool, "string": str}
_WORDS = {"integer": "an integer", "number": "a number", "boolean": "true or false"}
_MOST_SHOWN = 80
_REF: TypeAdapter[Any] = TypeAdapter(MediaRef)


def shown(value: object) -> str:
    """A value as JSON, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def number(value: float) -> str:
    """A number without a needless fraction, with thousands set apart."""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:g}"


def field_error(name: str, detail: str) -> FieldError:
    """A field error with the pointer of a request field."""
    return FieldError(f"/request/{name.replace('~', '~0').replace('/', '~1')}", detail)


def refused(errors: Collection[FieldError]) -> InvalidRequest:
    """The error for a request with these faults."""
    detail = " ".join(error.detail for error in errors)
    return InvalidRequest(detail, errors=tuple(errors))


def rule_of(spec: FieldSpec) -> str:
    """A field's rule in words, such as `an integer from 256 to 1,280, a multiple of 16`."""
    if spec.choices is not None:
        return "one of " + ", ".join(f'"{choice}"' for choice in spec.choices)
    if spec.type == "string":
        bounds = []
        if spec.min_length:
            bounds.append(f"at least {spec.min_length}")
        if spec.max_length is not None:
            bounds.append(f"at most {spec.max_length:,}")
        return "a text" + (f" of {' and '.join(bounds)} characters" if bounds else "")
    words = _WORDS[spec.type]
    if spec.min is not None and spec.max is not None:
        words += f" from {number(spec.min)} to {number(spec.max)}"
    elif spec.min is not None:
        words += f" of at least {number(spec.min)}"
    elif spec.max is not None:
        words += f" of at most {number(spec.max)}"
    if spec.multiple_of is not None:
        words += f", a multiple of {spec.multiple_of}"
    if spec.step is not None:
        start = number(spec.min or 0)
        words += f", counted in steps of {spec.step} from {start}"
    return words


def nearest(spec: FieldSpec, value: float) -> list[float]:
    """The allowed numbers next to `value`: one where it is out of bounds, else two."""
    grid = spec.multiple_of or spec.step or 1
    origin = 0 if spec.multiple_of is not None or spec.min is None else spec.min
    low = spec.min if spec.min is not None else value
    high = spec.max if spec.max is not None else value
    if value != value:  # noqa: PLR0124 - NaN; math.isnan fails on huge integers
        return []
    if spec.type == "number":
        return [float(min(max(value, low), high))]
    clamped = min(max(value, low), high)
    below = origin + (clamped - origin) // grid * grid
    found = {point for point in (below, below + grid) if low <= point <= high}
    if clamped in found:
        found = {clamped}
    return sorted(found)


def explain(name: str, spec: FieldSpec, value: object) -> str:
    """Why a field's value is refused and what would work, in words."""
    if isinstance(value, str) and spec.type == "string" and spec.choices is None:
        return _explain_text(name, spec, value)
    return f"{name} is {shown(value)}; it must be {rule_of(spec)}.{_hint(spec, value)}"


def _explain_text(name: str, spec: FieldSpec, value: str) -> str:
    if "\x00" in value:
        return f"{name} contains a NUL character; leave it out."
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"{name} contains half of a surrogate pair, which is no character; leave it out."
    return f"{name} has {len(value):,} characters; it must be {rule_of(spec)}."


def _hint(spec: FieldSpec, value: object) -> str:
    """What would work instead, as a sentence with a space before it; empty where unknown."""
    if isinstance(value, str) and spec.choices:
        close = difflib.get_close_matches(value.lower(), spec.choices, n=1)
        return f' Did you mean "{close[0]}"?' if close else ""
    if isinstance(value, str) and spec.type != "string" and spec.example is not None:
        return f" Write it without quotes, such as {shown(spec.example)}."
    if not isinstance(value, int | float) or isinstance(value, bool):
        return ""
    near = nearest(spec, value) if spec.type in {"integer", "number"} else []
    if not near:
        return ""
    if len(near) == 1:
        return f" The nearest allowed value is {number(near[0])}."
    return f" The nearest allowed values are {number(near[0])} and {number(near[1])}."


def _on_grid(spec: FieldSpec) -> AfterValidator:
    def check(value: int) -> int:
        if (value - int(spec.min or 0)) % (spec.step or 1):
            raise ValueError("off the grid")
        return value

    return AfterValidator(check)


def _without_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("NUL character")
    return value


def _annotation(spec: FieldSpec) -> Any:  # noqa: ANN401 - a type made at run time
    if spec.choices is not None:
        return Literal[spec.choices]
    annotation: Any = _TYPES[spec.type]
    extra: list[Any] = []
    if spec.type == "string":
        extra.append(Field(min_length=spec.min_length, max_length=spec.max_length))
        extra.append(AfterValidator(_without_nul))
    elif spec.type != "boolean":
        extra.append(Field(ge=spec.min, le=spec.max, multiple_of=spec.multiple_of))
        if spec.type == "number":
            extra.append(Field(allow_inf_nan=False))
        if spec.step is not None:
            extra.append(_on_grid(spec))
    return Annotated[(annotation, *extra)] if extra else annotation


def build_model(title: str, specs: Mapping[str, FieldSpec]) -> type[BaseModel]:
    """Make the pydantic model of a set of fields."""
    made: dict[str, Any] = {}
    for name, spec in specs.items():
        examples = None if spec.example is None else [spec.example]
        annotation = _annotation(spec)
        if spec.required:
            default: Any = ...
        else:
            default = spec.default
            annotation = annotation | None if default is None else annotation
        made[name] = (
            annotation,
            Field(default=default, description=spec.description, examples=examples),
        )
    config = ConfigDict(frozen=True, extra="forbid", strict=True)
    return make_model(title, __config__=config, **made)


class Inputs:
    """The request of one workflow: its model, its schema, and its refusals in words."""

    def __init__(self, *, name: str, manifest: Manifest) -> None:
        self._manifest = manifest
        self._model = build_model(f"{name.title().replace('_', '')}Request", manifest.fields)

    def check(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The given fields, checked one by one; media and nulls are left out.

        Raises:
            InvalidRequest: With one field error for each field at fault.
        """
        fields = self._manifest.fields
        given = {
            name: value
            for name, value in request.items()
            if value is not None and name not in self._manifest.media
        }
        try:
            model = self._model.model_validate(given)
        except ValidationError as error:
            raise refused(self._faults(given, error)) from None
        return {name: getattr(model, name) for name in fields if name in given}

    def _faults(self, given: Mapping[str, Any], error: ValidationError) -> list[FieldError]:
        faults: dict[str, FieldError] = {}
        for entry in error.errors(include_url=False, include_context=False):
            name = str(entry["loc"][0])
            spec = self._manifest.fields.get(name)
            if spec is None:
                detail = self._unknown(name)
            elif name not in given:
                detail = f"{name} is missing; it must be {rule_of(spec)}."
            else:
                detail = explain(name, spec, given[name])
            faults.setdefault(name, field_error(name, detail))
        return list(faults.values())

    def _unknown(self, name: str) -> str:
        known = [*self._manifest.media, *self._manifest.fields]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f"known are {', '.join(known)}."
        return f"{shown(name)} is no field of this workflow; {hint}"

    def refs(
        self, request: Mapping[str, Any], *, attached: Collection[str] = ()
    ) -> dict[str, MediaRef]:
        """Where each media file is to be taken from.

        Args:
            request: The request as sent.
            attached: Media fields that came as files beside it.

        Raises:
            InvalidRequest: A media file is missing, given twice, or not given as one of the
                three forms.
        """
        found: dict[str, MediaRef] = {}
        faults: list[FieldError] = []
        for name, spec in self._manifest.media.items():
            given = request.get(name)
            if given is None:
                if name not in attached:
                    faults.append(
                        field_error(
                            name,
                            f"{name} is missing: give the {spec.kind} as "
                            '{"upload_id": …}, {"url": …} or {"base64": …}, or as a file part.',
                        )
                    )
                continue
            if name in attached:
                faults.append(
                    field_error(name, f"{name} is given twice: as a file and in the job.")
                )
                continue
            try:
                found[name] = _REF.validate_python(given)
            except ValidationError:
                faults.append(
                    field_error(
                        name,
                        f"{name} is {shown(given)}; it must be exactly one of "
                        '{"upload_id": "…"}, {"url": "https://…"} and {"base64": "…"}.',
                    )
                )
        if faults:
            raise refused(faults)
        return found

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the request, media included; the caller's own copy."""
        return copy.deepcopy(self._schema)

    @cached_property
    def _schema(self) -> dict[str, Any]:
        schema = self._model.model_json_schema()
        forms = [form.model_json_schema() for form in (UploadRef, UrlRef, Base64Ref)]
        media = {
            name: {
                "title": name.replace("_", " ").capitalize(),
                "description": f"{spec.description} Taken are {', '.join(spec.accept)}.",
                "oneOf": forms,
                "x-media": spec.kind,
            }
            for name, spec in self._manifest.media.items()
        }
        schema["properties"] = media | schema["properties"]
        schema["required"] = [*media, *schema.get("required", [])]
        return schema
