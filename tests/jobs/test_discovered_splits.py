"""Splits that a source finds while it is read: each row once, whatever crashes, and one after the other where
they follow each other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel, ConfigDict

from dataflare.connectors import memory
from dataflare.errors import Retry, SystemError_
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.registry import register
from dataflare.sdk.source import (
    EndOfSplit,
    KnownSplits,
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsCommits,
    SupportsDiscovery,
)
from dataflare.testing import Lab
from dataflare.workflow import load_text
from dataflare.workflow.model import Workflow

COLUMNS = {"box": "int64", "n": "int64", "at": "timestamp[us, UTC]"}


class Shelf:
    """Boxes of numbered rows. The first `listed` are there at the start, and each look finds `step` more.

    chain: a box is found only when those before it are done. endless: a look never says that all were found.
    before: called before each call of the connector, with its name.
    """

    def __init__(self, boxes: Sequence[int], listed: int = 1, step: int = 1, **more: Any) -> None:
        self.boxes, self.listed, self.step = list(boxes), listed, step
        self.chain = self.endless = self.bounded = False
        self.replay = Replay.EXACT
        self.interval_s: float | None = 0.001
        self.before: Callable[[str], None] = lambda call: None
        self.looks: list[KnownSplits] = []
        self.committed: dict[str, int] = {}
        for name, value in more.items():
            setattr(self, name, value)

    def splits(self, count: int) -> list[Split]:
        return [Split(f"box-{n:05d}", {"box": n}) for n in range(min(count, len(self.boxes)))]


SHELVES: dict[str, Shelf] = {}


class ShelfConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    shelf: str


@register
class ShelfSource(SourceConnector, SupportsDiscovery, SupportsCommits):
    type = "shelf"
    Config = ShelfConfig

    @property
    def shelf(self) -> Shelf:
        return SHELVES[self.config.shelf]

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(self.shelf.replay, bounded=self.shelf.bounded, local=True)

    async def schema(self) -> Schema:
        return Schema.of(COLUMNS)

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return self.shelf.splits(self.shelf.listed)

    def discovery_interval_s(self) -> float | None:
        return self.shelf.interval_s

    async def discover(self, known: KnownSplits) -> Sequence[Split] | None:
        shelf = self.shelf
        shelf.before("discover")
        shelf.looks.append(known)
        if shelf.chain and not known.all_done:
            return []
        if len(known.ids) >= len(shelf.boxes):
            return [] if shelf.endless else None
        return shelf.splits(len(known.ids) + shelf.step)

    async def committed(self, positions: Mapping[str, Position]) -> None:
        self.shelf.before("committed")
        for split, position in positions.items():
            assert position.value["at"] >= self.shelf.committed.get(split, 0), "it went back"
            self.shelf.committed[split] = position.value["at"]

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        self.shelf.before("open")
        return BoxReader(self.shelf, split.data["box"], position.value["at"] if position else 0)


class BoxReader(SplitReader):
    def __init__(self, shelf: Shelf, box: int, at: int) -> None:
        self.shelf, self.box, self.at = shelf, box, at

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        self.shelf.before("read")
        rows = range(self.at, min(self.shelf.boxes[self.box], self.at + min(rows_max, 3)))
        if not rows:
            raise EndOfSplit
        self.at += len(rows)
        frame = pl.DataFrame({"box": [self.box] * len(rows), "n": rows})
        return SharedDataBatch(
            frame.with_columns(at=pl.from_epoch("n").dt.replace_time_zone("UTC"))
        )

    def position(self) -> Position:
        return Position({"at": self.at})


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    yield
    SHELVES.clear()


def copy_of(shelf: Shelf, text: str = "", inputs: str = "in", options: str = "") -> Workflow:
    SHELVES["s"] = shelf
    return load_text(
        f"""\
