"""Excel files: cells keep their types, digits and days; a part of a sheet, or many sheets, can be read."""

from __future__ import annotations

import datetime as dt
import json
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter
from file_kit import read, resume
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.errors import DataFlareError

DAY, STAMP, CLOCK, SPAN, ZIP = "yyyy-mm-dd", "yyyy-mm-dd hh:mm:ss", "hh:mm:ss", "[h]:mm:ss", "00000"


def workbook(path: Path, write: Callable[[Any], None]) -> str:
    with xlsxwriter.Workbook(path) as book:
        write(book)
    return path.name


def column(path: Path, *cells: Any, format_: str | None = None) -> str:
    """A workbook of one column `v`; numbers have the format."""

    def write(book: Any) -> None:
        sheet = book.add_worksheet("Cells")
        sheet.write(0, 0, "v")
        shown = book.add_format({"num_format": format_}) if format_ else None
        for row, cell in enumerate(cells, 1):
            if cell == "#N/A":
                sheet.write_formula(row, 0, "=NA()", None, "#N/A")
            elif isinstance(cell, dt.timedelta | dt.time | dt.date):
                sheet.write_datetime(row, 0, cell, shown)
            elif isinstance(cell, str):
                sheet.write_string(row, 0, cell)
            elif cell is not None:
                sheet.write(row, 0, cell, shown)

    return workbook(path, write)


def table(path: Path, rows: list[list[Any]], *, merged: dict[str, str] | None = None) -> str:
    def write(book: Any) -> None:
        sheet = book.add_worksheet("Report")
        for row, cells in enumerate(rows):
            sheet.write_row(row, 0, cells)
        for area, text in (merged or {}).items():
            sheet.merge_range(area, text)

    return workbook(path, write)


def refusal(config: Any, base: Path, **more: Any) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        read(config, base, **more)
    return caught.value


@pytest.mark.parametrize(
    ("cells", "format_", "type_", "values"),
    [
        ([1, 2, 3], None, pl.Int64, [1, 2, 3]),
        ([1, 2.5, None], None, pl.Float64, [1, 2.5, None]),
        ([2**53, -(2**53)], None, pl.Int64, [2**53, -(2**53)]),
        ([1e19, 1], None, pl.Float64, [1e19, 1]),
        (["a", "ä\n", "02116"], None, pl.String, ["a", "ä\n", "02116"]),
        ([True, False], None, pl.Boolean, [True, False]),
        ([0.25, 1], "0%", pl.Float64, [0.25, 1]),
        ([dt.date(2024, 2, 29)], DAY, pl.Date, [dt.date(2024, 2, 29)]),
        ([dt.datetime(2024, 1, 5, 10, 30)], STAMP, pl.Datetime("us"), [dt.datetime(2024, 1, 5, 10, 30)]),
        ([dt.datetime(2024, 1, 5)], STAMP, pl.Datetime("us"), [dt.datetime(2024, 1, 5)]),
        (
            [dt.datetime(2024, 1, 5), dt.datetime(2024, 1, 5, 0, 0, 1)],
            STAMP,
            pl.Datetime("us"),
            [dt.datetime(2024, 1, 5), dt.datetime(2024, 1, 5, 0, 0, 1)],
        ),
        ([dt.time(10, 30), dt.time(0)], CLOCK, pl.Time, [dt.time(10, 30), dt.time(0)]),
        ([dt.timedelta(days=1, hours=6)], SPAN, pl.Duration("us"), [dt.timedelta(days=1, hours=6)]),
        ([2116, 10001], ZIP, pl.Int64, [2116, 10001]),
        ([None, None], None, pl.String, []),
    ],
)  # fmt: skip
def test_a_column_has_the_type_of_its_cells(tmp_path, cells, format_, type_, values):
    found = read(column(tmp_path / "a.xlsx", *cells, format_=format_), tmp_path).frame
    assert found.schema == {"v": type_}
    if None in cells:
        values = [value for value in values if value is not None]  # a row without a value is none
    assert found["v"].to_list() == values


def test_the_days_of_1900_are_those_that_excel_shows(tmp_path):
    name = column(tmp_path / "a.xlsx", 0, 1, 59, 61, 45296, format_=DAY)
    assert read(name, tmp_path).frame["v"].to_list() == [
        dt.date(1900, 1, 1),
        dt.date(1900, 1, 1),
        dt.date(1900, 2, 28),
        dt.date(1900, 3, 1),
        dt.date(2024, 1, 5),
    ]
    name = column(tmp_path / "b.xlsx", 0.5, 1.5, format_=STAMP)
    assert read(name, tmp_path).frame["v"].to_list() == [dt.datetime(1900, 1, 1, 12)] * 2


