"""`python`: a user's own function over batches or rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flows import failure, ordered, picture, refused, result_of

CODE = """
import os
from pathlib import Path

import polars as pl

def twice(frame):
    return frame.with_columns(pl.col("n") * 2)

def lazily(frame):
    return frame.lazy().select(m=pl.col("n") + 0.5)

def arrow(frame):
    return frame.to_arrow()

def late(frame):
    return frame.lazy().select("nosuch")

def shape(frame):
    return 7

def short(frame):
    return frame.select("t")

def one(row):
    if row["n"] == 2:
        return None
    if row["n"] == 3:
        return [{"n": 3, "t": "p"}, {"n": 30}]
    return {**row, "more": 1}

def picky(row):
    if row["t"] is None:
        raise ValueError("no text")
    return row

def untyped(row):
    return {"n": "many" if row["n"] == 2 else row["n"], "t": row["t"]}

def other(row):
    return 5

def deadly(frame):
    if 2 in frame["n"]:
        os.kill(os.getpid(), 9)
    return frame

def deadly_once(frame):
    mark = Path(__file__).with_name("died")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    return frame

def hanging(frame):
    while 2 in frame["n"]:
        pass
    return frame

number = 5
"""
ROWS = [{"n": 1, "t": "x"}, {"n": 2, "t": None}, {"n": 3, "t": "y"}]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "own_steps.py").write_text(CODE)
    return tmp_path


def step(config: str, more: str = "") -> str:
    return f'step: {{type: python, inputs: [s], config: {{function: "own_steps:{config}}}{more}}}'


def made(config: str, base: Path, more: str = "") -> list[dict[str, Any]]:
    return result_of(step(config, more), s=ROWS, base=base)


def test_a_function_gets_and_gives_frames(base: Path):
    assert [row["n"] for row in made('twice"', base)] == [2, 4, 6]
    assert made('arrow"', base) == ROWS


def test_a_schema_says_what_comes_out(base: Path):
    assert made('lazily", schema: {m: float64}', base) == [{"m": 1.5}, {"m": 2.5}, {"m": 3.5}]


def test_a_function_over_rows_may_drop_and_multiply(base: Path):
    assert made('one", mode: record', base) == [
        {"n": 1, "t": "x"},
        {"n": 3, "t": "p"},
        {"n": 30, "t": None},
    ]


def test_it_may_run_in_a_process_of_its_own(base: Path):
    found = made('twice", execution: process', base)
    assert [row["n"] for row in found] == [2, 4, 6]


def test_a_process_that_dies_costs_an_attempt_of_its_batch(base: Path):
    assert made('deadly_once", execution: process', base) == ROWS


@pytest.mark.parametrize("function", ["deadly", "hanging"])
def test_only_the_row_that_kills_or_hangs_its_process_is_left_out(base: Path, function: str):
    config = f'{function}", execution: process, limits: {{timeout: 2s}}'
    found = made(config, base, ", error_handling: {on_error: skip}")
    assert ordered(found) == ordered([ROWS[0], ROWS[2]])


def test_a_row_that_always_kills_its_process_fails_the_run(base: Path):
    error = failure(step('deadly", execution: process'), s=ROWS, base=base)
    assert (error.code, error.step) == ("E0522", "step")
    assert "died of the signal SIGKILL while it ran own_steps:deadly, 3 times" in error.message


IMPORTED = """
import multiprocessing, os, time

if multiprocessing.parent_process() is not None:
    {}

def same(row):
    return row
