"""Rows that cannot be read: each one found, named by line, with the others kept."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime

import polars as pl
import pytest
from file_kit import read
from hypothesis import given
from hypothesis import strategies as st

CONTRACT = {"id": "int64", "at": "timestamp[us, UTC]", "x": "float64", "t": "string"}
GOOD = b"1,2024-01-01T00:00:00Z,1.5,a\n"
HEADER = b"id,at,x,t\n"


@pytest.mark.parametrize(
    ("row", "code", "message", "raw"),
    [
        (b"1,2024-01-01T00:00:00Z,1.5", "E0502", "3 fields where 4 were expected", None),
        (b"1", "E0502", "1 field where 4 were expected", None),
        (b"1,2024-01-01T00:00:00Z,1.5,a,b", "E0502", "5 fields where 4 were expected", None),
        (b"x2,2024-01-01T00:00:00Z,1.5,a", "E0501", "column 'id': 'x2' is not an int64", None),
        (
            b"1,2024-02-30T00:00:00Z,1.5,a",
            "E0501",
            "column 'at': '2024-02-30T00:00:00Z' is not a timestamp[us, UTC]",
            None,
        ),
        (
            b"1,2024-01-01T00:00:00Z,1e999999,a",
            "E0501",
            "column 'x': '1e999999' is not a float64",
            None,
        ),
        (b'1,2024-01-01T00:00:00Z,1.5,"a', "E0506", "a quote is opened and never closed", None),
        (b'1,2024-01-01T00:00:00Z,1.5,"a"b', "E0506", "text follows a closing quote", None),
        (
            b"1,2024-01-01T00:00:00Z,1.5,\xff",
            "E0504",
            "not valid UTF-8 at byte 28 of the row",
            "1,2024-01-01T00:00:00Z,1.5,\ufffd",
        ),
        (b"1,2024-01-01T00:00:00Z,1.5,a\x00b", "E0504", "contains a NUL byte", None),
        (b"1,2024-01-01T00:00:00Z,1.5,\xff,", "E0502", "5 fields where 4 were expected", None),
    ],
)
@pytest.mark.parametrize("before", [0, 1, 20_000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_bad_csv_row_is_named(tmp_path, row, code, message, raw, before, line_end):
    rows = GOOD * before + b'2,2024-01-01T00:00:00Z,,"two\nlines"\n' + row + b"\n" + GOOD * 3
    (tmp_path / "orders.csv").write_bytes((HEADER + rows).replace(b"\n", line_end))
    found = read("orders.csv", tmp_path, contract=CONTRACT)
    [bad] = found.bad
    shown = raw if raw is not None else row.decode(errors="replace")
    assert (bad.code, bad.message, bad.raw) == (code, message, shown)
    assert bad.place == f"orders.csv line {before + 4}"
    assert found.frame.height == before + 4
    assert found.frame["id"].sum() == before + 5


def test_places_are_right_in_compressed_files(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(HEADER + GOOD * 30_000 + b"1\n" + GOOD))
    found = read("a.csv.gz", tmp_path, contract=CONTRACT)
    assert [bad.place for bad in found.bad] == ["a.csv.gz line 30002"]


def test_every_bad_row_of_many_chunks_is_found(tmp_path):
    rows = [b"x,,,\n" if n % 1_000 == 7 else b"%d,,,\n" % n for n in range(1_200_000)]
    (tmp_path / "a.csv").write_bytes(HEADER + b"".join(rows))
    found = read("a.csv", tmp_path, contract=CONTRACT)
    assert len(found.chunks) > 2
    assert [bad.place for bad in found.bad] == [
        f"a.csv line {n + 2}" for n in range(7, 1_200_000, 1_000)
    ]
    assert found.frame["id"].to_list() == [n for n in range(1_200_000) if n % 1_000 != 7]


def test_a_row_is_known_by_its_index_in_the_chunk(tmp_path):
    (tmp_path / "a.csv").write_bytes(HEADER + GOOD + b"\n1\n" + GOOD + b"x,,,\n" + GOOD)
    chunk = read("a.csv", tmp_path, contract=CONTRACT).chunks[0]
    saved = chunk.salvage()
    assert saved.good_rows.to_list() == [0, 2, 4]
    assert [(bad.row, bad.place) for bad in saved.bad] == [
        (1, "a.csv line 4"),
        (3, "a.csv line 6"),
    ]
    assert [chunk.place(row) for row in range(5)] == [f"a.csv line {n}" for n in (2, 4, 5, 6, 7)]


def test_a_sound_chunk_knows_its_places_too(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'a,b\n1,"x\ny"\n2,z\n')
    chunk = read("a.csv", tmp_path).chunks[0]
    assert [chunk.place(0), chunk.place(1)] == ["a.csv line 2", "a.csv line 4"]


def test_an_unclosed_quote_costs_only_its_line_in_a_large_file(tmp_path):
    rows = [b'%d,2024-01-01T00:00:00Z,1,"q, %d"\n' % (n, n) for n in range(500_000)]
    rows[250_000] = b'250000,2024-01-01T00:00:00Z,1,"open\n'
    (tmp_path / "a.csv").write_bytes(HEADER + b"".join(rows))
    found = read("a.csv", tmp_path, contract=CONTRACT)
    assert [(bad.code, bad.place) for bad in found.bad] == [("E0506", "a.csv line 250002")]
    assert found.frame.height == 499_999


def test_long_raw_text_is_cut(tmp_path):
    (tmp_path / "a.csv").write_bytes(HEADER + GOOD + b"1," + b"x" * (1 << 20) + b",,\n")
    [bad] = read("a.csv", tmp_path, contract=CONTRACT).bad
    assert bad.raw.endswith("xxx… (cut: the first 1,048,576 of 1,048,580 bytes)")
    assert bad.message.startswith("column 'at': 'xxxxxx")
    assert len(bad.message) < 140


def test_timestamps_that_vary_in_fraction_only_are_no_errors(tmp_path):
    at = [f"2024-01-01T00:00:00.{n:06}Z" for n in range(100)]
    late = [*at, "2024-01-01T00:00:01Z", "2024-01-01T02:00:02+02:00"]
    rows = "".join(f"{text}\n" for text in [*at * 2_000, *late, *at * 2_000])
    (tmp_path / "a.csv").write_text("at\n" + rows)
    found = read("a.csv", tmp_path)
    assert found.frame.schema == {"at": pl.Datetime("us", "UTC")}
    assert found.bad == []
    assert found.frame["at"].null_count() == 0


NDJSON = {"id": "int64", "x": "float64", "at": "timestamp[us, UTC]", "tags": "list<int64>"}


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (b'{"id": "x"}', "E0501", "column 'id': 'x' is not an int64"),
        (b'{"id": true}', "E0501", "column 'id': True is not an int64"),
        (
            b'{"id": 9223372036854775808}',
            "E0501",
            "column 'id': 9223372036854775808 is not an int64",
        ),
        (b'{"at": "soon"}', "E0501", "column 'at': 'soon' is not a timestamp[us, UTC]"),
        (b'{"tags": ["a"]}', "E0501", "column 'tags': ['a'] is not a list<int64>"),
        (b'{"tags": 3}', "E0501", "column 'tags': 3 is not a list<int64>"),
        (
            b"[1]",
            "E0503",
            "not a JSON object but a list; a file that is one list of objects has the format json",
        ),
        (b"null", "E0503", "not a JSON object but null"),
        (b'{"id": 1', "E0503", "not valid JSON: unexpected end of data at character 9"),
        (
            b'{"id": 1} x',
            "E0503",
            "not valid JSON: unexpected content after document at character 11",
        ),
        (b'{"t": "\xff"}', "E0504", "not valid UTF-8"),
    ],
)
def test_a_bad_ndjson_line_is_named(tmp_path, line, code, message):
    good = b'{"id": 1, "x": 1, "at": "2024-01-01T00:00:00Z", "tags": [1]}\n'
    (tmp_path / "a.ndjson").write_bytes(good * 3 + b"\n" + line + b"\n" + good)
    found = read("a.ndjson", tmp_path, contract=NDJSON)
    [bad] = found.bad
    assert (bad.code, bad.message) == (code, message)
    assert (bad.row, bad.place) == (3, "a.ndjson line 5")
    assert bad.raw == line.decode(errors="replace")
    assert found.frame["id"].to_list() == [1, 1, 1, 1]


def test_types_inside_lists_and_objects_are_those_of_the_contract(tmp_path):
    (tmp_path / "a.ndjson").write_text(
        '{"l": ["2024-01-01T00:00:00Z"], "s": {"n": 1, "d": "2024-02-29"}}\n'
        '{"l": ["soon"], "s": null}\n'
        '{"l": [null], "s": {"n": 300, "d": null}}\n'
        '{"l": null, "s": {"n": null}}\n'
    )
    contract = {"l": "list<timestamp[us, UTC]>", "s": "struct<n: int8, d: date>"}
    found = read("a.ndjson", tmp_path, contract=contract)
    assert found.frame["l"].to_list() == [[datetime(2024, 1, 1, tzinfo=UTC)], None]
    assert found.frame["s"].to_list() == [{"n": 1, "d": date(2024, 2, 29)}, {"n": None, "d": None}]
    assert [(bad.code, bad.place) for bad in found.bad] == [
        ("E0501", "a.ndjson line 2"),
        ("E0501", "a.ndjson line 3"),
    ]


def test_a_bad_item_of_a_json_file_is_named(tmp_path):
    (tmp_path / "a.json").write_text('[{"id": 1}, {"id": "x"}, {"id": 3}]')
    found = read("a.json", tmp_path, contract={"id": "int64"})
    assert [(bad.place, bad.raw) for bad in found.bad] == [("a.json row 2", '{"id": "x"}')]
    assert found.frame["id"].to_list() == [1, 3]


ROWS = st.sampled_from(
    [
        b"1,2024-01-01T00:00:00Z,1.5,a",
        b'2,,,"x\ny"',
        b"x,,,",
        b"1,2",
        b"1,2,3,4,5",
        b'1,,,"',
        b",,,\xff",
        b'3,,,"a"b',
        b"4,now,,",
        b"5,,1e400,",
        b"",
        b'6,,,5" pipe',
        b"7,,,\x00",
    ]
)
SOUND = {b"1,2024-01-01T00:00:00Z,1.5,a", b'2,,,"x\ny"', b'6,,,5" pipe'}


@given(st.lists(ROWS, min_size=1, max_size=30))
def test_each_row_is_either_good_or_bad_and_in_its_place(tmp_path_factory, rows):
    # An open quote and a later one together make a field: then it is another file than meant.
    kept, opened = [], False
    for row in rows:
        if opened and b'"' in row:
            continue
        opened = opened or row == b'1,,,"'
        kept.append(row)
    folder = tmp_path_factory.mktemp("bad")
    (folder / "a.csv").write_bytes(HEADER + b"".join(row + b"\n" for row in kept))
    found = read("a.csv", folder, contract=CONTRACT)
    lines, expected, good = 2, [], 0
    for row in kept:
        if row and row not in SOUND:
            expected.append(f"a.csv line {lines}")
        good += row in SOUND
        lines += row.count(b"\n") + 1
    assert [bad.place for bad in found.bad] == expected
    assert found.frame.height == good
