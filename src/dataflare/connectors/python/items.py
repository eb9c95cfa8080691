"""Convert the yields of a user's generator to frames of one schema.

Always true: a value keeps itself, or its row is a bad row; rows that come as frames are not looked at one by
one, and a frame with other types ends the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.connectors.inline.values import frame_of, schema_of, sifted
from dataflare.errors import ConfigError, DataError
from dataflare.model.bad_rows import BadRow
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk import user_code
from dataflare.sdk.source import SourceBatch

_HELP = "yield dicts, Polars frames or Arrow data, or (rows, position)"


class Item(Struct):
    """One yield. rows: dicts, or a frame. position: where to continue after it, if the generator
    yields positions. is_list: the rows were yielded together."""

    rows: list[dict[str, Any]] | pl.DataFrame
    position: Any = None
    has_position: bool = False
    is_list: bool = False

    @property
    def height(self) -> int:
        return self.rows.height if isinstance(self.rows, pl.DataFrame) else len(self.rows)


class Reader(Struct, frozen=True):
    """Converts yields of a function to frames. step, function: for messages. positioned: whether
    each yield has a position."""

    step: str
    function: str
    positioned: bool

    def item(self, value: Any) -> Item:
        """A yield as an item. Raises DataError (E0521)."""
        position, has_position = None, False
        if isinstance(value, tuple) and len(value) == 2:
            (value, position), has_position = value, True
            self._check_position(position)
        if self.positioned and not has_position:
            raise self._wrong(
                "takes 'start' and yielded rows without a position",
                "yield (rows, position): where to begin to get what follows these rows",
            )
        if has_position and not self.positioned:
            raise self._wrong(
                "yielded a position and takes no 'start'",
                "give it an argument 'start': None at the beginning, else such a position",
            )
        if isinstance(value, Mapping):
            return Item([dict(value)], position, has_position)
        if isinstance(value, list) and all(isinstance(row, Mapping) for row in value):
            return Item([dict(row) for row in value], position, has_position, True)
        if hasattr(value, "__arrow_c_array__") and not hasattr(value, "__arrow_c_stream__"):
            return Item(pl.DataFrame(value), position, has_position)
        try:
            frame = user_code.frame_of(self.step, self.function, value)
        except DataError as error:
            raise self._wrong(f"yielded {user_code.named(value)}", _HELP) from error
        return Item(frame, position, has_position)

    def schema(self, item: Item) -> Schema:
        """The schema of the first rows. Raises DataError (E0521)."""
        try:
            if isinstance(item.rows, pl.DataFrame):
                return Schema.from_polars(item.rows.schema)
            schema = schema_of(item.rows, self.step)
        except ConfigError as error:
            raise self._wrong(f"yielded rows of no clear type: {error.message}", _SCHEMA) from error
        empty = [field.name for field in schema if field.type.name == "null"]
        if empty:
            raise self._wrong(
                f"yielded only NULL in '{empty[0]}', so that its type is not known", _SCHEMA
            )
        return schema

    def checked(self, item: Item, schema: Schema) -> Item:
        """The item with exactly the schema's columns, and a frame with its types too. Raises DataError
        (E0521)."""
        if isinstance(item.rows, pl.DataFrame):
            user_code.nothing_beside(self.step, self.function, item.rows, schema, "the schema")
            frame = user_code.conformed(
                self.step, self.function, item.rows, schema, "the schema of the source"
            )
            return Item(frame, item.position, item.has_position)
        for row in item.rows:
            extra = next((name for name in row if name not in schema), None)
            if extra is not None:
                raise self._wrong(
                    f"yielded a row with the column '{extra}', which the first rows did not have",
                    _SCHEMA,
                )
        return item

    def batch(
        self,
        rows: Sequence[Mapping[str, Any]],
        schema: Schema,
        place: Callable[[int], str],
        may_cut: bool,
    ) -> SharedDataBatch:
        """The rows of dicts; those with a value that does not fit its column are bad rows. place: where a row
        is, counted from 0."""
        try:
            return SourceBatch(frame_of(rows, schema, self.step), place=place, may_cut=may_cut)
        except ConfigError:
            apart = sifted(rows, schema)
        bad = [
            BadRow(
                number,
                "E0501",
                f"the function yielded {message}",
                json.dumps(rows[number], default=str, ensure_ascii=False),
                place(number),
            )
            for number, message in apart.wrong
        ]
        numbers = pl.Series(apart.numbers, dtype=pl.Int64)
        return SourceBatch(apart.frame, bad=bad, row_numbers=numbers, place=place, may_cut=may_cut)

    def _check_position(self, position: Any) -> None:
        try:
            same = json.loads(json.dumps(position, allow_nan=False)) == position
        except (TypeError, ValueError):
            same = False
        if not same:
            raise self._wrong(
                f"yielded a position that JSON cannot hold: {user_code.named(position)}",
                "let a position be a number, a text, or a dict or list of such",
            )

    def _wrong(self, problem: str, help: str) -> DataError:
        return DataError(
            f"step '{self.step}': {self.function} {problem}",
            code="E0521",
            step=self.step,
            help=help,
        )


_SCHEMA = "say the columns and their types in the source's 'schema'"


def joined(items: Sequence[Item]) -> Item:
    """Adjacent items as one item; the position is that of the last."""
    rows = [row for item in items for row in item.rows]
    return Item(rows, items[-1].position, items[-1].has_position)  # type: ignore[arg-type]
