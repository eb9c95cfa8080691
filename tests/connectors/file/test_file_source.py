"""Reading files: types, listings, splits, projection, and what is said when it cannot be."""

from __future__ import annotations

import asyncio
import gzip
import os
import pickle
from datetime import UTC, date, datetime

import polars as pl
import pytest
import xlsxwriter
import zstandard
from file_kit import read, source
from pydantic import ValidationError

from dataflare.connectors.file.source import FileSource
from dataflare.errors import ConfigError, DataError, DataFlareError, SystemError_
from dataflare.sdk.context import ConnectorContext, Policy
from dataflare.sdk.registry import source as find_source
from dataflare.sdk.source import Replay

ORDERS = """\
id,name,at,day,price,open,zip
1,"Smith, ""J""
Jr",2024-01-01T00:00:00Z,2024-02-29,1.5,true,007
2,,2024-01-01T00:00:01Z,,2,false,008
3,"",,2024-03-01,,,
"""


def fails(config, base, **more) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        read(config, base, **more)
    return caught.value


def test_csv_columns_get_their_types(tmp_path):
    (tmp_path / "orders.csv").write_text(ORDERS)
    src = source("orders.csv", tmp_path)
    assert asyncio.run(src.schema()).to_json() == {
        "id": "int64",
        "name": "string",
        "at": "timestamp[us, UTC]",
        "day": "date",
        "price": "float64",
        "open": "bool",
        "zip": "string",
    }
    first = datetime(2024, 1, 1, tzinfo=UTC)
    assert read("orders.csv", tmp_path).frame.rows() == [
        (1, 'Smith, "J"\nJr', first, date(2024, 2, 29), 1.5, True, "007"),
        (2, None, first.replace(second=1), None, 2.0, False, "008"),
        (3, "", None, date(2024, 3, 1), None, None, None),
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("last", [True, False])
def test_csv_line_ends_and_byte_order_marks_do_not_matter(tmp_path, line_end, bom, last):
    text = bom + line_end.join(["a,b", "1,x", '2,"y"']) + (line_end if last else "")
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert read("a.csv", tmp_path).frame.to_dicts() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_blank_lines_are_passed_over_where_there_are_several_columns(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\na,b\n1,2\n\n\r\n3,4\n\n")
    (tmp_path / "b.csv").write_bytes(b"a\n1\n\n3\n")
    assert read("a.csv", tmp_path).frame.rows() == [(1, 2), (3, 4)]
    assert read("b.csv", tmp_path).frame.rows() == [(1,), (None,), (3,)]


def test_quotes_inside_unquoted_fields_are_text(tmp_path):
    (tmp_path / "a.csv").write_text('id,what\n1,5" pipe\n2,"a, ""b"""\n3,7"\n')
    assert read("a.csv", tmp_path).frame["what"].to_list() == ['5" pipe', 'a, "b"', '7"']


def test_without_quoting_quotes_are_text(tmp_path):
    (tmp_path / "a.csv").write_text('id,what\n1,"a\n2,b"\n')
    got = read({"path": "a.csv", "quote": None}, tmp_path).frame
    assert got.rows() == [(1, '"a'), (2, 'b"')]


def test_csv_options(tmp_path):
    (tmp_path / "a.txt").write_bytes("1|é|NA\n2|-|3\n".encode("latin-1"))
    config = {"path": "a.txt", "delimiter": "|", "has_header": False, "encoding": "latin-1"}
    config["null_values"] = ["NA", "-"]
    got = read(config, tmp_path).frame
    assert got.to_dicts() == [
        {"column_1": 1, "column_2": "é", "column_3": None},
        {"column_1": 2, "column_2": None, "column_3": 3},
    ]
    config["null_values"] = "NA"
    named = read(config, tmp_path, contract={"a": "int8", "b": "string", "c": "float64"}).frame
    assert named.schema == {"a": pl.Int8, "b": pl.String, "c": pl.Float64}


def test_tabs_stand_between_the_fields_of_a_tsv(tmp_path):
    (tmp_path / "a.tsv").write_text("a\tb\n1\tx,y\n")
    assert read("a.tsv", tmp_path).frame.rows() == [(1, "x,y")]


def test_equal_and_empty_column_names_become_unique(tmp_path):
    (tmp_path / "a.csv").write_text("a,a,,b \n1,2,3,4\n")
    assert read("a.csv", tmp_path).frame.columns == ["a", "a_2", "column_3", "b"]


def test_a_contract_decides_the_types(tmp_path):
    (tmp_path / "a.csv").write_text("id,n,at\n1,2,2024-01-01 10:00\n")
    contract = {"id": "string", "n": "decimal(10, 2)", "at": "timestamp[us, UTC]"}
    got = read("a.csv", tmp_path, contract=contract).frame
    assert got["id"].to_list() == ["1"]
    assert str(got["n"][0]) == "2.00"
    assert got["at"][0] == datetime(2024, 1, 1, 10, tzinfo=UTC)
    error = fails("a.csv", tmp_path, contract={"idd": "string"})
    assert (error.code, error.help) == ("E0508", "did you mean 'id'?")


def test_columns_may_come_in_another_order_in_another_file(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,x\n")
    (tmp_path / "b.csv").write_text("b,a\ny,2\n")
    assert read("*.csv", tmp_path).frame.to_dicts() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,x\n")
    (tmp_path / "b.csv").write_text("2,y\n3,z\n")
    error = fails("*.csv", tmp_path)
    assert isinstance(error, DataError)
    assert error.code == "E0508"
    assert "b.csv has none of the columns of" in str(error)
    assert "has_header" in error.help


def test_types_are_found_over_several_files(tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "b.csv").write_text("a\n1.5\n")
    assert read("*.csv", tmp_path).frame["a"].to_list() == [1.0, 1.5]


def test_projection_reads_only_some_columns_in_the_order_wanted(tmp_path):
    (tmp_path / "orders.csv").write_text(ORDERS)
    got = read("orders.csv", tmp_path, columns=["price", "id"]).frame
    assert got.rows() == [(1.5, 1), (2.0, 2), (None, 3)]
    assert read({"path": "orders.csv", "columns": ["zip", "id"]}, tmp_path).frame.columns == [
        "zip",
        "id",
    ]


def test_a_field_that_is_not_read_cannot_be_bad(tmp_path):
    rows = "".join(f"{n},{n}\n" for n in range(300_000))
    (tmp_path / "a.csv").write_text(f"id,n\n{rows}1,x\n" + rows)
    assert read({"path": "a.csv"}, tmp_path, columns=["id"], contract={"n": "int64"}).bad == []


def test_ndjson(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"id": 1, "at": "2024-01-01T00:00:00Z", "tags": ["x"], "who": {"n": 1}, "zip": "12"}\n\n'
        '{"who": null, "id": 2.5, "extra": true}\n'
    )
    got = read("a.jsonl", tmp_path).frame
    assert got.to_dicts() == [
        {
            "id": 1.0,
            "at": datetime(2024, 1, 1, tzinfo=UTC),
            "tags": ["x"],
            "who": {"n": 1},
            "zip": "12",
            "extra": None,
        },
        {"id": 2.5, "at": None, "tags": None, "who": None, "zip": None, "extra": True},
    ]


def test_ndjson_with_a_byte_order_mark(tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02}.ndjson").write_text(f'\ufeff{{"a": {number}}}\n')
    assert read("*.ndjson", tmp_path).frame["a"].to_list() == list(range(12))


def test_the_first_of_two_equal_keys_counts(tmp_path):
    (tmp_path / "a.ndjson").write_text('{"a": 1, "a": 2}\n')
    assert read("a.ndjson", tmp_path).frame.rows() == [(1,)]


def test_an_ndjson_contract_names_keys_that_are_absent(tmp_path):
    (tmp_path / "a.ndjson").write_text('{"a": 1}\n')
    got = read("a.ndjson", tmp_path, contract={"b": "date", "a": "int16"}).frame
    assert got.schema == {"a": pl.Int16, "b": pl.Date}
    assert got.rows() == [(1, None)]


def test_json(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1}, {"a": 2, "at": "2024-01-01"}]')
    (tmp_path / "b.json").write_text('{"a": 3}')
    assert read("*.json", tmp_path).frame.rows() == [
        (1, None),
        (2, date(2024, 1, 1)),
        (3, None),
    ]


def test_json_says_where_it_is_broken(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}\n{"a": 2}\n')
    error = fails("a.json", tmp_path)
    assert error.code == "E0503"
    assert str(error).startswith(f"{tmp_path}/a.json line 2 is not valid JSON: ")
    assert error.help == "a file with one JSON object a line has the format ndjson"
    (tmp_path / "a.json").write_text('[{"a": 1}, 5]')
    (bad,) = read("a.json", tmp_path).bad
    assert (bad.code, bad.place, bad.message) == (
        "E0503",
        "a.json row 2",
        "not a JSON object but 5",
    )
    (tmp_path / "a.json").write_text("[4, 5]")
    assert str(fails("a.json", tmp_path)) == f"{tmp_path}/a.json: item 1 is not a JSON object but 4"


def test_parquet_and_arrow(tmp_path):
    frame = pl.DataFrame(
        {"id": range(1000), "tags": [[str(n)] for n in range(1000)]},
    ).with_columns(pl.lit("x").cast(pl.Categorical).alias("c"))
    frame.write_parquet(tmp_path / "a.parquet", row_group_size=100)
    frame.write_ipc(tmp_path / "a.arrow")
    for name in ("a.parquet", "a.arrow"):
        got = read(name, tmp_path).frame
        assert got.equals(frame.with_columns(pl.col("c").cast(pl.String)))
        assert read(name, tmp_path, columns=["tags"]).frame.equals(frame.select("tags"))


def test_a_parquet_scan_takes_projection_and_filter(tmp_path):
    pl.DataFrame({"a": range(10), "b": range(10), "c": range(10)}).write_parquet(
        tmp_path / "a.parquet"
    )
    chunk = read("a.parquet", tmp_path, columns=["a", "b"]).chunks[0]
    plan = chunk.scan().filter(pl.col("a") > 5).select("b").explain()
    assert "PROJECT 2/3 COLUMNS" in plan


def test_a_csv_scan_parses_no_timestamp_that_is_not_read(tmp_path):
    (tmp_path / "orders.csv").write_text(ORDERS)
    chunk = read("orders.csv", tmp_path).chunks[0]
    plan = chunk.scan().filter(pl.col("open")).select("id").explain()
    assert "strptime" not in plan
    assert "PROJECT 2/7 COLUMNS" in plan


def test_a_contract_casts_typed_files_and_names_what_does_not_fit(tmp_path):
    pl.DataFrame({"a": [1, 300, 2], "b": ["x", "y", "z"]}).write_parquet(tmp_path / "a.parquet")
    found = read("a.parquet", tmp_path, contract={"a": "int8"})
    assert found.frame.to_dicts() == [{"a": 1, "b": "x"}, {"a": 2, "b": "z"}]
    assert [(b.code, b.message, b.place) for b in found.bad] == [
        ("E0501", "column 'a': 300 is not an int8", "a.parquet row 2")
    ]


def test_parquet_files_with_other_types_are_named(tmp_path):
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"a": ["x"]}).write_parquet(tmp_path / "b.parquet")
    error = fails("*.parquet", tmp_path)
    assert error.code == "E0508"
    assert str(error) == (
        f"column 'a' is int64 in {tmp_path}/a.parquet and string in {tmp_path}/b.parquet"
    )