def test_a_day_that_never_was_is_an_error_cell(tmp_path):
    reader = opened(column(tmp_path / "a.xlsx", 60, 61, -1, format_=DAY), tmp_path)
    assert reader.warnings == {
        "column 'v' shows 1900-02-29, which is read as NULL,": 1,
        "column 'v' shows -1 days before 1900, which is read as NULL,": 1,
    }


def opened(config: Any, base: Path, **more: Any) -> Any:
    import asyncio

    from file_kit import source

    async def open_first() -> Any:
        src = source(config if isinstance(config, dict) else {"path": config}, base, **more)
        await src.validate()
        return await src.open((await src.splits())[0], None)

    return asyncio.run(open_first())


def test_text_after_many_numbers_is_text_and_so_are_they(tmp_path):
    name = column(tmp_path / "a.xlsx", *range(1500), 0.1, 1e-12, 1e300, 4006381333931, "A-17")
    got = read(name, tmp_path).frame["v"]
    assert got.to_list()[-6:] == ["1499", "0.1", "1e-12", "1e+300", "4006381333931", "A-17"]
    assert got[0] == "0"


def test_unlike_cells_become_what_they_show(tmp_path):
    def write(book: Any) -> None:
        sheet = book.add_worksheet()
        sheet.write_column(0, 0, ["v", True, 1.5, "x"])
        shown = {f: book.add_format({"num_format": f}) for f in (DAY, STAMP, CLOCK, SPAN, ZIP)}
        sheet.write_datetime(4, 0, dt.date(2024, 1, 5), shown[DAY])
        sheet.write_datetime(5, 0, dt.datetime(2024, 1, 5, 10, 30, 0, 500_000), shown[STAMP])
        sheet.write_datetime(6, 0, dt.time(10, 30), shown[CLOCK])
        sheet.write_datetime(7, 0, dt.timedelta(hours=30, seconds=1), shown[SPAN])
        sheet.write_number(8, 0, 2116, shown[ZIP])

    got = read(workbook(tmp_path / "a.xlsx", write), tmp_path).frame["v"].to_list()
    assert got == [
        "true",
        "1.5",
        "x",
        "2024-01-05",
        "2024-01-05 10:30:00.5",
        "10:30:00",
        "30:00:01",
        "02116",
    ]


@pytest.mark.parametrize(
    ("cells", "format_", "type_", "good", "bad"),
    [
        ([4006381333931, "x"], None, "string", ["4006381333931", "x"], []),
        ([2116, 123456], ZIP, "string", ["02116", "123456"], []),
        ([123456789], r"000\-00\-0000", "string", ["123-45-6789"], []),
        ([1.5, 2, "3", "x"], None, "int64", [2, 2, 3], ["'x'"]),
        ([1, 300], None, "uint8", [1], ["300"]),
        (["2024-01-31", "soon"], None, "date", [dt.date(2024, 1, 31)], ["'soon'"]),
        ([45296], None, "date", [], ["45296"]),
        ([1, "yes", "maybe"], None, "bool", [True, True], ["'maybe'"]),
        ([dt.date(2024, 1, 5)], DAY, "timestamp", [dt.datetime(2024, 1, 5)], []),
        ([dt.datetime(2024, 1, 5, 10)], STAMP, "string", ["2024-01-05 10:00:00"], []),
        ([0.1, "0.2"], None, "decimal(5, 2)", [Decimal("0.10"), Decimal("0.20")], []),
        (["[1, 2]", "["], None, "list<int64>", [[1, 2]], ["'['"]),
    ],
)  # fmt: skip
def test_a_contract_casts_each_cell_or_refuses_its_row(tmp_path, cells, format_, type_, good, bad):
    found = read(
        column(tmp_path / "a.xlsx", *cells, format_=format_), tmp_path, contract={"v": type_}
    )
    assert found.frame["v"].to_list()[: len(good)] == good
    assert len(found.frame) + len(found.bad) == len(cells)
    for each, text in zip(found.bad, bad, strict=True):
        assert each.code == "E0501"
        assert text in each.message
        assert each.place == f"a.xlsx sheet 'Cells' row {each.row + 2}"
        assert json.loads(each.raw) == {"v": cells[each.row]}


