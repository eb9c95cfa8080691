"""Merge staged rows into a table by their key: deletes first, then one INSERT ... ON CONFLICT.

Always true: without a sequence the last staged row of a key wins; with one, the row with the greatest
sequence (a NULL is the least), and of equals the first write after the last delete, as
`sdk.sql.fold` has it; what stands in the table counts as the oldest row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import psycopg

from dataflare.connectors.postgres import rules
from dataflare.connectors.postgres.catalog import Connection, PgColumn, Table
from dataflare.connectors.postgres.rules import PLACE, bound_of, checks, is_orphan
from dataflare.errors import DataError
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import DataType
from dataflare.sdk.bisection import Pace, Refusal
from dataflare.sdk.sql import soft_deletes
from dataflare.sdk.sql.names import listed, quoted
from dataflare.sdk.sql.refusals import rowwise, sift
from dataflare.sdk.sql.store import Target

GONE = "__dataflare_gone"
LEAVING = (RowKind.UPDATE_BEFORE.value, RowKind.DELETE.value)
_SAVEPOINT = "_dataflare_merge"
_KEYS_MAX = 20_000_000


class Keys:
    """Whether all staged keys are different. It is computed here, because sorting them on the
    server would make an upsert 50 % slower."""

    def __init__(self, target: Target, into: Table) -> None:
        columns = [(target.schema[name], into.columns[name]) for name in target.key]
        self._names = list(target.key)
        self._is_unique = all(_same_here(type_, column) for type_, column in columns)
        self._first: pl.DataFrame | None = None
        self._hashes: list[pl.Series] = []
        self._rows = 0

    def add(self, frame: pl.DataFrame, *, distinct: bool) -> None:
        """distinct: no key is in the frame twice."""
        self._rows += frame.height
        if self._rows > _KEYS_MAX:
            self._is_unique = False
            self._hashes.clear()
        if not self._is_unique:
            return
        if distinct and self._first is None and not self._hashes:
            self._first = frame.select(self._names)
            return
        for each in (self._first, frame):
            if each is not None:
                self._hashes.append(each.select(self._names).hash_rows())
        self._first = None

    @property
    def unique(self) -> bool:
        """False also if that is not known."""
        if not self._is_unique:
            return False
        return not self._hashes or pl.concat(self._hashes).n_unique() == self._rows


def _same_here(type_: DataType, column: PgColumn) -> bool:
    """Whether values that differ for DataFlare are also different keys for PostgreSQL."""
    if type_.name == "string":
        return column.type.name in ("text", "varchar") and column.exact
    return type_.is_integer or type_.name in ("bool", "date", "timestamp", "binary")


class Merge:
    """target: with its columns. into: the table. stage: the staged rows, with PLACE and GONE.
    unique: no key is staged twice. deferred: constraints of the table that each attempt must
    check."""

    def __init__(
        self,
        target: Target,
        into: Table,
        stage: str,
        *,
        unique: bool,
        deferred: Sequence[str] = (),
    ) -> None:
        self._target, self._into, self._stage = target, into, stage
        self._unique, self._deferred = unique, deferred

    @staticmethod
    def events(frame: pl.DataFrame, key: Sequence[str], *, deletes: bool) -> pl.DataFrame:
        """Every row with GONE, except the first half of an update that does not change the key."""
        if KIND_COLUMN not in frame.columns:
            return frame.with_columns(pl.lit(False).alias(GONE))
        rows = rowwise(frame, key).with_columns(pl.col(KIND_COLUMN).is_in(LEAVING).alias(GONE))
        return (rows if deletes else rows.filter(~pl.col(GONE))).drop(KIND_COLUMN)

    def run(
        self,
        db: Connection,
        *,
        first: str | None,
        deletes: bool,
        last: str | None,
        query: str | None,
    ) -> str | None:
        """The merge, with one message to the server. deletes: whether rows are to be deleted. first, last: statements that
        belong to it. query: run behind it; returns the one value of its result. Raises psycopg's errors; the transaction is
        then unchanged."""
        statements = [
            f"savepoint {_SAVEPOINT}",
            *([first] if first is not None else []),
            *self._statements(deletes=deletes),
            *([last] if last is not None else []),
            f"release {_SAVEPOINT}",
            *([query] if query is not None else []),
        ]
        try:
            cursor = db.execute("; ".join(statements).encode())
        except psycopg.DatabaseError:
            if not db.closed:
                db.execute(f"rollback to {_SAVEPOINT}")
            raise
        if query is None:
            return None
        for _ in statements[1:]:
            cursor.nextset()
        row = cursor.fetchone()
        return None if row is None else row[0]

    def sift(
        self, db: Connection, errors: Callable[[], Any], pace: Pace, *, first_only: bool = False
    ) -> list[Refusal]:
        """Like `run`, except the refused rows, which are returned by their PLACE. errors: converts
        psycopg's errors."""
        with errors():
            db.execute(
                f'create index if not exists {self._stage[:-1]}_places" on {self._stage} ({PLACE})'
            )
            row = db.execute(f"select min({PLACE}), max({PLACE}) from {self._stage}").fetchone()
        assert row is not None
        if row[0] is None:
            return []
        start = int(row[0])

        def attempt(first: int, behind: int) -> None:
            with errors():
                self._try(db, self._statements((start + first, start + behind)))

        def suspects(error: DataError, first: int, behind: int) -> list[int]:
            with errors():
                rows = rules.suspects(
                    db, error, self._into, self._stage, (start + first, start + behind)
                )
            return [place - start for place in rows]

        count = int(row[1]) + 1 - start
        bound = bound_of(self._target)
        refusals = sift(count, attempt, pace, suspects=suspects, first_only=first_only, bound=bound)
        refused = [Refusal(start + each.row, each.error) for each in refusals]
        return refused if first_only else self._retry(db, errors, refused)

    def _retry(
        self, db: Connection, errors: Callable[[], Any], refused: list[Refusal]
    ) -> list[Refusal]:
        """The refused rows without those that needed a later row."""
        orphans = self._last_of_their_key(db, [r.row for r in refused if is_orphan(r.error)])
        accepted: set[int] = set()
        progress = bool(orphans)
        while progress:
            before = len(accepted)
            for place in sorted(orphans - accepted):
                try:
                    with errors():
                        self._try(db, self._statements((place, place + 1)))
                    accepted.add(place)
                except DataError:
                    continue
            progress = len(accepted) > before
        return [each for each in refused if each.row not in accepted]

    def _last_of_their_key(self, db: Connection, places: list[int]) -> set[int]:
        if not places or not self._target.key:
            return set(places)
        same = " and ".join(f"q.{quoted(n)} = p.{quoted(n)}" for n in self._target.key)
        rows = db.execute(
            f"select {PLACE} from {self._stage} p where {PLACE} = any(%s) and not exists "
            f"(select from {self._stage} q where q.{PLACE} > p.{PLACE} and {same})",
            (places,),
        )
        return {int(place) for (place,) in rows.fetchall()}

    def row_at(self, db: Connection, place: int) -> list[str]:
        """A staged row as a note."""
        names = list(self._target.key or self._target.schema.names[:3])
        parts = ", ".join(f"{quoted(name)}::text" for name in names)
        row = db.execute(f"select {parts} from {self._stage} where {PLACE} = {place}").fetchone()
        if row is None:
            return []
        text = ", ".join(f"{n} = {v!r}" for n, v in zip(names, row, strict=True))
        return [f"the row: {text}"]

    def _try(self, db: Connection, statements: Sequence[str]) -> None:
        db.execute(f"savepoint {_SAVEPOINT}")
        try:
            for statement in statements:
                db.execute(statement)
        except psycopg.DatabaseError:
            if not db.closed:
                db.execute(f"rollback to {_SAVEPOINT}")
            raise
        db.execute(f"release {_SAVEPOINT}")

    def _statements(
        self, places: tuple[int, int] | None = None, *, deletes: bool = True
    ) -> list[str]:
        """places: only staged rows from the first to before the second. deletes: whether some of them are deleted."""
        target = self._target
        there = (name for name in target.schema.names if name in self._into.columns)
        names = [name for name in there if name != target.deleted_at]
        rows = self._picked(names, places)
        insert = f"insert into {self._into.sql} as t ({listed(names)}) overriding system value "
        plain = f"select {listed(names)} from ({rows}) as p where not {GONE}"
        if not target.key:
            return [insert + plain, *checks(self._deferred)]
        statements = [f"{insert}{plain} {self._on_conflict(names)}"]
        if target.mode == "mirror" and deletes:
            statements.insert(0, self._delete(rows))
        return [*statements, *checks(self._deferred)]

    def _on_conflict(self, names: Sequence[str]) -> str:
        target = self._target
        others = [name for name in names if name not in target.key]
        if not others and target.deleted_at is None:
            return f"on conflict ({listed(target.key)}) do nothing"
        sets = [f"{quoted(n)} = excluded.{quoted(n)}" for n in others]
        if target.deleted_at is not None:
            sets.append(f"{quoted(target.deleted_at)} = null")
        moved = ", ".join(sets)
        clause = f"on conflict ({listed(target.key)}) do update set {moved}"
        if target.sequence is not None:
            s = quoted(target.sequence)
            clause += f" where excluded.{s} > t.{s} or t.{s} is null"
        return clause

    def _delete(self, rows: str) -> str:
        same = [f"t.{quoted(n)} = p.{quoted(n)}" for n in self._target.key]
        if self._target.sequence is not None:
            s = quoted(self._target.sequence)
            same.append(f"(p.{s} >= t.{s} or t.{s} is null)")
        if self._target.deleted_at is not None:
            gone = [f"p.{GONE}", *same]
            now = soft_deletes.now()
            return soft_deletes.marking(self._target, self._into.sql, f"({rows}) as p", gone, now)
        return (
            f"delete from {self._into.sql} as t using ({rows}) as p "
            f"where p.{GONE} and {' and '.join(same)}"
        )

    def _picked(self, names: Sequence[str], places: tuple[int, int] | None) -> str:
        """One staged row for each key."""
        until = "" if places is None else f" where {PLACE} >= {places[0]} and {PLACE} < {places[1]}"
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
            f"as __dataflare_newest from ({staged}) as a"
        )
        deleted = (
            f"select *, max({PLACE}) filter (where {GONE}) over (partition by {key}) as __dataflare_deleted "
            f"from ({newest}) as b where {s} is not distinct from __dataflare_newest"
        )
        return (
            f"select distinct on ({key}) {columns} from ({deleted}) as c "
            f"where __dataflare_deleted is null or {PLACE} >= __dataflare_deleted order by {key}, {GONE}, {PLACE}"
        )
