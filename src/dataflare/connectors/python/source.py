"""The `python` source: rows from a user's generator function.

Always true: the function is called once for each time the rows are read, in a separate thread that
also gets all its values, so that it may use objects of one thread (such as an SQLite connection).

A function with an argument `start` yields `(rows, position)` and is called with None or with such a
position, to continue there. The rows after a position must be the same each time: then the source
replays exactly. So does a `repeatable` function, which yields the same rows each time it is called: the
rows of all its yields are counted, and as many are passed over. A function that is neither cannot
continue: with an end, everything is committed at the end; without one, each call gives new rows, and
none of them is passed over.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import polars as pl
from pydantic import Field

from dataflare.connectors.python.items import Item, Reader, joined
from dataflare.connectors.python.named import NamedConfig, connector_of, load
from dataflare.errors import ConfigError, DataError, DataFlareError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk import user_code
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import (
    EndOfSplit,
    Replay,
    SourceBatch,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
)

START = "start"
_SAMPLE_ROWS, _SAMPLE_S = 1000, 1.0
"""For rows that are yielded one by one: how many are used for the schema, and how long to wait for
them."""
_HOLD_S = 0.2
"""How long to collect rows that are yielded one by one into a batch."""


class PythonSourceConfig(NamedConfig):
    """Options of a `python` source."""

    bounded: bool = Field(True, description="false: the function yields rows without end.")
    carry: bool = Field(
        False, description="true: the next run begins at the last position of this one."
    )
    repeatable: bool | None = Field(
        None,
        description="true: each call yields the same rows in the same order, so a run that goes on passes over "
        "those that it has. false: each call yields new rows only, as from a queue.",
    )


class PythonSource(SourceConnector):
    """Rows of a function: one split."""

    type = "python"
    Config = PythonSourceConfig
    summary = "Reads the rows that a generator function of your own yields: dicts, Polars frames or Arrow data."
    example = """\
orders:
  type: python
  config: {function: "my_sources:orders"}
  schema: {id: int64, amount: float64}
