"""A source with transactions, bad messages and a schema that changes: every destination has whole transactions
only, whatever crashes; bad rows come with the good ones; new columns are added where they begin."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel, ConfigDict

from dataflare.connectors import memory
from dataflare.errors import Retry, SystemError_
from dataflare.model.batch import SharedDataBatch
from dataflare.model.new_fields import typed_fields
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.registry import register
from dataflare.sdk.source import (
    BadRow,
    EndOfSplit,
    Replay,
    SourceBatch,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsCommits,
)
from dataflare.testing import Lab
from dataflare.testing.sources import check_source
from dataflare.workflow import load_text
from dataflare.workflow.model import Workflow


class Log:
    """Transactions of so many messages. bad: the messages that cannot be read; since: from this message on, they have
    a column `extra`."""

    def __init__(self, sizes: Sequence[int], bad: Sequence[int] = (), since: int = 10**9) -> None:
        self.of = [tx for tx, size in enumerate(sizes) for _ in range(size)]
        self.sizes, self.bad, self.since = list(sizes), set(bad), since
        self.before: Callable[[str], None] = lambda call: None
        self.endless = self.letters = False

    def ends(self, message: int) -> bool:
        """Whether a transaction ends behind a message."""
        if message + 1 == len(self.of):
            return not self.endless
        return self.of[message] != self.of[message + 1]


LOGS: dict[str, Log] = {}


class LogConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    log: str = "log"


@register
class LogSource(SourceConnector, SupportsCommits):
    type = "log"
    Config = LogConfig
    finds_new_fields = True

    @property
    def log(self) -> Log:
        return LOGS[self.config.log]

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(Replay.EXACT, local=True)

    async def schema(self) -> Schema:
        return Schema.of({"tx": "int64", "n": "int64", **self.learned})

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [Split("log")]

    async def committed(self, positions: Mapping[str, Position]) -> None:
        self.log.before("committed")
        for position in positions.values():
            at = position.value["at"]
            assert not at or self.log.ends(at - 1), "it is told of a place inside a transaction"
        refuse_torn(self.log)

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        self.log.before("open")
        at = position.value["at"] if position else 0
        assert not at or self.log.ends(at - 1), "it is opened inside a transaction"
        return LogReader(self.log, at, (await self.schema()).names)


class LogReader(SplitReader):
    def __init__(self, log: Log, at: int, columns: Sequence[str]) -> None:
        self.log, self.at, self.columns = log, at, columns

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        self.log.before("read")
        log, first = self.log, self.at
        numbers = range(first, min(len(log.of), first + min(rows_max, 4)))
        if not numbers:
            if log.endless:
                import asyncio

                await asyncio.get_running_loop().create_future()
            raise EndOfSplit
        # A batch never holds parts of two transactions.
        numbers = range(first, 1 + next((n for n in numbers if log.ends(n)), numbers[-1]))
        self.at = numbers[-1] + 1
        good = [n for n in numbers if n not in log.bad]
        rows = [{"tx": log.of[n], "n": n, "extra": n if n >= log.since else None} for n in good]
        types = {"tx": pl.Int64, "n": pl.Int64, "extra": pl.Int64}
        frame = pl.DataFrame(rows, schema=types).select(self.columns)
        bad = [
            BadRow(n - first, "E0501", "it is torn", json.dumps({"n": n}), f"message {n}")
            for n in numbers
            if n in log.bad
        ]
        changed = [n for n in good if n >= log.since]
        return SourceBatch(
            frame,
            bad=bad,
            row_numbers=pl.Series([n - first for n in good], dtype=pl.Int64),
            place=lambda row: f"message {first + row}",
            may_cut=log.ends(numbers[-1]),
            new_fields=typed_fields(
                {"extra": "int64"},
                [n - first for n in changed],
                lambda row: f"message {first + row}",
            )
            if changed and "extra" not in self.columns
            else None,
        )

    def position(self) -> Position:
        return Position({"at": self.at})


def refuse_torn(log: Log) -> None:
    """The destination has whole transactions only, unless some of their rows become letters."""
    if log.letters:
        return
    frame = memory.committed("out")
    counts = Counter(frame["tx"].to_list() if frame.width else [])
    whole = Counter(tx for n, tx in enumerate(log.of) if n not in log.bad)
    torn = {tx: (rows, whole[tx]) for tx, rows in counts.items() if rows != whole[tx]}
    assert not torn, torn


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    yield
    LOGS.clear()


LETTERS = "dead_letter: {type: memory, config: {name: bad}}"


def copy_of(log: Log, settings: str = "", options: str = "") -> Workflow:
    LOGS["log"] = log
    return load_text(
        f"""\
name: copy
settings: {{parallelism: 1{settings}}}
sources: {{in: {{type: log, config: {{}}{options}}}}}
destinations:
  out: {{type: memory, inputs: [in], config: {{name: out}}}}
