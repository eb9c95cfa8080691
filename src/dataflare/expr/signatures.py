"""Signatures as text, `substr(text: string, start: int64, [length: int64]) -> string`, and matching.

A parameter is a type's name, or one of: `any`; `number`, `integer`; `T` (all of them meet in one
type); `list<T>`, `list`, `struct`; `timestamp` (any unit and zone), `temporal` (date or timestamp);
alternatives with `|`. `const` before it asks for a literal, `...` after it for any number of them,
brackets make it optional.
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
    """The signature a line of text describes."""
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
    found, depth, current = [], 0, ""
    for place, char in enumerate(text):
        opens_type = char == "[" and place > 0 and text[place - 1].isalpha()
        depth += (char == "<" or opens_type) - (char == ">")
        if char == "]" and depth and "[" in current.rpartition(":")[2]:
            depth -= 1
        if char == "," and depth == 0:
            found.append(current)
            current = ""
        else:
            current += char
    return [*found, current] if current.strip() else found


def cost(kind: str, given: DataType) -> int | None:
    """How far the type is from what the parameter asks for: 0 exact, None refused."""
    if given.name == "null":
        return 1
    plain = _PLAIN.get(kind)
    if plain is not None:
        return _plain_cost(plain, given)
    accepted = {
        "any": True,
        "T": True,
        "number": given.is_numeric,
        "integer": given.is_integer,
        "float": given.is_float,
        "decimal": given.name == "decimal",
        "list": given.name == "list",
        "list<T>": given.name == "list",
        "list<string>": given.name == "list"
        and given.item is not None
        and (given.item.is_text or given.item.name == "null"),
        "list<number>": given.name == "list" and given.item is not None and given.item.is_numeric,
        "struct": given.name == "struct",
        "timestamp": given.name == "timestamp",
        "zoned": given.name == "timestamp" and given.timezone is not None,
        "naive": given.name == "timestamp" and given.timezone is None,
        "temporal": given.name in ("date", "timestamp"),
    }
    assert kind in accepted, f"unknown parameter kind {kind}"
    if kind == "naive" and given.name == "date":
        return 2
    return 0 if accepted[kind] else None


def _plain_cost(wanted: DataType, given: DataType) -> int | None:
    if wanted == given:
        return 0
    if wanted.is_integer and given.is_integer:
        return 1
    if wanted.is_float and given.is_numeric:
        return 2 if given.is_float else 3
    if wanted.name == "string" and given.is_text:
        return 1
    if wanted.name == "json" and given.is_text:
        return 1
    if wanted.name == given.name in ("timestamp", "duration"):
        return 1 if wanted.timezone == given.timezone else None
    if wanted.name == "timestamp" and wanted.timezone is None and given.name == "date":
        return 2
    return None


def wanted_type(kind: str, given: DataType, bound: DataType | None) -> DataType:
    """What the argument is cast to."""
    plain = _PLAIN.get(kind)
    if plain is not None:
        return plain
    if kind == "T":
        return bound or given
    if kind == "list<T>":
        return t.list_of(bound) if bound is not None else given
    if kind == "list" and given.name == "null":
        return t.list_of(t.NULL)
    if kind == "list<string>":
        return t.list_of(t.STRING)
    if kind == "naive" and given.name == "date":
        return t.TIMESTAMP
    return given


def result_type(text: str, bound: DataType | None, first: DataType) -> DataType:
    """The type that the signature's result says: a type, T, list<T>, or that of the argument."""
    if text in _PLAIN:
        return _PLAIN[text]
    if text == "T":
        return bound or t.NULL
    if text == "list<T>":
        return t.list_of(bound or t.NULL)
    if text.startswith("list<"):
        return t.list_of(_PLAIN[text[5:-1]])
    return first