def test_a_bad_row_keeps_all_its_cells_as_they_are_shown(tmp_path):
    def write(book: Any) -> None:
        sheet = book.add_worksheet("Clean")
        sheet.write_row(0, 0, ["id", "amount", "ratio", "day"])
        sheet.write_row(1, 0, [7, "n/a"])
        sheet.write_formula(1, 2, "=1/0", None, "#DIV/0!")
        sheet.write_datetime(1, 3, dt.date(2024, 1, 5), book.add_format({"num_format": DAY}))

    name = workbook(tmp_path / "a.xlsx", write)
    [bad] = read(name, tmp_path, contract={"amount": "float64"}).bad
    assert json.loads(bad.raw) == {
        "id": 7,
        "amount": "n/a",
        "ratio": "#DIV/0!",
        "day": "2024-01-05",
    }
    assert bad.place == "a.xlsx sheet 'Clean' row 2"
    # A column that is not read cannot be bad.
    assert read(name, tmp_path, columns=["id"], contract={"amount": "float64"}).bad == []


def test_error_cells_are_null_and_counted(tmp_path):
    name = column(tmp_path / "a.xlsx", 1, "#N/A", 3, "#N/A")
    assert read(name, tmp_path).frame["v"].to_list() == [1, None, 3, None]
    assert opened(name, tmp_path).warnings == {"column 'v' shows #N/A, which is read as NULL,": 2}


