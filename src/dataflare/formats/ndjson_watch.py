"""Find fields of JSON objects that are not among the columns.

Always true: no such field with a value is missed. The quick test may give a false alarm; then the
objects are checked one by one.

The quick test compares two numbers. A value that the parser put into a column has exactly one colon
behind its key. So if the text has as many colons behind keys as the columns have values (plus the
keys whose value is NULL), no other key has a value. A colon counts as a colon behind a key if a
quote or white space precedes it. That happens inside texts too, and makes the first number too
large: a false alarm. The count takes 0.25 ms for a megabyte, a fifteenth of parsing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl

from dataflare.formats.json_values import BadJson, decode, repeated_key_of
from dataflare.formats.misread import raw_text
from dataflare.formats.ndjson_read import NdjsonPlan, sniff
from dataflare.formats.text_types import TextColumn
from dataflare.model.new_fields import Columns, NewFields
from dataflare.model.types import DataType, list_of, struct_of

_QUOTE, _COLON, _BACKSLASH, _N = 34, 58, 92, 110
_SPACE = 32
_KEY_END = re.compile(rb"[\x00-\x22]:")
"""What `_Codes.keys` counts."""
_SHORT = 8 << 10
"""Below so many bytes the expression is faster: `_Codes` takes 0.19 ms for 150 bytes."""

Tree = Mapping[str, "Tree | None"]
"""The fields of an object; None for a value that is not an object, or whose fields are not
watched."""


def watched(
    plan: NdjsonPlan, data: bytes, repeats: Callable[[str], None] = lambda key: None
) -> tuple[pl.LazyFrame, NewFields | None]:
    """The rows as `plan.scan` returns them, and their fields that are not among the plan's columns.
    repeats: gets a key that stands twice in one object. Raises a Polars error, now or when the rows are collected, for a chunk with bad rows."""
    parsed = plan.parse(data)
    rows = plan.converted(parsed.lazy())
    values = sum(_values(parsed[name]) for name in parsed.columns)
    if len(data) < _SHORT and values == len(_KEY_END.findall(data)):
        return rows, None
    codes = _Codes(data)
    if values == codes.keys() or values == codes.keys_with_values():
        return rows, None
    return rows, new_fields(plan.columns, data, repeats)


def new_fields(
    columns: Sequence[TextColumn], data: bytes, repeats: Callable[[str], None] = lambda key: None
) -> NewFields | None:
    """The slow and exact way: it checks each line. Lines that are not objects are skipped. repeats: as for
    `watched`."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    if (key := repeated_key_of(lines)) is not None:
        repeats(key)
    return new_fields_of(columns, ((i, _object(line)) for i, line in enumerate(lines)), lines)


def new_fields_of(
    columns: Sequence[TextColumn], rows: Iterable[tuple[int, Any]], lines: Sequence[bytes]
) -> NewFields | None:
    """Like `new_fields`, for objects that are decoded already. lines: the text of row i."""
    tree: dict[str, Tree | None] = {column.name: _tree(column.type) for column in columns}
    nested = any(tree.values())
    fields: dict[str, list[int]] = {}
    numbers: list[int] = []
    for number, row in rows:
        if not isinstance(row, dict) or (not nested and row.keys() <= tree.keys()):
            continue
        paths = dict.fromkeys(_unknown(row, tree, ""))
        for path in paths:
            fields.setdefault(path, []).append(number)
        if paths:
            numbers.append(number)
    if not numbers:
        return None
    return NewFields(
        rows=numbers,
        fields=fields,
        raw=lambda row: raw_text(lines[row].rstrip(b"\r")),
        sample=b"\n".join(lines[number] for number in numbers),
        columns=partial(_columns, columns),
    )


def with_learned(columns: Sequence[TextColumn], learned: Columns) -> list[TextColumn]:
    """The columns of a sample, and the columns found later, by name: a resumed run must have the order of
    the run before it, and what is learned is stored without one. A declared type does not change."""
    names = {column.name for column in columns}
    merged = [
        TextColumn(column.name, widened(column.type, later.type), column.format, column.blanks)
        if (later := _read(learned, column.name)) is not None and not column.declared
        else column
        for column in columns
    ]
    return merged + [
        TextColumn.from_json(each) for name, each in sorted(learned.items()) if name not in names
    ]


