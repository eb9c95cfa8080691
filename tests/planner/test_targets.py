"""Two destinations of a workflow may not write over each other."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from dataflare.errors import PlanError
from dataflare.planner import check, plan
from dataflare.workflow import load_text


def with_destinations(first: str, second: str, tmp_path):
    return load_text(
        f"""\
name: w
sources:
  a: {{type: inline, config: {{rows: [{{id: 1}}]}}}}
destinations:
  y: {{inputs: [a], {first}}}
  z: {{inputs: [a], {second}}}
""",
        base=tmp_path,
    )


TABLE = "type: sqlite, config: {path: out.db, table: t, mode: append}"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("type: file, config: {path: a.csv}", "type: file, config: {path: x/../a.csv}"),
        ("type: file, config: {path: link.csv}", "type: file, config: {path: target.csv}"),
        (TABLE, TABLE.replace("append", "overwrite")),
        (TABLE.replace("append", "overwrite"), TABLE),
        (TABLE, TABLE.replace("table: t", "table: T").replace("append", "overwrite")),
    ],
)
def test_the_second_is_refused(first, second, tmp_path):
    (tmp_path / "link.csv").symlink_to("target.csv")
    with pytest.raises(PlanError, match="destinations 'y' and 'z' both write to") as caught:
        check(with_destinations(first, second, tmp_path))
    assert caught.value.code == "E0321"
    assert caught.value.step == "z"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("type: file, config: {path: a.csv}", "type: file, config: {path: b.csv}"),
        (TABLE, TABLE),
        (TABLE, TABLE.replace("table: t", "table: T")),
        (TABLE, TABLE.replace("table: t", "table: u").replace("append", "overwrite")),
        (TABLE, TABLE.replace("out.db", "other.db").replace("append", "overwrite")),
        ("type: stdout", "type: stdout"),
        ("type: blackhole", "type: blackhole"),
    ],
)
def test_two_places_and_added_rows_are_fine(first, second, tmp_path):
    check(with_destinations(first, second, tmp_path))


def copying(source: str, path: str, tmp_path, more: str = ""):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("id\n1\n")
    (tmp_path / "link.csv").symlink_to("in/a.csv")
    (tmp_path / "alias").symlink_to("in")
    return load_text(
        f"""\
name: w
sources:
  a: {{type: file, config: {{path: {source}}}}}
destinations:
  z: {{type: file, inputs: [a], config: {{path: {path}{more}}}}}
""",
        base=tmp_path,
    )


@pytest.mark.parametrize(
    ("source", "path", "more"),
    [
        ("in/a.csv", "in/a.csv", ""),
        ("in/a.csv", "alias/../in/a.csv", ""),
        ("link.csv", "in/a.csv", ""),
        ("in/a.csv", "link.csv", ""),
        ("in/a.csv", "in/a.csv", ", mode: append"),
        ("'in/*.csv'", "in", ", format: csv"),
        ("'in/*.csv'", "alias/", ", format: csv"),
        ("'in/*.csv'", "in/b.csv", ""),
        ("'**/*.csv'", "in/deep/b.csv", ""),
        ("in", "in", ", format: csv"),
        ("in", "in/deep/", ", format: csv"),
        ("in", "in/b.parquet", ""),
        ("[in/a.csv, link.csv]", "in/a.csv", ""),
    ],
)
def test_what_is_read_is_not_written(source, path, more, tmp_path):
    with pytest.raises(
        PlanError, match=r"destination 'z' writes to .*, which source 'a'"
    ) as caught:
        check(copying(source, path, tmp_path, more))
    assert caught.value.code == "E0322"
    assert caught.value.spot.line == 5
    assert caught.value.help


@pytest.mark.parametrize(
    ("source", "path", "more"),
    [
        ("in/a.csv", "in/b.csv", ""),
        ("'in/*.csv'", "in/b.parquet", ""),
        ("'in/*.csv'", "in", ""),
        ("'in/*.csv'", "in/out", ", format: csv"),
        ("in/a.csv", "in", ", format: csv"),
        ("in", "out", ", format: csv"),
        ("in", "in/.hidden/b.csv", ""),
        ("in", "in/_done/b.csv", ""),
    ],
)
def test_writing_beside_what_is_read_is_fine(source, path, more, tmp_path):
    check(copying(source, path, tmp_path, more))


def in_tables(source: str, destination: str, tmp_path):
    for name in ("in.db", "other.db"):
        with closing(sqlite3.connect(tmp_path / name)) as database:
            database.executescript("create table t (id integer); create table u (id integer)")
    return load_text(
        f"""\
name: w
sources:
  a: {{type: sqlite, config: {{{source}}}}}
destinations:
  z: {{type: sqlite, inputs: [a], config: {{{destination}}}}}
""",
        base=tmp_path,
    )


@pytest.mark.parametrize("place", ["path: in.db, table: t", "path: x/../in.db, table: T"])
def test_a_table_that_is_read_is_not_swapped_for_another(place, tmp_path):
    flow = in_tables("path: in.db, table: t", f"{place}, mode: overwrite", tmp_path)
    with pytest.raises(PlanError, match=r"'z' writes to the table t, which source 'a'") as caught:
        check(flow)
    assert caught.value.code == "E0322"
    assert caught.value.spot.line == 5
    assert caught.value.notes == ["what 'a' reads stands in line 3"]


@pytest.mark.parametrize(
    "destination",
    [
        "path: in.db, table: t",
        "path: in.db, table: t, mode: upsert, key: [id]",
        "path: in.db, table: u, mode: overwrite",
        "path: other.db, table: t, mode: overwrite",
    ],
)
def test_a_table_that_is_read_may_get_rows(destination, tmp_path):
    check(in_tables("path: in.db, table: t", destination, tmp_path))


def test_the_file_of_a_lookup_is_not_written(tmp_path):
    (tmp_path / "names.csv").write_text("id,name\n1,a\n")
    flow = load_text(
        """\
name: w
sources: {a: {type: inline, config: {rows: [{id: 1}]}}}
transformations:
  b:
    type: lookup
    inputs: [a]
    config: {source: {type: file, path: names.csv}, mapping: {key: id, fields: [name]}}
destinations:
  z: {type: file, inputs: [b], config: {path: names.csv}}
""",
        base=tmp_path,
    )
    with pytest.raises(PlanError, match="which lookup 'b' reads") as caught:
        check(flow)
    assert (caught.value.code, caught.value.spot.line) == ("E0322", 9)
    assert caught.value.notes == ["what 'b' reads stands in line 7"]


@pytest.mark.parametrize("type_", ["sqlite", "duckdb"])
@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_tables_of_a_family_whose_names_differ_only_in_case_do_not_become_one(
    type_, mode, tmp_path
):
    for name in ("Orders", "orders"):
        (tmp_path / f"{name}.csv").write_text("id\n1\n")
    loaded = load_text(
        f"""\
name: w
sources: {{shop: {{type: file, config: {{path: "*.csv", tables: ["*"]}}}}}}
destinations:
  out: {{inputs: [shop], type: {type_}, config: {{path: out.db, table: "{{table}}", mode: {mode}}}}}
""",
        base=tmp_path,
    )
    with pytest.raises(PlanError, match="case makes no difference there") as caught:
        plan(loaded)
    assert caught.value.code == "E0321"
