"""A function of the user's as a source and as a destination."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataflare.connectors.python import PythonSource
from dataflare.connectors.python.source import PythonSourceConfig
from dataflare.errors import ConfigError, DataError, DataFlareError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.model.progress import Position
from dataflare.model.types import Schema
from dataflare.planner import check, plan
from dataflare.planner.graph import SourceNode
from dataflare.sdk.context import ConnectorContext, Policy
from dataflare.sdk.source import EndOfSplit, SourceBatch
from dataflare.testing.sources import check_source
from dataflare.workflow.load import load_text

FLOW = """\
name: own
settings: {parallelism: 1}
sources:
  rows: {type: python, config: {function: "own_rows:FUNCTION"}SCHEMA}
destinations:
  out: {type: file, inputs: [rows], config: {path: out.ndjson}}
"""

MODULE = """\
import polars as pl

def dicts():
    for i in range(2500):
        yield {"id": i, "text": f"{i:05}", "half": i / 2}

def frames():
    for i in range(3):
        yield pl.DataFrame({"id": [i, i + 10], "text": [str(i), None]})

def arrow():
    for frame in frames():
        yield frame.to_arrow()

def batches():
    for frame in frames():
        yield from frame.to_arrow().to_batches()

def whole():
    return [{"id": 1}, {"id": 2}]

def placed(start, last=2000):
    for i in range(0 if start is None else start, last):
        yield {"id": i}, i + 1

def placed_frames(start):
    first = 0 if start is None else start["row"]
    for i in range(first, 60, 20):
        yield pl.DataFrame({"id": list(range(i, i + 20))}), {"row": i + 20}

def none():
    yield {"id": 1, "x": None}

def late():
    for i in range(1001):
        yield {"id": i}
    yield {"id": 1, "new": 2}

def big():
    yield {"x": 1.5}
    yield {"x": 2**53 + 1}

def misfits():
    for i in range(40):
        yield {"id": f"x{i}" if i % 7 == 3 else i, "text": str(i)}

def placed_misfits(start):
    for i in range(start or 0, 60, 10):
        yield [{"id": n if n % 7 else None if n == 14 else [n]} for n in range(i, i + 10)], i + 10

def misfits_again():
    for rows, _ in placed_misfits(0):
        yield rows

def fails():
    yield {"id": 1}
    raise ZeroDivisionError("oops")

def nothing():
    return None

def number():
    yield 7

def unplaced(start):
    yield {"id": 1}

def overplaced():
    yield {"id": 1}, 5

def thread():
    import sqlite3
    base = sqlite3.connect(":memory:")
    for i in range(5000):
        yield {"id": base.execute("select ?", (i,)).fetchone()[0]}

def numbers():
    for i in range(60):
        yield {"id": i}

def mixed():
    yield [{"id": i} for i in range(20)]
    yield {"id": 20}
    yield pl.DataFrame({"id": [21, 22, 23]})
    yield []

def list_then_error():
    yield [{"id": 1}]
    raise ValueError("asked for more")

def queue(every):
    # No number is given twice.
    from pathlib import Path

    file = Path(__file__).with_name("taken")
    while True:
        first = int(file.read_text()) if file.exists() else 0
        file.write_text(str(first + every))
        rows = [{"id": i} for i in range(first, first + every)]
        yield rows[0] if every == 1 and first % 3 else pl.DataFrame(rows) if first % 4 else rows

def again():
    from pathlib import Path

    for i in range(0, 400, 20):
        yield [{"id": j} for j in range(i, i + 20)]
        while i == 200 and not Path(__file__).with_name("go").exists():
            yield []

def write(frame):
    from pathlib import Path

    with Path(__file__).with_name("got.ndjson").open("ab") as file:
        frame.write_ndjson(file)

def refuses(frame):
    raise OSError("full")
