"""The commit protocol's operations on a lake's table: files are written when an epoch is prepared, and one
commit of the table has them and the marker."""

from __future__ import annotations

import random
import time
import uuid
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial

import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from dataflare.errors import CheckpointError, DataFlareError
from dataflare.formats.text_write import python_row
from dataflare.model.types import RESERVED, Schema
from dataflare.sdk.bisection import Refusal
from dataflare.sdk.lakes import marker, marking
from dataflare.sdk.lakes.fit import (
    fit,
    in_order,
    matched_names,
    null_keys,
    refuse_clocks,
    with_first_halves,
    without,
)
from dataflare.sdk.lakes.marker import LakeMarker
from dataflare.sdk.lakes.pending import Pending
from dataflare.sdk.lakes.replacing import Replacing, Writers
from dataflare.sdk.lakes.table import Change, Conflict, DataFile, LakeTable
from dataflare.sdk.sql import sweeping, tables
from dataflare.sdk.sql.fold import rows_to_append
from dataflare.sdk.sql.marker import MarkerRow, MarkerRows
from dataflare.sdk.sql.names import missing_table
from dataflare.sdk.sql.refusals import with_row
from dataflare.sdk.sql.store import TableStore, Target
from dataflare.sdk.sql.sweeping import Sweep

_TRIES = 20
_WAIT_S = 0.02


class _Step(Struct):
    """What one step writes in the transaction. names: the table's columns by those of the rows. marks: the column with the
    time at which a row was deleted, where such rows stay."""

    target: Target
    names: dict[str, str]
    prefix: str
    marks: str | None = None
    writers: Writers | None = None
    pending: Pending | None = None
    refused: list[Refusal] = []


