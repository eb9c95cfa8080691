"""Types of columns as fields of an index, and back.

Always true: an index that DataFlare made says in its mapping (`_meta`) the types of the columns that were written, so
they are read back as they were; the documents have each value as JSON exactly, whatever the index makes of it for
searching.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dataflare.errors import WorkflowError
from dataflare.model.types import (
    BOOL,
    FLOAT64,
    INT64,
    STRING,
    UINT64,
    DataType,
    Schema,
    list_of,
    parse_type,
    struct_of,
)

META = "dataflare"
METADATA = ("_id", "_index", "_routing", "_version", "_seq_no")
"""Fields that a document has beside its source; columns of these names are not part of documents."""
_FIELDS = {
    "bool": "boolean",
    "int8": "byte",
    "int16": "short",
    "int32": "integer",
    "int64": "long",
    "uint8": "short",
    "uint16": "integer",
    "uint32": "long",
    "uint64": "unsigned_long",
    "float32": "float",
    "float64": "double",
    "decimal": "double",
    "date": "date",
    "timestamp": "date",
    "time": "keyword",
    "duration": "keyword",
    "binary": "binary",
}
_TEXT = {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}
_COLUMNS = {
    "boolean": BOOL,
    **dict.fromkeys(("byte", "short", "integer", "long"), INT64),
    "unsigned_long": UINT64,
    **dict.fromkeys(("float", "half_float", "double", "scaled_float"), FLOAT64),
}
"""By type of a field, that of its values; the others are text."""
DATES = ("date", "date_nanos")
ANALYSED = ("text", "match_only_text", "search_as_you_type", "annotated_text")
"""Fields whose order is not that of their values."""


def field_of(type_: DataType, *, exact: bool = False) -> dict[str, Any] | None:
    """The mapping of a column; None if the server is to decide by the first value. exact: it is searched as a
    whole, as a key is."""
    if type_.name == "list":
        assert type_.item is not None
        return field_of(type_.item, exact=exact)
    if type_.name == "struct":
        fields = {f.name: field_of(f.type) for f in type_.fields}
        return {"properties": {name: field for name, field in fields.items() if field is not None}}
    if type_.is_text:
        return {"type": "keyword"} if exact else _TEXT
    kind = _FIELDS.get(type_.name)
    return None if kind is None else {"type": kind}


def mapping_of(
    schema: Schema, exact: Iterable[str] = (), own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The mapping of an index for these columns. exact: columns that are searched as a whole. own: the user's
    fields, in place of those of the columns."""
    whole, chosen = {*exact}, own or {}
    columns = [f for f in schema if f.name not in METADATA]
    fields = {f.name: field_of(f.type, exact=f.name in whole) for f in columns}
    properties = {name: field for name, field in fields.items() if field is not None} | {**chosen}
    types = {f.name: str(f.type) for f in columns if f.name not in chosen}
    return {"_meta": {META: types}, "properties": properties}


def noted_types(mapping: Mapping[str, Any]) -> dict[str, DataType]:
    """The types of columns that a mapping notes; of others nothing is known."""
    noted = mapping.get("_meta", {}).get(META, {})
    fields = mapping.get("properties", {})
    types: dict[str, DataType] = {}
    for name, text in noted.items() if isinstance(noted, Mapping) else ():
        try:
            type_ = parse_type(text)
        except (WorkflowError, TypeError):
            continue
        if name in fields and _kind(field_of(type_)) in (None, _kind(fields[name]), "text"):
            types[name] = type_
    return types


def _kind(field: Mapping[str, Any] | None) -> str | None:
    return None if field is None else str(field.get("type", "object"))


def noted_in_all(mappings: Iterable[Mapping[str, Any]]) -> Schema:
    """The types that the mappings of some indexes note, of columns about which they agree."""
    found: dict[str, set[DataType]] = {}
    for mapping in mappings:
        for name, type_ in noted_types(mapping).items():
            found.setdefault(name, set()).add(type_)
    return Schema.of({name: next(iter(types)) for name, types in found.items() if len(types) == 1})


def merged(field: Mapping[str, Any], seen: DataType | None) -> DataType:
    """The type of a field's values, from its mapping and from what a sample shows (None: it has no value there)."""
    if seen is not None and seen.name == "list":
        assert seen.item is not None
        return list_of(merged(field, seen.item))
    if "properties" in field and (seen is None or seen.name in ("struct", "null")):
        types = {f.name: f.type for f in seen.fields} if seen is not None else {}
        fields = {name: merged(each, types.get(name)) for name, each in field["properties"].items()}
        type_ = struct_of(fields | {n: t for n, t in types.items() if n not in fields})
        return list_of(type_) if field.get("type") == "nested" and seen is None else type_
    mapped = _COLUMNS.get(field.get("type", "object"), STRING)
    if seen is None or seen.name == "null":
        return mapped
    return mapped if seen.is_integer and mapped.is_numeric else seen