"""


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / "own_rows.py").write_text(MODULE)

    def own(function: str, schema: str = "") -> Any:
        text = FLOW.replace("FUNCTION", function).replace("SCHEMA", schema)
        return load_text(text, base=tmp_path)

    return own


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.ndjson").read_text().splitlines()]


def start(flow: Any, folder: Path) -> RunResult:
    return run(flow, RunOptions(folder / "home"))


def test_dicts_tell_their_types(own: Any, tmp_path: Path) -> None:
    assert start(own("dicts"), tmp_path).status == "finished"
    found = rows(tmp_path)
    assert len(found) == 2500
    assert found[7] == {"id": 7, "text": "00007", "half": 3.5}


@pytest.mark.parametrize("function", ["frames", "arrow", "batches"])
def test_frames_and_arrow_come_as_they_are(function: str, own: Any, tmp_path: Path) -> None:
    assert start(own(function), tmp_path).status == "finished"
    assert [row["id"] for row in rows(tmp_path)] == [0, 10, 1, 11, 2, 12]
    assert rows(tmp_path)[1]["text"] is None


def test_a_list_is_enough(own: Any, tmp_path: Path) -> None:
    assert start(own("whole"), tmp_path).status == "finished"
    assert rows(tmp_path) == [{"id": 1}, {"id": 2}]


def test_a_schema_says_the_types(own: Any, tmp_path: Path) -> None:
    start(own("whole", ', schema: {id: "decimal(10, 2)"}'), tmp_path)
    assert rows(tmp_path) == [{"id": "1.00"}, {"id": "2.00"}]
    start(own("none", ", schema: {id: int32, x: string}"), tmp_path)
    assert rows(tmp_path) == [{"id": 1, "x": None}]


def test_the_values_of_a_call_are_taken_in_one_thread(own: Any, tmp_path: Path) -> None:
    assert start(own("thread"), tmp_path).status == "finished"
    assert len(rows(tmp_path)) == 5000


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        ("none", "E0521", "only NULL in 'x'"),
        ("late", "E0521", "column 'new'"),
        ("big", "E0501", "own_rows:big row 2: the function yielded 9007199254740993 in column 'x'"),
        ("fails", "E0520", "ZeroDivisionError: oops"),
        ("nothing", "E0521", "nothing (None)"),
        ("number", "E0521", "type int"),
        ("unplaced", "E0521", "without a position"),
        ("overplaced", "E0521", "takes no 'start'"),
        ("absent", "E0408", "absent"),
    ],
)
def test_what_a_function_does_wrong(
    function: str, code: str, words: str, own: Any, tmp_path: Path
) -> None:
    try:
        error: DataFlareError | None = start(own(function), tmp_path).error
    except DataFlareError as raised:
        error = raised
    assert error is not None
    assert error.code == code
    assert words in error.message
    assert error.step == "rows"
    assert error.help


def test_validate_loads_the_function_and_does_not_call_it(own: Any) -> None:
    (unread, _) = check(own("fails")).unchecked
    assert unread.step == "rows"
    assert check(own("fails", ", schema: {id: int64}")).unchecked == []
    with pytest.raises(ConfigError) as caught:
        check(own("absent"))
    assert caught.value.code == "E0408"
    assert caught.value.spot is not None


def test_python_may_be_forbidden(own: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        check(own("dicts"), policy=Policy(python=False))
    assert caught.value.code == "E0410"


# --- positions ------------------------------------------------------------------------------------


def source_of(folder: Path, function: str, **config: Any) -> PythonSource:
    (folder / "own_rows.py").write_text(MODULE)
    settings = PythonSourceConfig(function=f"own_rows:{function}", **config)
    source: PythonSource = PythonSource(settings, ConnectorContext("rows", folder))
    source.contract = Schema.of({"id": "int64"})
    return source


@pytest.mark.parametrize(
    ("function", "config"),
    [
        ("placed", {"options": {"last": 60}}),
        ("placed_frames", {}),
        ("numbers", {"repeatable": True}),
        ("mixed", {"repeatable": True}),
        ("mixed", {"repeatable": True, "bounded": False}),
        ("mixed", {"repeatable": False, "bounded": False}),
    ],
)
def test_the_contract_holds_for_a_function(
    function: str, config: dict[str, Any], tmp_path: Path
) -> None:
    asyncio.run(check_source(lambda: source_of(tmp_path, function, **config)))


@pytest.mark.parametrize(
    ("function", "position", "words"),
    [
        ("numbers", {"at": None, "skip": 61}, "yielded 60 rows, and 61 the time before"),
        ("placed", {"at": 1998, "skip": 3}, "yielded 0 rows behind the position 2000, and 1 the"),
    ],
)
def test_a_function_that_ends_before_its_position_is_an_error(
    function: str, position: dict[str, Any], words: str, tmp_path: Path
) -> None:
    repeatable = True if function == "numbers" else None
    source = source_of(tmp_path, function, repeatable=repeatable)

    async def main() -> None:
        (split,) = await source.splits()
        reader = await source.open(split, Position(position))
        with pytest.raises(DataError, match=words) as caught:
            await reader.read_batch(100)
        assert caught.value.code == "E0521"
        await reader.aclose()

    asyncio.run(main())


STREAM = """\
name: own
settings: {mode: streaming, parallelism: 1, checkpoint: {interval: 100ms}, batch: {initial: 7, max: 7, min: 7}}
sources:
  rows: {type: python, config: {function: "own_rows:FUNCTION", bounded: false, MORE}, schema: {id: int64}}
destinations:
  out: {type: sqlite, inputs: [rows], config: {path: x.db, table: t}}
