"""The state of a step in a checkpoint as rows.

With the workflow's plan an operator shows its state by itself: merged, under the names of its results. Without
it the tables are shown as they are stored: a key may then stand in several rows, each a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.checkpoint.manifest import Manifest, StateChunk
from dataflare.checkpoint.store import Storage
from dataflare.engine.deploy import layout_of
from dataflare.engine.operating import layout_before, share_of
from dataflare.errors import Blame, RunError, did_you_mean
from dataflare.planner.physical import PhysicalPlan
from dataflare.state.layout import difference
from dataflare.state.pieces import Chunk, Groups
from dataflare.state.tables import LEGACY, Tables


class StepState(Struct, frozen=True):
    """tables: by name, batches of rows; read once. keys: the key columns. values: small values, of each
    subtask. merged: each key has one row."""

    tables: Mapping[str, Iterator[pl.DataFrame]]
    keys: tuple[str, ...]
    values: Sequence[Mapping[str, Any]]
    merged: bool


class _Reading:
    """The chunks of a checkpoint, which stays as it is."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read(self, chunk: Chunk) -> pl.DataFrame:
        assert isinstance(chunk, StateChunk)
        return self._storage.read_chunk(chunk)

    def write(self, frame: pl.DataFrame, key_groups: Groups | None) -> StateChunk:
        raise NotImplementedError("state that is shown is not written")

    def release(self, chunk: Chunk) -> None:
        """Nothing: the checkpoint has it still."""


def state_of(
    manifest: Manifest, storage: Storage, step: str, plan: PhysicalPlan | None
) -> StepState:
    """The state of a step. plan: of the workflow as it is now, if it can be made. Raises RunError (E0811) if
    the step has no state there."""
    snapshots = manifest.operators.get(step)
    if not snapshots:
        steps = [name for name, shares in manifest.operators.items() if shares]
        raise RunError(
            f"step '{step}' has no state in checkpoint {manifest.epoch}",
            code="E0811",
            blame=Blame.USER,
            notes=[f"steps with state: {', '.join(steps) or 'none'}"],
            help=did_you_mean(step, steps) or "name a step with state",
        )
    shares = [share_of(snapshot) for snapshot in snapshots]
    values = [dict(share.values) for share in shares if share.values]
    layout = layout_before(snapshots)
    stage = next((s for s in plan.stages if s.name == step), None) if plan is not None else None
    if plan is not None and stage is not None and stage.operator is not None:
        names = stage.operator.shown_values
        values = [{name: each[name] for name in names if name in each} for each in values]
        values = [each for each in values if each]
        now = layout_of(plan, stage)
        tables_with_rows = {name for share in shares for name, each in share.chunks.items() if each}
        if layout and now and difference(layout, now, tables_with_rows) is None:
            tables = Tables(0, 1, storage=_Reading(storage), shares=shares)
            shown = stage.operator.shown(tables)
            if shown is not None:
                return StepState(shown, stage.operator.shown_keys, values, True)
    by_table: dict[str, list[StateChunk]] = {}
    for share in shares:
        for name, chunks in share.chunks.items():
            by_table.setdefault(name, []).extend(c for c in chunks if isinstance(c, StateChunk))
    keys = tuple(next(iter(layout.values())).keys) if layout else ()
    meanings = {n: table.columns for n, table in layout.items()} if layout else {}
    return StepState(
        {
            "state" if name == LEGACY else name: _stored(storage, chunks, meanings.get(name, {}))
            for name, chunks in by_table.items()
        },
        keys,
        values,
        False,
    )


def _stored(
    storage: Storage, chunks: Sequence[StateChunk], meanings: Mapping[str, str]
) -> Iterator[pl.DataFrame]:
    """The rows of chunks, with columns named by what they mean."""
    for chunk in chunks:
        frame = storage.read_chunk(chunk)
        names = {name: text for name, text in meanings.items() if name in frame.columns}
        yield frame.rename(names)


def with_key(state: StepState, wanted: Mapping[str, str]) -> dict[str, Iterator[pl.DataFrame]]:
    """Only the rows with these keys. wanted: by column, the value as text; the column "" is the only key. The text
    null, in any case, is NULL; the text itself is given in quotes."""
    named = {}
    for column, value in wanted.items():
        if column == "" and len(state.keys) != 1:
            keys = ", ".join(state.keys) or "none"
            raise _wrong_key(f"--key {value} names no column; the key columns are: {keys}", state)
        name = column or state.keys[0]
        if state.keys and name not in state.keys:
            raise _wrong_key(f"'{name}' is not a key column of the step", state)
        named[name] = value

    def filtered(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        for frame in frames:
            missing = [name for name in named if name not in frame.columns]
            if missing:
                raise _wrong_key(f"the state has no column '{missing[0]}'", state)
            yield frame.filter([_is(pl.col(name), value) for name, value in named.items()])

    return {name: filtered(frames) for name, frames in state.tables.items()}


def _is(column: pl.Expr, value: str) -> pl.Expr:
    if value.casefold() == "null":
        return column.is_null()
    if value[:1] == value[-1:] == "'" and value[1:-1].casefold() == "null":
        value = value[1:-1]
    return column.cast(pl.String) == value


def _wrong_key(message: str, state: StepState) -> RunError:
    return RunError(
        message,
        code="E0811",
        blame=Blame.USER,
        help="write --key COLUMN=VALUE with " + (", ".join(state.keys) or "a column of the state"),
    )
