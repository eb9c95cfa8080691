"""The `memory` source and destination: rows that Python code writes and reads, by name.
put("orders", frame) the rows of a source named `orders` committed("totals") the rows of a
destination named `totals` take("totals") the same, and empties it

Always true: the stores are in the memory of the process; rows become visible once, when their epoch
is committed, even if the engine starts over many times. Each row is known by the run that published it, so
what one run wrote has its columns and rows, whatever other runs wrote to a store of that name.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
from msgspec import Struct, field
from pydantic import BaseModel, ConfigDict, Field

from dataflare.errors import CheckpointError, ConfigError, SystemError_
from dataflare.model.batch import KIND_COLUMN, RowKind, SharedDataBatch
from dataflare.model.foreign import to_held_types
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    Epoch,
    Marker,
    Writer,
    WriteStats,
    refuse_older,
)
from dataflare.sdk.source import (
    EndOfSplit,
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
)

OPERATION_COLUMN = "_op"


class _Ledger(Struct):
    """The state of one step of one lineage. attempt: the newest that began. staged: rows by epoch
    and subtask."""

    marker: Marker | None = None
    attempt: int = 0
    token: str = ""
    staged: dict[int, dict[int, list[pl.DataFrame]]] = field(default_factory=dict)


class Origin(NamedTuple):
    """Where rows came from: the run that published them, and its destination step."""

    lineage: str
    run_id: str
    step: str


class _Store(Struct):
    """schema: the newest. schemas: the columns of each run. frames: in the order of their epochs."""

    schema: pl.Schema | None = None
    schemas: dict[Origin, pl.Schema] = field(default_factory=dict)
    frames: list[tuple[Origin, pl.DataFrame]] = field(default_factory=list)
    ledgers: dict[tuple[str, str], _Ledger] = field(default_factory=dict)


Frames = Mapping[str, tuple[pl.DataFrame, ...]]
"""By the name of a source, its frames."""

_sources: dict[str, tuple[pl.DataFrame, ...]] = {}
_OWN: contextvars.ContextVar[Frames] = contextvars.ContextVar("frames")
_stores: dict[str, _Store] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def reading(frames: Frames) -> Iterator[None]:
    """What runs inside reads these frames in place of those that `put` has set under the same names."""
    token = _OWN.set({**_OWN.get({}), **frames})
    try:
        yield
    finally:
        _OWN.reset(token)


def put(name: str, frames: pl.DataFrame | Sequence[pl.DataFrame]) -> tuple[pl.DataFrame, ...]:
    """Set the rows of the source `name`: frames of one schema. They replace earlier ones. Columns
    of Polars types that DataFlare does not have become the nearest type that fits. Returns the frames as they are read.
    """
    several = (frames,) if isinstance(frames, pl.DataFrame) else tuple(frames)
    if not several or any(frame.schema != several[0].schema for frame in several):
        raise ValueError("frames of one schema, at least one, are needed")
    held = tuple(to_held_types(frame) for frame in several)
    with _lock:
        _sources[name] = held
    return held


def committed(name: str) -> pl.DataFrame:
    """The rows that all runs of this process left in the destination `name`, in the order of their
    epochs. A changelog has its row kinds in the column `_op`. Columns that a run did not have are NULL in its
    rows. Raises ConfigError (E0405) if runs gave a column different types."""
    with _lock:
        return _content(name, _stores.get(name, _Store()))


def committed_by(name: str, run_id: str, step: str) -> pl.DataFrame:
    """The rows that the destination step of one run left in the store `name`, with the columns of that run."""
    with _lock:
        store = _stores.get(name, _Store())
        frames = [f for origin, f in store.frames if (origin.run_id, origin.step) == (run_id, step)]
        if frames:
            return pl.concat(frames, how="diagonal_relaxed")
        schemas = [s for o, s in store.schemas.items() if (o.run_id, o.step) == (run_id, step)]
        return pl.DataFrame(schema=schemas[-1] if schemas else None)


def take(name: str) -> pl.DataFrame:
    """The rows of the destination `name`, as `committed` gives them; removes them from it."""
    with _lock:
        store = _stores.get(name, _Store())
        rows = _content(name, store)
        store.frames.clear()
        store.schemas.clear()
        return rows


def clear() -> None:
    """Remove all sources and destinations."""
    with _lock:
        _sources.clear()
        _stores.clear()


def _content(name: str, store: _Store) -> pl.DataFrame:
    if not store.frames:
        return pl.DataFrame(schema=store.schema)
    types: dict[str, Any] = {}
    for _, frame in store.frames:
        for column, dtype in frame.schema.items():
            if types.setdefault(column, dtype) != dtype:
                raise _other_type(name, column, types[column], dtype)
    return pl.concat([frame for _, frame in store.frames], how="diagonal")


def _other_type(name: str, column: str, *types: pl.DataType) -> ConfigError:
    one, other = (Schema.from_polars(pl.Schema({column: each}))[column] for each in types)
    return ConfigError(
        f"runs of this process left rows in '{name}' whose column '{column}' is {one} in some and {other} in others",
        code="E0405",
        help="call dataflare.connectors.memory.take(name) after each run, or give the destinations "
        "different names: config: {name: ...}",
    )


class MemoryConfig(BaseModel):
    """Options of a `memory` source or destination."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(
        None, min_length=1, description="the store; by default the step's name"
    )


