"""Workbooks as tables: the names and the cells of a part of some of their sheets.

Excel, LibreOffice and others write .xlsx, .xlsm, .xlsb, .xls and .ods; python-calamine reads them all.

Always true: a row without any value is left out; rows keep the numbers that Excel shows; a cell
with an error is NULL and is counted.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError
from xml.parsers.expat import ExpatError

from msgspec import Struct, field

from dataflare.errors import DataError, did_you_mean
from dataflare.formats.excel_area import ALL, Area, BookOptions
from dataflare.formats.excel_cells import cell_text, kinds_of
from dataflare.formats.excel_marks import SheetMarks, XlsxMarks
from dataflare.formats.names import unique_names


class SheetTable(Struct):
    """The names and cells of one sheet, a list of cells for each column. rows: the number of each
    row, as Excel shows it. errors: the texts of error cells, by column name and index of the row.
    codes: the formats of numbers that are shown with leading zeros, the same way."""

    sheet: str
    names: list[str]
    columns: list[list[Any]]
    rows: list[int]
    header_row: int | None = None
    errors: dict[str, dict[int, str]] = field(default_factory=dict)
    codes: dict[str, dict[int, str]] = field(default_factory=dict)

    def cells(self, name: str) -> list[Any]:
        return self.columns[self.names.index(name)]

    def kinds(self) -> dict[str, frozenset[str]]:
        return {name: kinds_of(cells) for name, cells in zip(self.names, self.columns, strict=True)}


def read_book(path: Path, options: BookOptions) -> list[SheetTable]:
    """The tables of the sheets that the options name, without empty sheets. Raises DataError
    (E0505) if the file is not a workbook or has no such sheet."""
    import python_calamine as calamine

    try:
        book = calamine.load_workbook(path)
        marks = XlsxMarks(path) if zipfile.is_zipfile(path) else None
    except calamine.PasswordError as error:
        raise DataError(
            f"{path} is protected by a password",
            code="E0505",
            help="save a copy of it without one",
        ) from error
    except (calamine.CalamineError, zipfile.BadZipFile, ParseError) as error:
        raise _damaged(path, error) from error
    try:
        names = _chosen(book, path, options.sheet)
        tables = [_table(book, path, name, options, marks) for name in names]
    except (calamine.CalamineError, calamine.XmlError, calamine.ZipError) as error:
        raise _damaged(path, error) from error
    except (zipfile.BadZipFile, ParseError, ExpatError) as error:
        raise _damaged(path, error) from error
    finally:
        if marks is not None:
            marks.close()
    return [table for table in tables if table is not None]


def _damaged(path: Path, error: Exception) -> DataError:
    lines = str(error).strip().splitlines()
    return DataError(
        f"{path} is not a sound workbook: {lines[0] if lines else type(error).__name__}",
        code="E0505",
        help="save it as .xlsx again; if its content has another format, set 'format' to that",
    )


def _chosen(book: Any, path: Path, sheet: Any) -> list[str]:
    """The names of the sheets to read."""
    import python_calamine as calamine

    worksheets = [
        each for each in book.sheets_metadata if each.typ == calamine.SheetTypeEnum.WorkSheet
    ]
    names = [each.name for each in worksheets]
    if sheet is None:
        return names[:1]
    if sheet == ALL and ALL not in names:
        visible = calamine.SheetVisibleEnum.Visible
        return [each.name for each in worksheets if each.visible == visible]
    sheets = sheet if isinstance(sheet, tuple) else (sheet,)
    return [_named(each, names, path) for each in sheets]


def _named(sheet: str | int, names: list[str], path: Path) -> str:
    if isinstance(sheet, int) and 1 <= sheet <= len(names):
        return names[sheet - 1]
    if isinstance(sheet, str):
        same = [name for name in names if name.casefold() == sheet.casefold()]
        if same:
            return sheet if sheet in names else same[0]
    raise DataError(
        f"{path} has no sheet {sheet!r}",
        code="E0505",
        notes=[f"its sheets: {', '.join(names)}"],
        help=did_you_mean(str(sheet), names) or f"its sheets: {', '.join(names)}",
    )


def _table(
    book: Any, path: Path, name: str, options: BookOptions, marks: XlsxMarks | None
) -> SheetTable | None:
    sheet = book.get_sheet_by_name(name)
    area = options.area
    grid = [
        [None if cell == "" else cell for cell in row[area.left : area.right]]
        for row in sheet.to_python(skip_empty_area=False)[area.top : area.below]
    ]
    noted = _marks_of(grid, name, marks)
    _widen(grid, [*noted.errors], area)
    _put(grid, noted, area)
    _put_times(grid, name, marks, area)
    label = f"{path} sheet '{name}'"
    top, names = _header(grid, sheet, options, label)
    rows = [n for n in range(top, len(grid)) if any(cell is not None for cell in grid[n])]
    errors = _inside(noted.errors, area)
    rows = sorted({*rows, *(row for row, _ in errors if row >= top)})
    columns = [list(column) for column in zip(*(grid[row] for row in rows), strict=True)]
    if not columns:
        columns = [[] for _ in names or ()]
    return _assembled(
        SheetTable(name, [], [], [area.top + row + 1 for row in rows], area.top + top),
        names,
        columns,
        rows,
        errors,
        _inside(noted.digits, area),
        has_header=options.has_header,
    )


def _marks_of(grid: list[list[Any]], name: str, marks: XlsxMarks | None) -> SheetMarks:
    """The sheet's marks. They are read only if some may matter, because that takes time."""
    if marks is None:
        return SheetMarks()
    kinds = set(marks.formats.kinds.values())
    has_marks = (
        "digits" in kinds
        or marks.may_have_errors(name)
        or (
            bool(kinds & {"date", "timestamp"}) and any(map(_has_odd_days, zip(*grid, strict=True)))
        )
    )
    return marks.marks(name) if has_marks else SheetMarks()