def test_excel(tmp_path):
    book = xlsxwriter.Workbook(tmp_path / "a.xlsx")
    book.add_worksheet("first").write_row(0, 0, ["x"])
    sheet = book.add_worksheet("orders")
    for number, row in enumerate([["id", "name", "price"], [1, "a", 1.5], [2, None, 2.5]]):
        sheet.write_row(number, 0, row)
    book.close()
    got = read({"path": "a.xlsx", "sheet": "orders"}, tmp_path).frame
    assert got.rows() == [(1.0, "a", 1.5), (2.0, None, 2.5)]
    assert read({"path": "a.xlsx", "sheet": 2}, tmp_path).frame.equals(got)
    error = fails({"path": "a.xlsx", "sheet": "nope"}, tmp_path)
    assert (error.code, error.help) == ("E0505", "its sheets: first, orders")


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_text(tmp_path, pack):
    (tmp_path / "a.csv").write_bytes(pack(ORDERS.encode()))
    (tmp_path / "b.ndjson").write_bytes(pack(b'{"a": 1}\n'))
    assert read("a.csv", tmp_path).frame.height == 3
    assert read("b.ndjson", tmp_path).frame.rows() == [(1,)]


def test_a_damaged_gzip_file_says_so(tmp_path):
    whole = gzip.compress(os.urandom(100).hex().encode() * 1000)
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    assert fails("a.csv.gz", tmp_path).code == "E0505"


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.xlsx"])
def test_a_damaged_table_says_so(tmp_path, name):
    (tmp_path / name).write_bytes(b"PAR1 nonsense" * 10)
    error = fails(name, tmp_path)
    assert error.code == "E0505"
    assert error.exit_status == 1