class MemorySource(SourceConnector):
    """Frames that Python code has put here. Each frame is a split."""

    type = "memory"
    beside_job = of_command = True
    Config = MemoryConfig
    summary = "Reads frames that Python code put in this process."
    example = """\
orders:
  type: memory
  config: {name: orders}
"""

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(
            replay=Replay.EXACT, replay_reason="frames do not change", local=True
        )

    def reads_all(self) -> bool:
        return True

    async def schema(self) -> Schema:
        schema = Schema.from_polars(self._frames()[0].schema)
        if self.contract is not None and self.contract != schema:
            raise ConfigError(
                f"the frames of '{self._name}' do not have the columns of 'schema'",
                code="E0405",
                step=self.context.step,
                notes=[f"they have: {', '.join(f'{f.name} {f.type}' for f in schema)}"],
                help="make the frames with these columns, or change 'schema'",
            )
        return schema

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [
            Split(f"frame-{number:06d}", {"frame": number}, int(frame.estimated_size()))
            for number, frame in enumerate(self._frames())
        ]

    async def open(self, split: Split, position: Position | None) -> MemoryReader:
        frames, number = self._frames(), split.data["frame"]
        if number >= len(frames):
            raise CheckpointError(
                f"'{self._name}' has {len(frames)} frames now, and frame {number} was being read",
                code="E0704",
                step=self.context.step,
                help="put the same frames again, or start over with --fresh",
            )
        return MemoryReader(frames[number], position.value["row"] if position else 0)

    @property
    def _name(self) -> str:
        return self.config.name or self.context.step

    def _frames(self) -> tuple[pl.DataFrame, ...]:
        with _lock:
            frames = _OWN.get({}).get(self._name) or _sources.get(self._name)
        if frames is None:
            raise SystemError_(
                f"nothing was put into '{self._name}' in this process",
                code="E0601",
                step=self.context.step,
                help="call dataflare.connectors.memory.put(name, frame) before the run",
            )
        return frames


class MemoryReader(SplitReader):
    """Slices of one frame."""

    def __init__(self, frame: pl.DataFrame, row: int) -> None:
        self._frame, self._row = frame, row

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        if self._row >= self._frame.height:
            raise EndOfSplit
        rows = self._frame.slice(self._row, rows_max)
        self._row += rows.height
        return SharedDataBatch(rows)

    def position(self) -> Position:
        return Position({"row": self._row})