"""

    def __new__(
        cls, config: PythonSourceConfig | None = None, context: ConnectorContext | None = None
    ) -> Any:
        return connector_of(SourceConnector, config, context) or super().__new__(cls)

    def __init__(self, config: PythonSourceConfig, context: ConnectorContext) -> None:
        super().__init__(config, context)
        self._opened: _Rows | None = None
        self._schema: Schema | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def capabilities(self) -> SourceCapabilities:
        name = self.config.function
        if self._takes_start():
            replay, reason = Replay.EXACT, f"{name} begins again at a position that it yielded"
        elif self.config.repeatable:
            replay, reason = Replay.EXACT, f"{name} yields the same rows each time"
        else:
            replay, reason = (
                Replay.NONE,
                f"{name} has no argument '{START}' and is not 'repeatable', so it cannot go on",
            )
        return SourceCapabilities(
            replay=replay,
            replay_reason=reason,
            bounded=self.config.bounded,
            local=self.contract is not None,
        )

    async def validate(self) -> None:
        if self.config.carry and not self._takes_start():
            raise ConfigError(
                f"'carry' needs a function with an argument '{START}', and {self.config.function}"
                " has none",
                code="E0405",
                step=self.context.step,
                help=f"give it the argument '{START}', or leave 'carry' out",
            )
        if self.config.repeatable is not None and self._takes_start():
            raise ConfigError(
                f"'repeatable' is for a function without an argument '{START}', and"
                f" {self.config.function} has one",
                code="E0405",
                step=self.context.step,
                help="leave 'repeatable' out: the function begins at the positions that it yields",
            )

    def doubts(self) -> Sequence[str]:
        if self.config.bounded or self.config.repeatable is not None or self._takes_start():
            return ()
        return (
            f"a run that goes on calls {self.config.function} again and takes all that it yields as new rows; say"
            " 'repeatable: false' if they are new, or 'repeatable: true' if they are the same rows again",
        )

    async def schema(self) -> Schema:
        if self.contract is not None:
            return self.contract
        if self._schema is None:
            self._opened = self._rows(None)
            self._schema = await self._opened.first_schema()
        return self._schema

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [Split("rows", {START: (carried or {}).get(START)})]

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        schema = await self.schema()
        place = position.value if position is not None else {"at": split.data[START], "skip": 0}
        opened, self._opened = self._opened, None
        if opened is not None and place["at"] is not None:
            await opened.aclose()
            opened = None
        rows = opened or self._rows(place["at"])
        if self.capabilities().replay is Replay.NONE:
            return PythonReader(rows, schema, None, int(place["skip"]), not self.config.bounded)
        return PythonReader(rows, schema, place["at"], 0, skip=int(place["skip"]))

    def carries(self) -> bool:
        return bool(self.config.carry)

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        if not self.config.carry or "rows" not in positions:
            return None
        return {START: positions["rows"].value["at"]}

    async def aclose(self) -> None:
        if self._opened is not None:
            await self._opened.aclose()
            self._opened = None

    def _takes_start(self) -> bool:
        function = load(self.config, self.context)
        try:
            return START in inspect.signature(function).parameters
        except (TypeError, ValueError):
            return False

    def _rows(self, start: Any) -> _Rows:
        reader = Reader(self.context.step, self.config.function, self._takes_start())
        options = dict(self.config.options)
        if reader.positioned:
            options[START] = start
        function = load(self.config, self.context)
        return _Rows(reader, lambda: function(**options), not self.config.bounded)


class _Rows:
    """The yields of one call of the function, read in a separate thread. live: a list is not held back until the
    function yields again, because that may take long."""

    def __init__(self, reader: Reader, call: Callable[[], Any], live: bool) -> None:
        self.reader, self._call, self._live = reader, call, live
        self._thread = ThreadPoolExecutor(1, f"python-{reader.step}")
        self._values: Iterator[Any] | None = None
        self._waiting: list[Item] = []
        self._ended = False

    async def first_schema(self) -> Schema:
        """The schema of the first rows; they are kept and read later."""
        item = await self.take(_SAMPLE_ROWS, _SAMPLE_S, empty=False)
        if item is None:
            raise DataError(
                f"step '{self.reader.step}': {self.reader.function} yielded no rows to find columns in",
                code="E0521",
                step=self.reader.step,
                help="say the columns and their types in the source's 'schema'",
            )
        self._waiting.insert(0, item)
        return self.reader.schema(item)

    @property
    def waiting_rows(self) -> int:
        """How many rows were yielded and not yet taken."""
        return sum(item.height for item in self._waiting)

    async def take(self, rows_max: int, hold_s: float, *, empty: bool = True) -> Item | None:
        """The next rows: a frame as it was yielded, or collected dicts; None at the end. empty: an
        item without rows may be returned."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._gathered, rows_max, hold_s, empty)

    def _gathered(self, rows_max: int, hold_s: float, empty: bool) -> Item | None:
        gathered: list[Item] = []
        rows, until = 0, time.monotonic() + hold_s
        while rows < rows_max and (not gathered or time.monotonic() < until):
            item = self._next()
            if item is None:
                break
            if isinstance(item.rows, pl.DataFrame):
                if gathered:
                    self._waiting.insert(0, item)
                    break
                if item.height or empty:
                    return item
                continue
            gathered.append(item)
            rows += item.height
            if item.is_list and item.height and self._live:
                break
        return joined(gathered) if gathered else None

    def _next(self) -> Item | None:
        if self._waiting:
            return self._waiting.pop(0)
        if self._ended:
            return None
        name = self.reader.function
        try:
            if self._values is None:
                self._values = self._begun()
            return self.reader.item(next(self._values))
        except StopIteration:
            self._ended = True
            return None
        except DataFlareError:
            raise
        except BaseException as error:
            raise user_code.raised(self.reader.step, name, error) from error

    def _begun(self) -> Iterator[Any]:
        result = self._call()
        if result is None or hasattr(result, "__aiter__") or not hasattr(result, "__iter__"):
            raise DataError(
                f"step '{self.reader.step}': {self.reader.function} returned"
                f" {user_code.named(result)}, not a generator",
                code="E0521",
                step=self.reader.step,
                help="yield rows from the function, or return a list of them",
            )
        # A frame or a table that is returned is the only item.
        whole = isinstance(result, pl.DataFrame | pl.LazyFrame) or hasattr(
            result, "__arrow_c_stream__"
        )
        return iter([result] if whole else result)

    async def aclose(self) -> None:
        """Close the generator, which runs its `finally`, unless it is busy."""
        close = getattr(self._values, "close", None)
        if close is not None:
            self._thread.submit(close)
        self._thread.shutdown(wait=False)