def test_formulas_without_a_stored_result_are_null_and_counted(tmp_path):
    """As openpyxl writes them, which calculates nothing; beside results that are stored."""

    def write(book: Any) -> None:
        sheet = book.add_worksheet("Cells")
        sheet.write_row(0, 0, ["id", "total"])
        sheet.write_row(1, 0, [1])
        sheet.write_formula(1, 1, "=1+1", None, 2)
        sheet.write_row(2, 0, [2])
        sheet.write_formula(2, 1, "=1+2", None, "GONE")
        sheet.write_formula(3, 1, "=1+3", book.add_format({"num_format": "yyyy-mm-dd"}), "GONE")

    name = workbook(tmp_path / "a.xlsx", write)
    with zipfile.ZipFile(tmp_path / name) as file:
        parts = {each: file.read(each) for each in file.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    for stored in (b' t="str"><f>1+2</f><v>GONE</v>', b' t="str"><f>1+3</f><v>GONE</v>'):
        assert stored in parts[sheet]
        plain = stored.replace(b' t="str"', b"").replace(b"<v>GONE</v>", b"<v/>")
        parts[sheet] = parts[sheet].replace(stored, plain)
    with zipfile.ZipFile(tmp_path / name, "w") as file:
        for each, data in parts.items():
            file.writestr(each, data)
    frame = read(name, tmp_path).frame
    assert frame["total"].to_list() == [2, None, None]
    assert frame["id"].to_list() == [1, 2, None]
    (warning,) = opened(name, tmp_path).warnings.items()
    assert "column 'total' shows a formula without a stored result" in warning[0]
    assert warning[1] == 2


def test_titles_above_the_header_are_passed_over(tmp_path):
    rows = [["Report 2024"], [], ["id", "n"], [1, "a"]]
    name = table(tmp_path / "a.xlsx", rows)
    expected = [{"id": 1, "n": "a"}]
    assert read(name, tmp_path).frame.to_dicts() == expected
    for options in ({"header_row": 3}, {"skip_rows": 1}, {"range": "A3:B"}, {"range": "A3:B4"}):
        assert read({"path": name, **options}, tmp_path).frame.to_dicts() == expected
    assert refusal({"path": name, "header_row": 2}, tmp_path).code == "E0507"


def test_a_part_of_a_sheet_is_read(tmp_path):
    rows = [["x", "a", "b", "y"], [0, 1, 2, 9], [0, 3, 4, 9], [0, "Total", 6, 9]]
    name = table(tmp_path / "a.xlsx", rows)
    got = read({"path": name, "range": "B1:C3"}, tmp_path).frame
    assert got.to_dicts() == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert read({"path": name, "range": "$b:c"}, tmp_path).frame["a"].to_list() == [
        "1",
        "3",
        "Total",
    ]
    got = read({"path": name, "range": "B2:C3", "has_header": False}, tmp_path).frame
    assert got.to_dicts() == [{"column_1": 1, "column_2": 2}, {"column_1": 3, "column_2": 4}]
    got = read(
        {"path": name, "range": "B2:C3", "has_header": False},
        tmp_path,
        contract={"p": "int8", "q": "string"},
    ).frame
    assert got.to_dicts() == [{"p": 1, "q": "2"}, {"p": 3, "q": "4"}]


def test_merged_cells_of_a_header_name_all_their_columns(tmp_path):
    rows = [
        [],
        ["", "", "", "", "Date"],
        ["", "Rep", "Net", "Gross", "Date"],
        ["North", "r", 1, 2, 3],
    ]
    merged = {"A1:E1": "Sales report", "A2:B2": "Region", "C2:D2": "Revenue"}
    name = table(tmp_path / "a.xlsx", rows, merged=merged)
    got = read({"path": name, "header_row": 2, "header_rows": 2}, tmp_path).frame
    assert got.columns == ["Region", "Region Rep", "Revenue Net", "Revenue Gross", "Date"]
    assert got.rows() == [("North", "r", 1, 2, 3)]
    assert read({"path": name, "header_row": 2}, tmp_path).frame.columns == [
        "Region",
        "Region_2",
        "Revenue",
        "Revenue_2",
        "Date",
    ]


def test_columns_without_name_get_one_if_they_hold_something(tmp_path):
    name = table(tmp_path / "a.xlsx", [["a", None, "a", None, 2024], [1, 2, 3, None, 5]])
    assert read(name, tmp_path).frame.to_dicts() == [{"a": 1, "column_2": 2, "a_2": 3, "2024": 5}]


def test_rows_without_a_value_are_passed_over_and_the_others_keep_their_numbers(tmp_path):
    name = table(tmp_path / "a.xlsx", [["a", "b"], [1, 2], [], ["x", 4], []])
    found = read(name, tmp_path, contract={"a": "int64"})
    assert found.frame.rows() == [(1, 2)]
    assert [bad.place for bad in found.bad] == ["a.xlsx sheet 'Report' row 4"]


def many_sheets(path: Path) -> str:
    def write(book: Any) -> None:
        for month, value in (("Jan", 1), ("Feb", 2.5), ("Mar", "x")):
            sheet = book.add_worksheet(month)
            sheet.write_row(0, 0, ["id", "v"] if month != "Feb" else ["v", "id"])
            sheet.write_row(1, 0, [1, value] if month != "Feb" else [value, 1])
        book.add_worksheet("Empty")
        hidden = book.add_worksheet("Lists")
        hidden.write_row(0, 0, ["other"])
        hidden.hide()

    return workbook(path, write)


def test_sheets_follow_one_another_as_one_table(tmp_path):
    name = many_sheets(tmp_path / "a.xlsx")
    both = read({"path": name, "sheet": ["Jan", 2]}, tmp_path).frame
    assert both.rows() == [(1, 1.0), (1, 2.5)]
    every = read({"path": name, "sheet": "all", "sheet_column": "month"}, tmp_path).frame
    assert every.rows() == [(1, "1", "Jan"), (1, "2.5", "Feb"), (1, "x", "Mar")]
    only = read({"path": name, "sheet": "all", "sheet_column": "m"}, tmp_path, columns=["m"])
    assert only.frame["m"].to_list() == ["Jan", "Feb", "Mar"]


def test_sheets_and_files_that_do_not_go_together_are_named(tmp_path):
    name = many_sheets(tmp_path / "a.xlsx")
    error = refusal({"path": name, "sheet": ["Jan", "Lists"]}, tmp_path)
    assert error.code == "E0508"
    assert "a.xlsx sheet 'Lists'" in error.message
    assert refusal({"path": name, "sheet": "jnuary"}, tmp_path).code == "E0505"
    assert "Jan" in str(refusal({"path": name, "sheet": 9}, tmp_path).help)
    assert refusal({"path": name, "sheet": "Empty"}, tmp_path).code == "E0507"
    assert refusal({"path": name, "sheet_column": "v"}, tmp_path).code == "E0404"


def test_files_of_a_glob_have_one_type_for_all_their_cells(tmp_path):
    column(tmp_path / "a.xlsx", 1)
    column(tmp_path / "b.xlsx", "x")
    assert read("*.xlsx", tmp_path).frame["v"].to_list() == ["1", "x"]


def test_reading_goes_on_after_any_row(tmp_path):
    name = many_sheets(tmp_path / "a.xlsx")
    config = {"path": name, "sheet": ["Jan", "Feb"]}
    whole = read(config, tmp_path)
    [(split, position)] = whole.positions
    assert resume(config, tmp_path, split, position).frames == []


CELLS: dict[str, tuple[Any, str | None, Any]] = {
    "int64": (st.integers(-(2**53), 2**53), None, pl.Int64),
    "float64": (st.floats(allow_nan=False, allow_infinity=False), None, pl.Float64),
    "string": (st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=9), None, pl.String),
    "bool": (st.booleans(), None, pl.Boolean),
    "date": (st.dates(dt.date(1900, 3, 1), dt.date(9999, 12, 31)), DAY, pl.Date),
    "timestamp": (
        st.datetimes(dt.datetime(1900, 3, 1), dt.datetime(9999, 12, 31)).map(
            lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)
        ),
        STAMP,
        pl.Datetime("us"),
    ),
    "time": (st.times().map(lambda t: t.replace(microsecond=0)), CLOCK, pl.Time),
    "duration": (
        st.integers(0, 10**8).map(lambda s: dt.timedelta(seconds=s)),
        SPAN,
        pl.Duration("us"),
    ),
}  # fmt: skip


