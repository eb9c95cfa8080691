"""Files of one glob whose columns differ, as `settings.schema_change` says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow.load import load_text

TYPES = {"id": pl.Int64, "name": pl.String, "price": pl.Float64, "day": pl.Date}
FORMATS = ["csv", "parquet", "arrow", "ndjson"]


def write(path: Path, frame: pl.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".csv":
            frame.write_csv(path)
        case ".parquet":
            frame.write_parquet(path)
        case ".arrow":
            frame.write_ipc(path)
        case ".ndjson":
            frame.write_ndjson(path)
        case ".xlsx":
            with xlsxwriter.Workbook(path) as book:
                frame.write_excel(book)


def start(
    folder: Path, glob: str, change: str = "evolve", schema: Mapping[str, str] | None = None
) -> RunResult:
    source: dict[str, Any] = {"type": "file", "config": {"path": glob}}
    if schema is not None:
        source["schema"] = schema
    text = {
        "name": "unlike",
        "settings": {"schema_change": change},
        "sources": {"s": source},
        "destinations": {"o": {"type": "file", "inputs": ["s"], "config": {"path": "out.parquet"}}},
    }
    return run(load_text(json.dumps(text), base=folder), RunOptions(folder / "home", fresh=True))


def written(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "out.parquet").sort("id")


def frames(folder: Path, format_: str, *parts: Mapping[str, Sequence[Any]]) -> None:
    for number, part in enumerate(parts):
        write(folder / f"in/{number}.{format_}", pl.DataFrame(part))


values = {
    "name": st.none() | st.text("abc", min_size=1, max_size=3),
    "price": st.none() | st.sampled_from([0.5, 1.25]),
    "day": st.none() | st.dates(),
}
part = st.sets(st.sampled_from([*values]), max_size=3).flatmap(
    lambda names: st.lists(st.fixed_dictionaries({n: values[n] for n in names}), max_size=4)
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(part, min_size=1, max_size=4), format_=st.sampled_from(FORMATS[:3]))
def test_the_table_has_the_columns_of_all_files(
    parts: list[list[dict[str, Any]]], format_: str, tmp_path_factory: pytest.TempPathFactory
):
    folder, expected, numbers = tmp_path_factory.mktemp("law"), [], iter(range(99))
    for number, rows in enumerate(parts):
        names = ["id", *dict.fromkeys(name for row in rows for name in row)]
        rows = [{"id": next(numbers), **row} for row in rows]
        frame = pl.DataFrame(rows, schema={name: TYPES[name] for name in names})
        write(folder / f"in/{number}.{format_}", frame)
        expected.append(frame)
    assert start(folder, f"in/*.{format_}").status == "finished"
    model = pl.concat(expected, how="diagonal").sort("id")
    found = written(folder)
    # A column of CSV without any value is text.
    assert found.to_dicts() == model.select(found.columns).to_dicts()
    assert set(found.columns) == set(model.columns)


@pytest.mark.parametrize("format_", [*FORMATS, "xlsx"])
def test_a_column_that_a_file_lacks_is_null_and_one_more_is_added(format_: str, tmp_path: Path):
    frames(tmp_path, format_, {"id": [1], "a": ["x"]}, {"id": [2], "b": ["y"]})
    assert start(tmp_path, f"in/*.{format_}").status == "finished"
    rows = [{"id": 1, "a": "x", "b": None}, {"id": 2, "a": None, "b": "y"}]
    assert written(tmp_path).to_dicts() == rows


@pytest.mark.parametrize("format_", ["csv", "parquet", "arrow", "xlsx"])
@pytest.mark.parametrize("change", ["fail", "ignore", "dead_letter"])
def test_other_policies_keep_the_columns_of_the_first_file(
    change: str, format_: str, tmp_path: Path
):
    first = {"id": [1, 2], "a": ["x", None]}
    frames(tmp_path, format_, first, {"id": [3, 4], "more": ["z", None]})
    result = start(tmp_path, f"in/*.{format_}", change)
    if change == "fail":
        assert (result.error.code, result.error.step) == ("E0545", "s")
        assert f"in/1.{format_}" in result.error.message
        assert "'more'" in result.error.message
        return
    assert result.status == "finished", result.error
    ids = {"ignore": [1, 2, 3, 4], "dead_letter": [1, 2, 4]}[change]
    assert written(tmp_path)["id"].to_list() == ids
    assert written(tmp_path).columns == ["id", "a"]
    if change == "ignore":
        assert "'more'" in result.warnings[0]
        assert f"in/1.{format_}" in result.warnings[0]
        return
    letters = [
        json.loads(line)
        for path in (tmp_path / "home/unlike/dead_letters").iterdir()
        for line in path.open()
    ]
    assert [each["code"] for each in letters] == ["E0545"]
    raw = json.loads(letters[0]["row"])["raw"]
    assert raw == "3,z" if format_ == "csv" else json.loads(raw)["more"] == "z"


def test_rows_with_other_faults_are_sorted_out_beside_new_columns(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.csv").write_text("id\n1\n2\n")
    (tmp_path / "in/1.csv").write_text('id,more\n3,\n4,"a\nb"\n5\n6,\n')
    text = start(tmp_path, "in/*.csv", "dead_letter")
    assert text.error is not None
    assert text.error.code == "E0502"


def test_types_that_differ_are_an_error_until_the_schema_names_one(tmp_path: Path):
    write(tmp_path / "in/0.parquet", pl.DataFrame({"id": [1]}, schema={"id": pl.Int32}))
    write(tmp_path / "in/1.parquet", pl.DataFrame({"id": [2]}, schema={"id": pl.Int64}))
    with pytest.raises(
        Exception, match=r"int32 in .*0\.parquet and int64 in .*1\.parquet"
    ) as caught:
        start(tmp_path, "in/*.parquet")
    assert "schema" in caught.value.help
    assert start(tmp_path, "in/*.parquet", schema={"id": "int64"}).status == "finished"
    assert written(tmp_path).schema == {"id": pl.Int64}
    assert written(tmp_path)["id"].to_list() == [1, 2]


def test_a_column_of_the_schema_may_be_in_a_later_file_only(tmp_path: Path):
    frames(tmp_path, "csv", {"id": [1]}, {"id": [2], "zip": ["02116"], "other": [1]})
    result = start(tmp_path, "in/*.csv", "ignore", {"zip": "string"})
    assert written(tmp_path).to_dicts() == [{"id": 1, "zip": None}, {"id": 2, "zip": "02116"}]
    assert "'other'" in result.warnings[0]
