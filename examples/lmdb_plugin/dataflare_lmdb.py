"""Tables in an LMDB file: a destination that writes rows by their key, exactly once.

LMDB is an embedded store of bytes by bytes, with transactions and one writer at a time. All tables of a
file are in its one database. A key begins with the name of its table; what is kept about a table has a
key that begins with a NUL, which no table's name contains.

Always true: a row is stored with all its values exactly, as MessagePack of their physical form; what
LMDB cannot store is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import lmdb
import msgspec
import polars as pl
import xxhash
from pydantic import Field, model_validator

from dataflare.errors import DataError, Retry, SystemError_
from dataflare.model.types import RESERVED, DataType, Schema, parse_type
from dataflare.sdk.sql import (
    FileTableDestination,
    FileTableOptions,
    MarkerRow,
    MarkerRows,
    Refusal,
    Sweep,
    TableStore,
    Target,
    fold,
    marker_rows,
    marker_values,
    missing_columns,
    missing_table,
    refuse_deletes,
    with_row,
)

SIZE_MAX = 2**36
"""The most bytes of a file. It does not grow to this size before it has the rows."""
KEY_MAX = 511
SCHEMAS, MARKERS = b"\0schema\0", b"\0epoch\0"
pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode

_opened: dict[str, lmdb.Environment] = {}
_opened_lock = threading.Lock()


def environment(path: Path) -> lmdb.Environment:
    """The open file: a process may open it only once."""
    key = str(path.resolve())
    with _opened_lock:
        if key not in _opened or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _opened[key] = lmdb.open(str(path), subdir=False, map_size=SIZE_MAX, max_readers=512)
        return _opened[key]


@contextmanager
def lmdb_errors(path: Path) -> Iterator[None]:
    """Convert LMDB's exceptions inside into DataFlare's errors."""
    try:
        yield
    except (lmdb.MapFullError, lmdb.DiskError) as error:
        raise SystemError_(
            f"no room in {path}: {error}", code="E0603", retry=Retry.LATER, help="free some space"
        ) from error
    except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
        raise SystemError_(
            f"{path} is not an LMDB file: {error}", code="E0505", help="choose another path"
        ) from error
    except (lmdb.Error, OSError) as error:
        raise SystemError_(f"{path}: {error}", code="E0600", help="fix the cause") from error


# -- rows as bytes -----------------------------------------------------------------------------------


def physical(column: pl.Expr, type_: DataType) -> pl.Expr:
    """A column as numbers, text or bytes."""
    if type_.name == "decimal":
        return column.cast(pl.String)
    return column.to_physical() if type_.is_temporal else column


def stored_dtype(type_: DataType) -> pl.DataType:
    """The type of the values of `physical`."""
    empty = pl.DataFrame(schema={"v": type_.to_polars()})
    return empty.select(physical(pl.col("v"), type_)).to_series().dtype


def in_table(table: str) -> bytes:
    """What all keys of a table begin with."""
    return table.encode() + b"\0"


def keys_of(target: Target, schema: Schema, frame: pl.DataFrame) -> list[bytes]:
    """The keys of rows, as LMDB has them."""
    key = frame.select(physical(pl.col(n), schema[n]) for n in target.key)
    return [in_table(target.table) + pack(row) for row in key.rows()]


def seen(target: Target, key: bytes | None) -> bytes:
    """What says that a key arrived in a run with mode mirror. key: None for what they all begin with."""
    prefix = b"\0seen\0" + target.keys_table.encode()[:200] + b"\0"
    return prefix + (xxhash.xxh3_128_digest(key) if key is not None else b"")


def refuse_nested(schema: Schema, table: str) -> None:
    for field in schema:
        if field.type.name in ("list", "struct"):
            raise DataError(
                f"column '{field.name}' is {field.type}, which table '{table}' cannot store",
                code="E0511",
                help=f"leave it out with map: drop: [{field.name}]",
            )


def schema_of(transaction: lmdb.Transaction, table: str) -> Schema | None:
    """The columns of a table; None if there is no such table."""
    data = transaction.get(SCHEMAS + table.encode())
    if data is None:
        return None
    return Schema.of([(name, parse_type(text)) for name, text in unpack(data)])


def table_names(transaction: lmdb.Transaction) -> list[str]:
    return [bytes(key)[len(SCHEMAS) :].decode() for key, _ in items(transaction, SCHEMAS)]


def items(transaction: lmdb.Transaction, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys that begin with the prefix, in their order, and their values."""
    cursor = transaction.cursor()
    if cursor.set_range(prefix):
        for key, value in cursor:
            if not bytes(key).startswith(prefix):
                return
            yield bytes(key), bytes(value)