@settings(max_examples=60)
@given(st.data())
def test_what_excel_can_hold_comes_back(tmp_path_factory, data):
    kinds = data.draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=5))
    height = data.draw(st.integers(1, 8))
    columns = {
        f"c{n} {kind}": data.draw(
            st.lists(st.none() | CELLS[kind][0], min_size=height, max_size=height)
        )
        for n, kind in enumerate(kinds)
    }
    folder = tmp_path_factory.mktemp("excel")

    def write(book: Any) -> None:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["id", *columns])
        sheet.write_column(1, 0, range(height))
        for place, (kind, cells) in enumerate(zip(kinds, columns.values(), strict=True), 1):
            format_ = book.add_format({"num_format": CELLS[kind][1] or "General"})
            for row, cell in enumerate(cells, 1):
                if isinstance(cell, str):
                    sheet.write_string(row, place, cell)
                elif isinstance(cell, bool):
                    sheet.write_boolean(row, place, cell)
                elif isinstance(cell, int | float):
                    # Its own %.16G would lose the last digit of some.
                    sheet.write_number(row, place, Digits(cell), format_)
                elif cell is not None:
                    sheet.write_datetime(row, place, cell, format_)

    got = read(workbook(folder / "a.xlsx", write), folder).frame
    for kind, (name, cells) in zip(kinds, columns.items(), strict=True):
        present = [cell for cell in cells if cell is not None]
        dtype = CELLS[kind][2]
        if not present:
            dtype = pl.String
        elif kind == "float64" and all(c == int(c) and abs(c) < 2**63 for c in present):
            dtype = pl.Int64
        assert (name, got[name].dtype) == (name, dtype)
        assert (name, got[name].to_list()) == (name, cells)


class Digits(float):
    """A number that is written with all its digits."""

    def __format__(self, spec: str) -> str:
        return repr(float(self))


def test_a_sheet_without_places_of_cells_is_read_alike(tmp_path):
    """Rows and cells may leave out where they stand; errors and formats are found all the same."""
    import zipfile

    name = column(tmp_path / "a.xlsx", 2116, "#N/A", format_=ZIP)
    with zipfile.ZipFile(tmp_path / name) as old, zipfile.ZipFile(tmp_path / "b.xlsx", "w") as new:
        for part in old.namelist():
            data = old.read(part)
            if part.endswith("sheet1.xml"):
                for place in (b' r="A1"', b' r="A2"', b' r="A3"', b' r="1"', b' r="2"', b' r="3"'):
                    data = data.replace(place, b"")
            new.writestr(part, data)
    found = read("b.xlsx", tmp_path, contract={"v": "string"}).frame
    assert found["v"].to_list() == ["02116", None]


@pytest.mark.parametrize("options", [{"range": "B3"}, {"range": "C3:B4"}, {"header_row": 0}])
def test_options_that_mean_nothing_are_refused(options):
    from pydantic import ValidationError

    from dataflare.connectors.file.source_config import FileSourceConfig

    with pytest.raises(ValidationError):
        FileSourceConfig(path="a.xlsx", **options)