def _has_odd_days(cells: Sequence[Any]) -> bool:
    """Whether a column may contain a day before March 1900: such a cell is read as a time, or as a
    day before that date."""
    types = set(map(type, cells))
    if date in types and any(type(cell) is date and cell.year == 1900 for cell in cells):
        return True
    if datetime in types and any(type(cell) is datetime and cell.year == 1900 for cell in cells):
        return True
    return time in types and (bool(types & {date, datetime}) or time(0, 0) in cells)


def _put_times(grid: list[list[Any]], name: str, marks: XlsxMarks | None, area: Area) -> None:
    """Make a column's dates timestamps if the format of the first one shows a time of day."""
    if marks is None or "timestamp" not in marks.formats.kinds.values():
        return
    for column, cells in enumerate(zip(*grid, strict=True)):
        types = set(map(type, cells))
        if date not in types or datetime in types:
            continue
        row = next(n for n, cell in enumerate(cells) if type(cell) is date)
        if marks.kind_at(name, (area.top + row, area.left + column)) != "timestamp":
            continue
        for each in grid:
            if type(each[column]) is date:
                each[column] = datetime(*each[column].timetuple()[:3])


def _widen(grid: list[list[Any]], errors: Sequence[tuple[int, int]], area: Area) -> None:
    """Make the grid larger for cells with an error that lie outside of the cells with values."""
    cells = _inside(dict.fromkeys(errors), area)
    height = max((row + 1 for row, _ in cells), default=0)
    width = max([*(column + 1 for _, column in cells), *map(len, grid[:1])], default=0)
    grid.extend([] for _ in range(height - len(grid)))
    for row in grid:
        row.extend([None] * (width - len(row)))