class PythonReader(SplitReader):
    """Rows of one call. A position is a start, None for the beginning, and the number of rows behind it that
    were returned, bad ones too: of the current yield where yields have positions, else of all yields.

    rows_before: those that earlier calls gave, of which this one gives none again. whole_yields: no checkpoint
    is cut inside a yield, because its other rows could not be read again. skip: how many rows to pass over.
    """

    def __init__(
        self,
        rows: _Rows,
        schema: Schema,
        at: Any,
        rows_before: int,
        whole_yields: bool = False,
        *,
        skip: int = 0,
    ) -> None:
        self._rows, self._schema, self._whole_yields = rows, schema, whole_yields
        self._at, self._skip = at, skip
        self._item: Item | None = None
        self._rows_given = 0
        self._rows_before = rows_before
        """How many rows the yields before the current one had, since `_at`."""

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        while self._item is None or self._rows_given >= self._item.height:
            await self._take(rows_max)
            if self._whole_yields:
                break  # a run that stops does so behind a yield, also behind an empty one
        item = self._item
        assert item is not None
        start, end = self._rows_given, min(self._rows_given + rows_max, item.height)
        may_cut = not self._whole_yields or (end == item.height and not self._rows.waiting_rows)
        if isinstance(item.rows, pl.DataFrame):
            frame = item.rows.slice(start, end - start)
            batch: SharedDataBatch = SourceBatch(frame, may_cut=may_cut)
        else:
            place = partial(self._place, self._at, self._rows_before + start)
            batch = self._rows.reader.batch(item.rows[start:end], self._schema, place, may_cut)
        self._rows_given = end
        self._settle()
        return batch

    def _place(self, at: Any, before: int, row: int) -> str:
        behind = "" if at is None else f" behind the position {json.dumps(at)}"
        return f"{self._rows.reader.function} row {before + row + 1}{behind}"

    async def _take(self, rows_max: int) -> None:
        item = await self._rows.take(rows_max, self.hold_s or _HOLD_S)
        if item is None:
            self._check_end()
            raise EndOfSplit
        if self._item is not None and not self._item.has_position:
            self._rows_before += self._item.height
        self._item = self._rows.reader.checked(item, self._schema)
        self._rows_given = min(self._skip, self._item.height)
        self._skip -= self._rows_given
        self._settle()

    def _check_end(self) -> None:
        """Raises DataError (E0521) where the function ended in front of rows that it yielded before."""
        if not self._skip:
            return
        reader, position = self._rows.reader, self.position().value
        behind = "" if self._at is None else f" behind the position {json.dumps(self._at)}"
        raise DataError(
            f"step '{reader.step}': {reader.function} yielded {position['skip'] - self._skip} rows{behind}, and"
            f" {position['skip']} the time before",
            code="E0521",
            step=reader.step,
            help="let it yield the same rows each time, or read all of them again with --fresh",
        )

    def _settle(self) -> None:
        """All rows of an item were returned: the position is the one after it."""
        assert self._item is not None
        if self._rows_given >= self._item.height and self._item.has_position:
            self._at = self._item.position

    def position(self) -> Position:
        item = self._item
        if item is not None and item.has_position and self._rows_given >= item.height:
            given = 0
        else:
            given = self._rows_before + self._rows_given
        return Position({"at": self._at, "skip": given + self._skip})

    async def aclose(self) -> None:
        await self._rows.aclose()
