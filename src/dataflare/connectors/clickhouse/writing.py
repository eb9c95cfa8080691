"""Write a table of ClickHouse: an epoch's rows wait in its redo file, and are inserted when it is committed.

Always true: the chunks of an epoch are the same each time its redo file is read, because their size is in the
committable; a chunk has the same token each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import polars as pl

from dataflare.connectors.clickhouse import made_tables
from dataflare.connectors.clickhouse.config import ClickhouseDestinationConfig
from dataflare.connectors.clickhouse.connection import Client, Server
from dataflare.connectors.clickhouse.encode import refused
from dataflare.connectors.clickhouse.errors import clickhouse_errors
from dataflare.errors import DataError
from dataflare.formats.text_write import python_row
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import DataType, Schema
from dataflare.sdk.bisection import Refusal
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, RefusedRow, Writer, WriteStats
from dataflare.sdk.sql import redo
from dataflare.sdk.sql.fold import OP_COLUMN, rows_to_append
from dataflare.sdk.sql.names import HELP, at_step
from dataflare.sdk.sql.refusals import with_row
from dataflare.sdk.sql.store import Target
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.model.batch import SharedDataBatch

CHUNK_BYTES = 64 * 2**20
_LEAVING = (RowKind.UPDATE_BEFORE.value, RowKind.DELETE.value)


class ClickhouseWriter(Writer):
    """Appends batches to the epoch's redo file, without the rows whose values the table would change."""

    resumes = True
    system_calls: int

    def __init__(
        self,
        server: Server,
        target: Target,
        config: ClickhouseDestinationConfig,
        context: DestinationContext,
        restored: Committable | None,
    ) -> None:
        self._server, self._target, self._config = server, target, config
        self._context = context
        self._redo = redo.RedoWriter(context.redo, context.attempt, context.subtask)
        self._rows_total = int(restored.data["rows_total"]) if restored is not None else 0
        self._sealed: tuple[int, redo.RedoFile] = (0, redo.RedoFile(None, "", 0))
        self._kinds: tuple[Schema, made_tables.Kinds] | None = None
        self._refused: list[RefusedRow] = []
        self.system_calls = 0

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        num_bytes = batch.num_bytes
        if batch.num_rows:
            await in_thread(self._write, batch.frame, num_bytes)
        return WriteStats(batch.num_rows, num_bytes)

    def _write(self, frame: pl.DataFrame, num_bytes: int) -> None:
        target = self._target
        if target.mode == "upsert":
            if KIND_COLUMN in frame.columns:
                frame = frame.filter(~pl.col(KIND_COLUMN).is_in(_LEAVING)).drop(KIND_COLUMN)
        elif target.mode != "mirror":
            frame = rows_to_append(frame, op=target.op)
        if not frame.height:
            return
        with at_step(target.step):
            refusals = self._refusals(frame)
            if refusals:
                frame = self._left_out(frame, refusals)
        crash_point("clickhouse.write.before_redo")
        if frame.height:
            self._redo.append(frame, num_bytes)

    def _refusals(self, frame: pl.DataFrame) -> list[Refusal]:
        leaves = None
        if KIND_COLUMN in frame.columns:
            # Of a row that is deleted only the key is written.
            leaves = frame[KIND_COLUMN].is_in(_LEAVING)
            frame = frame.drop(KIND_COLUMN)
        types = types_of(frame, self._target.schema)
        schema = Schema.of(types)
        if self._kinds is None or self._kinds[0] != schema:
            self._kinds = schema, self._find_kinds(schema)
        found = {each.row: each for each in self._without_key(frame)}
        for each in refused(frame, types, self._kinds[1], self._target.table):
            if leaves is not None and leaves[each.row]:
                continue
            found.setdefault(each.row, each)
        return [found[row] for row in sorted(found)]

    def _find_kinds(self, schema: Schema) -> made_tables.Kinds:
        server, target = self._server, self._target
        client = Client(server)
        self.system_calls += 1
        try:
            with clickhouse_errors(server.label, f"table '{target.table}'"):
                return made_tables.kinds(
                    made_tables.ensure(client, server, target, self._config, schema)
                )
        finally:
            client.close()

    def _without_key(self, frame: pl.DataFrame) -> list[Refusal]:
        needed = [*self._target.key, *([self._target.sequence] if self._target.sequence else [])]
        if not needed:
            return []
        empty = frame.select(
            pl.any_horizontal(pl.col(name).is_null() for name in needed)
        ).to_series()
        if not empty.any():
            return []
        error = DataError(
            f"table '{self._target.table}' refuses a row: it has no {' or no '.join(needed)}",
            code="E0510",
            help=HELP,
        )
        return [Refusal(row, error) for row in empty.arg_true().to_list()]

    def _left_out(self, frame: pl.DataFrame, refusals: Sequence[Refusal]) -> pl.DataFrame:
        """The other rows. Raises the first refusal where rows may not be left out."""
        for refusal in refusals:
            row = python_row(frame, refusal.row)
            for name in (OP_COLUMN, KIND_COLUMN):
                row.pop(name, None)
            if not self._target.sift:
                raise with_row(refusal.error, row, self._target.names)
            self._refused.append(RefusedRow(row, refusal.error.code, refusal.error.message))
        rows = pl.int_range(frame.height, eager=True)
        return frame.filter(~rows.is_in([each.row for each in refusals]))

    async def settle(self) -> Sequence[RefusedRow]:
        refused_rows, self._refused = self._refused, []
        return refused_rows

    async def prepare(self, epoch: int, *, final: bool) -> Committable:
        return await in_thread(self._prepare, epoch)

    def _prepare(self, epoch: int) -> Committable:
        if self._sealed[0] != epoch:
            self._sealed = epoch, self._redo.seal(epoch)
            crash_point("clickhouse.prepare.after_fsync")
            self._rows_total += self._sealed[1].rows
        data = {"rows_total": self._rows_total, "chunk_rows": self._config.batch_size}
        return self._sealed[1].committable(self._context.subtask, **data)

    async def aclose(self) -> None:
        # Prepared rows stay: the committer may still commit them.
        await in_thread(self._redo.close)


def types_of(frame: pl.DataFrame, schema: Schema) -> dict[str, DataType]:
    """The types of a frame's columns; json is told from text by the schema."""
    own = Schema.from_polars(frame.schema)
    return {
        field.name: schema[field.name]
        if field.name in schema and schema[field.name].to_polars() == frame.schema[field.name]
        else field.type
        for field in own
    }


def chunks(frames: Iterator[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """Frames put together until they have about that many rows, or many bytes, or other columns."""
    held: list[pl.DataFrame] = []
    count = size = 0
    for frame in frames:
        if held and held[0].schema != frame.schema:
            yield pl.concat(held, rechunk=False)
            held, count, size = [], 0, 0
        held.append(frame)
        count += frame.height
        size += int(frame.estimated_size())
        if count >= rows or size >= CHUNK_BYTES:
            yield pl.concat(held, rechunk=False)
            held, count, size = [], 0, 0
    if held:
        yield pl.concat(held, rechunk=False)
