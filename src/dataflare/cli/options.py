"""The options of a connector or step, read from its config model: names, types in words, defaults.

Always true: the options come from the model that validates the config, so they cannot be out of date.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct
from pydantic import BaseModel

from dataflare.model import units

_WORDS = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true | false",
    "object": "mapping",
    "null": "null",
}
_UNITS = {
    units.DURATION_EXPECTED: "duration",
    units.SIZE_EXPECTED: "size",
    units.RATE_EXPECTED: "rate",
}
_DEPTH_MAX = 4


class Option(Struct, frozen=True):
    """name: with dots if it is inside another option. default: as it is written in YAML, or None."""

    name: str
    type: str
    required: bool
    default: str | None
    description: str


def options(model: type[BaseModel]) -> list[Option]:
    """All options of a config model. Nested options follow the option that contains them."""
    schema = model.model_json_schema(mode="validation")
    return list(_options(schema, schema.get("$defs", {}), "", _defaults(model)))


def _options(
    schema: Mapping[str, Any], defs: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any]
) -> Iterator[Option]:
    required = set(schema.get("required", ()))
    for name, each in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        words = _type(each, defs)
        yield Option(
            name=path,
            type=words,
            required=name in required,
            default=None
            if name in required
            else written(defaults.get(name, each.get("default")), words),
            description=" ".join(str(each.get("description", "")).split()),
        )
        if path.count(".") < _DEPTH_MAX:
            for inner, suffix in _nested(each, defs):
                yield from _options(inner, defs, f"{path}{suffix}.", {})


def _nested(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """The models inside an option, with the path to them: `.key`, `[].key`, `.NAME.key`."""
    if "$ref" in schema:
        yield defs[schema["$ref"].rpartition("/")[2]], ""
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from _nested(choice, defs)
    if isinstance(schema.get("items"), dict):
        yield from ((inner, f"[]{suffix}") for inner, suffix in _nested(schema["items"], defs))
    if isinstance(schema.get("additionalProperties"), dict):
        inner_models = _nested(schema["additionalProperties"], defs)
        yield from ((inner, f".NAME{suffix}") for inner, suffix in inner_models)


def _type(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """A type of JSON Schema in the words of YAML."""
    unit = _unit(schema)
    if unit:
        return unit
    if "$ref" in schema:
        inner = defs[schema["$ref"].rpartition("/")[2]]
        return _type(inner, defs) if "enum" in inner else "mapping"
    choices = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if choices:
        words = dict.fromkeys(_type(choice, defs) for choice in choices)
        return " | ".join(word for word in words if word != "null") or "null"
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("items") or {}
        return f"list of {_type(items, defs)}" if items else "list"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"mapping of {_type(schema['additionalProperties'], defs)}"
    return _WORDS.get(str(kind), "any value")


def _unit(schema: Mapping[str, Any]) -> str | None:
    """`duration`, `size` or `rate`, if the option is one. The schema of these types has a description and
    a pattern; if the option has its own description, only the pattern remains."""
    for choice in (schema, *schema.get("anyOf", ())):
        if choice.get("description") in _UNITS:
            return _UNITS[choice["description"]]
        if "(us|ms|s|m|h|d)" in choice.get("pattern", ""):
            return "rate" if "/" in choice["pattern"] else "duration"
        if "[Bb]" in choice.get("pattern", ""):
            return "size"
    return None


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Python defaults by the name in YAML, also those of factories."""
    defaults = {}
    for name, field in model.model_fields.items():
        if not field.is_required():
            try:
                defaults[field.alias or name] = field.get_default(call_default_factory=True)
            except TypeError:  # A factory that takes the other fields.
                continue
    return defaults


def written(value: Any, type_: str) -> str | None:
    """A default as it is written in YAML. None for an empty default."""
    if value is None or value in ([], {}, ()):
        return None
    if isinstance(value, BaseModel):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if type_ == "duration" and isinstance(value, int | float):
        return duration(float(value))
    if type_ == "size" and isinstance(value, int):
        return binary_size(value)
    if isinstance(value, str):
        return value if value.strip() and value.isprintable() and value != '"' else repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(written(each, "") or "null" for each in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """The shortest way to write a duration."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    milliseconds = f"{seconds * 1000:.3f}".rstrip("0").rstrip(".")
    return f"{milliseconds}ms" if seconds else "0s"


def binary_size(num_bytes: int) -> str:
    """The shortest way to write a size."""
    for unit, length in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes and num_bytes % length == 0:
            return f"{num_bytes // length}{unit}"
    return f"{num_bytes}B"