"""


def test_the_import_of_the_module_takes_nothing_of_the_time_of_a_call(base: Path):
    (base / "slow_steps.py").write_text(IMPORTED.format("time.sleep(1.5)"))
    config = 'same", mode: record, execution: process, limits: {timeout: 1s}'
    more = ", error_handling: {on_error: skip}"
    text = step(config, more).replace("own_steps", "slow_steps")
    assert result_of(text, s=ROWS, base=base) == ROWS


def test_a_module_that_kills_its_process_is_no_fault_of_rows(base: Path):
    (base / "fatal_steps.py").write_text(IMPORTED.format("os.kill(os.getpid(), 9)"))
    config = 'same", mode: record, execution: process'
    more = ", error_handling: {on_error: skip}"
    error = failure(step(config, more).replace("own_steps", "fatal_steps"), s=ROWS, base=base)
    assert (error.code, error.step) == ("E0408", "step")
    assert "died of the signal SIGKILL while it imported fatal_steps:same" in error.message


def test_expressions_behind_it_still_know_the_time_and_the_row(base: Path):
    found = result_of(
        step('one", mode: record').replace("step:", "own:")
        + "\nstep: {type: map, inputs: [own], config: {derive: {u: uuid(), at: now()}}}",
        s=ROWS,
        base=base,
    )
    assert len({row["u"] for row in found}) == 3
    assert len({row["at"] for row in found}) == 1


@pytest.mark.parametrize(
    ("config", "code", "message"),
    [
        ('picky", mode: record', "E0520", "raised ValueError: no text"),
        ('untyped", mode: record', "E0521", "returned 'many' in the column 'n'"),
        ('other", mode: record', "E0521", "int, not a dict"),
        ('late"', "E0520", "raised ColumnNotFoundError"),
        ('shape"', "E0521", "int, not a DataFrame"),
        ('short"', "E0521", "left out the columns n"),
    ],
)
def test_a_function_that_fails_fails_the_run(base: Path, config: str, code: str, message: str):
    error = failure(step(config), s=ROWS, base=base)
    assert (error.code, error.step) == (code, "step")
    assert message in error.message


@pytest.mark.parametrize("function", ["picky", "untyped"])
def test_only_the_rows_that_fail_may_be_left_out(base: Path, function: str):
    found = made(f'{function}", mode: record', base, ", error_handling: {on_error: skip}")
    assert ordered(found) == ordered([ROWS[0], ROWS[2]])


def test_each_workflow_has_the_functions_of_its_own_folder(base: Path, tmp_path: Path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "own_steps.py").write_text("def twice(frame):\n    return frame.head(1)\n")
    assert len(made('twice"', base)) == 3
    assert len(made('twice"', other)) == 1
    assert len(made('twice"', base)) == 3


@pytest.mark.parametrize(
    ("config", "code", "token"),
    [
        ('missing"', "E0408", '"own_steps:missing"'),
        ('number"', "E0408", '"own_steps:number"'),
        ('twice", schema: {a: int}', "E0112", "int}"),
        ('twice", schema: {}', "E0405", "python"),
        ('twice", schema: {__dataflare_a: int64}', "E0310", "__dataflare_a"),
        ('twice", mode: rows', "E0405", "rows"),
    ],
)
def test_errors_point_to_the_very_word(base: Path, config: str, code: str, token: str):
    header, _, line, carets, *_ = picture(step(config), s=ROWS, base=base)
    assert header.startswith(f"error[{code}]"), header
    assert line[carets.index("^") - token.startswith('"') :].startswith(token)


def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path):
    (tmp_path / "broken_steps.py").write_text("def broken(:\n")
    block = refused(
        'step: {type: python, inputs: [s], config: {function: "broken_steps:broken"}}',
        s=ROWS,
        base=tmp_path,
    )
    assert block.startswith("error[E0408]: cannot import 'broken_steps:broken': SyntaxError")


# -- types of what a function gives ----------------------------------------------------------------

TYPED = """
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
import polars as pl

VALUES = {values}

def frame(rows):
    name, dtype = {dtype}
    return rows.select(pl.Series("v", VALUES, dtype=dtype, strict=True))

def record(row):
    return [{{"v": value}} for value in VALUES]