def test_listing_is_sorted_and_passes_over_what_is_hidden_or_unfinished(tmp_path):
    folder = tmp_path / "in"
    for name in ("b.csv", "a.csv", "sub/c.csv", ".h.csv", "_x.csv", ".t/d.csv", "e.csv.inprogress"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"n\n{name}\n")
    (folder / "readme.md").write_text("no data")
    assert read("in", tmp_path).frame["n"].to_list() == ["a.csv", "b.csv", "sub/c.csv"]
    assert read("in/*.csv", tmp_path).frame["n"].to_list() == ["a.csv", "b.csv"]
    assert read("in/**/*.csv", tmp_path).frame["n"].to_list() == ["a.csv", "b.csv", "sub/c.csv"]
    listed = read({"path": ["in/sub/c.csv", "in/*.csv", "in/a.csv"]}, tmp_path).frame
    assert listed["n"].to_list() == ["sub/c.csv", "a.csv", "b.csv"]


def test_a_hidden_file_is_read_when_it_is_named(tmp_path):
    (tmp_path / ".a.csv").write_text("a\n1\n")
    assert read(".a.csv", tmp_path).frame.rows() == [(1,)]


def test_splits_are_files_with_ids_that_stay(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("n\n1\n")
    src = source("*.csv", tmp_path)
    first = asyncio.run(src.splits())
    assert [s.id for s in first] == ["a.csv", "b.csv"]
    assert [s.bytes_estimate for s in first] == [4, 4]
    again = asyncio.run(pickle.loads(pickle.dumps(source("*.csv", tmp_path))).splits())
    assert first == again


def test_what_the_policy_forbids_is_not_read_through_a_link(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.csv").write_text("a\n1\n")
    (inside / "b.csv").symlink_to(outside / "a.csv")
    context = ConnectorContext("src", tmp_path, Policy(folders=(inside,)))
    for path in ("in", "in/*.csv", "in/b.csv", "out/a.csv"):
        made = FileSource(FileSource.Config(path=path), context)
        with pytest.raises(ConfigError) as caught:
            asyncio.run(made.validate())
        assert caught.value.code == "E0410"


def test_partition_folders_become_columns(tmp_path):
    for country, day in (("DE", 1), ("a%2Fb", 2)):
        folder = tmp_path / "in" / f"country={country}" / f"n={day}"
        folder.mkdir(parents=True)
        pl.DataFrame({"id": [day]}).write_parquet(folder / "x.parquet")
    got = read({"path": "in", "file_column": "from"}, tmp_path).frame
    assert got.to_dicts() == [
        {"id": 1, "country": "DE", "n": 1, "from": "in/country=DE/n=1/x.parquet"},
        {"id": 2, "country": "a/b", "n": 2, "from": "in/country=a%2Fb/n=2/x.parquet"},
    ]
    assert read("in", tmp_path, columns=["n", "id"]).frame.rows() == [(1, 1), (2, 2)]


def test_a_missing_file_is_named_with_the_nearest_name(tmp_path):
    (tmp_path / "orders.csv").write_text("a\n1\n")
    error = fails("order.csv", tmp_path)
    assert isinstance(error, SystemError_)
    assert (error.code, error.exit_status) == ("E0601", 1)
    assert str(error) == f"no such file: {tmp_path}/order.csv"
    assert error.help == "did you mean 'orders.csv'?"
    assert fails("x/y.csv", tmp_path).help == f"the folder {tmp_path}/x does not exist either"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("*.parquet", "no file matches *.parquet"),
        ("empty", "the folder {base}/empty has no files"),
        ("odd", "the folder {base}/odd has no files of a known format"),
    ],
)
def test_nothing_to_read_is_an_error(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "x.xyz").write_text("")
    error = fails(path, tmp_path)
    assert error.code == "E0601"
    assert str(error) == message.format(base=tmp_path)


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.parquet"])
def test_an_empty_file_is_an_error(tmp_path, name):
    (tmp_path / name).write_text("")
    error = fails(name, tmp_path)
    assert error.code == ("E0505" if name == "a.parquet" else "E0507")


