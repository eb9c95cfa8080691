"""CSV in the dialects that are around: found, told, and read exactly; or refused by name."""

from __future__ import annotations

import asyncio
import csv
import io
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from file_kit import read, source
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.errors import ConfigError, DataFlareError

NUMBERS = st.one_of(
    st.integers(-(2**66), 2**66).map(str),
    st.decimals(-(10**6), 10**6, places=2).map(str),
    st.floats(allow_nan=False, allow_infinity=False, width=64).map(repr),
    st.sampled_from(["007", "-0.5", "9007199254740993", "0.1", "1e5", "12345678901234567890123"]),
)
TEXTS = st.one_of(st.text("ab ,;|\t\"'\n\\#ö", max_size=8), st.just(""), st.none())
STAMPS = st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.isoformat())
NANOS = STAMPS.map(lambda text: text[:19] + ".123456789")
ROWS = st.lists(
    st.tuples(st.integers(0, 10**6).map(str), TEXTS, NUMBERS, st.dates().map(str), STAMPS | NANOS),
    min_size=3,
    max_size=24,
)
NAMES = ["id", "text", "number", "day", "at"]


@dataclass(frozen=True)
class Dialect:
    delimiter: str
    quoting: int
    escape: bool
    line_end: str
    encoding: str
    title: str

    def write(self, rows: list[list[str | None]]) -> bytes:
        """Text is always quoted, NULL never: the csv module makes no difference between them."""

        def cell(value: str | None, *, quoted: bool) -> str:
            if value is None:
                return ""
            if not quoted and self.quoting == csv.QUOTE_MINIMAL:
                return value
            if self.escape:
                return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
            return '"' + value.replace('"', '""') + '"'

        lines = [self.delimiter.join(NAMES)]
        lines += [
            self.delimiter.join(cell(v, quoted=place == 1) for place, v in enumerate(row))
            for row in rows
        ]
        text = self.title + "".join(line + self.line_end for line in lines)
        return text.encode(self.encoding)


DIALECTS = st.builds(
    Dialect,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["", "# written by a shop\n", "Sales of May\n\n", "Sales of the shop\n"]),
)


def same(value: Any, text: str | None) -> bool:
    """Whether a value says all that its text says."""
    if text is None or value is None:
        return value is None and text is None
    if isinstance(value, str):
        return value == text
    if isinstance(value, int | float):
        digits = len(Decimal(text).as_tuple().digits)
        shown = (
            Decimal(value)
            if isinstance(value, int)
            else Decimal(f"{value:.{max(digits, 17) - 1}e}")
        )
        kept = Decimal(repr(value)) == Decimal(text) or shown == Decimal(text)
        return kept and not text.lstrip("-").startswith("00") and text.lstrip("-")[:2] != "07"
    if isinstance(value, datetime):
        return value == datetime.fromisoformat(text[:26])
    return value == date.fromisoformat(text)


@settings(max_examples=80, deadline=None)
@given(ROWS, DIALECTS, st.sampled_from([1, 3, 1000]))
def test_a_table_comes_back_exactly_or_its_rows_are_refused(
    tmp_path_factory, rows, dialect, sample
):
    folder = tmp_path_factory.mktemp("csv")
    data = dialect.write([list(row) for row in rows])
    (folder / "a.csv").write_bytes(data)
    # Few rows tell little of quotes: what the writer did is said, the rest is found.
    config = {"path": "a.csv", "schema_sample_rows": sample, "quote": '"'}
    config |= {"escape": "\\" if dialect.escape else None}
    found = read(config, folder)
    assert found.frame.columns == NAMES
    assert found.frame.height + len(found.bad) == len(rows)
    if sample == 1000:
        assert not found.bad
    assert all(bad.code == "E0501" for bad in found.bad)
    left = list(rows)
    for values in found.frame.rows():
        place = next(
            i for i, row in enumerate(left) if all(map(same, values, row))
        )  # Rows keep their order, so what was passed over was refused.
        left = left[place + 1 :]


def looked_at(
    folder: Path, data: str | bytes, **config: Any
) -> tuple[Any, dict[str, str], list[str]]:
    raw = data if isinstance(data, bytes) else data.encode()
    (folder / "a.csv").write_bytes(raw)
    described = source({"path": "a.csv", **config}, folder)
    asyncio.run(described.schema())
    found = read({"path": "a.csv", **config}, folder)
    assert not found.bad
    return found.frame.rows(), dict(described.findings()), list(described.doubts())


