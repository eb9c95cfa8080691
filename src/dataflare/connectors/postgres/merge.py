"""Bring staged rows into a table by their key: deletes first, then one INSERT ... ON CONFLICT.

Always true: without a sequence the last staged row of a key wins; with one, the row with the greatest
sequence (a NULL is the least), and of equals the first write after the last delete, as
`connectors.sql.fold` has it; what stands in the table counts as the oldest row.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import psycopg

from dataflare.connectors.postgres.catalog import Connection, PgColumn, Table
from dataflare.connectors.sql.fold import fold
from dataflare.connectors.sql.names import listed, quoted
from dataflare.connectors.sql.store import Target
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import DataType

PLACE, GONE = "__place", "__gone"
_LEAVING = (RowKind.UPDATE_BEFORE.value, RowKind.DELETE.value)
_SAVEPOINT = "_dataflare_merge"
_KEYS_MAX = 20_000_000


class Keys:
    """Whether the keys that were staged are all different, found out here: sorting them on the server
    would cost an upsert half as much again."""

    def __init__(self, target: Target, into: Table) -> None:
        columns = [(target.schema[name], into.columns[name]) for name in target.key]
        self._names = list(target.key)
        self._known = all(_same_here(type_, column) for type_, column in columns)
        self._hashes: list[pl.Series] = []
        self._rows = 0

    def add(self, frame: pl.DataFrame) -> None:
        self._rows += frame.height
        if self._rows > _KEYS_MAX:
            self._known = False
            self._hashes.clear()
        if self._known:
            self._hashes.append(frame.select(self._names).hash_rows())

    @property
    def unique(self) -> bool:
        """False also where that is not known."""
        if not self._known:
            return False
        return not self._hashes or pl.concat(self._hashes).n_unique() == self._rows


def _same_here(type_: DataType, column: PgColumn) -> bool:
    """Whether two values are one key to PostgreSQL only if they are the same to us."""
    if type_.name == "string":
        return column.type.name in ("text", "varchar") and column.exact
    return type_.is_integer or type_.name in ("bool", "date", "timestamp", "binary")


class Merge:
    """target: with its columns. into: the table. stage: the staged rows, with PLACE and GONE.
    unique: no key is staged twice."""

    def __init__(self, target: Target, into: Table, stage: str, *, unique: bool) -> None:
        self._target, self._into, self._stage = target, into, stage
        self._unique = unique

    @staticmethod
    def events(frame: pl.DataFrame, key: Sequence[str], *, deletes: bool) -> pl.DataFrame:
        """Every row with GONE, but for the first half of an update that keeps its key."""
        keyless = frame.filter(pl.any_horizontal(pl.col(name).is_null() for name in key))
        fold(keyless, key, deletes=deletes)  # refuses them, if there are any
        if KIND_COLUMN not in frame.columns:
            return frame.with_columns(pl.lit(False).alias(GONE))
        kind = pl.col(KIND_COLUMN)
        same = pl.all_horizontal(pl.col(n).eq_missing(pl.col(n).shift(-1)) for n in key)
        before = kind == RowKind.UPDATE_BEFORE.value
        after = kind.shift(-1) == RowKind.UPDATE_AFTER.value
        gone = kind.is_in(_LEAVING)
        kept = frame.filter(~(before & after & same).fill_null(False)).with_columns(
            gone.alias(GONE)
        )
        return (kept if deletes else kept.filter(~pl.col(GONE))).drop(KIND_COLUMN)

    def run(self, db: Connection) -> None:
        """Raises foreign errors, and leaves the transaction as it was then."""
        db.execute(f"savepoint {_SAVEPOINT}")
        try:
            for statement in self._statements():
                db.execute(statement)
        except psycopg.DatabaseError:
            if not db.closed:
                db.execute(f"rollback to {_SAVEPOINT}")
            raise
        db.execute(f"release {_SAVEPOINT}")

    def refused_row(self, db: Connection) -> list[str]:
        """Which row it was: the least prefix of the staged rows that is refused, bisected."""
        try:
            row = db.execute(f"select max({PLACE}) from {self._stage}").fetchone()
            low, high = -1, int(row[0]) if row and row[0] is not None else -1
            while low + 1 < high:
                middle = (low + high) // 2
                if self._goes_in(db, middle):
                    low = middle
                else:
                    high = middle
            names = list(self._target.key or self._target.schema.names[:3])
            parts = ", ".join(f"{quoted(name)}::text" for name in names)
            found = db.execute(
                f"select {parts} from {self._stage} where {PLACE} = {high}"
            ).fetchone()
        except psycopg.Error:
            return []
        if found is None:
            return []
        shown = ", ".join(f"{n} = {v!r}" for n, v in zip(names, found, strict=True))
        return [f"the row: {shown}"]

    def _goes_in(self, db: Connection, last: int) -> bool:
        db.execute(f"savepoint {_SAVEPOINT}")
        try:
            for statement in self._statements(last):
                db.execute(statement)
        except psycopg.DatabaseError:
            return False
        finally:
            db.execute(f"rollback to {_SAVEPOINT}")
        return True

    def _statements(self, last: int | None = None) -> list[str]:
        """last: only staged rows up to this place."""
        target = self._target
        names = [name for name in target.schema.names if name in self._into.columns]
        rows = self._picked(names, last)
        insert = f"insert into {self._into.sql} as t ({listed(names)}) overriding system value "
        plain = f"select {listed(names)} from ({rows}) as p where not {GONE}"
        if not target.key:
            return [insert + plain]
        found = [f"{insert}{plain} {self._on_conflict(names)}"]
        if target.mode == "mirror":
            found.insert(0, self._delete(rows))
        return found

    def _on_conflict(self, names: Sequence[str]) -> str:
        target = self._target
        others = [name for name in names if name not in target.key]
        if not others:
            return f"on conflict ({listed(target.key)}) do nothing"
        moved = ", ".join(f"{quoted(n)} = excluded.{quoted(n)}" for n in others)
        found = f"on conflict ({listed(target.key)}) do update set {moved}"
        if target.sequence is not None:
            s = quoted(target.sequence)
            found += f" where excluded.{s} > t.{s} or t.{s} is null"
        return found

    def _delete(self, rows: str) -> str:
        same = [f"t.{quoted(n)} = p.{quoted(n)}" for n in self._target.key]
        if self._target.sequence is not None:
            s = quoted(self._target.sequence)
            same.append(f"(p.{s} >= t.{s} or t.{s} is null)")
        return (
            f"delete from {self._into.sql} as t using ({rows}) as p "
            f"where p.{GONE} and {' and '.join(same)}"
        )

    def _picked(self, names: Sequence[str], last: int | None) -> str:
        """One staged row for each key."""
        until = "" if last is None else f" where {PLACE} <= {last}"
        columns, key = f"{listed(names)}, {PLACE}, {GONE}", listed(self._target.key)
        staged = f"select {columns} from {self._stage}{until}"
        sequence = self._target.sequence
        if not key or self._unique:
            return staged
        if sequence is None:
            return (
                f"select distinct on ({key}) {columns} from {self._stage}{until} "
                f"order by {key}, {PLACE} desc"
            )
        s = quoted(sequence)
        newest = (
            f"select *, first_value({s}) over (partition by {key} order by {s} desc nulls last) "
            f"as __newest from ({staged}) as a"
        )
        deleted = (
            f"select *, max({PLACE}) filter (where {GONE}) over (partition by {key}) as __deleted "
            f"from ({newest}) as b where {s} is not distinct from __newest"
        )
        return (
            f"select distinct on ({key}) {columns} from ({deleted}) as c "
            f"where __deleted is null or {PLACE} >= __deleted order by {key}, {GONE}, {PLACE}"
        )