def test_a_header_alone_is_a_table_without_rows(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n")
    got = read("a.csv", tmp_path).frame
    assert got.schema == {"a": pl.String, "b": pl.String}
    assert got.height == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_permission_denied(tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "a.csv").chmod(0)
    assert fails("a.csv", tmp_path).code == "E0602"


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"path": "a.xyz"}, "E0403"),
        ({"path": ["a.csv", "b.ndjson"]}, "E0403"),
        ({"path": "a.csv", "columns": ["aa"]}, "E0404"),
    ],
)
def test_config_that_cannot_be(tmp_path, config, code):
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "a.xyz").write_text("a\n1\n")
    (tmp_path / "b.ndjson").write_text('{"a": 1}\n')
    error = fails(config, tmp_path)
    assert isinstance(error, ConfigError)
    assert error.code == code


@pytest.mark.parametrize(
    "config",
    [
        {"path": ""},
        {"path": "a.csv", "delimiter": ";;"},
        {"path": "a.csv", "encoding": "nope"},
        {"path": "a.csv", "formt": "csv"},
        {"path": "a.csv", "format": "xml"},
    ],
)
def test_config_is_validated(config):
    with pytest.raises(ValidationError):
        find_source("file").Config(**config)


def test_capabilities():
    source_type = find_source("file")
    made = source_type(source_type.Config(path="x.csv"), None)
    told = made.capabilities()
    assert (told.replay, told.bounded, told.local) == (Replay.EXACT, True, True)
