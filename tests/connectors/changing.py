"""`dataflare` with a source of changes: `python changing.py run workflow.yaml`.

Key k is there in round r or not, as chance of a fixed seed has it; from round to round it comes, goes or changes.
Row n of the source is what happens to key n % KEYS in round n // KEYS.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import BaseModel

from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk import registry
from dataflare.sdk.source import (
    EndOfSplit,
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
)

KEYS, ROUNDS = 300, 20
SCHEMA = Schema.of({"key": "int64", "round": "int64"})
_STEP = 200


def is_there(rounds: pl.Series, keys: pl.Series) -> pl.Series:
    return ((keys * 7_919 + rounds * 104_729) % 1_009 % 4 != 0) & (rounds >= 0)


def changes(first: int, behind: int) -> pl.DataFrame:
    """What happens at the numbers from first to before behind."""
    numbers = pl.int_range(first, behind, eager=True)
    keys, rounds = numbers % KEYS, numbers // KEYS
    now, then = is_there(rounds, keys), is_there(rounds - 1, keys)
    frame = pl.DataFrame({"key": keys, "round": rounds, "now": now, "then": then})
    before = pl.col("round") - 1
    kinds = {
        0: ("round", ~pl.col("then") & pl.col("now")),
        1: (before, pl.col("then") & pl.col("now")),
        2: ("round", pl.col("then") & pl.col("now")),
        3: (before, pl.col("then") & ~pl.col("now")),
    }
    parts = [
        frame.with_row_index("at")
        .filter(condition)
        .select("at", "key", pl.col(value).alias("round") if isinstance(value, str) else value.alias("round"),
                pl.lit(kind, pl.UInt8).alias(KIND_COLUMN))
        for kind, (value, condition) in kinds.items()
    ]  # fmt: skip
    return pl.concat(parts).sort("at", KIND_COLUMN).drop("at")


def outcome() -> list[tuple[int, int]]:
    """What a mirror holds in the end."""
    keys = pl.int_range(KEYS, eager=True)
    last = pl.repeat(ROUNDS - 1, KEYS, dtype=pl.Int64, eager=True)
    return [(key, ROUNDS - 1) for key in keys.filter(is_there(last, keys))]


class Config(BaseModel):
    rate: float


class Changes(SourceConnector):
    type, Config = "changes", Config

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(
            Replay.EXACT, "by number", bounded=True, changelog=True, deletes_by_key=True
        )

    async def schema(self) -> Schema:
        return SCHEMA

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [Split("all")]

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        return Reader(position.value["number"] if position else 0, self.config.rate)


class Reader(SplitReader):
    def __init__(self, number: int, rate: float) -> None:
        self._number, self._rate = number, rate

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        while self._number < KEYS * ROUNDS:
            behind = min(self._number + min(_STEP, rows_max // 2), KEYS * ROUNDS)
            await asyncio.sleep((behind - self._number) / self._rate)
            found, self._number = changes(self._number, behind), behind
            if found.height:
                return SharedDataBatch(found)
        raise EndOfSplit

    def position(self) -> Position:
        return Position({"number": self._number})


if __name__ == "__main__":
    from dataflare.cli.app import run_process

    registry.register(Changes)
    sys.exit(run_process(sys.argv[1:]))
