"""The processor contract: your own step between sources and destinations.

Order of calls while planning: `__init__` -> `output_schema`. In a run, once per subtask: `__init__` ->
`open` -> `process`, once per batch -> `end`, when no more rows come -> `close`. One call at a time, on some
worker thread. With `timed = True`, `on_timer` and `on_time` are called between two batches, when event time
has moved.

Always true: what `context.state` holds is a part of each checkpoint, and nothing else is. After a crash
the same rows come again to the state of the last checkpoint, so that the answer is that of a run
without a crash, as long as `process` depends only on its rows and that state.
"""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from msgspec import Struct, field
from pydantic import BaseModel, ConfigDict

from dataflare.errors import ConfigError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext

if TYPE_CHECKING:
    import polars as pl

    Rows: TypeAlias = SharedDataBatch | pl.DataFrame
    """A batch, or its rows alone."""
    Output: TypeAlias = Rows | Iterable[Rows] | None
    """What a call gives: rows of the output schema, or several batches of them, or nothing."""

ConfigClass = type[BaseModel]


class NoConfig(BaseModel):
    """For a processor without options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Processor(ABC):
    """A step's work. Only `output_schema` is called before a run, on an instance of its own."""

    type: ClassVar[str]
    Config: ClassVar[ConfigClass] = NoConfig
    summary: ClassVar[str] = ""
    example: ClassVar[str] = ""
    """A step's YAML."""
    inputs_max: ClassVar[int | None] = 1
    """How many inputs the step may have; None for any number. Each is a port, in the step's order."""
    ports: ClassVar[Sequence[str]] = ()
    """Names of the inputs, in their order, where each has its own meaning. The step then has so many inputs;
    `self.ports[port]` is the name of one."""
    timed: ClassVar[bool] = False
    """Whether it works by event time. Its inputs then must have one."""
    event_time: ClassVar[str | None] = None
    """The column of the results, a timestamp, that is their event time, for steps behind this one."""

    keys: Sequence[str] | None = ()
    """Which rows must meet. (): all of them, in one task. Some columns: rows with equal values there,
    and the others may be worked on side by side. None: no row needs another, no state is kept and
    `end` is not called. May be set in `__init__`, from the config."""

    def __init__(self, config: Any, context: ProcessorContext) -> None:
        self.config = config
        self.context = context

    @abstractmethod
    def output_schema(self, inputs: Sequence[Schema]) -> Schema:
        """The columns that come out, all and no others. inputs: those that arrive, by port. Raises ConfigError (with
        `column_of`, say) for inputs it cannot work on. No I/O."""

    def open(self) -> None:
        """Get ready; state of an earlier attempt is there already."""

    @abstractmethod
    def process(self, port: int, batch: SharedDataBatch) -> Output:
        """What follows from some rows. port: which input they come from, 0 for the first.

        How rows are cut into batches means nothing. An exception takes back what this call did to the
        state; then the batch is halved until the rows that raise are found, and the step's `on_error`
        says what happens to those.
        """

    def on_timer(self, rows: SharedDataBatch, time: datetime.datetime) -> Output:
        """What follows from rows that were put into `context.times` and whose moment has come. They have the
        column `at`, and are ordered by it. time: no row with an earlier event time is expected any more."""
        return None

    def on_time(self, time: datetime.datetime) -> Output:
        """What follows from the progress of event time. Called after `on_timer`; not at the end of the
        input, where time is infinite: `end` is called then."""
        return None

    def end(self) -> Output:
        """What follows from the end of the input, when all rows were seen."""
        return None

    def close(self) -> None:
        """Release what `open` took: after `end`, and after an error or a stop. Not called after a crash."""


class Refused(Struct, frozen=True):
    """Rows a processor could not take, as they came in, and why."""

    rows: pl.DataFrame
    message: str
    code: str = "E0544"


class ProcessorContext(ConnectorContext, frozen=True):
    """What a processor may use. subtask of subtasks: which parallel copy it is."""

    subtask: int = 0
    subtasks: int = 1
    state: KeptRows = field(default_factory=lambda: KeptRows(None))
    times: Times = field(default_factory=lambda: Times())
    refused: list[Refused] = field(default_factory=list)

    def refuse(self, rows: Rows, message: str) -> None:
        """Take rows of the current batch out as bad (E0544): the step's `on_error` says what happens to
        them. rows: as they came in. message: what is wrong with them, for the user."""
        frame = rows.frame if isinstance(rows, SharedDataBatch) else rows
        if frame.height:
            self.refused.append(Refused(frame, message))


