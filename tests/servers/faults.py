"""Runs in which a database fails at a chosen moment, and the rows that it must have in the end."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from msgspec.structs import replace

from dataflare.jobs import Progress, RunOptions, RunResult, run
from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk import registry
from dataflare.sdk.source import SourceCapabilities, SplitReader
from dataflare.testing import Checkpoint, ScriptedSource
from dataflare.testing.scripted import ScriptedConnector
from dataflare.workflow.load import load_text

EPOCHS, ROWS = 6, 3_000
WORKFLOW = """\
name: orders
settings:
  parallelism: 1
  checkpoint: {{interval: 2ms}}
  batch: {{initial: 100, min: 100, max: 200}}
  restart: {{attempts: {restarts}, delay: 0s}}
  error_handling: {{{handling}}}
sources:
  orders: {{type: scripted_changes, config: {{script: orders}}}}
destinations:
  out:
    type: {kind}
    inputs: [orders]
    config: {{{config}}}
"""
MODES = ["append", "upsert, key: customer", "mirror, key: customer", "overwrite"]
PATIENT = "retry_policy: {max_attempts: 6, initial_backoff: 1ms, max_backoff: 10ms}"


@registry.register
class Changes(ScriptedConnector):
    """A script whose column `kind` says what happens to a row, where there is one."""

    type = "scripted_changes"

    def capabilities(self) -> SourceCapabilities:
        is_changelog = "kind" in self._script.schema
        # What is deleted is the row of a customer, whatever its other values are.
        return replace(super().capabilities(), changelog=is_changelog, deletes_by_key=is_changelog)

    async def schema(self) -> Schema:
        return Schema.of([(f.name, f.type) for f in self._script.schema if f.name != "kind"])

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        reader = await super().open(split, position)
        read = reader.read_batch

        async def read_batch(rows_max: int) -> SharedDataBatch:
            frame = (await read(rows_max)).frame
            if "kind" in frame.columns:
                kinds = pl.col("kind").cast(pl.UInt8).alias(KIND_COLUMN)
                frame = frame.with_columns(kinds).drop("kind")
            return SharedDataBatch(frame)

        reader.read_batch = read_batch  # type: ignore[method-assign]
        return reader


def orders(mode: str) -> list[dict[str, int]]:
    """Row n is of customer n % 50. Under mirror every third goes again in the next round."""
    found = [{"id": n, "customer": n % 50, "amount": n * 7 % 1_000} for n in range(ROWS)]
    if mode.startswith("mirror"):
        for row in found:
            there = row["id"] >= 50 and row["id"] // 50 % 3 != 0
            row["kind"] = (3 if row["id"] // 50 % 3 == 2 else 2) if there else 0
    return found


def wanted(mode: str) -> list[tuple[int, int, int]]:
    """The rows of the table in the end, in the order of id."""
    kept: dict[int, dict[str, int]] = {}
    for row in orders(mode):
        key = row["customer"] if ", key" in mode else row["id"]
        if row.pop("kind", 0) == 3:
            del kept[key]
        else:
            kept[key] = row
    return sorted((row["id"], row["customer"], row["amount"]) for row in kept.values())


class Moments:
    """What happens at the named places of the protocol. done: the names of what did."""

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._kind = kind
        self._plans: list[tuple[str, int, Callable[[], object]]] = []
        self._seen: dict[str, int] = {}
        self.done: list[str] = []
        for module in ("session", "writing"):
            monkeypatch.setattr(f"dataflare.sdk.sql.{module}.crash_point", self._reached)

    def at(self, place: str, time: int, act: Callable[[], object]) -> None:
        """time: the first time that it may happen; it does when `act` does not return False."""
        self._plans.append((f"{self._kind}.{place}", time, act))

    def _reached(self, place: str) -> None:
        self._seen[place] = self._seen.get(place, 0) + 1
        for plan in list(self._plans):
            planned, time, act = plan
            if planned == place and time <= self._seen[place] and act() is not False:
                self._plans.remove(plan)
                self.done.append(place)
                return


def start(
    folder: Path, kind: str, mode: str, config: str, *, handling: str = PATIENT, restarts: int = 0,
    listener: Callable[[str], None] = lambda message: None,
) -> RunResult:  # fmt: skip
    """A run that waits for a checkpoint after each `ROWS // EPOCHS` rows. listener: hears its messages."""
    rows = orders(mode)
    each = ROWS // EPOCHS
    parts = [[*rows[first : first + each], Checkpoint()] for first in range(0, ROWS, each)]
    ScriptedSource(list(itertools.chain(*parts)), name="orders")
    config = f"{config}, table: t, mode: {mode}"
    text = WORKFLOW.format(kind=kind, config=config, handling=handling, restarts=restarts)

    def told(progress: Progress) -> None:
        if progress.message:
            listener(progress.message)

    return run(load_text(text, base=folder), RunOptions(folder / "home", listener=told))


def not_restarted(result: RunResult) -> None:
    """It came to its end by calls that were made again."""
    assert result.status == "finished", result.error
    assert not [w for w in result.warnings if w.startswith("restarted")], result.warnings
    assert [w for w in result.warnings if w.startswith("step 'out': tried again")], result.warnings
