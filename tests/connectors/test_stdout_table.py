"""A table of the newest rows on standard output: drawn over itself on a terminal, printed once elsewhere."""

from __future__ import annotations

import asyncio
import io
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from dataflare.connectors.stdout import StdoutDestination
from dataflare.connectors.stdout import live_table as tables
from dataflare.connectors.stdout.live_table import NewestRows, Screen
from dataflare.errors import ConfigError
from dataflare.jobs import RunOptions, run
from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.model.types import Schema
from dataflare.planner import plan_async
from dataflare.planner.facts import destination_notes, of_destination
from dataflare.sdk.context import ConnectorContext, DestinationContext
from dataflare.sdk.runtime import Runtime
from dataflare.workflow.load import load_text

INSERT, BEFORE, AFTER, DELETE = 0, 1, 2, 3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(stream: io.StringIO, *frames: pl.DataFrame, **options: Any) -> str:
    """What the destination prints for the frames."""
    config = StdoutDestination.Config.model_validate({"key": ["id"], "mode": "mirror", **options})
    columns = {name: type_ for name, type_ in frames[0].schema.items() if name != KIND_COLUMN}
    schema = Schema.from_polars(columns)
    context = DestinationContext("show", "0f8fad5b", 1, schema, Path(), changelog=True)

    async def scenario() -> None:
        writer = await StdoutDestination(config, ConnectorContext("show")).open(context, None)
        for frame in frames:
            await writer.write_batch(SharedDataBatch(frame))
        await writer.prepare(1, final=True)
        await writer.aclose()

    with Runtime(stdout=stream).entered():
        asyncio.run(scenario())
    return stream.getvalue()


def changes(*rows: tuple[int, int, int | None]) -> pl.DataFrame:
    schema = {KIND_COLUMN: pl.Int8, "id": pl.Int64, "n": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.mark.parametrize("deletes", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_the_rows_are_those_of_a_dictionary(seed: int, deletes: bool) -> None:
    chance = random.Random(seed)
    newest, model = NewestRows(["id"], deletes=deletes), dict[int, int | None]()
    for _ in range(8):
        batch = []
        for _ in range(chance.randrange(1, 12)):
            kind, key = chance.randrange(4), chance.randrange(6)
            batch.append((kind, key, chance.choice([None, 1, 2, 3])))
            if kind in (INSERT, AFTER):
                model.pop(key, None)
                model[key] = batch[-1][2]
            elif deletes:
                model.pop(key, None)
        newest.apply(changes(*batch))
    assert newest.rows is not None
    assert list(newest.rows.iter_rows()) == list(model.items())


def test_elsewhere_it_is_printed_once_at_the_end_in_the_order_of_keys() -> None:
    shown = written(
        io.StringIO(),
        changes((INSERT, 2, 1), (INSERT, 1, 5)),
        changes((BEFORE, 2, 1), (AFTER, 2, 7), (INSERT, 3, 9)),
        changes((DELETE, 3, 9)),
    )
    assert shown == "id  n\n--  -\n 1  5\n 2  7\n"


def test_without_rows_there_is_a_header() -> None:
    assert written(io.StringIO(), changes()) == "id  n\n--  -\n"


def test_no_more_than_the_limit_is_shown_and_the_others_are_told() -> None:
    shown = written(io.StringIO(), changes((INSERT, 3, 1), (INSERT, 2, 1), (INSERT, 1, 1)), limit=2)
    assert shown == "id  n\n--  -\n 1  1\n 2  1\nand 1 rows that changed earlier\n"


def test_rows_beyond_the_greatest_number_of_keys_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "KEYS_MAX", 2)
    shown = written(io.StringIO(), changes(*((INSERT, key, 0) for key in range(5))))
    assert shown == "id  n\n--  -\n 3  0\n 4  0\nand 3 rows that changed earlier\n"


def test_on_a_terminal_the_table_is_drawn_over_the_one_before() -> None:
    screen = Screen(lambda: (10, 24))
    assert screen.drawn("head\nrow one of it\n") == "head\nrow one of\n"
    assert screen.drawn("head\n") == "\x1b[2F\x1b[Jhead\n"
    assert screen.drawn("head\nrow\n") == "\x1b[1F\x1b[Jhead\nrow\n"


def test_a_low_terminal_shows_fewer_rows() -> None:
    assert Screen(lambda: (80, 10)).room(None) == 5
    assert Screen(lambda: (80, 60)).room(None) == 20
    assert Screen(lambda: (80, 60)).room(40) == 40
    assert Screen(lambda: (80, 3)).room(None) == 1


def test_control_characters_of_values_do_not_reach_the_terminal() -> None:
    frame = pl.DataFrame({"id": [1], "text": ["\x1b[2J"]})
    shown = written(Terminal(), frame)
    assert "\x1b" not in shown
    assert "\\x1b[2J" in shown


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"mode": "upsert"}, "needs a key"),
        ({"mode": "mirror", "key": ["id"], "format": "csv"}, "leave out format: csv"),
        ({"key": ["id"]}, "key is for mode"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        StdoutDestination.Config.model_validate(options)


def test_a_key_that_the_rows_lack_is_refused_before_the_run(tmp_path: Path) -> None:
    text = """
name: shown
sources: {s: {type: inline, config: {rows: [{id: 1}]}}}
destinations: {out: {type: stdout, inputs: [s], config: {mode: upsert, key: [ident]}}}
"""
    with pytest.raises(ConfigError, match="no column 'ident'"):
        run(load_text(text), RunOptions(home=tmp_path))


def test_the_plan_does_not_speak_of_rows_that_are_deleted_from_a_place(tmp_path: Path) -> None:
    text = """
name: shown
sources: {s: {type: inline, config: {rows: [{id: 1}]}}}
destinations: {out: {type: stdout, inputs: [s], config: {mode: mirror, key: [id]}}}
"""
    plan = asyncio.run(plan_async(load_text(text), home=tmp_path))
    (target,) = [stage for stage in plan.stages.stages if stage.destination is not None]
    assert target.destination is not None
    facts = of_destination(target.destination, complete=True)
    assert list(destination_notes(facts)) == [
        "shows the newest row of each key, without those that were deleted"
    ]


def test_totals_of_an_aggregate_are_a_table(tmp_path: Path) -> None:
    text = """
name: shown
settings: {mode: streaming}
sources: {s: {type: generate, config: {columns: {n: {sequence: 0}}, rows: 1000, seed: 1}}}
transformations:
  rest: {type: map, inputs: [s], config: {derive: {rest: n % 3}}}
  counts: {type: aggregate, inputs: [rest], config: {group_by: [rest], emit: updates, measures: {rows: count(*)}}}
destinations: {out: {type: stdout, inputs: [counts], config: {mode: mirror, key: [rest]}}}
"""
    stream = io.StringIO()
    result = run(load_text(text), RunOptions(home=tmp_path, stdout=stream))
    assert result.status == "finished"
    assert stream.getvalue() == "rest  rows\n----  ----\n   0   334\n   1   333\n   2   333\n"
