"""The decoders of the tables in the log, made anew when the log says that a table has changed.

Always true: a column that came or went is noticed where the log says so, also by a run that goes on later. What rows
from before have in such a column is NULL only where it is NULL in the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import polars as pl

from dataflare.connectors.postgres.catalog import Connection, find_types
from dataflare.connectors.postgres.cdc.defaults import (
    Default,
    defaults,
    refuse_default,
)
from dataflare.connectors.postgres.cdc.following import Followed, Following
from dataflare.connectors.postgres.cdc.log import LoggedColumn, LoggedTable
from dataflare.connectors.postgres.cdc.objects import dropped
from dataflare.connectors.postgres.cdc.place import Part, TablePlace
from dataflare.connectors.postgres.cdc.tables import SeenOnly, TableDecoder
from dataflare.connectors.postgres.cdc.values import asked
from dataflare.connectors.postgres.connection import ArrowConnection
from dataflare.connectors.postgres.relation import Column, column_of
from dataflare.errors import DataError, SystemError_
from dataflare.sdk.sql.change_facts import refuse_taken
from dataflare.sdk.sql.names import at_step
from dataflare.sdk.sql.read_again import READ_AGAIN

_NUMBERS = "select attname::text, attnum from pg_attribute where attrelid = %s and attnum > 0 and not attisdropped"


class Decoders:
    """Blocking."""

    def __init__(self, following: Following) -> None:
        self._following = following
        self._decoders: dict[int, TableDecoder | SeenOnly] = {}
        self._numbers = {each.name: oid for oid, each in following.tables.items()}
        self._arrow: ArrowConnection | None = None
        self._db: Connection | None = None

    def of(self, table: int) -> TableDecoder | SeenOnly | None:
        """None for a table that is not read."""
        return self._decoders.get(table)

    def close(self) -> None:
        for held in (self._arrow, self._db):
            if held is not None:
                held.close()

    def describe(
        self, logged: LoggedTable, places: Mapping[int, TablePlace]
    ) -> tuple[str, ...] | None:
        """Take what the log says of a table, and return the columns that it has from here on. None: it is not read. Raises an
        error for a change that cannot be followed, where the rows behind it may be needed."""
        followed = self._following.tables.get(logged.id)
        if followed is None:
            number = self._numbers.get(f"{logged.folder}.{logged.name}")
            if number is not None:
                self._refuse_made_again(self._following.tables[number])
            return None  # another table, or the log has come to an older one of that name
        with at_step(followed.reading.step):
            there = places[logged.id]
            try:
                self._check_identity(followed, logged)
                names = tuple(column.name for column in logged.columns)
                columns = self._checked_columns(followed, names, there.columns)
                self._decoders[logged.id] = self._decoder(followed, logged)
            except (DataError, SystemError_) as error:
                if not there.parts:
                    raise
                # The table was altered, and read behind that: the rows that come are replaced already.
                self._decoders[logged.id] = SeenOnly(error.at(step=followed.reading.step))
                return there.columns
        return columns

    def numbers(self, table: int) -> Mapping[str, int]:
        """By column that a table has now, its number."""
        rows = self.connection().execute(_NUMBERS, (table,)).fetchall()
        return {str(name): int(number) for name, number in rows}

    def _refuse_made_again(self, followed: Followed) -> None:
        if dropped(self.connection(), [followed.table.oid]):
            raise SystemError_(
                f"{self._label(followed)} was dropped and made again since the run began",
                code="E0605",
                step=followed.reading.step,
                help="run again: the run then reads the new table",
            )

    def _check_identity(self, followed: Followed, logged: LoggedTable) -> None:
        key = {column.name for column in logged.columns if column.is_key}
        is_whole = logged.identity == "f"
        if is_whole is followed.has_old_rows and (is_whole or key == set(followed.key)):
            return
        raise SystemError_(
            f"the replica identity of {self._label(followed)} has changed: its rows are identified by other columns",
            code="E0605",
            help=f"run again; if that ends here too, {READ_AGAIN}",
        )

    def _label(self, followed: Followed) -> str:
        return f"{followed.reading.relation.label} in {self._following.server.label}"

    def _checked_columns(
        self, followed: Followed, names: Sequence[str], before: Sequence[str]
    ) -> tuple[str, ...]:
        """The columns that the rows have from here on. Raises an error for a change that cannot be followed."""
        appeared = [name for name in names if name not in before]
        gone = [name for name in before if name not in names]
        if not appeared and not gone:
            return tuple(names)
        now = self._defaults(followed)
        wanted = {column.name for column in followed.columns}
        for name in gone:
            if name in wanted and name not in now:
                raise DataError(
                    f"column '{name}' of {self._label(followed)} was dropped or renamed",
                    code="E0545",
                    help="run again: the run then has the columns that the table has now",
                )
        later = set()
        for name in (*appeared, *gone):
            if now.get(name) is not None and (name in wanted or followed.gives_new):
                refuse_default(followed, self._following.server.label, name, now[name])
                # The start that has the column reads the table once more.
                later |= {name} - wanted
        # The log may be at a place from before a column that is known already.
        kept = [name for name in gone if name in now]
        return (*(name for name in names if name not in later), *kept)

    def _defaults(self, followed: Followed) -> Mapping[str, Default | None]:
        """The table's columns, and which have a default."""
        return defaults(self.connection(), followed.table.oid)

    def _decoder(self, followed: Followed, logged: LoggedTable) -> TableDecoder:
        relation, table = followed.reading.relation, followed.table
        refuse_taken(
            [each.name for each in logged.columns],
            followed.facts,
            relation.label,
            followed.reading.step,
        )
        logged_columns = {column.name: column for column in logged.columns}
        for column in followed.columns:
            of_log = logged_columns.get(column.name)
            if of_log is not None:
                self._check_type(followed, column, of_log)
        fresh = [each for each in logged.columns if each.name not in table.columns]
        new: list[Column] = []
        if fresh and followed.gives_new:
            now = self._defaults(followed)
            types = find_types(self.connection(), {each.type for each in fresh})
            new = [column_of(c.name, types[c.type], c.modifier) for c in fresh if c.name in now]
        return TableDecoder(
            relation.label,
            followed.stream,
            followed.has_old_rows,
            self._texts_before(followed, logged_columns),
            logged,
            followed.key,
            followed.reading.columns,
            tuple(new),
            followed.needs_unchanged,
            self._ask,
            partial(self._locate, followed),
        )

    def _texts_before(
        self, followed: Followed, logged: Mapping[str, LoggedColumn]
    ) -> Mapping[str, bytes]:
        """What rows have in columns that the log has not come to. Raises an error where it is not one value."""
        lacking = [c.name for c in followed.columns if c.name not in logged]
        now = self._defaults(followed) if lacking else {}
        texts = {}
        for name in lacking:
            default = now.get(name)
            refuse_default(followed, self._following.server.label, name, default)
            if default is not None and default.text is not None:
                texts[name] = default.text.encode()
        return texts

    def _check_type(self, followed: Followed, column: Column, logged: LoggedColumn) -> None:
        known = followed.table.columns[column.name]
        if (known.type.oid, known.modifier) == (logged.type, logged.modifier) or column.as_text:
            return
        types = find_types(self.connection(), {logged.type})
        now = column_of(column.name, types[logged.type], logged.modifier)
        if now.type != column.type:
            raise DataError(
                f"column '{column.name}' of {self._label(followed)} is {now.type} at this place of the log, and "
                f"{column.type} in this run: its type was changed",
                code="E0545",
                help=f"run again; if the type is the new one already, {READ_AGAIN}",
            )

    # -- what the server is asked ------------------------------------------------------------------

    def connection(self) -> Connection:
        if self._db is None:
            following = self._following
            self._db = following.server.connect(following.application)
        return self._db

    def _ask(self, column: Column, texts: pl.Series) -> tuple[pl.Series, pl.Series]:
        following = self._following
        if self._arrow is None:
            self._arrow = ArrowConnection(following.server, following.application)
        self._arrow.begin({}, None)
        try:
            return asked(self._arrow, column, texts)
        finally:
            self._arrow.end()

    def _locate(
        self, followed: Followed, keys: pl.DataFrame, parts: Sequence[Part]
    ) -> Sequence[int]:
        relation = followed.reading.relation
        types = [relation.column(name).pg for name in relation.key]
        key = ", ".join(f"k{at}::{type_}" for at, type_ in enumerate(types))
        cases, values = [], [keys[f"k{at}"].to_list() for at in range(len(types))]
        for number, part in enumerate(parts[:-1]):
            assert part.to is not None
            bound = ", ".join(f"%s::{type_}" for type_ in types)
            cases.append(f"when ({key}) <= ({bound}) then {number}")
            values += part.to  # type: ignore[arg-type]
        arrays = ", ".join("%s::text[]" for _ in types)
        names = ", ".join(f"k{at}" for at in range(len(types)))
        sql = (
            f"select case {' '.join(cases)} else {len(parts) - 1} end from unnest({arrays}) "
            f"with ordinality as u({names}, n) order by n"
        )
        lists, bounds = values[: len(types)], values[len(types) :]
        rows = self.connection().execute(sql, [*bounds, *lists]).fetchall()
        return [row[0] for row in rows]