"""


def streamed(folder: Path, function: str, more: str, for_s: float | None) -> list[int]:
    """The rows after one more run."""
    (folder / "own_rows.py").write_text(MODULE)
    flow = load_text(STREAM.replace("FUNCTION", function).replace("MORE", more), base=folder)
    result = run(flow, RunOptions(folder / "home", for_s=for_s))
    assert result.status == ("finished" if for_s is None else "stopped"), result.error
    with sqlite3.connect(folder / "x.db") as base:
        return [row[0] for row in base.execute("select id from t order by id")]


@pytest.mark.parametrize("every", [1, 50])
def test_a_queue_loses_nothing_when_its_run_is_stopped_and_goes_on(
    every: int, tmp_path: Path
) -> None:
    more, rows_before = f"repeatable: false, options: {{every: {every}}}", 0
    for _ in range(2):
        got = streamed(tmp_path, "queue", more, 0.5)
        assert got == list(range(int((tmp_path / "taken").read_text())))
        assert len(got) > rows_before
        rows_before = len(got)


def test_a_repeatable_function_goes_on_behind_all_its_rows(tmp_path: Path) -> None:
    got = streamed(tmp_path, "again", "repeatable: true", 0.5)
    assert got == list(range(len(got)))
    assert got
    (tmp_path / "go").touch()
    assert streamed(tmp_path, "again", "repeatable: true", None) == list(range(400))


def test_a_list_is_given_before_an_endless_function_yields_again(tmp_path: Path) -> None:
    source = source_of(tmp_path, "list_then_error", bounded=False, repeatable=False)

    async def main() -> None:
        (split,) = await source.splits()
        reader = await source.open(split, None)
        batch = await reader.read_batch(100)
        assert batch.frame["id"].to_list() == [1]
        with pytest.raises(DataError, match="asked for more"):
            await reader.read_batch(100)
        await reader.aclose()

    asyncio.run(main())


def test_a_plan_says_what_it_can_promise(own: Any, tmp_path: Path) -> None:
    assert plan(own("placed")).guarantees["out"].level.value == "exactly once"
    assert "'start'" in plan(own("dicts")).guarantees["out"].reason
    for more, level, doubts in (
        ("repeatable: true", "exactly once", 0),
        ("repeatable: true, bounded: false", "exactly once", 0),
        ("repeatable: false, bounded: false", "at most once", 0),
        ("bounded: false", "at most once", 1),
    ):
        text = FLOW.replace('FUNCTION"', f'numbers", {more}').replace("SCHEMA", "")
        made = plan(load_text(text.replace("out.ndjson", "out/"), base=tmp_path))
        assert made.guarantees["out"].level.value == level, more
        (source,) = [node for node in made.graph if isinstance(node, SourceNode)]
        assert len(source.connector.doubts()) == doubts, more
    text = FLOW.replace('FUNCTION"', 'placed", repeatable: true')
    text = text.replace("SCHEMA", ", schema: {id: int64}")
    with pytest.raises(ConfigError, match="'repeatable' is for a function without") as caught:
        plan(load_text(text, base=tmp_path))
    assert caught.value.code == "E0405"


def test_the_next_run_goes_on_where_the_function_was(own: Any, tmp_path: Path) -> None:
    text = """\
name: own
sources:
  rows: {type: python, config: {function: "own_rows:placed", carry: true, options: {last: LAST}}}
destinations:
  out: {type: sqlite, inputs: [rows], config: {path: x.db, table: t}}
"""
    own("dicts")
    for last in (10, 15):
        flow = load_text(text.replace("LAST", str(last)), base=tmp_path)
        assert run(flow, RunOptions(tmp_path / "home")).status == "finished"
    with sqlite3.connect(tmp_path / "x.db") as base:
        assert [row[0] for row in base.execute("select id from t order by 1")] == list(range(15))


# --- classes --------------------------------------------------------------------------------------

CLASSES = """\
from pydantic import BaseModel
from dataflare.connectors.inline import InlineSource
from dataflare.connectors.file.destination import FileDestination

class Own(InlineSource):
    type = "own"

class Out(FileDestination):
    type = "out"

class Neither:
    pass
"""


def test_a_class_is_a_connector(tmp_path: Path) -> None:
    (tmp_path / "own_classes.py").write_text(CLASSES)
    text = """\
name: own
sources:
  rows: {type: python, config: {function: "own_classes:Own", options: {rows: [{id: 1}]}}}
destinations:
  out: {type: python, inputs: [rows], config: {function: "own_classes:Out", options: {path: out.ndjson}}}
