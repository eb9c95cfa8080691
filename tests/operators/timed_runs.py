"""Run a step that works by event time as the engine does, in a random order: splits with rows out of
order, batches of all sizes, watermarks, checkpoints, and another number of subtasks after a restore."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

import polars as pl
from flows import inline
from msgspec import Struct

from dataflare.model.event_time import NEVER, TIME_COLUMN, WATERMARK_COLUMN
from dataflare.operators.base import Result, Side, StatefulOperator
from dataflare.state.pieces import own_rows
from dataflare.state.tables import Tables, TableShare
from dataflare.testing.processors import InMemory

Row = dict[str, Any]


class Split(Struct):
    """A part of an input, with its rows in the order in which they are read."""

    port: int
    rows: pl.DataFrame
    place: int = 0

    @property
    def ended(self) -> bool:
        return self.place == self.rows.height

    def watermark(self, disorder: int) -> int:
        """After the rows that were read. A split that ended holds nothing back."""
        if self.ended:
            return 2**62
        if not self.place:
            return NEVER
        return int(self.rows[TIME_COLUMN].head(self.place).max()) - disorder  # type: ignore[arg-type]


def split_of(port: int, rows: Sequence[Row], schema: Any, disorder: int | None) -> Split:
    """rows: each with its columns and `at`, its time. disorder: how far the watermark is behind the
    greatest time; None for a run in batch mode."""
    times = [row["at"] for row in rows]
    columns = [{name: row[name] for name in schema} for row in rows]
    frame = pl.DataFrame(columns, schema=schema).with_columns(
        pl.Series(TIME_COLUMN, times, dtype=pl.Int64)
    )
    if disorder is not None:
        mark = pl.col(TIME_COLUMN).cum_max() - disorder
        frame = frame.with_columns(mark.cast(pl.Int64).alias(WATERMARK_COLUMN))
    return Split(port, frame)


class Outcome(Struct):
    """What came out: rows of the main output, and of the other ones by name."""

    main: list[pl.DataFrame]
    sides: dict[str, list[pl.DataFrame]]

    def take(self, results: Iterable[Result], least: int = NEVER) -> None:
        """least: no result may have an earlier time, because later steps were told so."""
        for result in results:
            if isinstance(result, Side):
                self.sides.setdefault(result.output, []).append(result.frame)
                continue
            if result.height:
                assert int(result[TIME_COLUMN].min()) >= least  # type: ignore[arg-type]
                self.main.append(result)

    def rows(self, output: str | None = None) -> list[tuple[Any, ...]]:
        """Rows without their times, in one order."""
        frames = self.main if output is None else self.sides.get(output, [])
        plain = [f.drop(TIME_COLUMN, WATERMARK_COLUMN, strict=False) for f in frames]
        return sorted((row for frame in plain for row in frame.rows()), key=repr)


class Play:
    """One run."""

    def __init__(
        self,
        operator: StatefulOperator,
        splits: Sequence[Split],
        random: Random,
        disorder: int | None,
    ) -> None:
        self.operator, self.splits, self.random = operator, splits, random
        self.disorder = disorder
        self.outcome = Outcome([], {})
        self.ports = sorted({split.port for split in splits})
        self.told = NEVER
        self._open(random.randint(1, 3), [])

    def run(self) -> Outcome:
        choices: list[Callable[[], None]] = [
            self._read,
            self._read,
            self._tell,
            self._tell,
            self._restore,
        ]
        while not all(split.ended for split in self.splits):
            self.random.choice(choices)()
        self._tell()
        self._end()
        return self.outcome

    def _open(self, subtasks: int, shares: Sequence[TableShare]) -> None:
        self.tables = [
            Tables(n, subtasks, storage=InMemory(), shares=shares) for n in range(subtasks)
        ]
        self.lives = [self.operator.open(tables) for tables in self.tables]
        self.least = [NEVER] * subtasks

    def _read(self) -> None:
        split = self.random.choice([each for each in self.splits if not each.ended])
        batch = split.rows.slice(split.place, self.random.choice((1, 2, 2, 5, 30)))
        split.place += batch.height
        for number, live in enumerate(self.lives):
            keys = self.operator.keys_of(split.port)
            rows = own_rows(batch, keys, number, len(self.lives))
            if rows.height:
                self.outcome.take(live.process(split.port, rows), self.least[number])

    def _tell(self) -> None:
        """Tell the watermark of all splits, where it moved."""
        if self.disorder is None:
            return
        least = min(split.watermark(self.disorder) for split in self.splits)
        if least <= self.told or least >= 2**62:
            return
        self.told = least
        for number, live in enumerate(self.lives):
            self.outcome.take(live.watermark(least), self.least[number])
            self.least[number] = max(self.least[number], live.passed_on(least))

    def _stored(self) -> list[TableShare]:
        shares = [tables.store(tables.freeze()) for tables in self.tables]
        return [TableShare(s.chunks, json.loads(json.dumps(dict(s.values)))) for s in shares]

    def _restore(self) -> None:
        """A checkpoint, a crash, and a run with another parallelism."""
        if self.random.random() < 0.3:
            for tables in self.tables:
                tables.spill(0)
        if self.random.random() < 0.3:
            self._open(self.random.randint(1, 3), self._stored())

    def _end(self) -> None:
        """The end of all inputs, with a crash between two results."""
        crashes = self.random.randint(0, 3)
        while True:
            done = True
            for number, live in enumerate(self.lives):
                for port in self.ports:
                    for result in live.end(port):
                        self.outcome.take([result], self.least[number])
                        if crashes and self.random.random() < 0.2:
                            crashes, done = crashes - 1, False
                            break
                    if not done:
                        break
                if not done:
                    break
            if done:
                return
            self._open(self.random.randint(1, 3), self._stored())


def random_splits(
    random: Random,
    port: int,
    names: dict[str, Any],
    disorder: int | None,
    before: Callable[[list[list[Row]]], None] | None = None,
) -> list[tuple[Split, list[Row]]]:
    """One or two splits of an input, some rows later than their watermark allows. before: changes the rows."""
    parts: list[list[Row]] = []
    key, value = names
    for number in range(random.randint(1, 2)):
        rows: list[Row] = []
        time = random.randint(-20, 20)
        for i in range(random.choice((0, 3, 40))):
            time += random.choice((0, 1, 1, 9))
            at = time - random.choice((0, 0, 3, 12))
            known = random.random() < 0.9
            rows.append(
                {
                    key: random.randint(0, 4) if known else None,
                    value: port * 10_000 + number * 1_000 + i,
                    "at": at,
                }
            )
        parts.append(rows)
    if before is not None:
        before(parts)
    return [(split_of(port, rows, names, disorder), rows) for rows in parts]


def in_time(rows: list[Row], disorder: int | None) -> tuple[list[Row], list[Row]]:
    """The rows that are in time, and those that are late: by the greatest time before them, less the
    disorder."""
    good, late, greatest = [], [], None
    for row in rows:
        greatest = row["at"] if greatest is None else max(greatest, row["at"])
        is_late = disorder is not None and row["at"] < greatest - disorder
        (late if is_late else good).append(row)
    return good, late


def timed(rows: list[Row], column: str, **types: str) -> str:
    schema = ", ".join(f"{name}: {type_}" for name, type_ in types.items())
    time = f'{column}: "timestamp[us, UTC]"'
    return inline(
        rows,
        schema=f"{{{schema}, {time}}}",
        event_time=f"{{column: {column}, out_of_orderness: 1s}}",
    )


def at(second: float) -> str:
    return f"2026-01-01T00:00:{second:06.3f}Z"
