"""Parameters: the declarations of a workflow and the given values, converted to typed values.

Always true: the same text gives the same value from `--param`, the API and a default; a declared
parameter without a value is an error, and a value for an undeclared one too.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from dataflare.errors import DataFlareError, Spot, WorkflowError, did_you_mean
from dataflare.model.record import Discreet
from dataflare.model.types import DataType, parse_type, timestamp
from dataflare.model.units import DURATION_MAX_US, duration_us, shown_duration
from dataflare.workflow.lines import showable
from dataflare.workflow.nodes import SpotList, SpotMap, Unresolved, key_spot_of, kind_of, spot_of
from dataflare.workflow.scalars import plain_value

_KEYS = ("type", "default", "description")
MISSING = object()
_BEYOND_US = re.compile(r"[.,][0-9]{6}0*[1-9]")
"""Digits behind the microseconds of a time, which Python would drop."""


class Parameter(Discreet, frozen=True):
    """A declared parameter with its value. type: that of the value, with its time zone. text: the value
    inside a longer text. secret: its default has a secret."""

    hidden = ("value", "text")

    name: str
    type: DataType
    value: Any
    text: str
    description: str | None = None
    given: bool = False
    secret: bool = False


def parameters(
    declared: Any, spot: Spot | None, given: Mapping[str, Any], errors: list[DataFlareError]
) -> dict[str, Parameter | None]:
    """The parameters by name. None for a parameter without a valid value; `errors` then has the reason."""
    if declared is None:
        declared = SpotMap()
    if not isinstance(declared, SpotMap):
        errors.append(_wrong("'params' must be a mapping of names to types", spot, declared))
        declared = SpotMap()
    params = {name: _parameter(declared, name, given, errors) for name in declared}
    for name, text in given.items():
        if name not in declared:
            shown = showable(f"{name}={text}")
            errors.append(
                WorkflowError(
                    f"unknown parameter '{name}'",
                    code="E0110",
                    spot=Spot("--param", 1, 1, len(name), shown),
                    notes=[_declared(declared)],
                    help=did_you_mean(name, declared),
                )
            )
    return params


def _parameter(
    declared: SpotMap, name: str, given: Mapping[str, Any], errors: list[DataFlareError]
) -> Parameter | None:
    node, spot = declared[name], declared.key_spots.get(name)
    if node is None:
        node = SpotMap(spot=spot)
    if not isinstance(node, SpotMap):
        errors.append(
            _wrong(
                f"the parameter '{name}' must be a mapping: type, default",
                spot_of(declared, name),
                node,
            )
        )
        return None
    for key in node:
        if key not in _KEYS:
            errors.append(
                WorkflowError(
                    f"unknown key '{key}' in parameter '{name}'",
                    code="E0103",
                    spot=key_spot_of(node, key),
                    notes=[f"known keys: {', '.join(_KEYS)}"],
                    help=did_you_mean(key, _KEYS),
                )
            )
    type_ = read_type(
        node.get("type", "string"),
        spot_of(node, "type"),
        f"the type of the parameter '{name}'",
        errors,
    )
    if type_ is None:
        return None
    if name in given:
        place: Spot | None = Spot(
            "--param",
            1,
            len(name) + 2,
            max(1, len(str(given[name]))),
            showable(f"{name}={given[name]}"),
        )
        value, help_ = given[name], f"change it: --param {name}=VALUE"
    elif "default" in node:
        place, value, help_ = (
            spot_of(node, "default"),
            node["default"],
            "fix the default, or the type",
        )
    else:
        errors.append(
            WorkflowError(
                f"the parameter '{name}' has no value",
                code="E0110",
                spot=spot,
                notes=[f"it is of the type {type_} and has no default"],
                help=f"give it one: --param {name}=VALUE",
            )
        )
        return None
    if isinstance(value, Unresolved):
        return None
    try:
        typed_value, exact = typed(value, type_)
    except ValueError as error:
        errors.append(
            WorkflowError(
                f"the value of parameter '{name}' is not of the type {type_}",
                code="E0110" if name in given else "E0105",
                spot=place,
                notes=[f"expected: {str(error).removeprefix('expected ')}"],
                help=help_,
            )
        )
        return None
    description = node.get("description")
    return Parameter(
        name,
        exact,
        typed_value,
        as_text(typed_value),
        None if description is None else str(description),
        name in given,
        any(variable.secret for variable in getattr(value, "variables", ())),
    )


def read_type(
    text: Any, spot: Spot | None, subject: str, errors: list[DataFlareError]
) -> DataType | None:
    """Read a type from the file. None if it is wrong; then an error was added."""
    if not isinstance(text, str):
        errors.append(_wrong(f"{subject} must be text", spot, text))
        return None
    try:
        return parse_type(str(text))
    except WorkflowError as error:
        errors.append(error.at(spot=spot))
    return None


def _wrong(message: str, spot: Spot | None, value: Any) -> WorkflowError:
    return WorkflowError(
        message,
        code="E0105",
        spot=spot,
        notes=[f"found: {kind_of(value)}"],
        help="write it in that form",
    )


def _declared(declared: SpotMap) -> str:
    if not declared:
        return "this workflow declares no parameters"
    return f"declared parameters: {', '.join(declared)}"


def as_text(value: Any) -> str:
    """A value as it is written inside a longer text."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return str(value)
        case datetime.datetime():
            return value.isoformat().replace("+00:00", "Z")
        case datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return f"{value // datetime.timedelta(microseconds=1)}us"
        case bytes():
            return value.decode("utf-8", "replace")
        case list() | dict():
            return json.dumps(value, ensure_ascii=False, default=as_text)
    return str(value)