@pytest.mark.parametrize(
    ("text", "rows", "found"),
    [
        ("a;b\n1,5;2\n2,5;3\n", [(1.5, 2), (2.5, 3)], {"delimiter": ";", "decimal": ","}),
        (
            "a;b\n1.234,50;x\n-2,5;y\n",
            [(1234.5, "x"), (-2.5, "y")],
            {"delimiter": ";", "decimal": ",", "thousands": "."},
        ),
        ('a,b\n"1,234.5",x\n2,y\n', [(1234.5, "x"), (2.0, "y")], {"thousands": ","}),
        ("a\tb\n1\tx\n", [(1, "x")], {"delimiter": "tab"}),
        ("a|b\n1|x\n", [(1, "x")], {"delimiter": "|"}),
        ('a,b\n1,"say \\"hi\\", ok"\n', [(1, 'say "hi", ok')], {"escape": "\\"}),
        ("# by x\na,b\n1,x\n# tail\n2,y\n", [(1, "x"), (2, "y")], {"comment": "#"}),
        ("Sales of May\n\na,b\n1,x\n", [(1, "x")], {"header_row": "3"}),
        ("a,b\n1,'x, y'\n2,'z'\n", [(1, "x, y"), (2, "z")], {"quote": "'"}),
        # What leaves a doubt is left as it is.
        ("a,b\n1,5;2\n", [(1, "5;2")], {}),
        ("a;b\n1,234;x\n", [("1,234", "x")], {"delimiter": ";"}),
        ("#a,b\n1,x\n", [(1, "x")], {}),
        ('a,b\n1,"C:\\dir\\"\n', [(1, "C:\\dir\\")], {}),
        ("a\nx,\n".replace(",", ""), [("x",)], {}),
    ],
)
def test_a_dialect_is_found_and_told(tmp_path, text, rows, found):
    read_rows, findings, doubts = looked_at(tmp_path, text)
    assert read_rows == rows
    assert found.items() <= findings.items()
    odd = {"quote", "escape", "comment", "header_row", "decimal", "thousands"}
    assert {name for name in findings if name in odd} == {name for name in found if name in odd}
    assert not doubts


@pytest.mark.parametrize("header", ["id", "place of birth", "place\n"])
def test_a_header_that_is_too_short_is_not_a_title(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"{header}\nParis, France\nRome, Italy\n")
    assert {bad.code for bad in read("a.csv", tmp_path).bad} == {"E0502"}
    (tmp_path / "b.csv").write_text(f"{header}\nfoo; bar\nbaz; qux\n")
    assert "foo; bar" in read("b.csv", tmp_path).frame.to_series().to_list()


def test_text_in_cp1252_is_read_with_a_warning(tmp_path):
    rows, findings, doubts = looked_at(tmp_path, "a,b\n1,Österreich €\n".encode("cp1252"))
    assert rows == [(1, "Österreich €")]
    assert findings["encoding"] == "cp1252"
    assert "'encoding'" in doubts[0]


def test_utf_16_is_found_by_its_first_bytes(tmp_path):
    assert looked_at(tmp_path, "a,b\n1,ö\n".encode("utf-16"))[0] == [(1, "ö")]


def test_one_column_that_holds_another_delimiter_is_warned_of(tmp_path):
    rows, _, doubts = looked_at(tmp_path, "a:b\n1:x\n2:y\n")
    assert rows == [("1:x",), ("2:y",)]
    assert "'delimiter'" in doubts[0]


@pytest.mark.parametrize(
    ("config", "text", "rows"),
    [
        ({"skip_rows": 2}, "x\ny\na,b\n1,2\n", [(1, 2)]),
        ({"header_row": 3}, "1\n2,3\na,b\n1,2\n", [(1, 2)]),
        ({"comment": "%"}, "a,b\n%x\n1,2\n", [(1, 2)]),
        ({"comment": "%"}, "a\n%x\n1\n", [(1,)]),
        ({"comment": None}, "a,b\n#1,2\n", [("#1", 2)]),
        ({"decimal": ","}, 'a,b\n"1,5",2\n', [(1.5, 2)]),
        ({"decimal": ",", "thousands": "."}, "a;b\n1.234;2\n", [(1234, 2)]),
        ({"date_format": "%d.%m.%Y"}, "a,b\n01.02.2024,x\n", [(date(2024, 2, 1), "x")]),
        (
            {"date_format": "%d.%m.%Y %H:%M"},
            "a,b\n01.02.2024 10:30,x\n",
            [(datetime(2024, 2, 1, 10, 30), "x")],
        ),
        ({"delimiter": ":"}, "a:b\n1:x\n", [(1, "x")]),
    ],
)
def test_a_dialect_may_be_said(tmp_path, config, text, rows):
    assert looked_at(tmp_path, text, **config)[0] == rows


def test_a_row_is_not_a_comment_where_the_mark_was_found(tmp_path):
    text = '# exported\ntag,n\n#1,10\n# tail\nx,20\n"#2",30\n#"3, 4",5\n'
    read_rows, findings, _ = looked_at(tmp_path, text, quote='"')
    assert read_rows[:3] == [("#1", 10), ("x", 20), ("#2", 30)]
    assert findings["comment"] == "#"
    assert looked_at(tmp_path, text, comment="#")[0] == [("x", 20), ("#2", 30)]
    (tmp_path / "b1.csv").write_text("# exported\ntag,n\n#1,10\n")
    (tmp_path / "b2.csv").write_text("tag,n\n#5,50\n# tail\n")
    assert read("b*.csv", tmp_path).frame.rows() == [("#1", 10), ("#5", 50)]