class LakeStore(TableStore):
    """One table. Several steps may write to it in one transaction."""

    def __init__(self) -> None:
        self._table: LakeTable | None = None
        self._clear()

    def _clear(self) -> None:
        self._steps: dict[str, _Step] = {}
        self._adds: list[DataFile] = []
        self._removes: list[DataFile] = []
        self._left: list[DataFile] = []
        self._written: list[DataFile] = []
        self._markers: dict[str, LakeMarker | None] = {}
        self._staged: set[str] = set()
        self._replaces_all = False
        self._attempted = False

    # -- for subclasses ----------------------------------------------------------------------------

    @abstractmethod
    def load(self) -> LakeTable | None:
        """The newest version; None if the table does not exist. Raises DataFlare's errors."""

    @abstractmethod
    def create(self, target: Target) -> LakeTable:
        """Create the table, without rows. If another writer is faster, its table is loaded."""

    @abstractmethod
    def check_types(self, schema: Schema) -> None:
        """Raise an error for columns whose types no table of this kind can hold exactly."""

    def table_names(self) -> Sequence[str]:
        """The tables that are there, for messages."""
        return ()

    # -- the transaction ---------------------------------------------------------------------------

    def is_there(self) -> bool:
        return self.load() is not None

    def begin(self) -> None:
        self._clear()
        self._table = self.load()

    def commit(self) -> None:
        table = self._table
        # Read first, because another attempt that commits may remove the markers of this version.
        markers = {} if table is None else {slot: table.marker(slot) for slot in self._markers}
        for step in self._steps.values():
            self._apply(step)
        table = self._table
        if table is None or not (
            self._adds or self._removes or self._markers or self._replaces_all
        ):
            return
        change = self._change(table)
        self._attempted = True
        for attempt in range(_TRIES):
            try:
                table.commit(change)
                break
            except Conflict as conflict:
                self._attempted = False
                if attempt + 1 == _TRIES:
                    raise
                table = self._rebased(table, change, markers, conflict)
                self._attempted = True
                time.sleep(random.uniform(0, _WAIT_S * 2 ** min(attempt, 6)))
        table.remove(self._left)
        self._clear()

    def _rebased(
        self,
        old: LakeTable,
        change: Change,
        markers: Mapping[str, str | None],
        conflict: Conflict,
    ) -> LakeTable:
        """The newest version, if the change can be made on it as well; else raises the conflict. markers: as the transaction
        has read them, by slot."""
        fresh = self.load()
        if (
            fresh is None
            or not change.may_move
            or fresh.schema != old.schema
            or any(fresh.marker(slot) != text for slot, text in markers.items())
        ):
            raise conflict
        self._table = fresh
        return fresh

    def _change(self, table: LakeTable) -> Change:
        current = self._files()
        markers: dict[str, str | None] = {}
        labels: dict[str, str] = {}
        counters: dict[str, int] = {}
        visible = self._adds
        for slot, each in self._markers.items():
            if each is None:
                markers[slot] = None
                continue
            if each.run:
                seen = sum(f.rows or 0 for f in current if f.name.startswith(_arrived(each.run)))
                each = replace(each, seen=seen)
            if each.step in self._staged:
                files = (table.file_to_json(f) for f in self._adds)
                each = replace(each, staged=(*each.staged, *files))
                visible = []
            markers[slot] = each.text()
            labels |= {"workflow": each.workflow, "step": each.step, "lineage": each.lineage}
            labels["epoch"] = str(each.epoch)
            counters[f"dataflare/{each.lineage}/{each.step}"] = each.epoch
        may_move = not self._removes and not any(s.target.key for s in self._steps.values())
        return Change(
            visible, self._removes, markers, labels, counters, self._replaces_all, may_move
        )

    def rollback(self) -> None:
        for step in self._steps.values():
            if step.pending is not None:
                step.pending.close()
            if step.writers is not None:
                step.writers.arrived.discard()
                step.writers.kept.discard()
        # After a commit whose outcome is not known the files may be in the table.
        if self._table is not None and not self._attempted:
            self._table.remove(self._written)
        self._clear()

    def close(self) -> None:
        self._table = None

    def is_lost(self, error: DataFlareError) -> bool:
        return isinstance(error, Conflict)

    # -- the marker --------------------------------------------------------------------------------

    def _marker(self, target: Target) -> LakeMarker | None:
        slot = marker.slot_of(target)
        if slot in self._markers:
            return self._markers[slot]
        return None if self._table is None else marker.parse(self._table.marker(slot))

    def read_marker(self, target: Target, *, lock: bool = False) -> MarkerRows:
        return marker.rows_of(target, self._marker(target))

    def write_marker(self, target: Target, row: MarkerRow) -> None:
        old = self._marker(target)
        new = marker.of_row(target, row)
        if old is not None and old.lineage == target.lineage:
            new = replace(new, staged=old.staged, run=old.run)
        self._put(target, new)

    def _put(self, target: Target, new: LakeMarker | None) -> None:
        self._markers[marker.slot_of(target)] = new

    def _own(self, target: Target) -> LakeMarker:
        """The marker of the target's lineage; a new one if there is none."""
        old = self._marker(target)
        if old is not None and old.lineage == target.lineage:
            return old
        return marker.of_row(target, MarkerRow(target.attempt, 0, 0, None, target.token))

    def supersede(self, target: Target) -> None:
        old = self._marker(target)
        if old is not None and old.lineage != target.lineage:
            self._put(target, None)

    def is_missing(self, target: Target) -> bool:
        return self._table is None

    def is_empty(self, target: Target) -> bool:
        table = self._table
        return table is None or not any(marking.rows_there(table, each) for each in table.files())

    # -- the table ---------------------------------------------------------------------------------

    def look(self, target: Target, *, check: bool) -> Sequence[str]:
        table = self.load()
        if check:
            self.check_types(target.schema)
        if table is None:
            if not target.create_table:
                raise missing_table(target.table, self.label, self.table_names())
            return ()
        if check:
            table.refuse_mode(target.mode)
            refuse_clocks(target.schema, table.schema, table.label)
            tables.missing_columns(target, table.schema.names, target.table, self.label)
        return table.schema.names

    def _ready(self, target: Target, schema: Schema) -> _Step:
        """The step, with a table that has all columns of its rows."""
        step = self._steps.get(target.step)
        if step is not None and all(name in step.names for name in schema.names):
            step.target = target
            return step
        wider = Schema.of(
            {**{f.name: f.type for f in target.schema}, **{f.name: f.type for f in schema}}
        )
        wanted = replace(target, schema=wider)
        self.check_types(wider)
        if self._table is None:
            if not target.create_table:
                raise missing_table(target.table, self.label, self.table_names())
            self._table = self.create(wanted)
        table = self._table
        table.refuse_mode(target.mode)
        refuse_clocks(wider, table.schema, table.label)
        tables.missing_columns(wanted, table.schema.names, target.table, self.label)
        if target.create_table:
            # Rows that are in open files have the columns of the version before.
            grown = table.evolve(wider)
            if grown is not table:
                for each in self._steps.values():
                    self._apply(each)
                self._table = table = grown
        own = self._own(target)
        run = own.run
        if target.sweeps and not run:
            run = uuid.uuid4().hex[:8]
            self._put(target, replace(own, run=run))
        names = dict(matched_names(wider.names, table.schema))
        prefix = _arrived(run) if run else "part-"
        step = self._steps[target.step] = _Step(
            target, names, prefix, names.get(target.deleted_at or "")
        )
        return step

    # -- rows --------------------------------------------------------------------------------------

    def write(self, target: Target, frame: pl.DataFrame, rows_before: int, first: int) -> None:
        rows = frame if target.key else rows_to_append(frame, op=target.op)
        user = {n: t for n, t in rows.schema.items() if not n.startswith(RESERVED)}
        step = self._ready(target, Schema.from_polars(user))
        table = self._table
        assert table is not None
        rows = rows.rename({n: step.names[n] for n in user})
        fitted, refused = fit(rows, table.schema, table.required, table.label)
        refused |= {**null_keys(rows, target.key), **table.unfit(fitted)}
        if refused:
            numbers = sorted(refused)
            if not target.sift:
                row = python_row(frame, numbers[0])
                raise with_row(refused[numbers[0]], row, target.names)
            step.refused += [Refusal(first + n, refused[n]) for n in numbers]
            fitted = without(fitted, with_first_halves(rows, numbers, target.key))
            if target.sweeps:
                # The source has these rows, so the table's rows with their keys stay.
                keys, _ = fit(rows[numbers].select(target.key), table.schema, (), table.label)
                self._pending(step).touch(keys.drop_nulls())
        if target.key:
            self._pend(step, fitted)
        elif fitted.height:
            self._writers(step).arrived.add(in_order(fitted, table.schema))

    def _pending(self, step: _Step) -> Pending:
        target = step.target
        if step.pending is None:
            step.pending = Pending(target.key, target.sequence, mirror=target.mode == "mirror")
        return step.pending

    def _pend(self, step: _Step, frame: pl.DataFrame) -> None:
        if not frame.height:
            return
        if step.marks is not None:
            assert self._table is not None
            none = pl.lit(None, self._table.schema[step.marks].to_polars())
            frame = frame.with_columns(none.alias(step.marks))
        pending = self._pending(step)
        columns = [n for n in frame.columns if not n.startswith(RESERVED)]
        if pending.columns and pending.columns != columns:
            self._replace(step)
            pending = self._pending(step)
        pending.add(frame)

    def _writers(self, step: _Step) -> Writers:
        assert self._table is not None
        if step.writers is None:
            arrived = self._table.writer(step.prefix)
            step.writers = Writers(arrived, self._table.writer("kept-"))
        return step.writers

    def _files(self) -> list[DataFile]:
        """The files of the table as the transaction leaves it."""
        assert self._table is not None
        gone = {each.path for each in self._removes}
        old = [] if self._replaces_all else [f for f in self._table.files() if f.path not in gone]
        return [*old, *(() if self._staged else self._adds)]

    def _apply(self, step: _Step) -> None:
        """Write all rows of the step to files that are complete."""
        if step.pending is not None:
            self._replace(step)
        self._finish(step)

    def _finish(self, step: _Step) -> None:
        writers, step.writers = step.writers, None
        if writers is None:
            return
        added = [*writers.arrived.finish(), *writers.kept.finish()]
        self._adds += added
        self._written += added
        if step.target.mode == "overwrite" and added:
            self._staged.add(step.target.step)

    def _replace(self, step: _Step) -> None:
        pending, step.pending = step.pending, None
        assert pending is not None
        assert self._table is not None
        self._finish(step)
        replacing = Replacing(self._table, step.target, pending, step.marks)
        try:
            prefix = step.prefix
            left = replacing.apply(
                self._files(), self._writers(step), lambda file: file.name.startswith(prefix)
            )
        finally:
            replacing.close()
            pending.close()
        self._leave(left)
        self._finish(step)

    def _leave(self, files: Sequence[DataFile]) -> None:
        """The files are not in the table any more."""
        paths = {each.path for each in files}
        mine = {each.path for each in self._adds}
        self._removes += [each for each in files if each.path not in mine]
        self._left += [each for each in self._adds if each.path in paths]
        self._adds = [each for each in self._adds if each.path not in paths]

    def empty(self, target: Target) -> None:
        step = self._ready(target, target.schema)
        if step.pending is not None and step.marks is None:
            step.pending.close()
            step.pending = None
        self._apply(step)
        self._delete(step, self._files())

    def _delete(self, step: _Step, files: Sequence[DataFile]) -> None:
        """Delete all rows of the files, or let them stay as deleted ones."""
        assert self._table is not None
        if step.marks is not None:
            files = marking.mark(self._table, files, step.marks, self._writers(step).kept)
        self._leave(files)
        self._finish(step)

    def settle(self, target: Target, *, final: bool, left_out: int = 0) -> Sweep | None:
        step = self._ready(target, target.schema) if final else self._steps.get(target.step)
        if step is None:
            return None
        step.target = target
        self._apply(step)
        if not final:
            return None
        if target.sweeps:
            return self._sweep(step, left_out)
        if target.mode == "overwrite":
            self._publish(step)
        return None

    def refused(self, step: str) -> list[Refusal]:
        known = self._steps.get(step)
        if known is None:
            return []
        refused, known.refused = known.refused, []
        return refused

    # -- overwrite ---------------------------------------------------------------------------------

    def _publish(self, step: _Step) -> None:
        """The staged files and those of the last epoch become the table."""
        assert self._table is not None
        own = self._own(step.target)
        self._adds = [*map(self._table.file_from_json, own.staged), *self._adds]
        self._staged.discard(step.target.step)
        self._removes = list(self._table.files())
        self._replaces_all = True
        self._put(step.target, replace(own, staged=()))

    def trim(self, target: Target, rows: int) -> bool:
        old = self._marker(target)
        if old is None or old.lineage != target.lineage or not old.staged or self._table is None:
            return False
        kept, dropped, total = [], [], 0
        for value in old.staged:
            file = self._table.file_from_json(value)
            if total < rows:
                kept.append(value)
                total += file.rows or 0
            else:
                dropped.append(file)
        if total != rows:
            return False
        self._left += dropped
        self._put(target, replace(old, staged=tuple(kept)))
        return True

    # -- mirror ------------------------------------------------------------------------------------

    def clear_keys(self, target: Target) -> None:
        old = self._marker(target)
        if old is not None and old.lineage == target.lineage and old.run:
            self._put(target, replace(old, run="", seen=0))

    def _sweep(self, step: _Step, left_out: int) -> Sweep:
        """Remove the files without a row that arrived in this run."""
        target, table = step.target, self._table
        assert table is not None
        prefix = step.prefix
        seen = sum(f.rows or 0 for f in table.files() if f.name.startswith(prefix))
        if seen != (before := self._seen(target)):
            raise CheckpointError(
                f"another program rewrote files of {table.label} while the run wrote to it: {before:,} rows "
                f"have arrived in this run, and files with {seen:,} of them are there",
                code="E0705",
                step=target.step,
                notes=["no row was deleted"],
                help="run with --fresh, and compact the table when no run writes to it",
            )
        files = self._files()
        gone = [each for each in files if not each.name.startswith(prefix)]
        count = partial(marking.rows_there, table, marks=step.marks)
        missing = sum(map(count, gone))
        if not left_out:
            sweeping.refuse_deletes(target, missing, sum(map(count, files)))
            self._delete(step, gone)
        return Sweep(missing, left_out)

    def _seen(self, target: Target) -> int:
        assert self._table is not None
        old = marker.parse(self._table.marker(marker.slot_of(target)))
        return old.seen if old is not None and old.lineage == target.lineage else 0


def _arrived(run: str) -> str:
    return f"part-{run}-"