def typed(value: Any, type_: DataType) -> tuple[Any, DataType]:
    """Convert a value, given as text or as YAML, to the type. Returns the value and its exact type.

    A timestamp with `Z` or an offset is a moment in UTC, whatever the type's zone. Without one it is in
    the type's zone, if the type has one. Raises ValueError with the expected form.
    """
    if value is None:
        return None, type_
    if type_.is_integer:
        return _integer(value, type_), type_
    if type_.is_float:
        return _float(value), type_
    match type_.name:
        case "bool":
            return _bool(value), type_
        case "string":
            if isinstance(value, dict | list):
                raise ValueError("text")
            return str(value) if isinstance(value, str) else as_text(value), type_
        case "binary":
            return _text(value, "text").encode(), type_
        case "date":
            return _iso(datetime.date.fromisoformat, value, "a date such as 2023-01-31"), type_
        case "time":
            return _iso(datetime.time.fromisoformat, value, "a time such as 13:45:00"), type_
        case "timestamp":
            return _timestamp(value, type_)
        case "duration":
            micros = duration_us(_text(value, "a duration such as 10s"))
            if micros > DURATION_MAX_US:
                raise ValueError(f"a duration of at most {shown_duration(DURATION_MAX_US)}")
            return datetime.timedelta(microseconds=micros), type_
        case "decimal":
            return _decimal(value, type_), type_
        case "json":
            return (str(value) if isinstance(value, str) else as_text(value)), type_
    return _nested(value, type_), type_


def _text(value: Any, expected: str) -> str:
    if not isinstance(value, str):
        raise ValueError(expected)
    return str(value)


def _integer(value: Any, type_: DataType) -> int:
    if isinstance(value, str):
        value = plain_value(value.strip()) if value.strip() else value
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("a whole number")
    unsigned = type_.name.startswith("u")
    bits = int(type_.name.removeprefix("uint").removeprefix("int"))
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if not low <= value <= high:
        raise ValueError(f"a whole number from {low} to {high}")
    return value


def _float(value: Any) -> float:
    if isinstance(value, str):
        value = plain_value(value.strip()) if value.strip() else value
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError("a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a number that fits 64 bits") from None


def _bool(value: Any) -> bool:
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.strip().casefold())
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _iso(parse: Any, value: Any, expected: str) -> Any:
    text = _text(value, expected).strip()
    if _BEYOND_US.search(text):
        raise ValueError(f"{expected}, with at most 6 digits behind the seconds")
    try:
        return parse(text)
    except ValueError:
        raise ValueError(expected) from None


def _timestamp(value: Any, type_: DataType) -> tuple[datetime.datetime, DataType]:
    expected = "a timestamp such as 2023-01-31T13:45:00Z"
    moment: datetime.datetime = _iso(datetime.datetime.fromisoformat, value, expected)
    if moment.tzinfo is None and type_.timezone is not None:
        moment = moment.replace(tzinfo=_zone(type_.timezone))
    if moment.tzinfo is None:
        return moment, type_
    zone = type_.timezone or "UTC"
    return moment.astimezone(datetime.UTC), timestamp(type_.unit or "us", zone)


def _zone(name: str) -> datetime.tzinfo:
    if name == "UTC":
        return datetime.UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"a known time zone, and '{name}' is not") from None


def _decimal(value: Any, type_: DataType) -> Decimal:
    expected = f"a decimal number with {type_.precision} digits, {type_.scale} after the point"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(expected)
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        raise ValueError(expected) from None
    scaled = number.scaleb(type_.scale or 0) if number.is_finite() else None
    if (
        scaled is None
        or scaled != scaled.to_integral_value()
        or abs(scaled) >= 10 ** (type_.precision or 38)
    ):
        raise ValueError(expected)
    return number


def _nested(value: Any, type_: DataType) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            raise ValueError(f"JSON text of the type {type_}") from None
    if type_.item is not None:
        if not isinstance(value, list):
            raise ValueError("a list")
        return SpotList([typed(item, type_.item)[0] for item in value])
    if type_.name == "struct":
        if not isinstance(value, dict) or not set(value) <= {f.name for f in type_.fields}:
            raise ValueError(f"a mapping with the keys {', '.join(f.name for f in type_.fields)}")
        return SpotMap({f.name: typed(value.get(f.name), f.type)[0] for f in type_.fields})
    raise ValueError(f"a value of the type {type_}")
