"""A source with fixed rows and with marks among them. It records how it was read.

Always true: a position is the number of the first unread item. After a resume, a mark before it has no
effect again, and a mark after it has.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from dataflare.errors import ConfigError
from dataflare.model.batch import KIND_COLUMN, RowKind, SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.registry import register
from dataflare.sdk.source import (
    EndOfSplit,
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsCommits,
)
from dataflare.testing.marks import Checkpoint, Crash, Mark, Pause

if TYPE_CHECKING:
    from dataflare.workflow.dsl import Stream, Workflow

Item = Mapping[str, Any] | Mark
_SPLIT = "items-"
_OPERATION = "_op"
_scripts: dict[str, ScriptedSource] = {}
_numbers = itertools.count(1)


class ScriptedSource:
    """The rows and marks of one source, shared by all attempts at a run.

        orders = ScriptedSource([*rows(0, 900), Checkpoint(), *rows(900, 1_300), Crash()])
        orders.add_to(workflow, "orders")

    splits: one list of items each. schema: column to type; inferred from the rows by default. changelog: the rows
    have their kind in `_op` (insert, update_before, update_after, delete). key: the columns of which no two rows
    that are there have equal values. deletes_by_key: as `SourceCapabilities` has it. In YAML
    the source is `{type: scripted, config: {script: NAME}}`, where NAME is `name`.
    """

    def __init__(
        self,
        *splits: Sequence[Item],
        schema: Mapping[str, str] | None = None,
        name: str | None = None,
        changelog: bool = False,
        key: Sequence[str] = (),
        deletes_by_key: bool = False,
    ) -> None:
        self.name = name or f"script-{next(_numbers)}"
        self.changelog, self.key = changelog, tuple(key)
        self.deletes_by_key = deletes_by_key
        self.items = [list(split) for split in splits]
        self.schema = Schema.of(schema) if schema else self._inferred_schema()
        self.opened: list[int] = []
        """The first item of each reader, in the order in which they were opened."""
        self._committed: dict[int, int] = {}
        self._changed: list[asyncio.Event] = []
        _scripts[self.name] = self

    def add_to(self, workflow: Workflow, step: str, **options: Any) -> Stream:
        """Make it a source of a workflow written in Python. options: such as `event_time`."""
        return workflow.source(step, "scripted", script=self.name, **options)

    def committed(self, split: int, item: int) -> None:
        """Record that a committed checkpoint has the items of a split before this one."""
        self._committed[split] = max(item, self._committed.get(split, 0))
        for event in self._changed:
            event.set()

    async def wait_committed(self, split: int, item: int) -> None:
        """Return once all items before this one are committed."""
        event = asyncio.Event()
        self._changed.append(event)
        try:
            while self._committed.get(split, 0) < item:
                event.clear()
                await event.wait()
        finally:
            self._changed.remove(event)

    def _inferred_schema(self) -> Schema:
        rows = [item for split in self.items for item in split if isinstance(item, Mapping)]
        if not rows:
            raise ValueError("a script without rows needs a schema")
        frame = pl.DataFrame(rows, infer_schema_length=None).drop(_OPERATION, strict=False)
        return Schema.from_polars(frame.schema)


def script(name: str) -> ScriptedSource:
    """The script of that name. Raises ConfigError (E0405)."""
    if name not in _scripts:
        raise ConfigError(
            f"there is no script '{name}' in this process",
            code="E0405",
            help="create the ScriptedSource in this process first",
        )
    return _scripts[name]


class ScriptedConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    script: str


@register
class ScriptedConnector(SourceConnector, SupportsCommits):
    """The `scripted` source type."""

    type = "scripted"
    Config = ScriptedConfig
    summary = "Rows and marks of a test."

    @property
    def _script(self) -> ScriptedSource:
        return script(self.config.script)

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(
            Replay.EXACT,
            "the script does not change",
            local=True,
            changelog=self._script.changelog,
            key=self._script.key,
            deletes_by_key=self._script.deletes_by_key,
        )

    async def schema(self) -> Schema:
        return self._script.schema

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [Split(f"{_SPLIT}{n:04d}", {"split": n}) for n in range(len(self._script.items))]

    async def committed(self, positions: Mapping[str, Position]) -> None:
        for split, position in positions.items():
            self._script.committed(int(split.removeprefix(_SPLIT)), position.value["item"])

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        at = position.value["item"] if position else 0
        self._script.opened.append(at)
        self._script.committed(split.data["split"], at)
        return ScriptedReader(self._script, split.data["split"], at)


class ScriptedReader(SplitReader):
    """Gives rows up to the next mark."""

    def __init__(self, script: ScriptedSource, split: int, at: int) -> None:
        self._script, self._split, self._at = script, split, at

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        items = self._script.items[self._split]
        while self._at < len(items) and not isinstance(items[self._at], Mapping):
            await self._pass(items[self._at])
            self._at += 1
        if self._at >= len(items):
            raise EndOfSplit
        rows: list[Mapping[str, Any]] = []
        for item in items[self._at :]:
            is_half = bool(rows) and rows[-1].get(_OPERATION) == "update_before"
            if not isinstance(item, Mapping) or (len(rows) >= rows_max and not is_half):
                break
            rows.append(item)
        self._at += len(rows)
        frame = pl.DataFrame(rows, schema=self._script.schema.to_polars(), strict=False)
        if self._script.changelog:
            kinds = [RowKind[str(row[_OPERATION]).upper()].value for row in rows]
            frame = frame.with_columns(pl.Series(KIND_COLUMN, kinds, dtype=pl.UInt8))
        return SharedDataBatch(frame)

    async def _pass(self, mark: Any) -> None:
        match mark:
            case Crash():
                mark.strike()
            case Pause():
                await mark.hold()
            case Checkpoint():
                await self._script.wait_committed(self._split, self._after_rows())

    def _after_rows(self) -> int:
        """The position after the last row before this place. Marks since then are in no position."""
        items, at = self._script.items[self._split], self._at
        while at and not isinstance(items[at - 1], Mapping):
            at -= 1
        return at

    def position(self) -> Position:
        return Position({"item": self._at})