def test_a_bad_row_keeps_its_line_below_titles_and_comments(tmp_path):
    (tmp_path / "a.csv").write_text("Sales of May\n\na,b\n" + "1,x\n" * 12 + "2\n")
    assert [bad.place for bad in read("a.csv", tmp_path).bad] == ["a.csv line 16"]
    (tmp_path / "b.csv").write_text("# x\na,b\n# y\n1,x\n2\n")
    assert [bad.place for bad in read("b.csv", tmp_path).bad] == ["b.csv line 5"]


def test_a_group_that_has_not_three_digits_is_not_a_number(tmp_path):
    (tmp_path / "a.csv").write_text("a;b\n1.234,5;x\n1.5;y\n")
    found = read(
        {"path": "a.csv", "decimal": ",", "thousands": ".", "schema_sample_rows": 1}, tmp_path
    )
    assert found.frame.rows() == [(1234.5, "x")]
    assert [bad.code for bad in found.bad] == ["E0501"]


@pytest.mark.parametrize("option", ["delimiter", "quote", "escape", "comment", "null_values"])
def test_an_option_of_csv_is_refused_for_other_formats(tmp_path, option):
    (tmp_path / "a.ndjson").write_text('{"a": 1}\n')
    with pytest.raises(ConfigError) as caught:
        read({"path": "a.ndjson", option: ";"}, tmp_path)
    assert caught.value.code == "E0405"
    assert option in str(caught.value)


def test_the_help_names_the_option_first(tmp_path):
    (tmp_path / "a.csv").write_text('a,"b"x\n1,2\n')
    with pytest.raises(DataFlareError) as caught:
        read("a.csv", tmp_path)
    assert caught.value.help.startswith("set 'quote'")


def test_the_csv_module_agrees(tmp_path):
    rows = [["a", "b"], ["1", 'x"y'], ["2", "z;\n"]]
    out = io.StringIO()
    csv.writer(out, delimiter=";", quotechar="'", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    (tmp_path / "a.csv").write_text(out.getvalue())
    assert read({"path": "a.csv"}, tmp_path).frame.rows() == [(1, 'x"y'), (2, "z;\n")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_line_for_excel_says_the_delimiter(tmp_path, line, end, mark):
    (tmp_path / "a.csv").write_bytes((mark + end.join([line, "a;b,c", "1;2,5", ""])).encode())
    assert read("a.csv", tmp_path).frame.to_dicts() == [{"a": 1, "b,c": 2.5}]


@pytest.mark.parametrize(
    ("text", "config", "rows"),
    [
        ("sep=|\n1|2\n", {"has_header": False}, [{"column_1": 1, "column_2": 2}]),
        ("sep=;\na,b\n1,2\n", {"delimiter": ","}, [{"a": 1, "b": 2}]),
        ("sep=;\nreport\na;b\n1;2\n3;4\n", {}, [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        ("sep=;\na;b\n1;2\n", {"header_row": 2, "delimiter": ";"}, [{"a": 1, "b": 2}]),
        ("sep=\n1\n", {}, [{"sep=": 1}]),
        ("sep=;x\n1\n", {"delimiter": ","}, [{"sep=;x": 1}]),
        ("a\nsep=;\n", {}, [{"a": "sep=;"}]),
    ],
)
def test_only_a_whole_first_line_is_for_excel(tmp_path, text, config, rows):
    (tmp_path / "a.csv").write_text(text)
    assert read({"path": "a.csv", **config}, tmp_path).frame.to_dicts() == rows


def test_files_for_excel_beside_others(tmp_path):
    (tmp_path / "1.csv").write_text("sep=;\na;b\n1;2\n")
    (tmp_path / "2.csv").write_text("a;b\n3;4\n")
    (tmp_path / "3.csv").write_text("sep=;\nb;a\n6;5\n")
    found = read("*.csv", tmp_path).frame.sort("a")
    assert found.select("a", "b").rows() == [(1, 2), (3, 4), (5, 6)]


@pytest.mark.parametrize("bad", ["abc", "-", "12 €", "2024-01-01", "1.2.3"])
@pytest.mark.parametrize("type_", ["decimal(12, 2)", "float64"])
def test_a_bad_cell_does_not_hide_the_decimal_comma_of_a_declared_number(tmp_path, bad, type_):
    (tmp_path / "a.csv").write_text(f"id;price\n1;10,5\n2;{bad}\n3;7,25\n")
    read_rows = read("a.csv", tmp_path, contract={"price": type_})
    assert [float(price) for price in read_rows.frame["price"]] == [10.5, 7.25]
    assert [each.place for each in read_rows.bad] == ["a.csv line 3"]