class Times:
    """Event time, as a processor with `timed = True` sees it.

    of_rows: the event times of the rows of the current batch, in their order. watermark: no row with an
    earlier event time is expected any more; None before the first. added: timers set in the current call.
    """

    def __init__(self) -> None:
        self.of_rows: pl.Series | None = None
        self.watermark: datetime.datetime | None = None
        self.added: list[pl.DataFrame] = []

    def set_timers(self, rows: Rows, at: str = "at") -> None:
        """Have rows come back to `on_timer` when event time has come to their column `at` (a timestamp). The
        rows must have the key columns; all timers of a processor have the same columns. A moment that is over
        comes with the next progress of time."""
        frame = rows.frame if isinstance(rows, SharedDataBatch) else rows
        self.added.append(frame if at == "at" else frame.rename({at: "at"}))


class KeptRows:
    """Rows that a processor keeps through crashes: frames by name.

    keys: columns that each frame must have, so that another parallelism finds the rows of its keys;
    None where no state may be kept. Frames are never changed, only replaced or appended to; a
    checkpoint stores what is new.
    """

    def __init__(self, keys: Sequence[str] | None) -> None:
        self._keys = keys
        self._chunks: dict[str, tuple[tuple[int, pl.DataFrame], ...]] = {}
        self._ids = count(1)

    def __contains__(self, name: str) -> bool:
        return name in self._chunks

    def get(self, name: str) -> pl.DataFrame | None:
        """All rows under a name, in the order they were put there."""
        import polars as pl

        chunks = self._chunks.get(name)
        if chunks is None:
            return None
        return chunks[0][1] if len(chunks) == 1 else pl.concat([frame for _, frame in chunks])

    def set(self, name: str, rows: Rows) -> None:
        """Replace what is under a name."""
        self._chunks[name] = (self._chunk(name, rows),)

    def append(self, name: str, rows: Rows) -> None:
        """Add rows of the same columns; only these are new to the next checkpoint. Chunks are put
        together as they add up, so that each row is written again only a few times."""
        import polars as pl

        chunks = [*self._chunks.get(name, ()), self._chunk(name, rows)]
        while len(chunks) > 1 and chunks[-2][1].height < 2 * chunks[-1][1].height:
            last = pl.concat([frame for _, frame in chunks[-2:]])
            chunks[-2:] = [(next(self._ids), last)]
        self._chunks[name] = tuple(chunks)

    def discard(self, name: str) -> None:
        """Forget what is under a name, if anything is."""
        self._chunks.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        """The names under which rows are kept."""
        return iter(self._chunks)

    def chunks(self, name: str) -> Sequence[tuple[int, pl.DataFrame]]:
        """The rows under a name as they are held: frames with numbers that never mean other rows."""
        return self._chunks.get(name, ())

    def restore(self, name: str, frames: Sequence[pl.DataFrame]) -> list[int]:
        """Hold the rows of a checkpoint under a name. Gives the number of each frame."""
        if not frames:
            return []
        self._chunks[name] = tuple((next(self._ids), frame) for frame in frames)
        return [number for number, _ in self._chunks[name]]

    def mark(self) -> Mapping[str, Any]:
        """The state as it is now, for `reset`. Copies no rows."""
        return dict(self._chunks)

    def reset(self, mark: Mapping[str, Any]) -> None:
        self._chunks = dict(mark)

    def _chunk(self, name: str, rows: Rows) -> tuple[int, pl.DataFrame]:
        frame = rows.frame if isinstance(rows, SharedDataBatch) else rows
        if self._keys is None:
            raise ConfigError(
                f"the state '{name}' cannot be kept: the processor says keys = None, no row needs another",
                code="E0416",
                help="set keys to the columns whose rows must meet, or to () for all rows",
            )
        missing = [key for key in self._keys if key not in frame.columns]
        if missing:
            raise ConfigError(
                f"the state '{name}' lacks the key {', '.join(missing)}",
                code="E0416",
                help="keep the key columns with the rows, so that they can move to another task",
            )
        return next(self._ids), frame
