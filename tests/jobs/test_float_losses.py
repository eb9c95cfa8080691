"""NaN, infinity and minus zero: exact where they have a form, counted where they have none."""

from __future__ import annotations

import math
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare import load, run
from dataflare.jobs import RunOptions
from dataflare.model.float_losses import float_losses

NAN, INF = math.nan, math.inf
FRAME = pl.DataFrame(
    {
        "f": [NAN, INF, -0.0, None, NAN, 1.5],
        "l": [[-0.0], [NAN, NAN], [INF, -INF], None, [], [1.5]],
        "s": [{"x": NAN, "y": 1}, None, {"x": -INF, "y": 2}, {"x": None, "y": 3}]
        + [{"x": 1.0, "y": 4}] * 2,
        "n": [1, 2, 3, 4, 5, 6],
    }
)
NAN_ROWS = {"'f' is NaN": 2, "'l' is NaN": 1, "'s' is NaN": 1}
EXPECTED = {
    "out.csv": NAN_ROWS | {"'l' has infinity": 1, "'s' has infinity": 1},
    "out.ndjson": NAN_ROWS | {"'f' is infinite": 1, "'l' is infinite": 1, "'s' is infinite": 1},
    "out.json": NAN_ROWS | {"'f' is infinite": 1, "'l' is infinite": 1, "'s' is infinite": 1},
    "out.parquet": {},
    "out.arrow": {},
}


def warnings_of(folder: Path, destination: str) -> list[str]:
    FRAME.write_parquet(folder / "in.parquet")
    (folder / "w.yaml").write_text(
        "name: floats\nversion: '1.0'\n"
        "sources: {a: {type: file, config: {path: in.parquet}}}\n"
        f"destinations: {{o: {destination}}}\n"
    )
    result = run(load(folder / "w.yaml"), RunOptions(folder / "home"))
    assert result.error is None
    return list(result.warnings)


def check(warnings: list[str], expected: dict[str, int]) -> None:
    assert len(warnings) == len(expected), warnings
    for words, rows in expected.items():
        (warning,) = [each for each in warnings if words in each]
        assert warning.startswith("step 'o': column ")
        assert warning.endswith(f"in {rows} row" + ("" if rows == 1 else "s"))


@pytest.mark.parametrize("name", [*EXPECTED])
def test_a_file_counts_what_it_cannot_hold(tmp_path: Path, name: str) -> None:
    check(
        warnings_of(tmp_path, f"{{type: file, inputs: [a], config: {{path: {name}}}}}"),
        EXPECTED[name],
    )


def test_databases_count_what_they_cannot_hold(tmp_path: Path) -> None:
    config = "inputs: [a], config: {path: out.db, table: t}"
    zeros = {"'f' is -0.0": 1, "'l' has infinity": 1, "'s' has infinity": 1}
    check(warnings_of(tmp_path, f"{{type: sqlite, {config}}}"), NAN_ROWS | zeros)
    (tmp_path / "out.db").unlink()
    other = tmp_path / "duckdb"
    other.mkdir()
    check(warnings_of(other, f"{{type: duckdb, {config}}}"), {})
    with duckdb.connect(str(other / "out.db")) as db:
        assert str(db.sql("select f from t where n = 3").fetchall()) == "[(-0.0,)]"


@given(st.lists(st.none() | st.floats() | st.sampled_from([NAN, INF, -0.0]), max_size=20))
def test_the_counts_are_those_of_python(values: list[float | None]) -> None:
    frame = pl.DataFrame({"x": values}, schema={"x": pl.Float64})
    numbers = [value for value in values if value is not None]
    counts = [
        sum(map(math.isnan, numbers)),
        sum(map(math.isinf, numbers)),
        sum(value == 0 and math.copysign(1, value) < 0 for value in numbers),
    ]
    for loss, count in zip(("nan", "infinite", "minus zero"), counts, strict=True):
        assert sum(float_losses(frame, [loss]).values()) == count
    assert float_losses(frame, ["infinite inside"]) == {}
