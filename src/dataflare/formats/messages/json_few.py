"""Few JSON objects to columns, without a query: most of what a query costs does not depend on its rows.

Always true: what is given equals what `NdjsonPlan.parse` gives, value for value. Where that is not certain, nothing is
given, and the objects are parsed as many are: a value of another kind than its column's, a key that is not a column or
stands twice, a number that a float might round.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import polars as pl

from dataflare.formats.text_types import TextColumn

FEW = 500
_KEY_END = re.compile(rb"[\x00-\x22]:")
"""Behind a key. It is found in texts too, and then the number of keys is too large."""
_ROUNDS = re.compile(rb"[:\s]-?[0-9](?:[0-9.]*[eE]|(?=[0-9]*\.)[0-9.]{16})")
"""A number with an exponent, or with a point and more than 15 digits."""
_WHOLE_MAX = 2.0**53
_TIMES = ("timestamp", "date", "time", "duration")
_ABSENT = msgspec.UNSET


class FewObjects:
    """columns: of the objects. If one is neither a number, a text, a time nor a boolean, nothing is ever given."""

    def __init__(self, columns: Sequence[TextColumn]) -> None:
        self._types = {column.name: _parsed(column) for column in columns}
        self._floats = [n for n, found in self._types.items() if found and found[0] is float]
        self._fit = bool(columns) and all(self._types.values())
        self._decode_: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decode_": None}

    @property
    def _decode(self) -> Any:
        if self._decode_ is None:
            # Names of columns are any text, so the attributes have names of their own.
            fields = [
                (f"c{at}", found[0] | None | msgspec.UnsetType, msgspec.field(default=_ABSENT, name=name))
                for at, (name, found) in enumerate(self._types.items())
                if found is not None
            ]  # fmt: skip
            row = msgspec.defstruct("Row", fields, forbid_unknown_fields=True)
            self._decode_ = msgspec.json.Decoder(row).decode
        return self._decode_

    def parsed(self, lines: Sequence[bytes], data: bytes) -> pl.DataFrame | None:
        """The columns as the parser gives them. data: all lines. None: they must be parsed in another way."""
        if not self._fit or not 0 < len(lines) < FEW:
            return None
        if self._floats and _ROUNDS.search(data) is not None:
            return None
        decode = self._decode
        try:
            rows = [msgspec.structs.astuple(decode(line)) for line in lines]
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        absent = sum(row.count(_ABSENT) for row in rows)
        if len(rows) * len(self._types) - absent != len(_KEY_END.findall(data)):
            return None
        columns = []
        for (name, found), values in zip(self._types.items(), zip(*rows, strict=True), strict=True):
            assert found is not None
            if absent:
                values = tuple(None if value is _ABSENT else value for value in values)
            try:
                columns.append(pl.Series(name, values, found[1], strict=True))
            except (OverflowError, TypeError, pl.exceptions.PolarsError):
                return None  # a whole number that is too large
        if any(_is_rounded(column) for column in columns if column.name in self._floats):
            return None
        return pl.DataFrame(columns)


def _parsed(column: TextColumn) -> tuple[Any, pl.DataType] | None:
    """The kind of value that a column has in JSON, and what the parser makes of it."""
    type_ = column.type
    if type_.name == "bool":
        return bool, pl.Boolean()
    if type_.name == "float64":
        return float, pl.Float64()
    if type_.is_integer:
        return int, pl.UInt64() if type_.name.startswith("u") else pl.Int64()
    if type_.is_text or type_.name in _TIMES:
        return str, pl.String()
    return None


def _is_rounded(floats: pl.Series) -> bool:
    """Whether one may have been a whole number that no float holds."""
    least: Any = floats.min()
    most: Any = floats.max()
    return least is not None and max(-least, most) >= _WHOLE_MAX