"""
    flow = load_text(text, base=tmp_path)
    assert plan(flow).guarantees["out"].level.value == "exactly once"
    assert run(flow, RunOptions(tmp_path / "home")).status == "finished"
    assert rows(tmp_path) == [{"id": 1}]
    for old, new, code in (
        ("options: {rows", "options: {rwos", "E0405"),
        ("own_classes:Own", "own_classes:Neither", "E0418"),
    ):
        with pytest.raises(ConfigError) as caught:
            check(load_text(text.replace(old, new), base=tmp_path))
        assert caught.value.code == code


# --- destinations ---------------------------------------------------------------------------------

OUT = """\
name: own
sources: {rows: {type: inline, config: {rows: [{id: 1}, {id: 2}]}}}
destinations: {out: {type: python, inputs: [rows], config: {function: "own_out:write"}}}
"""


def test_a_function_gets_each_batch(tmp_path: Path) -> None:
    (tmp_path / "own_out.py").write_text(MODULE)
    flow = load_text(OUT, base=tmp_path)
    assert plan(flow).guarantees["out"].level.value == "at least once"
    assert run(flow, RunOptions(tmp_path / "home")).status == "finished"
    assert pl.read_ndjson(tmp_path / "got.ndjson").to_dicts() == [{"id": 1}, {"id": 2}]


def test_what_the_function_raises_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "own_out.py").write_text(MODULE)
    flow = load_text(OUT.replace("write", "refuses"), base=tmp_path)
    error = run(flow, RunOptions(tmp_path / "home")).error
    assert isinstance(error, DataError)
    assert error.code == "E0520"
    assert any("own_out.py" in note for note in error.notes)


# --- bad rows -------------------------------------------------------------------------------------


def kept_apart(flow: Any, folder: Path) -> tuple[RunResult, list[dict[str, Any]]]:
    """A run, and its dead letters."""
    result = start(flow, folder)
    lines = [p.read_text().splitlines() for p in sorted((folder / "dead").glob("*.ndjson"))]
    return result, [json.loads(line) for each in lines for line in each]


def flow_of(own: Any, function: str, on_error: str) -> Any:
    schema = f", schema: {{id: int64, text: string}}, error_handling: {{on_error: {on_error}}}"
    flow = FLOW.replace("FUNCTION", function).replace("SCHEMA", schema)
    settings = "{parallelism: 1, error_handling: {on_error: fail, dead_letter: {path: ./dead}}}"
    return load_text(flow.replace("{parallelism: 1}", settings), base=own)


@pytest.mark.parametrize("on_error", ["skip", "dead_letter"])
def test_a_dict_with_a_wrong_value_is_a_bad_row_and_the_others_arrive(
    on_error: str, own: Any, tmp_path: Path
) -> None:
    result, letters = kept_apart(flow_of(tmp_path, "misfits", on_error), tmp_path)
    assert result.status == "finished", result.error
    wrong = [i for i in range(40) if i % 7 == 3]
    assert [row["id"] for row in rows(tmp_path)] == [i for i in range(40) if i not in wrong]
    assert result.steps["rows"]["errors"] == len(wrong)
    if on_error == "skip":
        assert not letters
        return
    assert [each["position"] for each in letters] == [
        f"own_rows:misfits row {i + 1}" for i in wrong
    ]
    assert {each["code"] for each in letters} == {"E0501"}
    assert "\"x3\" in column 'id', whose type is int64" in letters[0]["message"]
    assert json.loads(json.loads(letters[0]["row"])["raw"]) == {"id": "x3", "text": "3"}


@pytest.mark.parametrize("function", ["placed_misfits", "misfits_again"])
def test_bad_rows_count_in_positions(function: str, tmp_path: Path) -> None:
    """Whatever is read before a position and behind it: together it is all, and each row once."""
    repeatable = True if function == "misfits_again" else None
    source = source_of(tmp_path, function, repeatable=repeatable)

    async def read(position: Any, batches: int) -> tuple[list[int | None], list[str], Any]:
        (split,) = await source.splits()
        reader = await source.open(split, position)
        good: list[int | None] = []
        bad: list[str] = []
        try:
            for _ in range(batches):
                batch = await reader.read_batch(3)
                assert isinstance(batch, SourceBatch)
                good += batch.frame["id"].to_list()
                bad += [row.raw for row in batch.bad]
        except EndOfSplit:
            pass
        place = reader.position()
        await reader.aclose()
        return good, bad, place

    async def main() -> None:
        whole, all_bad, _ = await read(None, 1_000)
        assert whole == [n if n != 14 else None for n in range(60) if n % 7 or n == 14]
        assert len(all_bad) == 8
        for first in range(25):
            good, bad, place = await read(None, first)
            more, more_bad, _ = await read(place, 1_000)
            assert ([*good, *more], [*bad, *more_bad]) == (whole, all_bad), first

    asyncio.run(main())
