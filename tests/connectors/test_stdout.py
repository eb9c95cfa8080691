"""Rows on standard output: three formats, printed immediately; the run goes on when the reader has
ended."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataflare.connectors.stdout import StdoutDestination
from dataflare.errors import ConfigError
from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext, DestinationContext
from dataflare.sdk.destination import Delivery
from dataflare.sdk.runtime import Runtime

ROWS = pl.DataFrame(
    {
        "id": [1, 20, None],
        "name": ["Ada", "Überlänge", None],
        "score": [1.5, float("nan"), None],
        "at": [datetime(2024, 1, 31, 12, tzinfo=UTC), None, None],
        "tags": [["a", "b"], [], None],
    },
    schema_overrides={"at": pl.Datetime("us", "UTC")},
)


@pytest.fixture
def shown() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    with Runtime(stdout=stream).entered():
        yield stream


def show(*frames: pl.DataFrame, changelog: bool = False, **options: Any) -> list[int]:
    """Write the frames and end; the rows that each write says it took."""
    config = StdoutDestination.Config.model_validate(options)
    made = StdoutDestination(config, ConnectorContext("show"))
    columns = {n: t for n, t in frames[0].schema.items() if n != KIND_COLUMN}
    context = DestinationContext(
        "show", "0f8fad5b", 1, Schema.from_polars(columns), Path(), changelog=changelog
    )

    async def scenario() -> list[int]:
        writer = await made.open(context, None)
        stats = [
            await writer.write_batch(SharedDataBatch(frame)) for frame in frames if frame.height
        ]
        assert await writer.prepare(1, final=True) is None
        await writer.aclose()
        return [each.rows for each in stats]

    return asyncio.run(scenario())


def test_a_table_is_aligned_with_its_header_once(shown):
    show(ROWS.drop("tags"), ROWS.drop("tags").head(1))
    assert shown.getvalue() == (
        "  id  name       score  at\n"
        "----  ---------  -----  --------------------\n"
        "   1  Ada          1.5  2024-01-31T12:00:00Z\n"
        "  20  Überlänge   null  null\n"
        "null  null        null  null\n"
        "   1  Ada          1.5  2024-01-31T12:00:00Z\n"
    )


def test_a_wider_cell_that_comes_later_pushes_its_line(shown):
    first, later = (
        pl.DataFrame({"a": ["x"], "b": [1]}),
        pl.DataFrame({"a": ["long" * 20], "b": [2]}),
    )
    show(first, later)
    assert shown.getvalue().splitlines()[2:] == ["x  1", f"{'long' * 20}  2"]


def test_a_cell_stays_on_one_line_and_nested_values_are_json(shown):
    show(pl.DataFrame({"t": ["a\nb\tc"], "tags": [["x", "y"]]}))
    assert shown.getvalue().splitlines()[2] == 'a\\nb c  ["x","y"]'


def test_ndjson_is_one_object_a_line(shown):
    show(ROWS, format="ndjson")
    lines = [json.loads(line) for line in shown.getvalue().splitlines()]
    assert lines[0] == {
        "id": 1,
        "name": "Ada",
        "score": 1.5,
        "at": "2024-01-31T12:00:00Z",
        "tags": ["a", "b"],
    }
    assert lines[1]["score"] is None
    assert lines[1]["name"] == "Überlänge"
    assert set(lines[2].values()) == {None}


def test_csv_has_its_header_once(shown):
    show(ROWS.select("id", "name").head(1), ROWS.select("id", "name").tail(1), format="csv")
    assert shown.getvalue() == "id,name\n1,Ada\n,\n"


@pytest.mark.parametrize(
    ("format_", "text"),
    [("table", "id  name\n--  ----\n"), ("csv", "id,name\n"), ("ndjson", "")],
)
def test_no_rows_still_show_their_columns(shown, format_, text):
    show(ROWS.select("id", "name").clear(), format=format_)
    assert shown.getvalue() == text


def test_a_limit_shows_so_many_and_takes_all(shown):
    frame = pl.DataFrame({"id": range(10)})
    assert show(frame, frame, frame, format="csv", limit=12) == [10, 10, 10]
    assert shown.getvalue().split() == ["id", *map(str, range(10)), "0", "1"]


def test_a_limit_of_none_shows_the_columns(shown):
    show(ROWS.select("id"), ROWS.select("id"), format="csv", limit=0)
    assert shown.getvalue() == "id\n"


def test_rows_are_there_before_anything_is_committed(shown):
    made = StdoutDestination(StdoutDestination.Config(format="ndjson"), ConnectorContext("show"))
    context = DestinationContext("show", "0f8fad5b", 1, Schema.of({"id": "int64"}), Path())

    async def scenario() -> None:
        writer = await made.open(context, None)
        await writer.write_batch(SharedDataBatch(pl.DataFrame({"id": [1]})))
        assert shown.getvalue() == '{"id":1}\n'

    asyncio.run(scenario())
    assert made.capabilities().delivery is Delivery.REPEATING


def test_many_rows_keep_their_order(shown):
    show(pl.DataFrame({"id": range(2000)}), pl.DataFrame({"id": range(2000, 2010)}), format="csv")
    assert shown.getvalue().split()[1:] == [str(n) for n in range(2010)]


def test_a_changelog_shows_its_kinds(shown):
    kinds = pl.Series(KIND_COLUMN, [0, 3], dtype=pl.UInt8)
    frame = pl.DataFrame({"id": [1, 2]}).with_columns(kinds)
    show(frame, pl.DataFrame({"id": [3]}), format="csv", changelog=True)
    assert shown.getvalue() == "_op,id\ninsert,1\ndelete,2\ninsert,3\n"
    with pytest.raises(ConfigError, match="'_op'"):
        show(pl.DataFrame({"_op": ["x"]}), changelog=True)


def test_standard_output_is_the_default(capsys):
    show(pl.DataFrame({"id": [1]}), format="csv")
    assert capsys.readouterr().out == "id\n1\n"


PIPE = """
import asyncio, sys
from pathlib import Path
import polars as pl
from dataflare.connectors.stdout import StdoutDestination
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext, DestinationContext

async def main():
    made = StdoutDestination(StdoutDestination.Config(format="csv"), ConnectorContext("show"))
    context = DestinationContext("show", "0f8fad5b", 1, Schema.of({"id": "int64"}), Path())
    writer = await made.open(context, None)
    sys.stdin.readline()
    rows = 0
    for _ in range(5):
        rows += (await writer.write_batch(SharedDataBatch(pl.DataFrame({"id": range(50000)})))).rows
    await writer.prepare(1, final=True)
    print("took", rows, file=sys.stderr)

asyncio.run(main())
"""


def test_a_reader_who_leaves_ends_nothing():
    process = subprocess.Popen(
        [sys.executable, "-c", PIPE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.write("go\n")
    process.stdin.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0, error
    assert error == "took 250000\n"