name: copy
sources: {{in: {{type: shelf, config: {{shelf: s}}{options}}}}}
{text}
destinations: {{out: {{type: memory, inputs: [{inputs}], config: {{name: out}}}}}}
"""
    )


def rows_of(shelf: Shelf) -> list[tuple[int, int]]:
    return [(box, n) for box, rows in enumerate(shelf.boxes) for n in range(rows)]


def read(lab: Lab) -> list[tuple[int, int]]:
    return lab.frame("out").select("box", "n").rows()


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("listed", [0, 2])
def test_what_is_found_is_read_once(tmp_path: Path, parallelism: int, listed: int) -> None:
    shelf = Shelf([5, 0, 7, 1, 30, 2], listed, step=2)
    lab = Lab(tmp_path)
    assert lab.run(copy_of(shelf), parallelism=parallelism).status == "finished"
    assert sorted(read(lab)) == rows_of(shelf)
    assert set(shelf.committed) == {split.id for split in shelf.splits(6)}


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("replay", [Replay.EXACT, Replay.NONE])
def test_what_follows_is_read_when_what_was_before_is_done(
    tmp_path: Path, parallelism: int, replay: Replay
) -> None:
    """A snapshot, and then its log. Also without checkpoints between them, because the source cannot replay."""
    shelf = Shelf([40, 9, 3], listed=1, chain=True, replay=replay, bounded=True)
    lab = Lab(tmp_path, checkpoint_s=3600)
    assert lab.run(copy_of(shelf), parallelism=parallelism).status == "finished"
    assert read(lab) == rows_of(shelf)
    for known in shelf.looks:
        assert known.done <= known.ids
        assert [split.id for split in known.listed] == ["box-00000"]


def test_a_split_is_done_when_every_destination_has_it(tmp_path: Path) -> None:
    shelf = Shelf([9, 9], chain=True)
    seen: list[tuple[int, int]] = []
    shelf.before = lambda call: seen.append((len(shelf.looks), memory.committed("out").height))
    Lab(tmp_path).run(copy_of(shelf))
    for (look, rows), known in zip(dict(seen).items(), shelf.looks, strict=False):
        assert rows >= 9 * len(known.done), look


@pytest.mark.parametrize("seed", range(12))
def test_crashes_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    """The connector fails at random calls, also at those that find splits. Some runs restart, others end and are resumed."""
    chance = random.Random(seed)
    boxes = [chance.choice([0, 1, 4, 25]) for _ in range(chance.randint(1, 12))]
    shelf = Shelf(boxes, chance.randint(0, 2), chance.randint(1, 4), chain=chance.random() < 0.4)
    calls = chance.sample(range(1, 60), 8)
    made = 0

    def before(call: str) -> None:
        nonlocal made
        made += 1
        if made in calls:
            raise SystemError_("it is away", code="E0601", retry=Retry.RESTART)

    shelf.before = before
    lab = Lab(tmp_path)
    for _ in range(20):
        result = lab.run(copy_of(shelf), parallelism=chance.randint(1, 3), restarts=seed % 3)
        if result.status == "finished":
            break
    assert result.status == "finished", result.error
    assert sorted(read(lab)) == rows_of(shelf)
    if shelf.chain:
        # Splits that were found together are read side by side, and those found later follow them.
        order = [(b - shelf.listed) // shelf.step for b, _ in read(lab) if b >= shelf.listed]
        assert order == sorted(order)


def test_the_manifest_stays_small_when_many_are_found_at_once(tmp_path: Path) -> None:
    shelf = Shelf([1] * 3_000, listed=1, step=3_000)
    lab = Lab(tmp_path, checkpoint_s=0.05)
    result = lab.run(copy_of(shelf))
    assert result.status == "finished"
    assert sorted(read(lab)) == rows_of(shelf)
    # One that was cut in between has the splits that were open then: how many these are is a matter of the machine's speed.
    written = [path.stat() for path in tmp_path.rglob("manifest-*.json")]
    newest = max(written, key=lambda each: each.st_mtime_ns)
    assert newest.st_size < 20_000, [each.st_size for each in written]


def test_a_source_that_finds_splits_for_ever_ends_where_no_step_needs_more(tmp_path: Path) -> None:
    shelf = Shelf([4] * 5, endless=True)
    steps = "transformations: {few: {type: limit, inputs: [in], config: {rows: 7}}}"
    lab = Lab(tmp_path)
    assert lab.run(copy_of(shelf, steps, "few")).status == "finished"
    assert lab.frame("out").height == 7


def test_without_an_interval_the_listing_is_all(tmp_path: Path) -> None:
    shelf = Shelf([4] * 5, listed=2, interval_s=None)
    lab = Lab(tmp_path)
    assert lab.run(copy_of(shelf)).status == "finished"
    assert (sorted(read(lab)), shelf.looks) == (rows_of(shelf)[:8], [])


def test_an_interval_that_is_no_time_is_an_error_of_the_connector(tmp_path: Path) -> None:
    result = Lab(tmp_path).run(copy_of(Shelf([1], interval_s=0.0)), restarts=0)
    assert result.error is not None
    assert "discovery_interval_s" in result.error.message


def test_a_split_that_is_found_late_holds_nothing_back_and_its_rows_may_be_late(
    tmp_path: Path,
) -> None:
    """Each box has the seconds 0, 1, 2 ... as its times. The first two windows close before the second box is
    found, so its rows are late."""
    shelf = Shelf([30, 12], chain=True)
    steps = """\
settings: {mode: streaming}
transformations:
  w: {type: window, inputs: [in], config: {kind: tumbling, size: 10s, measures: {n: count(*)}}}
"""
    workflow = copy_of(shelf, steps, "w", ", event_time: {column: at, max_future: null}")
    lab = Lab(tmp_path)
    result = lab.run(workflow, parallelism=1)
    assert result.status == "finished", result.error
    assert sorted(lab.frame("out")["n"].to_list()) == [10, 10, 10]
    assert result.steps["w"]["late"] == 12
