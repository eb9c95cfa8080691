"""Find the rows that a DuckDB table would refuse before any row is written: in DuckDB a refused
statement aborts the whole transaction, and there are no savepoints.

Always true: a row is refused because of its own values, or because of a key that the table or an
earlier row has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import polars as pl
from msgspec import Struct

from dataflare.connectors.duckdb import tables
from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.exactness import loss
from dataflare.connectors.duckdb.limits import beyond, value_texts
from dataflare.errors import DataError
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.sdk.bisection import Refusal
from dataflare.sdk.sql.names import quoted, refusal
from dataflare.sdk.sql.store import Target

_ROWS, _NUMBER, _ORIGINAL, _PART = (
    "_dataflare_rows",
    "__dataflare_number",
    "__dataflare_given_",
    "__dataflare_part_",
)
_LEAVING = (RowKind.UPDATE_BEFORE.value, RowKind.DELETE.value)


class ForeignKey(Struct, frozen=True):
    columns: tuple[str, ...]
    parent: str
    theirs: tuple[str, ...]


class Rules(Struct, frozen=True):
    """The constraints of one table. columns: declared type and default by name. uniques: for each
    unique constraint, the SQL of its columns or expressions; without the key that rows are written
    by."""

    target: Target
    columns: dict[str, tuple[str, str | None]]
    not_null: tuple[str, ...]
    checks: tuple[str, ...]
    uniques: tuple[tuple[str, ...], ...]
    foreign_keys: tuple[ForeignKey, ...]

    @classmethod
    def of(cls, db: DuckConnection, target: Target) -> Rules:
        table = tables.find_table(db, target.written)
        assert table is not None
        place = [table.schema, table.name]
        this_table = "database_name = current_database() and schema_name = ? and table_name = ?"
        columns = db.rows(
            f"select column_name, data_type, column_default from duckdb_columns() where {this_table} "
            "order by column_index",
            place,
        )
        rules = db.rows(
            "select constraint_type, constraint_column_names, expression, referenced_table, "
            f"referenced_column_names from duckdb_constraints() where {this_table}",
            place,
        )
        quoted_names = {name.casefold(): quoted(name) for name, _, _ in columns}
        key = {quoted(name).casefold() for name in target.key}
        uniques = [
            tuple(quoted_names.get(part.casefold(), part) for part in parts)
            for parts in (
                *(names for kind, names, *_ in rules if kind in ("PRIMARY KEY", "UNIQUE")),
                *tables.unique_expressions(db, table),
            )
        ]
        return cls(
            target,
            {name: (type_, default) for name, type_, default in columns},
            tuple(names[0] for kind, names, *_ in rules if kind == "NOT NULL"),
            tuple(expression for kind, _, expression, *_ in rules if kind == "CHECK"),
            tuple(u for u in dict.fromkeys(uniques) if {part.casefold() for part in u} != key),
            tuple(
                ForeignKey(tuple(names), parent, tuple(theirs))
                for kind, names, _, parent, theirs in rules
                if kind == "FOREIGN KEY" and names and parent
            ),
        )

    def refused(self, db: DuckConnection, frame: pl.DataFrame) -> list[Refusal]:
        """The rows of a frame that the table would refuse, in order."""
        rows = frame.with_row_index(_NUMBER)
        if KIND_COLUMN in rows.columns and not self.target.op:
            rows = rows.filter(~pl.col(KIND_COLUMN).is_in(_LEAVING))
        rows = rows.drop(KIND_COLUMN, strict=False)
        conditions, errors = zip(*self._conditions(rows.columns), strict=True)
        cases = " ".join(f"when {broken} then {n}" for n, broken in enumerate(conditions))
        db.db.register(_ROWS, rows.to_arrow())
        try:
            rows_sql = self._stored_rows(rows.columns)
            hit = db.rows(
                f"select {_NUMBER}, case {cases} end as hit from {rows_sql} where hit is not null"
            )
            errors_by_row: dict[int, DataError] = {row: errors[n] for row, n in hit}
            for name, mask in beyond(rows, self.target.schema):
                picked = rows.filter(mask.fill_null(False)).select(_NUMBER, name)
                for row, value in zip(picked[_NUMBER], value_texts(picked, name), strict=True):
                    errors_by_row.setdefault(row, refused_value(self.target.table, name, value))
            for number, unique in enumerate(self.uniques):
                error = self._error(f"an earlier row has the same {', '.join(unique)}")
                doubles = db.rows(
                    f"select {_NUMBER} from {rows_sql} where {_NUMBER} not in "
                    f"(select unnest(?::bigint[])) and {self._is_set(number)} "
                    f"qualify {self._is_duplicate(number)}",
                    [list(errors_by_row)],
                )
                errors_by_row |= {row: error for (row,) in doubles}
        finally:
            db.db.unregister(_ROWS)
        return [Refusal(row, errors_by_row[row]) for row in sorted(errors_by_row)]

    def _conditions(self, arriving: Sequence[str]) -> Iterator[tuple[str, DataError]]:
        """The conditions that a single row may violate, over the columns of `_stored_rows`, and
        their errors."""
        types = {field.name.casefold(): field.type for field in self.target.schema}
        originals = {
            name.casefold(): f'"{_ORIGINAL}{place}"' for place, name in enumerate(arriving)
        }
        for name in self.target.key:
            yield (
                f"{originals[name.casefold()]} is null",
                self._error(f"it has no key: {name} is null"),
            )
        for name, (type_, _) in self.columns.items():
            value = originals.get(name.casefold())
            if value is not None:
                error = self._error(f"column '{name}' is {type_}", code="E0511")
                yield f"{value} is not null and {quoted(name)} is null", error
                ours = types.get(name.casefold())
                change = ours and loss(value, ours, type_)
                if change:
                    error = self._error(f"column '{name}' is {type_}, and would change it", "E0511")
                    yield change, error
        for name in self.not_null:
            yield f"{quoted(name)} is null", self._error(f"column '{name}' may not be null")
        for check in self.checks:
            yield f"not ({check})", self._error(f"CHECK constraint failed: {check}")
        folder, _ = tables.split_name(self.target.table)
        for key in self.foreign_keys:
            pairs = zip(key.columns, key.theirs, strict=True)
            same = " and ".join(f"p.{quoted(theirs)} = n.{quoted(ours)}" for ours, theirs in pairs)
            is_set = _all_set(map(quoted, key.columns))
            parent = f"{quoted(folder)}.{quoted(key.parent)}"
            error = self._error(f"'{key.parent}' has no row for its {', '.join(key.columns)}")
            yield f"({is_set} and not exists (select 1 from {parent} p where {same}))", error
        for number, unique in enumerate(self.uniques):
            same = " and ".join(
                f"({part}) = n.{quoted(f'{_PART}{number}_{at}')}" for at, part in enumerate(unique)
            )
            if self.target.key:
                other = " or ".join(f"t.{quoted(k)} <> n.{quoted(k)}" for k in self.target.key)
                same += f" and ({other})"
            error = self._error(f"the table has a row with the same {', '.join(unique)}")
            place = tables.spelled(self.target.written)
            yield f"exists (select 1 from {place} t where {same})", error

    def _stored_rows(self, arriving: Sequence[str]) -> str:
        """The rows as the table would store them, as `n`, with the original values and the parts of
        unique keys."""
        names = {name.casefold(): name for name in arriving}
        columns = [_NUMBER]
        columns += [f'{quoted(name)} as "{_ORIGINAL}{n}"' for n, name in enumerate(arriving)]
        for name, (type_, default) in self.columns.items():
            ours = names.get(name.casefold())
            cast = (
                f"try_cast(r.{quoted(ours)} as {type_})"
                if ours
                else f"cast({default or 'null'} as {type_})"
            )
            columns.append(f"{cast} as {quoted(name)}")
        parts = [
            f"({part}) as {quoted(f'{_PART}{number}_{at}')}"
            for number, unique in enumerate(self.uniques)
            for at, part in enumerate(unique)
        ]
        inner = f"(select {', '.join(columns)} from {_ROWS} r)"
        return f"(select {', '.join(['*', *parts])} from {inner}) n"

    def _is_set(self, number: int) -> str:
        return _all_set(self._parts(number))

    def _is_duplicate(self, number: int) -> str:
        """Whether an earlier row has the same key, and this row does not replace it."""
        window = f"over (partition by {', '.join(self._parts(number))} order by {_NUMBER})"
        if not self.target.key:
            return f"row_number() {window} > 1"
        key = f"struct_pack({', '.join(f'{quoted(k)} := {quoted(k)}' for k in self.target.key)})"
        return f"first_value({key}) {window} <> {key}"

    def _parts(self, number: int) -> list[str]:
        return [quoted(f"{_PART}{number}_{at}") for at in range(len(self.uniques[number]))]

    def _error(self, text: str, code: str = "E0510") -> DataError:
        return refusal(f"table '{self.target.table}'", text, code)


def _all_set(columns: Iterable[str]) -> str:
    return " and ".join(f"{column} is not null" for column in columns)


def refused_value(table: str, column: str, value: str) -> DataError:
    """The error for a value that DuckDB cannot represent."""
    return DataError(
        f"column '{column}' of table '{table}' cannot hold {value}: DuckDB would change it",
        code="E0511",
        help="round it in a step 'map', or write it as text",
    )
