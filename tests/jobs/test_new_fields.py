"""Fields that come after the sample, as `settings.schema_change` says."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataflare.engine import new_fields
from dataflare.errors import Retry, SystemError_
from dataflare.formats import line_chunks
from dataflare.jobs import RunOptions, RunResult, learning, preview, run
from dataflare.planner import plan_async
from dataflare.workflow.load import load_text

Row = Mapping[str, Any]
EARLY = [{"id": n} for n in range(3)]
LATE = [*EARLY, {"id": 3, "late": "x"}, {"id": 4, "late": None}, {"id": 5, "late": "y"}]


def write(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def text_of(
    destinations: Mapping[str, Any],
    *,
    change: str = "evolve",
    interval: str = "10s",
    steps: Mapping[str, Any] | None = None,
    **source: Any,
) -> str:
    config = {"path": "in/*.ndjson", "schema_sample_rows": 2, **source.pop("config", {})}
    return json.dumps(
        {
            "name": "fields",
            "settings": {
                "schema_change": change,
                "parallelism": 1,
                "checkpoint": {"interval": interval},
                "restart": {"attempts": 0},
            },
            "sources": {"s": {"type": "file", "config": config, **source}},
            "transformations": steps or {},
            "destinations": destinations,
        }
    )


def start(folder: Path, text: str, **options: Any) -> RunResult:
    return run(load_text(text, base=folder), RunOptions(folder / "home", **options))


def file(path: str, *, inputs: str = "s", **config: Any) -> dict[str, Any]:
    return {"type": "file", "inputs": [inputs], "config": {"path": path, **config}}


def bare(value: Any) -> Any:
    """Without fields that are NULL: for JSON they are the same as absent ones."""
    if isinstance(value, dict):
        return {name: bare(item) for name, item in value.items() if item is not None}
    return [bare(item) for item in value] if isinstance(value, list) else value


def written(path: Path) -> list[dict[str, Any]]:
    return [bare(row) for row in pl.read_parquet(path).to_dicts()]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(line_chunks, "FIRST_BYTES", 30)
    monkeypatch.setattr(line_chunks, "CHUNK_BYTES", 30)
    return monkeypatch


# -- evolve: the same table, wherever a field comes first ----------------------------------------------

inner = st.fixed_dictionaries({"x": st.integers(0, 9)}, optional={"y": st.text("ab", max_size=2)})
row = st.fixed_dictionaries(
    {},
    optional={
        "a": st.none() | st.integers(-9, 9),
        "b": st.none() | st.text('xyz:"\\', max_size=4),
        "c": st.none() | st.sampled_from([0.5, 1.5]),
        "d": inner,
        "e": st.lists(inner, min_size=1, max_size=2),
    },
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(row, max_size=20),
    files=st.integers(1, 3),
    chunk=st.sampled_from([20, 60, 10_000]),
    ahead=st.booleans(),
    interval=st.sampled_from(["1ms", "10s"]),
)
def test_the_table_is_the_same_however_the_rows_are_cut(
    rows: list[Row],
    files: int,
    chunk: int,
    ahead: bool,
    interval: str,
    tmp_path_factory: pytest.TempPathFactory,
):
    folder = tmp_path_factory.mktemp("law")
    rows = [{"id": number, **each} for number, each in enumerate([{}, *rows])]
    for number in range(files):
        write(folder / f"in/{number}.ndjson", rows[number::files] or [{"id": -1 - number}])
    empty = [{"id": -1 - n} for n in range(files) if not rows[n::files]]
    destinations = {
        "one": file("one.parquet"),
        "parts": file("parts/", format="ndjson"),
        "lite": {"type": "sqlite", "inputs": ["s"], "config": {"path": "lite.db", "table": "t"}},
    }
    if interval == "1ms":
        del destinations["one"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_chunks, "FIRST_BYTES", chunk)
        patch.setattr(line_chunks, "CHUNK_BYTES", chunk)
        if not ahead:
            patch.setattr(new_fields, "LOOK_AHEAD_BYTES", 0)
        result = start(folder, text_of(destinations, interval=interval))
    assert result.status == "finished", result.error
    expected = sorted((bare(each) for each in [*rows, *empty]), key=lambda each: each["id"])
    if "one" in destinations:
        assert sorted(written(folder / "one.parquet"), key=lambda r: r["id"]) == expected
    parts = [
        bare(json.loads(line))
        for path in (folder / "parts").glob("*.ndjson")
        for line in path.read_text().splitlines()
    ]
    assert sorted(parts, key=lambda r: r["id"]) == expected
    with sqlite3.connect(folder / "lite.db") as lite:
        found = lite.execute("select * from t order by id")
        names = [column[0] for column in found.description]
        table = [bare(dict(zip(names, values, strict=True))) for values in found]
    for each in table:
        each.update({n: bare(json.loads(each[n])) for n in ("d", "e") if n in each})
    assert table == expected
    assert result.steps["s"]["rows_out"] == len(expected)


# -- evolve: each kind of destination ------------------------------------------------------------------

EXPECTED = [bare(each) for each in LATE]


@pytest.mark.parametrize("interval", ["1ms", "10s"])
@pytest.mark.parametrize(
    "name", ["out.csv", "out.csv.gz", "out.ndjson", "out.json", "out.parquet", "out.arrow"]
)
def test_one_file_has_one_schema(name: str, interval: str, tmp_path: Path, small_chunks: Any):
    write(tmp_path / "in/a.ndjson", LATE)
    result = start(tmp_path, text_of({"o": file(name)}, interval=interval))
    assert result.status == "finished", result.error
    read = {
        "csv": lambda p: pl.read_csv(p),
        "gz": lambda p: pl.read_csv(p),
        "ndjson": lambda p: pl.read_ndjson(p, infer_schema_length=None),
        "json": lambda p: pl.read_json(p, infer_schema_length=None),
        "parquet": pl.read_parquet,
        "arrow": lambda p: pl.read_ipc(p),
    }[name.rpartition(".")[2]]
    assert [bare(each) for each in read(tmp_path / name).to_dicts()] == EXPECTED
    assert result.steps["o"]["rows_in"] == len(LATE)
    assert any("late" in warning for warning in result.warnings)


def test_every_line_of_one_ndjson_file_has_the_field(tmp_path: Path, small_chunks: Any):
    write(tmp_path / "in/a.ndjson", LATE)
    start(tmp_path, text_of({"o": file("out.ndjson")}))
    lines = (tmp_path / "out.ndjson").read_text().splitlines()
    assert all("late" in json.loads(line) for line in lines)


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert", "mirror"])
@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
@pytest.mark.parametrize("interval", ["1ms", "10s"])
def test_a_table_gets_the_column(
    kind: str, mode: str, interval: str, tmp_path: Path, small_chunks: Any
):
    write(tmp_path / "in/a.ndjson", LATE)
    config = {"path": "db", "table": "t", "mode": mode}
    if mode in ("upsert", "mirror"):
        config["key"] = ["id"]
    destination = {"type": kind, "inputs": ["s"], "config": config}
    result = start(tmp_path, text_of({"o": destination}, interval=interval))
    assert result.status == "finished", result.error
    connect = sqlite3.connect if kind == "sqlite" else duckdb.connect
    connection = connect(str(tmp_path / "db"))
    assert connection.execute("select id, late from t order by id").fetchall() == [
        (each["id"], each.get("late")) for each in LATE
    ]
    connection.close()


def test_rows_that_a_step_passes_on_have_it_and_rows_of_named_columns_do_not(
    tmp_path: Path, small_chunks: Any
):
    write(tmp_path / "in/a.ndjson", LATE)
    steps = {
        "kept": {"type": "filter", "inputs": ["s"], "config": {"condition": "id <> 4"}},
        "named": {"type": "map", "inputs": ["kept"], "config": {"select": ["id"]}},
    }
    destinations = {
        "all": file("all.parquet", inputs="kept"),
        "some": file("some.parquet", inputs="named"),
    }
    assert start(tmp_path, text_of(destinations, steps=steps)).status == "finished"
    assert written(tmp_path / "all.parquet") == [r for r in EXPECTED if r["id"] != 4]
    assert pl.read_parquet(tmp_path / "some.parquet").columns == ["id"]


def test_a_field_that_no_destination_would_get_starts_nothing_again(
    tmp_path: Path, small_chunks: Any
):
    write(tmp_path / "in/a.ndjson", LATE)
    steps = {"named": {"type": "map", "inputs": ["s"], "config": {"select": ["id"]}}}
    result = start(tmp_path, text_of({"o": file("o.parquet", inputs="named")}, steps=steps))
    assert (result.status, result.warnings) == ("finished", [])
    listed = text_of({"o": file("o.parquet")}, config={"columns": ["id"]})
    result = start(tmp_path, listed, fresh=True)
    assert (result.status, result.warnings) == ("finished", [])


def test_the_next_run_knows_the_column_from_its_beginning(tmp_path: Path, small_chunks: Any):
    write(tmp_path / "in/a.ndjson", LATE)
    text = text_of({"o": file("out.parquet")})
    assert len(start(tmp_path, text).warnings) == 1
    write(tmp_path / "in/a.ndjson", [{"id": 1}, {"id": 2}, {"id": 3}, {"id": 4, "late": "z"}])
    assert start(tmp_path, text).warnings == []
    assert pl.read_parquet(tmp_path / "out.parquet")["late"].to_list() == [None, None, None, "z"]
    assert len(start(tmp_path, text, fresh=True).warnings) == 1


def test_twenty_new_fields_are_one_new_plan(tmp_path: Path, small_chunks: Any):
    rows = [{"id": n} for n in range(3)] + [{"id": n, f"f{n}": n} for n in range(3, 23)]
    write(tmp_path / "in/a.ndjson", rows[:10])
    write(tmp_path / "in/b.ndjson", rows[10:])
    result = start(tmp_path, text_of({"o": file("out.parquet")}))
    assert len(result.warnings) == 1
    assert pl.read_parquet(tmp_path / "out.parquet").width == 21


def test_names_without_an_end_are_an_error_that_names_the_way_out(
    tmp_path: Path, small_chunks: pytest.MonkeyPatch
):
    small_chunks.setattr(new_fields, "LOOK_AHEAD_BYTES", 0)
    small_chunks.setattr(learning, "REPLANS_MAX", 3)
    rows = [{"id": 0}, {"id": 1}, *({"id": n, f"field-number-{n}": n} for n in range(2, 60))]
    write(tmp_path / "in/a.ndjson", rows)
    error = start(tmp_path, text_of({"o": file("out.parquet")})).error
    assert error is not None
    assert (error.code, error.step) == ("E0546", "s")
    assert "schema" in str(error.help)


BOTH = {
    "lite": {"type": "sqlite", "inputs": ["s"], "config": {"path": "db", "table": "t"}},
    "one": file("out.csv"),
}


def test_a_table_beside_one_file_begins_again_too(tmp_path: Path, small_chunks: Any):
    """Before the first checkpoint nothing is committed."""
    write(tmp_path / "in/a.ndjson", LATE)
    assert start(tmp_path, text_of(BOTH)).status == "finished"
    with sqlite3.connect(tmp_path / "db") as lite:
        assert lite.execute("select count(*), count(late) from t").fetchall() == [(6, 2)]


def test_rows_that_cannot_be_taken_back_beside_one_file_are_an_error(
    tmp_path: Path, small_chunks: Any
):
    """One file must begin again, and rows that were appended to a table stay."""
    write(tmp_path / "in/a.ndjson", [*({"id": n} for n in range(2_000)), {"id": -1, "late": 1}])
    error = start(tmp_path, text_of(BOTH, interval="1ms")).error
    assert error is not None
    assert (error.code, error.step) == ("E0547", "lite")
    assert "schema" in str(error.help)


def test_a_preview_has_the_column(tmp_path: Path, small_chunks: Any):
    write(tmp_path / "in/a.ndjson", LATE)
    workflow = load_text(text_of({"o": file("out.parquet")}), base=tmp_path)
    assert preview(workflow, "s", 10)["late"].to_list() == [None, None, None, "x", None, "y"]


# -- the other policies --------------------------------------------------------------------------------


def test_fail_names_field_and_line(tmp_path: Path, small_chunks: Any):
    write(tmp_path / "in/a.ndjson", LATE)
    error = start(tmp_path, text_of({"o": file("out.parquet")}, change="fail")).error
    assert error is not None
    assert (error.code, error.step) == ("E0545", "s")
    assert "'late'" in error.message
    assert "in/a.ndjson line 4" in error.message
    assert "schema" in str(error.help)


def test_ignore_counts_and_tells_once(tmp_path: Path, small_chunks: Any):
    write(tmp_path / "in/a.ndjson", LATE)
    result = start(tmp_path, text_of({"o": file("out.parquet")}, change="ignore"))
    (warning,) = result.warnings
    assert all(word in warning for word in ("'late'", "2 rows", "in/a.ndjson line 4"))
    assert pl.read_parquet(tmp_path / "out.parquet").rows() == [(n,) for n in range(6)]


def test_dead_letters_hold_the_rows_that_have_a_value(tmp_path: Path, small_chunks: Any):
    write(tmp_path / "in/a.ndjson", [*LATE, {"id": "no number", "late": 1}])
    text = json.loads(text_of({"o": file("out.parquet")}, change="dead_letter"))
    text["sources"]["s"]["error_handling"] = {"on_error": "skip"}
    result = start(tmp_path, json.dumps(text))
    assert result.status == "finished", result.error
    assert pl.read_parquet(tmp_path / "out.parquet").rows() == [(0,), (1,), (2,), (4,)]
    folder = tmp_path / "home" / "fields" / "dead_letters"
    letters = [json.loads(line) for path in folder.iterdir() for line in path.open()]
    assert [(each["step"], each["code"]) for each in letters] == [("s", "E0545")] * 2
    raw = [json.loads(json.loads(each["row"])["raw"]) for each in letters]
    assert raw == [{"id": 3, "late": "x"}, {"id": 5, "late": "y"}]
    assert letters[0]["position"].endswith("in/a.ndjson line 4")
    assert (result.steps["s"]["errors"], result.steps["s"]["dead_letters"]) == (3, 2)


@pytest.mark.parametrize("change", ["fail", "ignore", "dead_letter"])
def test_fields_inside_objects_count_too(change: str, tmp_path: Path, small_chunks: Any):
    rows = [{"id": 1, "o": {"x": 1}}] * 3 + [{"id": 2, "o": {"x": 1, "y": 2}}]
    write(tmp_path / "in/a.ndjson", rows)
    result = start(tmp_path, text_of({"o": file("out.parquet")}, change=change))
    if change == "fail":
        assert "'o.y'" in result.error.message
    elif change == "ignore":
        assert "'o.y'" in result.warnings[0]
    else:
        assert result.steps["s"]["dead_letters"] == 1
        assert len(written(tmp_path / "out.parquet")) == 3


def test_an_object_whose_type_the_user_gave_is_told_of(tmp_path: Path, small_chunks: Any):
    rows = [{"id": 1, "o": {"x": 1}}] * 3 + [{"id": 2, "o": {"x": 1, "y": 2}}]
    write(tmp_path / "in/a.ndjson", rows)
    text = text_of({"o": file("out.parquet")}, schema={"o": "struct<x: int64>"})
    result = start(tmp_path, text)
    assert result.status == "finished", result.error
    assert "'o.y'" in result.warnings[0]
    assert written(tmp_path / "out.parquet")[-1] == {"id": 2, "o": {"x": 1}}


def test_a_plan_for_new_fields_that_meets_a_lost_connection_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is worth a restart, as one in an attempt is."""
    write(tmp_path / "in" / "a.ndjson", LATE)
    plans = []

    async def fails_once(*args: Any, **kwargs: Any) -> Any:
        plans.append(kwargs["learned"])
        if len(plans) == 2:
            raise SystemError_("the connection was lost", code="E0607", retry=Retry.LATER)
        return await plan_async(*args, **kwargs)

    monkeypatch.setattr(sys.modules["dataflare.jobs.run"], "plan_async", fails_once)
    text = text_of({"out": {"type": "file", "inputs": ["s"], "config": {"path": "out.ndjson"}}})
    result = start(tmp_path, text.replace('"attempts": 0', '"attempts": 1, "delay": "0s"'))
    assert result.status == "finished", result.error
    assert any("the connection was lost" in warning for warning in result.warnings)
    rows = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()]
    assert [row["id"] for row in rows] == [*range(6)]
    assert rows[3]["late"] == "x"