# -- the destination ---------------------------------------------------------------------------------


class LmdbConfig(FileTableOptions):
    mode: Literal["upsert", "mirror"] = Field(
        "upsert",
        description="upsert keeps the last row of each key; mirror also deletes rows that are not in "
        "the source any more, at the end of a run that read all of it",
    )

    @model_validator(mode="after")
    def _available(self) -> Self:
        if self.sequence is not None:
            raise ValueError("'sequence' is not available here")
        return self


class LmdbDestination(FileTableDestination):
    """Writes rows by their key."""

    type = "lmdb"
    Config = LmdbConfig
    summary = "Writes a table of an LMDB file, exactly once."
    ignores_case = False

    config: LmdbConfig

    def make_store(self) -> TableStore:
        return LmdbStore(self.path)


class LmdbStore(TableStore):
    """One writing transaction. LMDB wants all its calls from one thread, so the store has one."""

    def __init__(self, path: Path) -> None:
        self.path, self.label = path, str(path)
        self._thread: ThreadPoolExecutor | None = None
        self._transaction: lmdb.Transaction | None = None
        self._schemas: dict[str, Schema] = {}
        self._refused: dict[str, list[Refusal]] = {}

    def _call(self, act: Any, *args: Any) -> Any:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "lmdb")
        with lmdb_errors(self.path):
            return self._thread.submit(act, *args).result()

    @property
    def _open(self) -> lmdb.Transaction:
        assert self._transaction is not None
        return self._transaction

    def is_there(self) -> bool:
        return self.path.exists()

    def begin(self) -> None:
        self._transaction = self._call(lambda: environment(self.path).begin(write=True))

    def commit(self) -> None:
        self._call(self._open.commit)
        self._transaction = None

    def rollback(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            self._call(transaction.abort)

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def look(self, target: Target, *, check: bool) -> Sequence[str]:
        with lmdb_errors(self.path), environment(self.path).begin() as transaction:
            schema = schema_of(transaction, target.table)
            if check:
                self._wider(transaction, target, schema)
            return () if schema is None else schema.names

    # -- the marker

    def read_marker(self, target: Target, *, lock: bool = False) -> MarkerRows:
        found = []
        for _, value in self._call(lambda: list(items(self._open, MARKERS))):
            lineage, step, attempt, epoch, rows, manifest, time, token, workflow, place = unpack(
                value
            )
            ours = (workflow, place) == (target.workflow, target.place) and workflow
            if step == target.step and (lineage == target.lineage or ours):
                found.append((time, (lineage, attempt, epoch, rows, manifest, token)))
        newest_first = sorted(found, key=lambda each: each[0], reverse=True)
        return marker_rows(target, [row for _, row in newest_first])

    def write_marker(self, target: Target, row: MarkerRow) -> None:
        values = marker_values(target, row)
        self._call(self._open.put, MARKERS + pack(values[:2]), pack(values))

    def supersede(self, target: Target) -> None:
        for key, value in self._call(lambda: list(items(self._open, MARKERS))):
            lineage, step, *_, workflow, place = unpack(value)
            same = (step, workflow, place) == (target.step, target.workflow, target.place)
            if same and lineage != target.lineage:
                self._call(self._open.delete, key)

    def is_missing(self, target: Target) -> bool:
        return self._call(schema_of, self._open, target.table) is None

    def is_empty(self, target: Target) -> bool:
        return self._call(lambda: next(items(self._open, in_table(target.table)), None)) is None

    # -- rows

    def write(self, target: Target, frame: pl.DataFrame, rows_before: int, first: int) -> None:
        dtypes = {n: t for n, t in frame.schema.items() if not n.startswith(RESERVED)}
        schema = self._schemas.get(target.step)
        if schema is None or not all(name in schema for name in dtypes):
            schema = self._call(self._make_table, target, Schema.from_polars(dtypes))
        frame = self._accepted(target, schema, frame, first)
        changes = fold(frame, target.key, deletes=target.mode == "mirror")
        rows = pl.DataFrame(
            [
                pl.Series(f.name, changes.upserts[f.name])
                if f.name in dtypes
                else pl.repeat(None, changes.upserts.height, dtype=f.type.to_polars(), eager=True)
                for f in schema
            ]
        ).select(physical(pl.col(f.name), f.type).alias(f.name) for f in schema)
        keys = keys_of(target, schema, changes.upserts)
        puts = list(zip(keys, map(pack, rows.rows()), strict=True))
        self._call(self._apply, target, puts, keys_of(target, schema, changes.deletes))

    def _accepted(
        self, target: Target, schema: Schema, frame: pl.DataFrame, first: int
    ) -> pl.DataFrame:
        """The rows without those whose key LMDB cannot have."""
        no_key = frame.select(pl.any_horizontal(pl.col(n).is_null() for n in target.key))
        refused = no_key.to_series()
        longest = KEY_MAX - len(in_table(target.table))
        too_long = [len(key) > KEY_MAX for key in keys_of(target, schema, frame)]
        refused |= pl.Series(too_long, dtype=pl.Boolean)
        for at in refused.arg_true():
            why = f"its key has more than {longest} bytes" if too_long[at] else "it has no key"
            error = DataError(
                f"table '{target.table}' refuses a row: {why}",
                code="E0510",
                help="fix the row, or set error_handling: {on_error: dead_letter}",
            )
            if not target.sift:
                raise with_row(error, frame.row(at, named=True), target.key)
            self._refused.setdefault(target.step, []).append(Refusal(first + at, error))
        return frame.filter(~refused)

    def _apply(self, target: Target, puts: list[tuple[bytes, bytes]], deletes: list[bytes]) -> None:
        self._open.cursor().putmulti(puts)
        for key in deletes:
            self._open.delete(key)
        if target.sweeps:
            self._open.cursor().putmulti([(seen(target, key), b"") for key, _ in puts])
            for key in deletes:
                self._open.delete(seen(target, key))

    def refused(self, step: str) -> list[Refusal]:
        return self._refused.pop(step, [])

    def settle(self, target: Target, *, final: bool, left_out: int = 0) -> Sweep | None:
        if not final:
            return None
        if target.step not in self._schemas:  # no row has come
            self._call(self._make_table, target, target.schema)
        if not target.sweeps:
            return None
        gone = self._call(self._sweep, target, not left_out)
        return Sweep(gone, left_out)

    def _sweep(self, target: Target, delete: bool) -> int:
        keys = [key for key, _ in items(self._open, in_table(target.table))]
        gone = [key for key in keys if self._open.get(seen(target, key)) is None]
        if delete:
            refuse_deletes(target, len(gone), len(keys))
            for key in gone:
                self._open.delete(key)
        self._clear(target)
        return len(gone)

    def clear_keys(self, target: Target) -> None:
        self._call(self._clear, target)

    def _clear(self, target: Target) -> None:
        for key, _ in list(items(self._open, seen(target, None))):
            self._open.delete(key)

    def _make_table(self, target: Target, arriving: Schema) -> Schema:
        """Create or widen the table; returns its columns."""
        known = schema_of(self._open, target.table)
        wider = self._schemas[target.step] = self._wider(self._open, target, known, arriving)
        columns = [(field.name, str(field.type)) for field in wider]
        self._open.put(SCHEMAS + target.table.encode(), pack(columns))
        return wider

    def _wider(
        self,
        transaction: lmdb.Transaction,
        target: Target,
        known: Schema | None,
        arriving: Schema | None = None,
    ) -> Schema:
        """The columns of the table with those that arrive. Raises an error if it cannot have them."""
        if known is None and not target.create_table:
            raise missing_table(target.table, self.path, table_names(transaction))
        given = {f.name: f.type for f in arriving or ()} | {f.name: f.type for f in target.schema}
        refuse_nested(Schema.of(given), target.table)
        old = {field.name: field.type for field in known or ()}
        if known is not None:
            missing_columns(target, known.names, target.table, self.label)
        for name, type_ in given.items():
            if name in old and old[name] != type_:
                raise DataError(
                    f"column '{name}' of table '{target.table}' is {old[name]}, and {type_} values arrive",
                    code="E0511",
                    help=f"convert them with map: cast: {{{name}: ...}}",
                )
        return Schema.of({**old, **given})