class MemoryDestination(DestinationConnector):
    """Keeps rows in this process, epoch by epoch."""

    type = "memory"
    beside_job = of_command = True
    Config = MemoryConfig
    summary = "Keeps rows in this process, for Python code and tests."
    example = """\
totals:
  type: memory
  inputs: [orders]
  config: {name: totals}
"""

    def capabilities(self) -> DestinationCapabilities:
        return DestinationCapabilities(
            Delivery.TRANSACTIONAL,
            "rows and epoch become visible together, as long as the process lives",
            parallel=True,
            changelog=True,
            truncates=True,
            local=True,
        )

    async def open(self, context: DestinationContext, restored: Committable | None) -> MemoryWriter:
        if context.changelog and OPERATION_COLUMN in context.schema:
            raise ConfigError(
                f"the column '{OPERATION_COLUMN}' is for the kinds of rows, and the rows have such a column",
                code="E0411",
                step=context.step,
                help="rename that column in a map before",
            )
        schema = dict(context.schema.to_polars())
        schema |= {OPERATION_COLUMN: pl.String()} if context.changelog else {}
        store = self._store()
        with _lock:
            store.schema = store.schemas[_origin(context)] = pl.Schema(schema)
        return MemoryWriter(self._ledger(context), context.subtask)

    async def committer(self, context: DestinationContext) -> MemoryCommitter:
        return MemoryCommitter(self._store(), self._ledger(context), context)

    def _store(self) -> _Store:
        with _lock:
            return _stores.setdefault(self.config.name or self.context.step, _Store())

    def _ledger(self, context: DestinationContext) -> _Ledger:
        store = self._store()
        with _lock:
            return store.ledgers.setdefault((context.lineage, context.step), _Ledger())


class MemoryWriter(Writer):
    """Holds the batches of an epoch until it is prepared."""

    takes_at_once = True

    def __init__(self, ledger: _Ledger, subtask: int) -> None:
        self._ledger, self._subtask = ledger, subtask
        self._batches: list[pl.DataFrame] = []

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        self._batches.append(_readable(batch.frame))
        return WriteStats(batch.num_rows, batch.num_bytes)

    async def prepare(self, epoch: int, *, final: bool) -> Committable:
        batches, self._batches = self._batches, []
        with _lock:
            self._ledger.staged.setdefault(epoch, {})[self._subtask] = batches
        return Committable(self._subtask, {"rows": sum(batch.height for batch in batches)})


class MemoryCommitter(Committer):
    """Makes the staged rows of an epoch visible."""

    def __init__(self, store: _Store, ledger: _Ledger, context: DestinationContext) -> None:
        self._store, self._ledger, self._context = store, ledger, context

    async def marker(self) -> Marker | None:
        return self._ledger.marker

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        with _lock:
            self._refuse_fenced()
            self._ledger.attempt, self._ledger.token = self._context.attempt, self._context.token
            for other in [staged for staged in self._ledger.staged if staged > epoch]:
                del self._ledger.staged[other]

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        with _lock:
            self._refuse_fenced()
            self._ledger.attempt, self._ledger.token = self._context.attempt, self._context.token
            marker = self._ledger.marker
            if marker is not None and marker.epoch >= epoch.number:
                return
            staged = self._ledger.staged.pop(epoch.number, {})
            self._check(epoch, committables, staged)
            for each in sorted(committables, key=lambda one: one.subtask):
                origin = _origin(self._context)
                self._store.frames += ((origin, rows) for rows in staged.get(each.subtask, ()))
            self._ledger.marker = Marker(
                epoch.number, self._context.attempt, epoch.manifest, can_rewind=False
            )

    def _refuse_fenced(self) -> None:
        context, ledger = self._context, self._ledger
        newest = ledger.attempt, ledger.token
        refuse_older(context.step, (context.attempt, context.token), newest)

    def _check(
        self, epoch: Epoch, committables: Sequence[Committable], staged: Mapping[int, object]
    ) -> None:
        for each in committables:
            if each.data["rows"] and each.subtask not in staged:
                raise CheckpointError(
                    f"the rows of epoch {epoch.number} were in the memory of a process that ended",
                    code="E0704",
                    step=self._context.step,
                    help="start over with --fresh",
                )

    async def published(self) -> Mapping[str, Any]:
        of_workflow = self._context.lineage, self._context.step
        with _lock:
            counts = [
                frame.height
                for origin, frame in self._store.frames
                if (origin.lineage, origin.step) == of_workflow
            ]
        return {"rows": sum(counts)}


def _origin(context: DestinationContext) -> Origin:
    return Origin(context.lineage, context.run_id, context.step)


def _readable(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows with their kind as text in OPERATION_COLUMN, if they have a kind."""
    if KIND_COLUMN not in frame.columns:
        return frame
    names = {int(kind): kind.name.lower() for kind in RowKind}
    kinds = frame[KIND_COLUMN].replace_strict(names, return_dtype=pl.String)
    return frame.drop(KIND_COLUMN).with_columns(kinds.alias(OPERATION_COLUMN))