"""
    )


def test_the_log_of_these_tests_keeps_the_contract() -> None:
    import asyncio

    from dataflare.testing import description

    LOGS["log"] = Log([1, 9, 2, 30, 1, 1], bad=[0, 5, 20, 43])
    asyncio.run(check_source(lambda: description(LogSource, {})))


@pytest.mark.parametrize("seed", range(10))
def test_crashes_tear_no_transaction(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice([1, 2, 5, 30]) for _ in range(chance.randint(5, 25))]
    total = sum(sizes)
    bad = chance.sample(range(total), chance.randint(0, total // 4))
    log = Log(sizes, bad, since=chance.choice([0, total // 3, total]))
    calls = chance.sample(range(1, 120), 6)
    made = 0

    def before(call: str) -> None:
        nonlocal made
        made += 1
        if made in calls:
            raise SystemError_("it is away", code="E0601", retry=chance.choice([*Retry][1:]))

    log.before = before
    lab = Lab(tmp_path)
    statuses: list[str] = []
    while len(statuses) < 20 and statuses[-1:] != ["finished"]:
        workflow = copy_of(log, "", ", error_handling: {on_error: skip}")
        result = lab.run(workflow, restarts=seed % 3)
        refuse_torn(log)
        statuses.append(result.status)
    assert result.status == "finished", result.error
    rows = lab.frame("out")
    assert rows["n"].to_list() == [n for n in range(total) if n not in log.bad]
    if log.since < total - len(log.bad):
        assert rows.filter(pl.col("n") >= log.since)["extra"].to_list() == [
            n for n in range(log.since, total) if n not in log.bad
        ]
    if len(statuses) == 1:
        assert result.steps["in"]["errors"] == len(bad)


def test_bad_rows_come_with_the_good_ones(tmp_path: Path) -> None:
    log = Log([4, 4], bad=[1, 6, 7])
    result = Lab(tmp_path).run(copy_of(log), restarts=0)
    assert result.error is not None
    assert "message 1: it is torn" in result.error.message
    lab = Lab(tmp_path / "letters")
    result = lab.run(copy_of(log, "", f", error_handling: {{on_error: dead_letter, {LETTERS}}}"))
    assert result.status == "finished", result.error
    assert lab.frame("out")["n"].to_list() == [0, 2, 3, 4, 5]
    told = lab.frame("bad")
    assert sorted(told["position"].to_list()) == ["message 1", "message 6", "message 7"]


def test_a_row_that_fails_later_is_told_with_its_place(tmp_path: Path) -> None:
    log = Log([5], bad=[1])
    LOGS["log"] = log
    text = """\
name: copy
sources: {in: {type: log, config: {}, error_handling: {on_error: skip}}}
transformations:
  m: {type: map, inputs: [in], config: {derive: {d: "CAST(CASE WHEN n = 3 THEN 'x' ELSE '1' END AS BIGINT)"}}}
destinations: {out: {type: memory, inputs: [m], config: {name: out}}}
"""
    result = Lab(tmp_path).run(load_text(text), restarts=0)
    assert result.error is not None
    assert "message 3" in str(result.error.message) + str(result.error.notes)


@pytest.mark.parametrize("policy", ["evolve", "ignore", "fail", "dead_letter"])
def test_a_schema_that_changes_inside_a_transaction(tmp_path: Path, policy: str) -> None:
    log = Log([2, 9, 3], since=6)
    lab = Lab(tmp_path)
    log.letters = policy == "dead_letter"
    options = f", error_handling: {{{LETTERS}}}"
    result = lab.run(copy_of(log, f", schema_change: {policy}", options), restarts=0)
    rows = lab.frame("out")
    match policy:
        case "evolve":
            assert result.status == "finished", result.error
            assert rows["n"].to_list() == list(range(14))
            assert rows["extra"].to_list() == [None] * 6 + list(range(6, 14))
        case "ignore":
            assert result.status == "finished", result.error
            assert (rows.columns, rows.height) == (["tx", "n"], 14)
            assert any("extra" in warning for warning in result.warnings), result.warnings
        case "dead_letter":
            assert result.status == "finished", result.error
            assert rows["n"].to_list() == list(range(6))
            assert lab.frame("bad")["position"].to_list() == [f"message {n}" for n in range(6, 14)]
        case "fail":
            assert result.error is not None
            assert (result.error.code, "message 6" in result.error.message) == ("E0545", True)


def test_a_transaction_that_does_not_end_is_told(tmp_path: Path) -> None:
    log = Log([2, 9])
    log.endless = True
    lab = Lab(tmp_path, checkpoint_s=0.3)
    result = lab.run(copy_of(log, ", checkpoint: {timeout: 100ms}"), restarts=0)
    assert result.error is not None
    assert result.error.code == "E0705"
    assert any("inside a transaction of the split 'log'" in note for note in result.error.notes)
    assert "shorter" in str(result.error.help)