def _put(grid: list[list[Any]], marks: SheetMarks, area: Area) -> None:
    """Put the marks into the cells: the right days, and None for an error."""
    for (row, column), day in _inside(marks.days, area).items():
        grid[row][column] = day
    for row, column in _inside(marks.errors, area):
        grid[row][column] = None


def _inside(marks: Mapping[tuple[int, int], Any], area: Area) -> dict[tuple[int, int], Any]:
    """The marks of an area's cells, counted from its corner."""
    return {
        (row - area.top, column - area.left): mark
        for (row, column), mark in marks.items()
        if area.top <= row < area.below and area.left <= column < area.right
    }


def _header(
    grid: list[list[Any]], sheet: Any, options: BookOptions, label: str
) -> tuple[int, list[str] | None]:
    """The first row below the header, and the names in it (None without a header)."""
    filled = [n for n in range(options.skip_rows, len(grid)) if _values(grid[n])]
    if not options.has_header:
        return (filled[0] if filled else 0), None
    if options.header_row is not None:
        first = options.header_row - 1 - options.area.top
        if not 0 <= first < len(grid) or not _values(grid[first]):
            raise DataError(
                f"{label} has no names in row {options.header_row}, the row that 'header_row' names",
                code="E0507",
                help="'header_row' is the number that Excel shows beside the row",
            )
    elif not filled:
        return 0, []
    else:
        first = _below_titles(grid, filled)
    below = first + options.header_rows
    _fill_merged(grid, sheet, first, below, options.area)
    parts = zip(*grid[first:below], strict=True)
    return below, [" ".join(_distinct(cell_text(cell) for cell in part)) for part in parts]


def _values(row: Sequence[Any]) -> int:
    return sum(cell is not None for cell in row)


def _below_titles(grid: list[list[Any]], filled: Sequence[int]) -> int:
    """The row of the header: the first row with a value; below title rows of one cell, the first
    row with several."""
    return next((n for n in filled if _values(grid[n]) > 1), filled[0])


def _fill_merged(grid: list[list[Any]], sheet: Any, top: int, below: int, area: Area) -> None:
    """Give each cell of a merged area in the header the area's value."""
    for (first_row, first), (last_row, last) in sheet.merged_cell_ranges or ():
        row, column = first_row - area.top, first - area.left
        if not (top <= row < below and 0 <= column < len(grid[row])):
            continue
        for each in range(row, min(last_row - area.top + 1, below)):
            for other in range(column, min(last - area.left + 1, len(grid[each]))):
                grid[each][other] = grid[row][column]


def _distinct(texts: Iterator[str | None] | Any) -> list[str]:
    """The texts that are not blank, without duplicates."""
    return list(dict.fromkeys(text.strip() for text in texts if text is not None and text.strip()))


def _assembled(
    table: SheetTable,
    names: list[str] | None,
    columns: list[list[Any]],
    rows: Sequence[int],
    errors: Mapping[tuple[int, int], str],
    codes: Mapping[tuple[int, int], str],
    *,
    has_header: bool,
) -> SheetTable | None:
    """The table without columns that have no name and no value; None if no column is left."""
    if names is None:
        names = [""] * len(columns)
    marked = {column for _, column in errors}
    filled = [
        n for n, cells in enumerate(columns) if n in marked or any(c is not None for c in cells)
    ]
    if has_header:
        columns_kept = [n for n, name in enumerate(names) if name or n in filled]
    else:
        columns_kept = list(range(filled[0], filled[-1] + 1)) if filled else []
    if not columns_kept:
        return None
    index = {row: n for n, row in enumerate(rows)}
    table.names = unique_names([names[n] for n in columns_kept])
    table.columns = [columns[n] for n in columns_kept]
    if not has_header:
        table.header_row = None
    for place, marks in ((table.errors, errors), (table.codes, codes)):
        for (row, column), mark in marks.items():
            if row in index and column in columns_kept:
                place.setdefault(table.names[columns_kept.index(column)], {})[index[row]] = mark
    return table
