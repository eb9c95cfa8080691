"""`python`: a user's own function over batches or rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flows import failure, ordered, picture, refused, result_of

CODE = """
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
        ('untyped", mode: record', "E0520", "raised TypeError"),
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
