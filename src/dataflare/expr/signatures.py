"""Signatures as text, `substr(text: string, start: int64, [length: int64]) -> string`, and matching.

A parameter is a type's name, or one of: `any`; `number`, `integer`; `T` (all of them get a common type);
`list<T>`, `list`, `struct`; `timestamp` (any unit and zone), `temporal` (date or timestamp); alternatives
with `|`. `const` before it means a literal, `...` after it any number of arguments, and brackets mean that
it is optional.
"""

from __future__ import annotations

import re

from msgspec import Struct

from dataflare.model import types as t
from dataflare.model.types import DataType

_PLAIN = {
    "string": t.STRING, "int64": t.INT64, "int32": t.INT32, "float64": t.FLOAT64, "bool": t.BOOL,
    "binary": t.BINARY, "date": t.DATE, "time": t.TIME, "json": t.JSON, "uint64": t.UINT64,
    "timestamp[us]": t.TIMESTAMP, "timestamp[us, UTC]": t.TIMESTAMP_UTC, "duration": t.DURATION,
    "null": t.NULL, "int8": t.INT8,
}  # fmt: skip


class Parameter(Struct, frozen=True):
    name: str
    kind: str
    const: bool = False
    optional: bool = False
    variadic: bool = False

    @property
    def alternatives(self) -> list[str]:
        return [part.strip() for part in self.kind.split("|")]


class Signature(Struct, frozen=True):
    text: str
    parameters: tuple[Parameter, ...]
    result: str

    @property
    def least(self) -> int:
        return sum(not p.optional for p in self.parameters)

    @property
    def most(self) -> int | None:
        if self.parameters and self.parameters[-1].variadic:
            return None
        return len(self.parameters)

    def takes(self, count: int) -> bool:
        return self.least <= count and (self.most is None or count <= self.most)

    def parameter(self, place: int) -> Parameter:
        return self.parameters[min(place, len(self.parameters) - 1)]


def read_signature(text: str) -> Signature:
    """The signature from a line of text."""
    match = re.fullmatch(r"\S+?\((.*)\) -> (.+)", text)
    assert match is not None, f"not a signature: {text}"
    parameters = []
    for part in _parts(match[1]):
        inner = part.strip()
        optional = inner.startswith("[")
        inner = inner.strip("[]") if optional else inner
        variadic = inner.endswith("...")
        name, _, kind = inner.removesuffix("...").partition(":")
        kind = kind.strip()
        const = kind.startswith("const ")
        parameters.append(
            Parameter(name.strip(), kind.removeprefix("const ").strip(), const, optional, variadic)
        )
    return Signature(text, tuple(parameters), match[2].strip())


def _parts(text: str) -> list[str]:
    """Split at commas outside of <> and of a type's brackets."""
    parts, depth, current = [], 0, ""
    for place, char in enumerate(text):
        opens_type = char == "[" and place > 0 and text[place - 1].isalpha()
        depth += (char == "<" or opens_type) - (char == ">")
        if char == "]" and depth and "[" in current.rpartition(":")[2]:
            depth -= 1
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    return [*parts, current] if current.strip() else parts


def cost(kind: str, type_: DataType) -> int | None:
    """The distance of a type from the parameter's kind: 0 if it is exact, None if it is refused."""
    if type_.name == "null":
        return 1
    plain = _PLAIN.get(kind)
    if plain is not None:
        return _plain_cost(plain, type_)
    accepted = {
        "any": True,
        "T": True,
        "number": type_.is_numeric,
        "integer": type_.is_integer,
        "float": type_.is_float,
        "decimal": type_.name == "decimal",
        "list": type_.name == "list",
        "list<T>": type_.name == "list",
        "list<string>": type_.name == "list"
        and type_.item is not None
        and (type_.item.is_text or type_.item.name == "null"),
        "list<number>": type_.name == "list" and type_.item is not None and type_.item.is_numeric,
        "struct": type_.name == "struct",
        "timestamp": type_.name == "timestamp",
        "zoned": type_.name == "timestamp" and type_.timezone is not None,
        "naive": type_.name == "timestamp" and type_.timezone is None,
        "temporal": type_.name in ("date", "timestamp"),
    }
    assert kind in accepted, f"unknown parameter kind {kind}"
    if kind == "naive" and type_.name == "date":
        return 2
    return 0 if accepted[kind] else None


def _plain_cost(target: DataType, type_: DataType) -> int | None:
    if target == type_:
        return 0
    if target.is_integer and type_.is_integer:
        return 1
    if target.is_float and type_.is_numeric:
        return 2 if type_.is_float else 3
    if target.name == "string" and type_.is_text:
        return 1
    if target.name == "json" and type_.is_text:
        return 1
    if target.name == type_.name in ("timestamp", "duration"):
        return 1 if target.timezone == type_.timezone else None
    if target.name == "timestamp" and target.timezone is None and type_.name == "date":
        return 2
    return None


def wanted_type(kind: str, type_: DataType, bound: DataType | None) -> DataType:
    """The type to which the argument is cast."""
    plain = _PLAIN.get(kind)
    if plain is not None:
        return plain
    if kind == "T":
        return bound or type_
    if kind == "list<T>":
        return t.list_of(bound) if bound is not None else type_
    if kind == "list" and type_.name == "null":
        return t.list_of(t.NULL)
    if kind == "list<string>":
        return t.list_of(t.STRING)
    if kind == "naive" and type_.name == "date":
        return t.TIMESTAMP
    return type_


def result_type(text: str, bound: DataType | None, first: DataType) -> DataType:
    """The result type of a signature: a type, T, list<T>, or that of the argument."""
    if text in _PLAIN:
        return _PLAIN[text]
    if text == "T":
        return bound or t.NULL
    if text == "list<T>":
        return t.list_of(bound or t.NULL)
    if text.startswith("list<"):
        return t.list_of(_PLAIN[text[5:-1]])
    return first