def widened(type_: DataType, other: DataType) -> DataType:
    """The type with the fields of the other type added, at every depth."""
    if type_.name == "list" and other.name == "list" and type_.item and other.item:
        return list_of(widened(type_.item, other.item))
    if type_.name == "struct" and other.name == "struct":
        later = {field.name: field.type for field in other.fields}
        own = {
            field.name: widened(field.type, later.get(field.name, field.type))
            for field in type_.fields
        }
        return struct_of(own | {name: later[name] for name in later if name not in own})
    return type_


def _read(learned: Columns, name: str) -> TextColumn | None:
    return TextColumn.from_json(learned[name]) if name in learned else None


def _columns(columns: Sequence[TextColumn], samples: Sequence[bytes]) -> Columns:
    """The new columns and wider types that these lines give. Their types are inferred as in any
    sample."""
    columns_by_name = {column.name: column for column in columns}
    names = _names_with_values(samples)
    changes: dict[str, Any] = {}
    for sampled in sniff(samples):
        column = columns_by_name.get(sampled.name)
        if column is None:
            # A line may have a value in one new field and NULL in another.
            if sampled.name in names:
                changes[sampled.name] = sampled.to_json()
        elif not column.declared and (wide := widened(column.type, sampled.type)) != column.type:
            changes[sampled.name] = TextColumn(sampled.name, wide).to_json()
    return changes


def _names_with_values(samples: Sequence[bytes]) -> set[str]:
    rows = (_object(line) for sample in samples for line in sample.split(b"\n"))
    return {n for row in rows if isinstance(row, dict) for n, v in row.items() if v is not None}


def _object(line: bytes) -> Any:
    """The object, as rows are read: the first of equal keys counts. None for a bad row."""
    try:
        return decode(line)
    except BadJson:
        return None


def _tree(type_: DataType) -> Tree | None:
    if type_.name == "list" and type_.item is not None:
        return _tree(type_.item)
    if type_.name == "struct":
        return {field.name: _tree(field.type) for field in type_.fields}
    return None


def _unknown(value: Mapping[str, Any], tree: Tree, prefix: str) -> Iterator[str]:
    """The paths of the fields of an object that have a value and are not in the tree."""
    for name, item in value.items():
        if name not in tree:
            if item is not None:
                yield prefix + name
            continue
        inner = tree[name]
        if inner is not None:
            for each in _objects(item):
                yield from _unknown(each, inner, f"{prefix}{name}.")


def _objects(item: Any) -> Iterator[Mapping[str, Any]]:
    """The objects in a value: itself, or the items of its lists."""
    if isinstance(item, dict):
        yield item
    elif isinstance(item, list):
        for each in item:
            yield from _objects(each)


class _Codes:
    """The bytes of a text. Each comparison and each shift of its result takes about 0.02 ms for a
    megabyte."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._code = pl.Series([data], dtype=pl.Binary).cast(pl.List(pl.UInt8)).explode()
        # One comparison covers quote, white space and '!'. The '!' can only make the number larger.
        self._key_ends = (self._code <= _QUOTE).shift(1, fill_value=False) & self._at(_COLON)

    def keys(self) -> int:
        """The number of keys, or more."""
        return int(self._key_ends.sum())

    def keys_with_values(self) -> int:
        """The number of keys whose value is not NULL, or more, but closer than `keys`."""
        null = self._at(_N, -1) | (self._at(_SPACE, -1) & self._at(_N, -2))
        counted = self._key_ends & ~null
        if b'\\":' in self._data:
            # After exactly one backslash a quote is part of a text, and so is its colon.
            quote, once, twice = (
                self._at(_QUOTE, 1),
                self._at(_BACKSLASH, 2),
                self._at(_BACKSLASH, 3),
            )
            counted &= ~(quote & once & ~twice)
        return int(counted.sum())

    def _at(self, code: int, places: int = 0) -> pl.Series:
        """Where the byte `places` positions earlier is `code`."""
        mask = self._code == code
        return mask.shift(places, fill_value=False) if places else mask


def _values(values: pl.Series) -> int:
    """The number of values in a column, including those in fields of objects."""
    count: int = values.len() - values.null_count()
    if isinstance(values.dtype, pl.Struct):
        return count + sum(_values(values.struct.field(f.name)) for f in values.dtype.fields)
    if isinstance(values.dtype, pl.List) and _holds_objects(values.dtype):
        return count + _items(values.explode())
    return count


def _items(values: pl.Series) -> int:
    """The number of values with keys in the items of lists; an item itself has no key."""
    own = values.len() - values.null_count()
    return _values(values) - own


def _holds_objects(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List):
        return _holds_objects(dtype.inner)  # type: ignore[arg-type]
    return isinstance(dtype, pl.Struct)