"""


def typed(
    tmp_path: Path, mode: str, promised: str, values: str, dtype: str = "(None, None)"
) -> str:
    (tmp_path / "typed_steps.py").write_text(TYPED.format(values=values, dtype=dtype))
    function = "frame" if mode == "batch" else "record"
    return (
        f'step: {{type: python, inputs: [s], config: {{function: "typed_steps:{function}", mode: {mode}, '
        f'schema: {{v: "{promised}"}}}}}}'
    )


SAME = [
    ("int64", "[1, -5, None]", "pl.Int8"),
    ("int8", "[127, -128, None]", "pl.Int64"),
    ("uint64", "[2**64 - 1, 0]", "pl.UInt64"),
    ("float64", "[2**53, -1, None]", "pl.Int64"),
    ("float64", "[0.1, float('inf'), None]", "pl.Float64"),
    ("float32", "[0.5, None]", "pl.Float64"),
    ("decimal(5, 2)", "[Decimal('1.500'), None]", "pl.Decimal(38, 3)"),
    ("decimal(5, 2)", "[999, None]", "pl.Int64"),
    ("timestamp[us]", "[datetime(2024, 1, 1, 5), None]", "pl.Datetime('ns')"),
    ("timestamp[ns]", "[datetime(2024, 1, 1, 5), None]", "pl.Datetime('ms')"),
    ("timestamp[us, UTC]", "[datetime(2024, 1, 1, 5, tzinfo=UTC)]", "pl.Datetime('us', 'Asia/Tokyo')"),
    ("duration[us]", "[timedelta(seconds=1), None]", "pl.Duration('ms')"),
    ("json", "['[1]', None]", "pl.String"),
    ("list<float64>", "[[1, 2], [], None]", "pl.List(pl.Int64)"),
    ("struct<a: int64, b: string>", "[{'a': 1, 'b': 'x'}, None]", "pl.Struct({'a': pl.Int8, 'b': pl.String})"),
    ("date", "[date(2024, 2, 29), None]", "pl.Date"),
    ("time", "[time(23, 59, 59, 999_999), None]", "pl.Time"),
    ("binary", "[b'\\\\xff', None]", "pl.Binary"),
    ("string", "[None, None]", "pl.Null"),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["batch", "record"])
@pytest.mark.parametrize(("promised", "values", "dtype"), SAME)
def test_a_value_comes_in_another_width_of_its_kind_as_itself(
    tmp_path: Path, mode: str, promised: str, values: str, dtype: str
):
    text = typed(tmp_path, mode, promised, values, f"('v', {dtype})")
    names: dict[str, Any] = {}
    exec("from datetime import *\nfrom decimal import Decimal", names)
    wanted = eval(values, names)
    assert [row["v"] for row in result_of(text, s=[{"n": 1}], base=tmp_path)] == wanted


OTHER = [
    ("date", "[1]", "pl.Int64"),
    ("timestamp[us]", "[1]", "pl.Int64"),
    ("time", "[1]", "pl.Int64"),
    ("duration[us]", "[1]", "pl.Int64"),
    ("bool", "[1]", "pl.Int64"),
    ("string", "[1]", "pl.Int64"),
    ("int64", "[True]", "pl.Boolean"),
    ("int64", "['1']", "pl.String"),
    ("int64", "[1.0]", "pl.Float64"),
    ("int64", "[date(2024, 1, 1)]", "pl.Date"),
    ("decimal(5, 2)", "[1.5]", "pl.Float64"),
    ("float64", "[Decimal('1.5')]", "pl.Decimal(5, 2)"),
    ("date", "[datetime(2024, 1, 1)]", "pl.Datetime('us')"),
    ("timestamp[us]", "[date(2024, 1, 1)]", "pl.Date"),
    ("timestamp[us]", "[datetime(2024, 1, 1, tzinfo=UTC)]", "pl.Datetime('us', 'UTC')"),
    ("timestamp[us, UTC]", "[datetime(2024, 1, 1)]", "pl.Datetime('us')"),
    ("time", "[datetime(2024, 1, 1, 5)]", "pl.Datetime('us')"),
    ("string", "[b'x']", "pl.Binary"),
    ("binary", "['x']", "pl.String"),
    ("list<int64>", "[1]", "pl.Int64"),
    ("list<int64>", "[['1']]", "pl.List(pl.String)"),
    ("list<string>", "['ab']", "pl.String"),
    ("struct<a: int64>", "[{'a': '1'}]", "pl.Struct({'a': pl.String})"),
    ("struct<a: int64>", "[{'b': 1}]", "pl.Struct({'b': pl.Int64})"),
    ("struct<a: int64>", "[{'a': 1, 'b': 1}]", "pl.Struct({'a': pl.Int64, 'b': pl.Int64})"),
]  # fmt: skip
LOST = [
    ("int8", "[128]", "pl.Int64"),
    ("uint8", "[-1]", "pl.Int64"),
    ("float64", "[2**53 + 1]", "pl.Int64"),
    ("float64", "[2**63 - 1]", "pl.Int64"),
    ("float32", "[2**24 + 1]", "pl.Int64"),
    ("float32", "[0.1]", "pl.Float64"),
    ("float32", "[1e300]", "pl.Float64"),
    ("decimal(5, 2)", "[Decimal('1.005')]", "pl.Decimal(38, 3)"),
    ("decimal(5, 2)", "[Decimal('1000')]", "pl.Decimal(38, 3)"),
    ("decimal(5, 2)", "[1000]", "pl.Int64"),
    ("timestamp[ms]", "[datetime(2024, 1, 1, 5, 0, 0, 1)]", "pl.Datetime('us')"),
    ("duration[s]", "[timedelta(microseconds=1)]", "pl.Duration('us')"),
    ("list<int8>", "[[1, 128]]", "pl.List(pl.Int64)"),
    ("struct<a: float64>", "[{'a': 2**53 + 1}]", "pl.Struct({'a': pl.Int64})"),
]


@pytest.mark.parametrize("mode", ["batch", "record"])
@pytest.mark.parametrize(("promised", "values", "dtype"), [*OTHER, *LOST])
def test_a_value_that_would_change_is_refused(
    tmp_path: Path, mode: str, promised: str, values: str, dtype: str
):
    text = typed(tmp_path, mode, promised, values, f"('v', {dtype})")
    error = failure(text, s=[{"n": 1}], base=tmp_path)
    assert (error.code, error.step) == ("E0521", "step")
    assert "column 'v'" in error.message
    assert promised in error.message


def test_times_too_far_for_another_unit_are_refused(tmp_path: Path):
    text = typed(tmp_path, "batch", "timestamp[ns]", "[]", "('v', pl.Datetime('us'))")
    code = (tmp_path / "typed_steps.py").read_text()
    far = code.replace('"v", VALUES', '"v", [2**62]')
    (tmp_path / "typed_steps.py").write_text(far)
    assert failure(text, s=[{"n": 1}], base=tmp_path).code == "E0521"


def test_a_row_does_not_lose_the_nanoseconds_that_python_cannot_hold(base: Path):
    given = [{"n": 1, "t": "2024-01-01 00:00:00.000000001"}, {"n": 2, "t": "2024-01-01"}]
    text = """
early: {type: map, inputs: [s], config: {cast: {t: "timestamp[ns]"}}}
step: {type: python, inputs: [early], config: {function: "own_steps:picky", mode: record}%s}
"""
    error = failure(text % "", s=given, base=base)
    assert (error.code, error.step) == ("E0521", "step")
    assert "'t'" in error.message
    kept = result_of(text % ", error_handling: {on_error: skip}", s=given, base=base)
    assert [row["n"] for row in kept] == [2]
